"""`.pth`: the zip files that `torch.save` writes, and the form that it wrote before version 1.6.

Nothing is unpickled, and torch is not needed: see `torch_pickle`.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

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
from shared_spec.formats.containers.torch_pickle import (
    PICKLE_LIMIT,
    STORAGES,
    Storage,
    Strided,
    follow,
)
from shared_spec.formats.containers.torch_script import read_scripts
from shared_spec.formats.containers.torch_tree import Tree, read_tree
from shared_spec.weights.lazy_array import LazyArray, LazyArrays, entries_of, read_ahead

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}
_KIND = "PyTorch file"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_ALIGNMENT = 64


def open_pytorch(path: Path) -> Source:
    """All tensors of a file of `torch.save` or `torch.jit.save`, by their paths in it.

    `{"state_dict": {"conv1.weight": tensor}, "epoch": 3}` gives `state_dict/conv1.weight`, and
    `epoch` in the metadata; a state dict by itself gives its own names, and so does a whole model,
    or one of TorchScript, whose modules are then told too. Objects of other classes are told by the
    names of these (`opaque`).

    Raises:
        WeightsError: if the file is damaged, holds no tensors, or more of anything than any model.
    """
    with reading(path, _KIND), path.open("rb") as file:
        if zipfile.is_zipfile(file):
            tree, locate = _from_zip(path, file)
        else:
            file.seek(0)
            tree, locate = _from_legacy(path, file)
    if not tree.tensors:
        raise WeightsError(f"{path}: holds no tensors{_instead(tree)}")
    entries = {
        name: LazyArray.of(item)
        if isinstance(item, np.ndarray)
        else _entry(path, name, item, locate)
        for name, item in tree.tensors.items()
    }
    return Source(path, "pytorch", LazyArrays(entries), tree.values, tree.opaque, tree.modules)


def _instead(tree: Tree) -> str:
    """Which objects are in a file that has no tensors."""
    found = [f"{kind} at {shown(place)}" for place, kind in tree.opaque.items()]
    more = f" and {len(found) - 10:,} more" if len(found) > 10 else ""
    listed = f", only objects ({', '.join(found[:10])}{more}), and nothing is executed"
    return listed if found else ""


Locate = Callable[[Storage], Callable[[int, int], bytes | np.ndarray]]
"""Gives for a storage what reads a range of its bytes."""


def _from_zip(path: Path, file: IO[bytes]) -> tuple[Tree, Locate]:
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
        loaded = follow(io.BytesIO(read_member(archive, pickles[0], PICKLE_LIMIT)))
        tree = read_tree(loaded, read_scripts(archive, root))
    length = path.stat().st_size

    def locate(storage: Storage) -> Callable[[int, int], np.ndarray]:
        info = members.get(f"{root}data/{storage.key}")
        size = storage.count * storage.dtype.itemsize
        if info is None or info.file_size != size or info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"the data of storage {storage.key[:50]!r} are missing")
        if info.header_offset + size > length:
            raise ValueError(f"the data of storage {storage.key[:50]!r} are cut off")

        return partial(_from_member, path, info)

    return tree, locate


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


def _from_legacy(path: Path, file: IO[bytes]) -> tuple[Tree, Locate]:
    if follow(file) != _LEGACY_MAGIC or follow(file) != _LEGACY_PROTOCOL:
        raise ValueError("torch.save did not write it")
    system = follow(file)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ValueError("its numbers are big-endian")
    storages: dict[str, Storage] = {}
    loaded = follow(file, storages)
    keys = follow(file)
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

    def locate(storage: Storage) -> Callable[[int, int], np.ndarray]:
        begin = starts[storage.key]
        return lambda start, stop: read_at(path, begin + start, (stop - start,), np.dtype(np.uint8))

    return read_tree(loaded, {}), locate


def _entry(path: Path, name: str, item: Strided, locate: Locate) -> LazyArray:
    """A tensor whose elements are known to lie in its storage, each at a place of its own."""
    shape, stride, dtype = item.shape, item.stride, item.dtype
    count = math.prod(shape)
    held = item.storage.count * item.storage.dtype.itemsize // dtype.itemsize
    last = item.offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=False))
    if (
        len(shape) != len(stride)
        or min((*shape, *stride, item.offset), default=0) < 0
        or count > held
        or (count and last >= held)
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
        data = np.asarray(read_bytes(item.offset * size, (last + 1) * size))
        return np.ndarray(shape, dtype, data.data, strides=[s * size for s in stride])

    return LazyArray(shape, dtype, read)


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
