"""What a pickle of torch's holds, by path: tensors, plain values, modules, and objects of which no
more than their class is known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeGuard

import numpy as np

from shared_spec.formats.containers.source import ARRAYS, NAME_LIMIT, Module, shown
from shared_spec.formats.containers.torch_pickle import (
    Global,
    Key,
    Opaque,
    Storage,
    Strided,
    is_natural,
)
from shared_spec.formats.containers.torch_script import Script

_VISITS = 300_000
"""Things that are looked at, as often as the file holds them; a training state of ResNet-152 has
20,000.
"""
_COUNTED = 2_000_000
"""Things inside opaque objects that are looked at for tensors."""
_DEPTH = 64
_VALUES = 500
"""Plain values that are told, the least deep first."""
_OBJECTS = 1_000
"""Opaque objects without tensors that are told."""
_HOLDERS = 10_000
"""Opaque objects, those with tensors included."""
_MODULES = 20_000
_SHORT = 200
"""Characters of text that is a setting or a name, and of a path to one."""
_AXES = 16

_NAMESPACES = {"argparse.Namespace", "types.SimpleNamespace"}
_DICTS = {
    *("collections.OrderedDict", "collections.defaultdict", "collections.Counter"),
    *("pytorch_lightning.utilities.parsing.AttributeDict",),
    *("lightning.pytorch.utilities.parsing.AttributeDict",),
    *(
        "lightning.fabric.utilities.data.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
    ),
}
_LISTS = {
    *("builtins.set", "builtins.frozenset", "builtins.list", "collections.deque"),
    *(f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor")),
    "torch.jit._pickle.restore_type_tag",
}
_NUMPY = ("numpy.core.", "numpy._core.")
"""Where numpy's functions are, before and since version 2."""
_SCALAR = {f"{core}multiarray.scalar" for core in _NUMPY}
_RECONSTRUCT = {f"{core}multiarray._reconstruct" for core in _NUMPY}
_FROM_BUFFER = {f"{core}numeric._frombuffer" for core in _NUMPY}
_NUMBERS = {"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"}
_PATHS = re.compile(r"pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path")
_DTYPES = {
    *("torch.float64", "torch.float32", "torch.float16", "torch.bfloat16", "torch.int64"),
    *("torch.int32", "torch.int16", "torch.int8", "torch.uint8", "torch.bool"),
}
_SCRIPTED = "__torch__."
_COMPILED = "torch._dynamo.eval_frame.OptimizedModule"
"""What `torch.compile` gives: (module, compiler)."""
_MEMBERS = ("_parameters", "_buffers", "_modules")
_TRANSIENT = "_non_persistent_buffers_set"
_UNKNOWN = object()


@dataclass
class Tree:
    """What is in a file, by path."""

    tensors: dict[str, Strided | np.ndarray] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    opaque: dict[str, str] = field(default_factory=dict)
    modules: dict[str, Module] = field(default_factory=dict)


def read_tree(root: object, scripts: Mapping[str, Script]) -> Tree:
    """Everything that `torch_pickle.follow` found, by path.

    The components of a path are the keys of mappings and the places in lists, joined by `/`; from
    a model on they are the names of its modules, joined by dots as in its state dict.

    Args:
        root: what it gave.
        scripts: the classes of TorchScript that the file declares.

    Raises:
        ValueError: if two tensors have one path, or there is more of it than any model has.
    """
    walk = _Walk(scripts)
    walk.visit(root, "", 0)
    by_depth = (item for level in sorted(walk.values) for item in walk.values[level].items())
    for name, value in islice(by_depth, _VALUES):
        walk.tree.values.setdefault(name, value)
    return walk.tree


class _Walk:
    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self.tree = Tree()
        self._scripts = scripts
        self.values: dict[int, dict[str, Any]] = {}
        self._visits, self._looked = 0, 0
        self._active: set[int] = set()
        """The containers that the one at hand is in."""
        self._arrays: dict[int, np.ndarray | None] = {}
        self._counts: dict[int, int] = {}
        self._objects = 0

    def visit(self, value: object, path: str, depth: int, beside: bool = False) -> None:
        """Note what `value` is.

        Args:
            value: anything that a pickle gives.
            path: where it is.
            depth: how many containers it is in.
            beside: whether it is an attribute of a module, whose state dict does not have it.
        """
        self._spend(1)
        if isinstance(value, Strided):
            (self._tell if beside else self._tensor)(path, value)
        elif (plain := _plain(value)) is not _UNKNOWN:
            if not beside:
                self._value(path, depth, plain)
        elif not beside and (_is_module(value) or _is_scripted(value)):
            self._module(value, path, f"{path}/" if path else "", depth)
        elif (inside := self._contents(value)) is not None:
            self._container(value, inside, path, depth, beside)
        elif not beside and (array := self._array(value)) is not None:
            self._tensor(path, array)
        elif isinstance(value, Opaque | Global | Storage):
            self._tell(path, value)

    def _spend(self, visits: int) -> None:
        self._visits += visits
        if self._visits > _VISITS:
            raise ValueError("its containers hold more than any model's")

    def _container(
        self, value: object, inside: Any, path: str, depth: int, beside: bool = False
    ) -> None:
        if id(value) in self._active:
            return  # what it holds is told where it began
        if depth == _DEPTH:
            self._leave_out(value, f"its containers are nested more than {_DEPTH} deep")
            return
        self._active.add(id(value))
        prefix = f"{path}/" if path else ""
        for key, part in _items(inside):
            name = _text(key)
            length = len(prefix) + len(name)
            if length > NAME_LIMIT:
                self._leave_out(part, f"the name {shown(name)} has {length:,} characters")
            else:
                self.visit(part, prefix + name, depth + 1, beside)
        self._active.discard(id(value))

    def _leave_out(self, value: object, why: str) -> None:
        self._spend(1)
        if self._count(value):
            raise ValueError(why)

    def _tensor(self, path: str, tensor: Strided | np.ndarray) -> None:
        if _is_expanded(tensor):
            self._tell(path, tensor)
            return
        if path in self.tree.tensors:
            raise ValueError(f"two tensors would be called {shown(path)}")
        if len(self.tree.tensors) == ARRAYS:
            raise ValueError(f"holds more than {ARRAYS:,} arrays, more than any model")
        self.tree.tensors[path] = tensor

    def _value(self, path: str, depth: int, value: object) -> None:
        if isinstance(value, str) and not _is_short(value):
            return
        level = self.values.setdefault(depth, {})
        if len(level) < _VALUES and _is_short(path):
            level.setdefault(path, value)

    def _tell(self, path: str, value: object) -> None:
        """Note an object of which the class alone is known."""
        count = self._count(value)
        self._objects += not count
        if not count and self._objects > _OBJECTS:
            return
        if len(self.tree.opaque) == _HOLDERS:
            raise ValueError(f"holds more than {_HOLDERS:,} objects, more than any model")
        name = _class_name(value)
        if isinstance(value, Opaque) and count:
            name += f" ({count} tensor{'s' * (count > 1)} in it)"
        self.tree.opaque.setdefault(_printable(path[:NAME_LIMIT]), name)

    def _module(self, module: Opaque, path: str, prefix: str, depth: int) -> None:
        """Note the tensors of a module under the names of its state dict, and its settings."""
        self._spend(1)
        if id(module) in self._active:
            return
        if depth == _DEPTH:
            self._leave_out(module, f"its modules are nested more than {_DEPTH} deep")
            return
        if len(self.tree.modules) == _MODULES:
            raise ValueError(f"holds more than {_MODULES:,} modules, more than any model")
        self._active.add(id(module))
        attributes = self._attributes(module, prefix, depth)
        self.tree.modules[_printable(path)] = Module(_class_name(module), attributes)
        for name, value in self._members(module):
            self._spend(1)
            length = len(prefix) + len(name)
            if length > NAME_LIMIT:
                self._leave_out(value, f"the name {shown(name)} has {length:,} characters")
                continue
            place = prefix + name
            if _is_module(value) or _is_scripted(value):
                self._module(value, place, f"{place}.", depth + 1)
            elif isinstance(value, Strided):
                self._tensor(place, value)
            elif (array := self._array(value)) is not None:
                self._tensor(place, array)
            elif value is not None:
                self.visit(value, place, depth + 1, beside=True)
        self._active.discard(id(module))

    def _members(self, module: Opaque) -> Iterator[tuple[str, Any]]:
        """What is in the state dict of a module: parameters, buffers and modules, in this order."""
        state = module.state
        if module.name == _COMPILED:
            yield "_orig_mod", module.arguments[0]
        elif _is_scripted(module):
            yield from [(k, v) for k, v in state.items() if self._is_member(module, k, v)]
        else:
            named = self._contents(state.get(_TRANSIENT))
            self._spend(len(named or ()))
            transient = {name for name in named or () if isinstance(name, str)}
            for group in _MEMBERS:
                members = self._contents(state[group])
                if not isinstance(members, dict):
                    raise ValueError(f"{group} of a module is no mapping of names")
                for key, value in members.items():
                    if group != "_buffers" or key not in transient:
                        yield _text(key), value

    def _is_member(self, module: Opaque, key: object, value: object) -> bool:
        """Whether a module has it in its state dict."""
        if not _is_scripted(module):
            return key in (*_MEMBERS, _TRANSIENT)
        script = self._scripts.get(module.name)
        known = isinstance(value, Strided) and (script is None or key in script.tensors)
        return isinstance(key, str) and (known or _is_scripted(value))

    def _attributes(self, module: Opaque, prefix: str, depth: int) -> dict[str, Any]:
        """Its settings; what else it holds beside its state dict is told."""
        script = self._scripts.get(module.name)
        found = {} if script is None else dict(script.constants)
        for key, value in (module.state or {}).items():
            self._spend(1)
            if self._is_member(module, key, value):
                continue
            name = _text(key)
            if (setting := self._setting(value)) is not _UNKNOWN:
                if not name.startswith("_") and _is_short(name):
                    found[name] = setting
            elif len(prefix) + len(name) > NAME_LIMIT:
                self._leave_out(value, f"the name {shown(name)} has {len(name):,} characters")
            else:
                self.visit(value, prefix + name, depth + 1, beside=True)
        return found

    def _setting(self, value: object, depth: int = 0) -> Any:
        """A plain value, or a few of them in a tuple or list."""
        plain = _plain(value)
        if plain is not _UNKNOWN:
            return plain if not isinstance(plain, str) or _is_short(plain) else _UNKNOWN
        inside = self._contents(value)
        if not isinstance(inside, tuple | list) or len(inside) > 32 or depth == 2:
            return _UNKNOWN
        self._spend(len(inside))
        found = [self._setting(part, depth + 1) for part in inside]
        if any(part is _UNKNOWN for part in found):
            return _UNKNOWN
        return tuple(found) if isinstance(inside, tuple) else found

    def _contents(self, value: object) -> dict[Any, Any] | list[Any] | tuple[Any, ...] | None:
        """What a container of a known class holds; None for anything else."""
        if isinstance(value, dict | list | tuple):
            return value
        if not isinstance(value, Opaque):
            return None
        first = value.arguments[0] if value.arguments else None
        if value.name in _NAMESPACES:
            return value.state if isinstance(value.state, dict) else None
        if value.name in _DICTS:
            return self._entries(value, first)
        if value.name in _LISTS:
            found = value.parts or first or []
            alone = not (value.parts and first) and isinstance(found, list | tuple | dict)
            return found if alone else None
        return None

    def _entries(self, value: Opaque, first: object) -> dict[Any, Any] | None:
        """Of a mapping of a known class: what was put into it, or what it was made of."""
        if value.items is not None:
            return None if first and isinstance(first, dict | list) else value.items
        if isinstance(first, dict):
            return first
        if value.name != "collections.OrderedDict" or not isinstance(first, list):
            return {}
        self._spend(len(first))
        found: dict[Any, Any] = {}
        for pair in first:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
                return None
            found[pair[0]] = pair[1]
        return found

    def _array(self, value: object) -> np.ndarray | None:
        """An array of numpy's, of a plain dtype; None for anything else."""
        if not isinstance(value, Opaque) or value.name not in _RECONSTRUCT | _FROM_BUFFER:
            return None
        if id(value) not in self._arrays:
            # Many may be made of the same bytes.
            self._spend(_size(value.state or value.arguments) // 64)
            self._arrays[id(value)] = _array(value)
        return self._arrays[id(value)]

    def _count(self, value: object) -> int:
        """How many tensors there are in it."""
        if id(value) in self._counts:
            return self._counts[id(value)]
        found, seen, todo = 0, set[int](), [value]
        while todo:
            part = todo.pop()
            if id(part) in seen or isinstance(part, str | int | float | Global):
                continue
            seen.add(id(part))
            inside: list[Any] = []
            if isinstance(part, Strided | Storage):
                found += 1
            elif isinstance(part, dict):
                inside = list(part.values())
            elif isinstance(part, list | tuple):
                inside = list(part)
            elif isinstance(part, Opaque):
                inside = [part.arguments, part.state, part.items, part.parts]
            self._looked += len(inside)
            if self._looked > _COUNTED:
                raise ValueError("its objects hold more than any model's")
            todo += inside
        self._counts[id(value)] = found
        return found


def _items(inside: Any) -> Iterator[tuple[Any, Any]]:
    return iter(inside.items()) if isinstance(inside, dict) else enumerate(inside)


def _text(key: object) -> str:
    return key.text if isinstance(key, Key) else str(key)


def _is_short(text: str) -> bool:
    """Whether it can be part of a message as it is."""
    return len(text) <= _SHORT and text.isprintable()


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _is_expanded(tensor: object) -> bool:
    """Whether it shows numbers many times, so that it may be of any size."""
    return isinstance(tensor, Strided) and any(
        s == 0 and n > 1 for n, s in zip(tensor.shape, tensor.stride, strict=False)
    )


def _is_module(value: object) -> TypeGuard[Opaque]:
    """Whether it is of a subclass of `torch.nn.Module`, by the attributes that all of them have."""
    if isinstance(value, Opaque) and value.name == _COMPILED:
        return len(value.arguments) == 2 and value.state is None and _is_module(value.arguments[0])
    state = value.state if isinstance(value, Opaque) and value.new else None
    return isinstance(state, dict) and all(
        isinstance(found := state.get(name), dict)
        or (isinstance(found, Opaque) and found.name == "collections.OrderedDict")
        for name in _MEMBERS
    )


def _is_scripted(value: object) -> TypeGuard[Opaque]:
    """Whether it is a module of TorchScript, all of which know whether they are in training."""
    return (
        isinstance(value, Opaque)
        and value.new
        and value.name.startswith(_SCRIPTED)
        and isinstance(value.state, dict)
        and "training" in value.state
    )


def _class_name(value: object) -> str:
    if isinstance(value, Opaque | Global):
        name = value.name[: 2 * _SHORT]
        if name.startswith(_SCRIPTED):
            name = re.sub(r"___torch_mangle_\d+\.", "", name.removeprefix(_SCRIPTED))
        return _printable(name[:_SHORT])
    if _is_expanded(value):
        return "torch.Tensor (expanded)"
    return "torch.Tensor" if isinstance(value, Strided) else "torch.UntypedStorage"


def _plain(value: object) -> Any:
    """Text, a number, a truth value or None, also of numpy, torch or pathlib."""
    if value is None or isinstance(value, str | float | bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 64 else _UNKNOWN
    if isinstance(value, Global):
        return value.name if value.name in _DTYPES else _UNKNOWN
    if not isinstance(value, Opaque):
        return _UNKNOWN
    if value.name in _SCALAR and len(value.arguments) == 2 and _size(value.arguments) <= 16:
        found = _numbers(*value.arguments)
        return found[0].item() if found is not None and found.size == 1 else _UNKNOWN
    if _PATHS.fullmatch(value.name) and len(value.arguments) <= 16:
        parts = value.arguments
        if all(isinstance(part, str) and len(part) <= _SHORT for part in parts):
            return re.sub("^//", "/", "/".join(parts))
    return _UNKNOWN


def _array(value: Opaque) -> np.ndarray | None:
    """What `_reconstruct` or `_frombuffer` of numpy would give."""
    if value.name in _FROM_BUFFER and len(value.arguments) == 4:
        data, dtype, shape, order = value.arguments
    elif isinstance(value.state, tuple) and len(value.state) == 5 and value.arguments:
        if value.arguments[0] != Global("numpy.ndarray"):
            return None
        _, shape, dtype, fortran, data = value.state
        order = "F" if fortran is True else "C"
    else:
        return None
    found = _numbers(dtype, data)
    if found is None or not isinstance(shape, tuple) or len(shape) > _AXES:
        return None
    if not all(map(is_natural, shape)) or math.prod(shape) != found.size or order not in ("C", "F"):
        return None
    return found.reshape(shape, order=order)


def _size(parts: object) -> int:
    """Of the bytes among the parts of an array or a number."""
    found = 0
    for part in parts if isinstance(parts, tuple) and len(parts) < 9 else ():
        text = part.arguments[:1] if isinstance(part, Opaque) else (part,)
        found += sum(len(t) for t in text if isinstance(t, str | bytes | bytearray))
    return found


def _numbers(dtype: object, data: object) -> np.ndarray | None:
    """A row of numbers, from a pickled dtype and their bytes."""
    if not isinstance(dtype, Opaque) or dtype.name != "numpy.dtype" or not dtype.arguments:
        return None
    kind, state = dtype.arguments[0], dtype.state
    if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
        return None
    order = state[1]
    if not isinstance(kind, str) or kind not in _NUMBERS or order not in ("<", ">", "|"):
        return None
    found = np.dtype(f"{order}{kind}")
    raw = _bytes(data)
    if raw is None or len(raw) % found.itemsize:
        return None
    return np.frombuffer(raw, found).astype(found.newbyteorder("<"), copy=False)


def _bytes(data: object) -> bytes | bytearray | None:
    """Bytes as any protocol writes them; Python 2 and `_codecs.encode` have them as text."""
    if isinstance(data, Opaque) and data.name == "builtins.bytes" and not data.arguments:
        return b""
    if (
        isinstance(data, Opaque)
        and data.name == "_codecs.encode"
        and data.arguments[1:] == ("latin1",)
    ):
        data = data.arguments[0]
    if isinstance(data, str):
        try:
            return data.encode("latin1")
        except UnicodeEncodeError:
            return None
    return data if isinstance(data, bytes | bytearray) else None
