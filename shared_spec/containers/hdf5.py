"""Weights files of Keras, read with h5py alone: the legacy `.h5`, and Keras 3's `.weights.h5` and
`.keras`.

No link in a file is followed, nothing outside the file is read, and no array is read before its
shape is known to fit.
"""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from shared_spec.containers.safetensors import read_at
from shared_spec.containers.source import (
    NAME_LIMIT,
    Source,
    open_zip,
    parse_json,
    read_member,
    reason,
    shown,
)
from shared_spec.errors import FrameworkError, WeightsError
from shared_spec.tensors import Tensor, Tensors

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
_OBJECTS = 50_000
"""Groups and arrays in a file; ResNet-1202's has 16,000."""
_HEAP = b"GCOL\1\0\0\0"
_HEAP_LIMIT = 2**20
_CHUNK = 2**22
_TEXTS = 500_000
"""Of variable length in a file; ResNet-1202's has 6,000."""
_DEPTH = 32
_CONFIG_LIMIT = 2**20
"""Bytes of a configuration, besides a quarter of what the weights take."""
_CONFIG_VALUES = 1_000_000


def h5py_module() -> Any:
    """h5py.

    Raises:
        FrameworkError: if it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise FrameworkError(
            "Keras's files need h5py, which is not installed; run: pip install h5py"
        ) from None
    return h5py


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except (WeightsError, FrameworkError):
        raise
    # h5py and zipfile raise errors of many kinds for files that are damaged.
    except Exception as error:
        raise WeightsError(f"{path}: not a readable Keras weights file ({reason(error)})") from None


def open_hdf5(path: Path, names: Mapping[str, str] | None = None) -> Source:
    """A legacy file (arrays named `<layer>/<leaf>`) or one of Keras 3 (`<layer>/<number>`).

    Args:
        path: the file.
        names: group (`conv2d_1`) to layer, for files of Keras before 3.10, which do not tell.

    Raises:
        WeightsError: if the file is damaged, or holds something else.
    """
    with _reporting(path), h5py_module().File(path, "r") as file:
        return _opened(_Place(path), file, {}, names or {})


def open_keras(path: Path) -> Source:
    """A `.keras` file: its weights, and its configuration as metadata.

    Raises:
        WeightsError: as `open_hdf5`.
    """
    with _reporting(path), open_zip(path) as archive:
        members = archive.namelist()
        if len(set(members)) < len(members) or not {CONFIG, WEIGHTS} <= set(members):
            raise ValueError(f"it has no {CONFIG} and {WEIGHTS}, or one of them twice")
        begin, size = _member(archive)
        if begin + size > path.stat().st_size:
            raise ValueError(f"{WEIGHTS} is cut off")
        text = read_member(archive, CONFIG, _CONFIG_LIMIT + size // 4)
        metadata = parse_json(text, f"{path}: {CONFIG}", _CONFIG_VALUES)
        if not isinstance(metadata, dict):
            raise ValueError(f"{CONFIG} holds no mapping")
        place = _Place(path, begin, size)
        with place.open() as file:
            return _opened(place, file, metadata, _listed(metadata))


_GROUPED = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "Dense": "dense"}
"""What Keras calls the groups of a class of layers, but for their numbers."""


def _listed(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Layers by their groups, from the configuration of a functional model, which is in their
    order.
    """
    inner = metadata.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else None
    found: dict[str, str] = {}
    counts = dict.fromkeys(_GROUPED, 0)
    for layer in layers if isinstance(layers, list) else []:
        described = layer if isinstance(layer, dict) else {}
        kind, config = described.get("class_name"), described.get("config")
        name = config.get("name") if isinstance(config, dict) else None
        if isinstance(kind, str) and kind in _GROUPED and isinstance(name, str):
            number = f"_{counts[kind]}" if counts[kind] else ""
            found[_GROUPED[kind] + number] = name
            counts[kind] += 1
    return found


@dataclass(frozen=True)
class _Place:
    """A HDF5 file, or the part of a file that is one."""

    path: Path
    begin: int = 0
    size: int | None = None

    def open(self) -> Any:
        if self.size is None:
            return h5py_module().File(self.path, "r")
        part = io.BufferedReader(_Slice(self.path, self.begin, self.size))
        return h5py_module().File(part, "r")


def _member(archive: zipfile.ZipFile) -> tuple[int, int]:
    """Where the weights lie inside a `.keras` file; Keras stores them uncompressed."""
    info = archive.getinfo(WEIGHTS)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{WEIGHTS} is compressed, which Keras does not do")
    # The archive knows where the data begin, and that they are in the file.
    with archive.open(info) as found:
        begin: int = found._orig_compress_start  # type: ignore[attr-defined]
    return begin, info.file_size


class _Slice(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, path: Path, begin: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._begin, self._size, self._at = begin, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        self._file.seek(self._begin + self._at)
        count = self._file.readinto(view) or 0
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _opened(
    place: _Place, file: Any, metadata: Mapping[str, Any], layers: Mapping[str, str]
) -> Source:
    # Of h5py the lower level, which is several times as fast for files of a thousand small parts.
    path, root = place.path, file.id
    names = {name.decode() for name in _members(root)}
    whole = not file.userblock_size
    if "layers" in names or "_layer_checkpoint_dependencies" in names:
        _check_heaps(path)
        return Source(path, "keras3", Tensors(dict(_keras3(root, place, whole, layers))), metadata)
    top = h5py_module().h5g.open(root, b"/")
    top = _child(top, "model_weights", path) if "model_weights" in names else top
    return Source(path, "keras2", Tensors(dict(_legacy(top, place, whole))), metadata)


def _check_heaps(path: Path) -> None:
    """Refuse a damaged heap of texts (HDF5 File Format Specification, III.E): HDF5 1.14 goes from
    one to the next by lengths that it does not check, and so for ever if one of them is 0.

    Raises:
        ValueError: if one is damaged, or there are more texts than in any model.
    """
    left = _TEXTS
    with path.open("rb") as file:
        for at in _found(file, _HEAP):
            file.seek(at + 8)
            size = int.from_bytes(file.read(8), "little")
            if size > _HEAP_LIMIT:
                raise ValueError("a heap of texts is larger than any model's")
            left -= _texts(file.read(max(0, size - 16)))
            if left < 0:
                raise ValueError("it has more texts than any model")


def _found(file: IO[bytes], mark: bytes) -> Iterator[int]:
    """Where a mark stands in a file, of which a part at a time is in memory."""
    start, kept = 0, b""
    while True:
        file.seek(start + len(kept))
        data = kept + file.read(_CHUNK)
        if len(data) == len(kept):
            return
        at = data.find(mark)
        while at >= 0:
            yield start + at
            at = data.find(mark, at + 1)
        kept = data[max(0, len(data) - len(mark) + 1) :]
        start += len(data) - len(kept)


def _texts(heap: bytes) -> int:
    """The number of texts in a heap, after its header."""
    count = at = 0
    while at + 16 <= len(heap):
        size = int.from_bytes(heap[at + 8 : at + 16], "little")
        # The first number is 0 for what is free, whose size is that of all of it.
        step = 16 + (size + 7) // 8 * 8 if any(heap[at : at + 2]) else size
        count += 1
        if step < 16 or at + step > len(heap):
            raise ValueError("a heap of texts is damaged")
        at += step
    return count


def _members(group: Any) -> list[bytes]:
    """Names in a group, as HDF5 keeps them."""
    return list(h5py_module().h5g.open(group, b"."))


def _keras3(
    file: Any, place: _Place, whole: bool, layers: Mapping[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """`<layer>/<number of the variable>` to array. A group is named for its layer's class and
    number; the layer's own name is an attribute of it, or else `layers` tells it.
    """
    h5py, path = h5py_module(), place.path
    seen: set[str] = set()
    for where, group in _objects(h5py.h5g.open(file, b"/"), path):
        parts = where.split("/")
        if (
            not isinstance(group, h5py.h5g.GroupID)
            or parts[-1] != "vars"
            or "optimizer" in parts
            or "seed_generator" in parts
        ):
            continue
        names = [name.decode() for name in group if re.fullmatch(rb"\d+", name)]
        if not names:
            continue
        layer = _text(group, "name", path) or layers.get("/".join(parts[1:-1]))
        if layer is None:
            raise WeightsError(
                f"{path}: {shown(where)} does not tell the name of its layer, as files of Keras "
                f"before 3.10 do not; save it again with a newer Keras"
            )
        if layer in seen:
            raise WeightsError(f"{path}: has two layers named {shown(layer)}")
        seen.add(layer)
        for name in names:
            found = _child(group, name, path)
            yield f"{layer}/{name}", _dataset(found, f"{layer}/{name}", place, whole)


def _objects(root: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """All groups and arrays really in the file, with their paths."""
    h5py = h5py_module()
    pending, count = [("", root)], 0
    while pending:
        here, node = pending.pop()
        count += node.get_num_objs()
        # A group may hold itself.
        if count > _OBJECTS or here.count("/") > _DEPTH or len(here) > NAME_LIMIT:
            raise WeightsError(f"{path}: has more groups than any model")
        yield here, node
        for name in list(node):
            inside = f"{here}/{name.decode()}" if here else name.decode()
            if node.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                raise WeightsError(f"{path}: {shown(inside)} is a link, and none is followed")
            child = h5py.h5o.open(node, name)
            if isinstance(child, h5py.h5g.GroupID):
                pending.append((inside, child))
            else:
                yield inside, child


def _child(group: Any, name: str, path: Path) -> Any:
    """A member of a group that is really in the file; `name` may be a path of such."""
    h5py = h5py_module()
    for part in name.split("/"):
        if not isinstance(group, h5py.h5g.GroupID) or part in ("", ".", ".."):
            raise WeightsError(f"{path}: {shown(name)} names nothing in the file")
        key = part.encode()
        if key not in group or group.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise WeightsError(f"{path}: {shown(name)} is missing, or a link, and none is followed")
        group = h5py.h5o.open(group, key)
    return group


def _text(found: Any, attribute: str, path: Path) -> str | None:
    """A short text in an attribute, if it is there."""
    h5py = h5py_module()
    if not h5py.h5a.exists(found, attribute.encode()):
        return None
    stored = h5py.h5a.open(found, attribute.encode())
    if stored.shape != () or h5py.check_string_dtype(stored.dtype) is None:
        return None
    if stored.dtype.itemsize > NAME_LIMIT:
        raise WeightsError(f"{path}: has an attribute {attribute} that is longer than any model's")
    owner = h5py.Group if isinstance(found, h5py.h5g.GroupID) else h5py.Dataset
    text = owner(found).attrs[attribute]
    text = text.decode() if isinstance(text, bytes) else str(text)
    if len(text) > NAME_LIMIT:
        raise WeightsError(f"{path}: has an attribute {attribute} that is longer than any model's")
    return text


def _legacy(root: Any, place: _Place, whole: bool) -> Iterator[tuple[str, Tensor]]:
    """`<layer>/<leaf>` to array, which lies at `<layer>/.../<leaf>:0`.

    Keras also lists layers and arrays in attributes. What is in the file says the same, and texts
    of attributes may be made to fill any memory.
    """
    h5py, path = h5py_module(), place.path
    if not h5py.h5a.exists(root, b"layer_names") and not h5py.h5a.exists(root, b"layer_names0"):
        raise WeightsError(f"{path}: has no list of layers, so Keras did not write it")
    seen: set[str] = set()
    for where, found in _objects(root, path):
        layer, _, rest = where.partition("/")
        if isinstance(found, h5py.h5g.GroupID) or not rest:
            continue
        key = f"{layer}/{rest.rpartition('/')[2].partition(':')[0]}"
        if key in seen:
            raise WeightsError(f"{path}: has two arrays {shown(key)}")
        seen.add(key)
        yield key, _dataset(found, where, place, whole)


def _dataset(found: Any, name: str, place: _Place, whole: bool) -> Tensor:
    """An array of the file, which is `whole` if nothing lies before it that shifts its places."""
    h5py, path = h5py_module(), place.path
    if not isinstance(found, h5py.h5d.DatasetID):
        raise WeightsError(f"{path}: {shown(name)} is no array in the file itself")
    kept = found.get_create_plist()
    layout = kept.get_layout()
    if kept.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise WeightsError(f"{path}: {shown(name)} is no array in the file itself")
    if kept.get_nfilters():
        # Unpacking knows no limit in HDF5, and Keras does not pack.
        raise WeightsError(f"{path}: {shown(name)} is compressed, which Keras does not do")
    stored = found.dtype
    dtype = _dtype(found, stored, path)
    if dtype is None or found.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        raise WeightsError(f"{path}: {shown(name)} is no array of numbers")
    shape = tuple(int(n) for n in found.shape)
    if found.get_storage_size() < math.prod(shape) * dtype.itemsize:
        raise WeightsError(f"{path}: {shown(name)} has less data than its shape {shape} takes")
    offset = found.get_offset()
    if layout == h5py.h5d.CONTIGUOUS and offset is not None and whole:
        # In one piece, as Keras writes them: no need to open the file with h5py again.
        start = place.begin + offset
        return Tensor(shape, dtype, lambda: read_at(path, start, shape, dtype))
    inside = h5py.h5i.get_name(found).decode()

    def read() -> np.ndarray:
        with _reporting(path), place.open() as file:
            array = np.empty(shape, stored)
            if array.size:
                top = h5py.h5g.open(file.id, b"/")
                h5py.Dataset(_child(top, inside.strip("/"), path)).read_direct(array)
            return array if stored == dtype else array.view(dtype)

    return Tensor(shape, dtype, read)


def _dtype(found: Any, stored: np.dtype[Any], path: Path) -> np.dtype[Any] | None:
    """Keras keeps bfloat16 as bytes and says so in an attribute."""
    if stored.itemsize == 2 and _text(found, "dtype", path) == "bfloat16":
        stored = np.dtype(ml_dtypes.bfloat16)
    elif stored.kind not in "fiu":
        return None
    return stored


@dataclass(frozen=True)
class KerasLayer:
    """A layer that has variables, as Keras saves it."""

    name: str
    kind: str
    """Its class in snake case, such as `conv2d`."""
    variables: Mapping[str, Tensor]
    """Leaf (`kernel`) to array, in the order of Keras's own list."""


def save_legacy(path: Path, layers: Sequence[KerasLayer]) -> None:
    """Write what Keras 2 and 3 load from a `.h5`; the order of layers is the one of their graph.

    Raises:
        WeightsError: for bfloat16, which Keras reads from its newer files alone.
    """
    for layer in layers:
        for leaf, array in layer.variables.items():
            if array.dtype.name == "bfloat16":
                raise WeightsError(
                    f"{path}: {layer.name}/{leaf} is bfloat16, which a .h5 cannot hold; write a "
                    f".weights.h5"
                )
    _require_room(path, layers)
    with h5py_module().File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        file.attrs["backend"] = "tensorflow"
        file.attrs["keras_version"] = "2.15.0"
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{leaf}:0" for leaf in layer.variables]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, entry in zip(names, layer.variables.values(), strict=True):
                group.create_dataset(name, data=entry.array())


def _require_room(path: Path, layers: Sequence[KerasLayer]) -> None:
    """Fail before the HDF5 library does: on a full disk it ends the process.

    Raises:
        OSError: if there is no room for the file.
    """
    arrays = [array for layer in layers for array in layer.variables.values()]
    size = sum(array.nbytes for array in arrays) + 2048 * (len(arrays) + len(layers))
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
    path.unlink()


def save_keras3(path: Path, layers: Sequence[KerasLayer]) -> None:
    """Write a `.weights.h5` of Keras 3: groups are named by class and number in this order."""
    counts: dict[str, int] = {}
    _require_room(path, layers)
    with h5py_module().File(path, "w") as file:
        for layer in layers:
            count = counts.get(layer.kind, 0)
            counts[layer.kind] = count + 1
            number = f"_{count}" if count else ""
            group = file.create_group(f"layers/{layer.kind}{number}/vars")
            group.attrs["name"] = layer.name
            for index, entry in enumerate(layer.variables.values()):
                array = entry.array()
                found = group.create_dataset(str(index), data=array)
                if array.dtype.name == "bfloat16":
                    found.attrs["dtype"] = "bfloat16"
        file.create_group("vars")


__all__ = ["KerasLayer", "h5py_module", "open_hdf5", "open_keras", "save_keras3", "save_legacy"]
