"""What a pickle of torch's describes, told without unpickling.

The pickle is taken apart by `pickletools`, which only parses, and its opcodes are followed.
Tensors, containers, numbers and text become what they are. Any other object becomes an `Opaque`,
which keeps the name of its class and what it was made of. Nothing is imported or called; torch is
not needed.
"""

from __future__ import annotations

import codecs
import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Final

import ml_dtypes
import numpy as np

from shared_spec.formats.containers.source import shown

codecs.lookup("raw_unicode_escape")
# `pickletools` decodes the text of protocol 0 with it; now it is not imported because of a file.

PICKLE_LIMIT = 8 * 2**20
"""Bytes; ResNet-1202's state dict is described in 1.3 million."""
STORAGES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
}
_QUANTISED = {
    "QInt8Storage": np.dtype("V1"),
    "QUInt8Storage": np.dtype("V1"),
    "QInt32Storage": np.dtype("V4"),
    "QUInt4x2Storage": np.dtype("V1"),
    "QUInt2x4Storage": np.dtype("V1"),
}
"""Their elements are no numbers without a scale, which is elsewhere."""
_UNTYPED = {"UntypedStorage": np.dtype("u1"), "storage.UntypedStorage": np.dtype("u1")}
_KINDS = STORAGES | _QUANTISED | _UNTYPED
_LATER_DTYPES: dict[str, np.dtype[Any]] = {
    "torch.uint16": np.dtype("<u2"),
    "torch.uint32": np.dtype("<u4"),
    "torch.uint64": np.dtype("<u8"),
    "torch.float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "torch.float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "torch.float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "torch.float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
}
"""Those that have no storage of their own."""
_OPCODES = 500_000
"""In a pickle; ResNet-1202's has 330,000."""
_AXES = 32


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function, by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The numbers of a tensor, in the file elsewhere."""

    dtype: np.dtype[Any]
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Strided:
    """A tensor on a storage."""

    storage: Storage
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """The text of a key that is neither text nor a natural number: such numbers can be chosen so
    that all have one hash, and of other objects nothing is known.
    """

    text: str


@dataclass(eq=False, slots=True)
class Opaque:
    """An object of a class that is not known here, or what a function would have given."""

    name: str
    """Of the class or function."""
    arguments: tuple[Any, ...]
    new: bool = False
    """Whether it is an object of this very class."""
    state: Any = None
    items: dict[Any, Any] | None = None
    """What was put into it by key."""
    parts: list[Any] | None = None
    """What was appended to it."""


class _Mark:
    """Where a run of items begins on the stack."""


_MARK = _Mark()


def follow(file: IO[bytes], storages: dict[str, Storage] | None = None) -> object:
    """What one pickle describes. No opcode imports or calls anything.

    What comes of it may hold itself a million times over, so nothing here copies, compares, hashes
    or prints an object that is not known to be small.

    Args:
        file: at the pickle's begin, and afterwards at its end. What is in memory already is of a
            size that was limited; of another file no more than `PICKLE_LIMIT` is read.
        storages: takes the storages that it names.

    Raises:
        ValueError, and other errors of `pickletools`: if it is damaged, or larger than any model's.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    limited: Any = file if isinstance(file, io.BytesIO) else _Limited(file)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(limited)):
        if count > _OPCODES:
            raise ValueError("its description is longer than any model's")
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            if argument is not None and not is_natural(argument):
                raise ValueError("its pickle numbers its objects in an impossible way")
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in _STEPS:
            _STEPS[name](stack, argument)
        elif name == "BINPERSID":
            stack.append(_persistent(stack.pop(), storages))
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"its pickle has the opcode {name}, which torch.save does not write")
    raise ValueError("its pickle has no end")


class _Limited:
    """The next bytes of a file for `pickletools`, as many as a description may take."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, PICKLE_LIMIT

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(self._left + 1))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("its description is larger than any model's")
        return data


_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
    *("SHORT_BINSTRING", "BINSTRING", "STRING"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def _marked(stack: list[Any]) -> list[Any]:
    """The items above the topmost mark, taken off with it."""
    for i in range(len(stack) - 1, -1, -1):
        if stack[i] is _MARK:
            items = stack[i + 1 :]
            del stack[i:]
            return items
    raise ValueError("its pickle closes what it has not opened")


def _top(stack: list[Any], count: int) -> tuple[Any, ...]:
    if len(stack) < count:
        raise ValueError("its pickle closes what it has not opened")
    items = tuple(stack[len(stack) - count :])
    del stack[len(stack) - count :]
    return items


def _set_items(stack: list[Any], items: list[Any]) -> None:
    target = stack[-1]
    if isinstance(target, Opaque):
        if target.items is None:
            target.items = {}
        target = target.items
    if not isinstance(target, dict):
        raise ValueError("its pickle puts items where there is no dict")
    _put(target, items)


def _put(target: dict[Any, Any], items: list[Any]) -> None:
    if len(items) % 2:
        raise ValueError("its pickle has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str) and not is_natural(key):
            key = Key(_text(key) or f"#{len(target)}")
        if key in target:
            name = key.text if isinstance(key, Key) else str(key)
            raise ValueError(f"{shown(name)} appears twice")
        target[key] = value


def _text(key: object) -> str:
    """Of a number, a truth value, None, or a few of them and text in a tuple; else empty."""
    if type(key) is int and key.bit_length() > 64:
        return ""
    if key is None or isinstance(key, int | float):
        return repr(key)
    if isinstance(key, tuple) and len(key) <= 8 and not any(isinstance(k, tuple) for k in key):
        parts = [k[:100] if isinstance(k, str) else _text(k) for k in key]
        return f"({', '.join(parts)})" if all(parts) else ""
    return ""


def _dict(stack: list[Any], _: object) -> None:
    items, found = _marked(stack), dict[Any, Any]()
    _put(found, items)
    stack.append(found)


def _append(stack: list[Any], items: list[Any]) -> None:
    target = stack[-1]
    if isinstance(target, Opaque):
        if target.parts is None:
            target.parts = []
        target = target.parts
    if not isinstance(target, list):
        raise ValueError("its pickle appends where there is no list")
    target.extend(items)


def _build(stack: list[Any], _: object) -> None:
    (state, target) = (stack.pop(), stack[-1])
    if isinstance(target, Opaque) and target.state is None:
        target.state = state
    # An OrderedDict carries the versions of its modules as an attribute: nothing depends on them.
    elif not isinstance(target, dict):
        raise ValueError("its pickle sets attributes of what has none")


def _reduce(stack: list[Any], _: object) -> None:
    function, arguments = _top(stack, 2)
    if not isinstance(function, Global | Opaque) or not isinstance(arguments, tuple):
        raise ValueError("its pickle calls something that is not a function")
    if isinstance(function, Opaque):
        stack.append(Opaque(function.name, (function, arguments)))
    elif known := _CALLS.get(function.name):
        stack.append(known(arguments))
    else:
        stack.append(Opaque(function.name, arguments))


def _new(stack: list[Any], kind: object, arguments: object) -> None:
    if not isinstance(kind, Global) or not isinstance(arguments, tuple):
        raise ValueError("its pickle makes an object of something that is not a class")
    stack.append(Opaque(kind.name, arguments, new=True))


def _obj(stack: list[Any], _: object) -> None:
    kind, *arguments = _marked(stack) or [None]
    _new(stack, kind, tuple(arguments))


def _new_with_keywords(stack: list[Any], _: object) -> None:
    kind, arguments, keywords = _top(stack, 3)
    _new(stack, kind, (arguments, keywords))


def _global(module: str, name: str) -> Global:
    return Global(f"{_PYTHON_3.get(module, module)}.{name}")


_PYTHON_3 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""What protocols before 3 call them."""


def _named(argument: str) -> Global:
    module, _, name = argument.partition(" ")
    return _global(module, name)


def _stack_global(stack: list[Any], _: object) -> None:
    module, name = _top(stack, 2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("its pickle names a function by something that is not text")
    stack.append(_global(module, name))


_STEPS: dict[str, Callable[[list[Any], Any], Any]] = {
    "MARK": lambda stack, _: stack.append(_MARK),
    "POP": lambda stack, _: stack.pop(),
    "POP_MARK": lambda stack, _: _marked(stack),
    "NONE": lambda stack, _: stack.append(None),
    "NEWTRUE": lambda stack, _: stack.append(True),
    "NEWFALSE": lambda stack, _: stack.append(False),
    "EMPTY_DICT": lambda stack, _: stack.append({}),
    "EMPTY_LIST": lambda stack, _: stack.append([]),
    "EMPTY_SET": lambda stack, _: stack.append([]),
    "EMPTY_TUPLE": lambda stack, _: stack.append(()),
    "DICT": _dict,
    "LIST": lambda stack, _: stack.append(_marked(stack)),
    "TUPLE": lambda stack, _: stack.append(tuple(_marked(stack))),
    "FROZENSET": lambda stack, _: stack.append(tuple(_marked(stack))),
    "TUPLE1": lambda stack, _: stack.append(_top(stack, 1)),
    "TUPLE2": lambda stack, _: stack.append(_top(stack, 2)),
    "TUPLE3": lambda stack, _: stack.append(_top(stack, 3)),
    "SETITEM": lambda stack, _: _set_items(stack, list(_top(stack, 2))),
    "SETITEMS": lambda stack, _: _set_items(stack, _marked(stack)),
    "APPEND": lambda stack, _: _append(stack, list(_top(stack, 1))),
    "APPENDS": lambda stack, _: _append(stack, _marked(stack)),
    "ADDITEMS": lambda stack, _: _append(stack, _marked(stack)),
    "GLOBAL": lambda stack, argument: stack.append(_named(argument)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
    "INST": lambda stack, argument: _new(stack, _named(argument), tuple(_marked(stack))),
    "OBJ": _obj,
    "NEWOBJ": lambda stack, _: _new(stack, *_top(stack, 2)),
    "NEWOBJ_EX": _new_with_keywords,
}


def _persistent(found: object, storages: dict[str, Storage] | None) -> Storage | Global:
    """What a persistent id names: ("storage", type, key, device, elements[, view]), or before
    torch 1.6 ("module", class, file, source).
    """
    if isinstance(found, tuple) and len(found) == 4 and found[0] == "module":
        if isinstance(found[1], Global):
            return found[1]
        raise ValueError("its pickle has the source of something that is not a class")
    if not isinstance(found, tuple) or len(found) not in (5, 6) or found[0] != "storage":
        raise ValueError("its pickle names something other than a storage")
    kind, key, _, count = found[1:5]
    called = kind.name if isinstance(kind, Global) else "storage of no type"
    dtype = _KINDS.get(called.removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"it holds a {called[:150]}, which no model has")
    if not isinstance(key, str) or not is_natural(count) or found[5:] not in ((), (None,)):
        raise ValueError("its pickle describes a storage in a form that torch.save does not")
    storage = Storage(dtype, key, count)
    if storages is not None and storages.setdefault(key, storage) != storage:
        raise ValueError(f"storage {key[:50]!r} is described in two ways")
    return storage


def is_natural(n: object) -> bool:
    """Whether it is a number that a shape or a place in a file can be."""
    return type(n) is int and 0 <= n < 2**48


_TENSOR: Final = "torch._utils._rebuild_tensor_v2"
_LATER_TENSOR: Final = "torch._utils._rebuild_tensor_v3"


def _tensor(arguments: tuple[Any, ...]) -> Strided | Opaque:
    storage, offset, shape, stride = arguments[:4]
    if not all(isinstance(x, tuple) and len(x) <= _AXES for x in (shape, stride)):
        raise ValueError("its pickle has a tensor without a valid shape")
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, Storage) or not all(map(is_natural, numbers)):
        raise ValueError("its pickle describes a tensor in a form that torch.save does not")
    if storage.dtype.type is np.void:
        return Opaque(_TENSOR, arguments)
    return Strided(storage, storage.dtype, offset, shape, stride)


def _later_tensor(arguments: tuple[Any, ...]) -> Strided | Opaque:
    """Of a dtype that its storage does not know."""
    kind = arguments[6] if len(arguments) > 6 else None
    dtype = _LATER_DTYPES.get(kind.name) if isinstance(kind, Global) else None
    found = _tensor(arguments)
    if dtype is None or isinstance(found, Opaque):
        return Opaque(_LATER_TENSOR, arguments)
    return Strided(found.storage, dtype, found.offset, found.shape, found.stride)


def _parameter(arguments: tuple[Any, ...]) -> Strided | Opaque:
    if not arguments or not isinstance(arguments[0], Strided | Opaque):
        raise ValueError("its pickle has a parameter that is not a tensor")
    return arguments[0]


def _of_a_type(arguments: tuple[Any, ...]) -> Strided | Opaque:
    """A tensor of another class, or with attributes: (function, class, arguments, state)."""
    function, kind, inner = arguments[:3]
    name = kind.name if isinstance(kind, Global) else "torch._tensor._rebuild_from_type_v2"
    if isinstance(function, Global) and isinstance(inner, tuple) and name in _PLAIN_TENSORS:
        known = _TENSORS.get(function.name)
        return known(inner) if known else Opaque(function.name, inner)
    return Opaque(name, arguments)


_PLAIN_TENSORS = {
    "torch.Tensor",
    "torch._tensor.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
}


def _ordered(arguments: tuple[Any, ...]) -> dict[Any, Any] | Opaque:
    if not arguments:
        return {}
    if len(arguments) > 1 or not isinstance(arguments[0], list):
        raise ValueError("its pickle has an OrderedDict in a form that torch.save does not write")
    # Python 2 gives the items at once, and they may yet be appended to the list.
    return Opaque("collections.OrderedDict", arguments)


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or not isinstance(arguments[0], list | tuple):
        raise ValueError("its pickle has a size of no numbers")
    if len(arguments[0]) > _AXES:
        raise ValueError("its pickle has a size of more axes than any model's")
    return tuple(arguments[0])


def _device(arguments: tuple[Any, ...]) -> str:
    kind, *number = arguments if len(arguments) in (1, 2) else (None,)
    if not isinstance(kind, str) or len(kind) > 50 or not all(map(is_natural, number)):
        raise ValueError("its pickle has a device of no name")
    return ":".join([kind, *map(str, number)])


def _reconstructed(arguments: tuple[Any, ...]) -> Opaque:
    """An object, as protocols before 2 write it."""
    if not arguments or not isinstance(arguments[0], Global):
        raise ValueError("its pickle makes an object of something that is not a class")
    return Opaque(arguments[0].name, arguments[1:], new=True)


_TENSORS: dict[str, Callable[[tuple[Any, ...]], Strided | Opaque]] = {
    _TENSOR: _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    _LATER_TENSOR: _later_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _of_a_type,
    "torch._tensor._rebuild_from_type": _of_a_type,
    "collections.OrderedDict": _ordered,
    "torch.Size": _size,
    "torch.device": _device,
    "copyreg._reconstructor": _reconstructed,
}
"""Functions whose result is known, and what stands for it here."""
