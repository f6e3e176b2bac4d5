"""`.pth`: the zip files that `torch.save` writes, and the form that it wrote before version 1.6.

Nothing is unpickled. The pickle is taken apart by `pickletools`, which only parses, and its opcodes
are followed as far as a state dict needs them: containers, numbers, text and tensors. Whatever else
it asks for is refused by name, and nothing is imported or called. So torch is not needed either.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from shared_spec.atomic_write import early
from shared_spec.errors import WeightsError
from shared_spec.formats.containers.safetensors import little_endian, read_at
from shared_spec.formats.containers.source import (
    Source,
    open_zip,
    read_member,
    reading,
    reason,
    shown,
)
from shared_spec.weights.lazy_array import LazyArray, LazyArrays, entries_of, read_ahead

_STORAGES: dict[str, np.dtype[Any]] = {
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
}
_STORAGE_NAMES = {dtype: name for name, dtype in _STORAGES.items()}
_KIND = "PyTorch file"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_PICKLE_LIMIT = 8 * 2**20
"""Bytes; ResNet-1202's state dict is described in 1.3 million."""
_OPCODES = 500_000
"""In a pickle; ResNet-1202's has 330,000."""
_DEPTH = 8
_AXES = 32
_ALIGNMENT = 64
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype[Any]
    key: str
    count: int


@dataclass(frozen=True)
class _Strided:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Mark:
    """Where a run of items begins on the stack."""


def open_pytorch(path: Path) -> Source:
    """A state dict, alone or as `state_dict` or `model` of a training checkpoint.

    Raises:
        WeightsError: if the file is damaged, or asks for anything but tensors and containers.
    """
    with reading(path, _KIND), path.open("rb") as file:
        if zipfile.is_zipfile(file):
            loaded, locate = _from_zip(path, file)
        else:
            file.seek(0)
            loaded, locate = _from_legacy(path, file)
    entries = {
        name: _entry(path, name, item, locate) for name, item in _state_dict(loaded, path).items()
    }
    return Source(path, "pytorch", LazyArrays(entries))


Locate = Callable[[_Storage], Callable[[int, int], bytes | np.ndarray]]
"""Gives for a storage what reads a range of its bytes."""


def _from_zip(path: Path, file: IO[bytes]) -> tuple[object, Locate]:
    with open_zip(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("two members have one name")
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError("no state dict of torch.save in it")
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in members and read_member(archive, order, 8) != b"little":
            raise ValueError("its numbers are big-endian")
        loaded = _follow(io.BytesIO(read_member(archive, pickles[0], _PICKLE_LIMIT)))
    length = path.stat().st_size

    def locate(storage: _Storage) -> Callable[[int, int], np.ndarray]:
        info = members.get(f"{root}data/{storage.key}")
        size = storage.count * storage.dtype.itemsize
        if info is None or info.file_size != size or info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"the data of storage {storage.key[:50]!r} are missing")
        if info.header_offset + size > length:
            raise ValueError(f"the data of storage {storage.key[:50]!r} are cut off")

        return partial(_from_member, path, info)

    return loaded, locate


def _from_member(path: Path, info: zipfile.ZipInfo, start: int, stop: int) -> np.ndarray:
    with reading(path, _KIND), path.open("rb", buffering=0) as file:
        file.seek(info.header_offset)
        fields = struct.unpack("<4s22xHH", file.read(30))
        if fields[0] != b"PK\x03\x04":
            raise ValueError(f"{shown(info.filename)} does not begin where the file says")
        file.seek(fields[1] + fields[2] + start, io.SEEK_CUR)
        found = np.fromfile(file, np.uint8, stop - start)
        if found.size != stop - start:
            raise ValueError(f"{shown(info.filename)} is cut off")
        # torch can be told to leave the sum out, and then writes 0.
        if stop - start == info.file_size and info.CRC and zlib.crc32(found.data) != info.CRC:
            raise ValueError(f"{shown(info.filename)} is damaged (its CRC-32 differs)")
    return found


def _from_legacy(path: Path, file: IO[bytes]) -> tuple[object, Locate]:
    if _follow(file) != _LEGACY_MAGIC or _follow(file) != _LEGACY_PROTOCOL:
        raise ValueError("torch.save did not write it")
    system = _follow(file)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ValueError("its numbers are big-endian")
    storages: dict[str, _Storage] = {}
    loaded = _follow(file, storages)
    keys = _follow(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its list of storages is not a list")
    if set(keys) != set(storages) or len(set(keys)) < len(keys):
        raise ValueError("its list of storages differs from its state dict's")
    starts: dict[str, int] = {}
    length = path.stat().st_size
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        if count != storages[key].count:
            raise ValueError(f"storage {key[:50]!r} does not have the length that the file states")
        starts[key] = file.tell()
        file.seek(starts[key] + count * storages[key].dtype.itemsize)
        if file.tell() > length:
            raise ValueError(f"storage {key[:50]!r} is cut off")

    def locate(storage: _Storage) -> Callable[[int, int], np.ndarray]:
        begin = starts[storage.key]
        return lambda start, stop: read_at(path, begin + start, (stop - start,), np.dtype(np.uint8))

    return loaded, locate


def _state_dict(loaded: object, path: Path) -> dict[str, _Strided]:
    for _ in range(_DEPTH):
        inside = loaded if isinstance(loaded, Mapping) else {}
        loaded = next((x for k in _WRAPPERS if isinstance(x := inside.get(k), Mapping)), loaded)
    if not isinstance(loaded, Mapping) or not all(
        isinstance(k, str) and isinstance(v, _Strided) for k, v in loaded.items()
    ):
        raise WeightsError(f"{path}: holds no state dict (a mapping of names to tensors)")
    found: dict[str, _Strided] = {}
    for key, value in loaded.items():
        name = plain_name(key)
        if name in found:
            raise WeightsError(f"{path}: holds {shown(name)} twice, under different prefixes")
        found[name] = value
    return found


def plain_name(name: str) -> str:
    """Without the prefixes that DataParallel and `torch.compile` add."""
    return name[_PREFIXES.match(name).end() :]  # type: ignore[union-attr]


_PREFIXES = re.compile(r"(?:module\.|_orig_mod\.)*+")


def _entry(path: Path, name: str, item: _Strided, locate: Locate) -> LazyArray:
    """A tensor whose elements are known to lie in its storage, each at a place of its own."""
    shape, stride, dtype = item.shape, item.stride, item.storage.dtype
    count = math.prod(shape)
    last = item.offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=False))
    if (
        len(shape) != len(stride)
        or min((*shape, *stride, item.offset), default=0) < 0
        or count > item.storage.count
        or (count and last >= item.storage.count)
    ):
        raise WeightsError(f"{path}: {shown(name)} lies outside the data that the file holds")
    try:
        read_bytes = locate(item.storage)
    except ValueError as error:
        raise WeightsError(f"{path}: {shown(name)} cannot be read ({reason(error)})") from None
    size = dtype.itemsize

    def read() -> np.ndarray:
        if not count:
            return np.zeros(shape, dtype)
        data = np.asarray(read_bytes(item.offset * size, (last + 1) * size)).view(dtype)
        strides = tuple(s * size for s in stride)
        return np.lib.stride_tricks.as_strided(data, shape, strides)

    return LazyArray(shape, dtype, read)


def _follow(file: IO[bytes], storages: dict[str, _Storage] | None = None) -> object:
    """What one pickle describes, with tensors as records. No opcode imports or calls anything.

    What comes of it may hold itself a million times over, so nothing here compares, hashes or
    prints an object that is not known to be text or a number.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    limited: Any = _Limited(file)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(limited)):
        if count > _OPCODES:
            raise ValueError("its description is longer than any model's")
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in _IGNORED:
            continue
        if name in _LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            if argument is not None and not _natural(argument):
                raise ValueError("its pickle numbers its objects in an impossible way")
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop(), storages))
        elif name in _STEPS:
            _STEPS[name](stack, argument)
        else:
            raise ValueError(f"its pickle has the opcode {name}, which no state dict needs")
    raise ValueError("its pickle has no end")


class _Limited:
    """The next bytes of a file for `pickletools`, as many as a description may take."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, _PICKLE_LIMIT

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(self._left + 1))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("its description is larger than any model's")
        return data


_IGNORED = {"PROTO", "FRAME"}
_LITERALS = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINBYTES",
    "BINBYTES",
    "SHORT_BINSTRING",
    "BINSTRING",
}


def _marked(stack: list[Any]) -> list[Any]:
    """The items above the topmost mark, taken off with it."""
    for i in range(len(stack) - 1, -1, -1):
        if isinstance(stack[i], _Mark):
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
    if not isinstance(stack[-1], dict) or len(items) % 2:
        raise ValueError("its pickle puts items where there is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Other numbers can be chosen so that all have one hash.
        if not isinstance(key, str) and not _natural(key):
            raise ValueError("its pickle has a key that is neither text nor a natural number")
        if key in stack[-1]:
            raise ValueError(f"{shown(str(key))} appears twice")
        stack[-1][key] = value


def _append(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise ValueError("its pickle appends where there is no list")
    stack[-1].extend(items)


def _build(stack: list[Any], _: object) -> None:
    # An OrderedDict carries the versions of its modules as an attribute: nothing depends on them.
    (_, target) = (stack.pop(), stack[-1])
    if not isinstance(target, dict):
        raise ValueError("its pickle sets attributes")


def _reduce(stack: list[Any], _: object) -> None:
    function, arguments = _top(stack, 2)
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise ValueError("its pickle calls something that is not a function")
    known = _CALLS.get(function.name)
    if known is None:
        raise ValueError(f"it asks for {function.name[:150]}, and nothing is executed")
    stack.append(known(arguments))


def _stack_global(stack: list[Any], _: object) -> None:
    module, name = _top(stack, 2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("its pickle names a function by something that is not text")
    stack.append(_Global(f"{module}.{name}"))


_STEPS: dict[str, Callable[[list[Any], Any], None]] = {
    "MARK": lambda stack, _: stack.append(_Mark()),
    "NONE": lambda stack, _: stack.append(None),
    "NEWTRUE": lambda stack, _: stack.append(True),
    "NEWFALSE": lambda stack, _: stack.append(False),
    "EMPTY_DICT": lambda stack, _: stack.append({}),
    "EMPTY_LIST": lambda stack, _: stack.append([]),
    "EMPTY_TUPLE": lambda stack, _: stack.append(()),
    "TUPLE": lambda stack, _: stack.append(tuple(_marked(stack))),
    "TUPLE1": lambda stack, _: stack.append(_top(stack, 1)),
    "TUPLE2": lambda stack, _: stack.append(_top(stack, 2)),
    "TUPLE3": lambda stack, _: stack.append(_top(stack, 3)),
    "SETITEM": lambda stack, _: _set_items(stack, list(_top(stack, 2))),
    "SETITEMS": lambda stack, _: _set_items(stack, _marked(stack)),
    "APPEND": lambda stack, _: _append(stack, list(_top(stack, 1))),
    "APPENDS": lambda stack, _: _append(stack, _marked(stack)),
    "GLOBAL": lambda stack, argument: stack.append(_Global(argument.replace(" ", "."))),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
}


def _storage(found: object, storages: dict[str, _Storage] | None) -> _Storage:
    """What a persistent id names: ("storage", type, key, device, elements[, view])."""
    if not isinstance(found, tuple) or len(found) not in (5, 6) or found[0] != "storage":
        raise ValueError("its pickle names something other than a storage")
    kind, key, _, count = found[1:5]
    called = kind.name if isinstance(kind, _Global) else "storage of no type"
    dtype = _STORAGES.get(called.removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"it holds a {called[:150]}, which no model has")
    if not isinstance(key, str) or not _natural(count) or found[5:] not in ((), (None,)):
        raise ValueError("its pickle describes a storage in a form that torch.save does not")
    storage = _Storage(dtype, key, count)
    if storages is not None and storages.setdefault(key, storage) != storage:
        raise ValueError(f"storage {key[:50]!r} is described in two ways")
    return storage


def _natural(n: object) -> bool:
    return type(n) is int and 0 <= n < 2**48


def _tensor(arguments: tuple[Any, ...]) -> _Strided:
    storage, offset, shape, stride = arguments[:4]
    if not all(isinstance(x, tuple) and len(x) <= _AXES for x in (shape, stride)):
        raise ValueError("its pickle has a tensor without a valid shape")
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or not all(map(_natural, numbers)):
        raise ValueError("its pickle describes a tensor in a form that torch.save does not")
    return _Strided(storage, offset, shape, stride)


def _parameter(arguments: tuple[Any, ...]) -> _Strided:
    if not arguments or not isinstance(arguments[0], _Strided):
        raise ValueError("its pickle has a parameter that is not a tensor")
    return arguments[0]


def _ordered(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    empty = len(arguments) == 1 and isinstance(arguments[0], list | tuple) and not arguments[0]
    if arguments and not empty:
        raise ValueError("its pickle has an OrderedDict in a form that torch.save does not write")
    return {}


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or not isinstance(arguments[0], list | tuple):
        raise ValueError("its pickle has a size of no numbers")
    if len(arguments[0]) > _AXES:
        raise ValueError("its pickle has a size of more axes than any model's")
    return tuple(arguments[0])


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "collections.OrderedDict": _ordered,
    "torch.Size": _size,
    "torch.device": lambda arguments: "device",
}
"""All that a pickle may call: what stands for it here."""


def save_pytorch(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write a state dict that `torch.load(path, weights_only=True)` reads.

    Raises:
        WeightsError: naming an array whose dtype torch lacks.
    """
    entries = entries_of(state)
    for name, entry in entries.items():
        if entry.dtype.newbyteorder("<") not in _STORAGE_NAMES:
            raise WeightsError(
                f"{path}: {name} has dtype {entry.dtype}, which this torch does not have"
            )
    with (
        path.open("wb") as file,
        early(file.fileno()) as written,
        zipfile.ZipFile(file, "w") as archive,
    ):
        _put(archive, "archive/data.pkl", _pickled(entries))
        _put(archive, "archive/byteorder", b"little")
        arrays = read_ahead(entries.values())
        for index in range(len(entries)):
            _put(archive, f"archive/data/{index}", little_endian(next(arrays)))
            written(file.tell())
        _put(archive, "archive/version", b"3\n")


def _put(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    """A member whose data begin at a multiple of 64 bytes, as torch's do, for memory maps."""
    info = zipfile.ZipInfo(name)  # with the earliest date, so that equal weights make equal files
    assert archive.fp is not None
    begin = archive.fp.tell() + 30 + len(name) + 4
    info.extra = b"FB" + struct.pack("<H", -begin % _ALIGNMENT) + b"Z" * (-begin % _ALIGNMENT)
    archive.writestr(info, data)


def _pickled(entries: Mapping[str, LazyArray]) -> bytes:
    """The pickle of a state dict, in protocol 2."""
    out = io.BytesIO()
    out.write(pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK)
    for index, (name, entry) in enumerate(entries.items()):
        strides = [math.prod(entry.shape[i + 1 :]) for i in range(len(entry.shape))]
        out.write(_text(name))
        out.write(pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n" + pickle.MARK)
        storage = _STORAGE_NAMES[entry.dtype.newbyteorder("<")]
        out.write(pickle.MARK + _text("storage"))
        out.write(pickle.GLOBAL + f"torch\n{storage}\n".encode())
        out.write(_text(str(index)) + _text("cpu") + _integer(math.prod(entry.shape)))
        out.write(pickle.TUPLE + pickle.BINPERSID + _integer(0))
        for numbers in (entry.shape, strides):
            out.write(pickle.MARK + b"".join(map(_integer, numbers)) + pickle.TUPLE)
        out.write(pickle.NEWFALSE)
        out.write(pickle.GLOBAL + b"collections\nOrderedDict\n")
        out.write(pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.TUPLE + pickle.REDUCE)
    out.write(pickle.SETITEMS + pickle.STOP)
    return out.getvalue()


def _text(text: str) -> bytes:
    data = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _integer(n: int) -> bytes:
    if n < 2**31:
        return pickle.BININT + struct.pack("<i", n)
    data = n.to_bytes(8, "little")
    return pickle.LONG1 + bytes([len(data)]) + data
