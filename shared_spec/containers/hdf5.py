"""Weights files of Keras, read with h5py alone: the legacy `.h5`, and Keras 3's `.weights.h5` and
`.keras`.

No link in a file is followed, nothing outside the file is read, and no array is read before its
shape is known to fit.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from shared_spec.containers.safetensors import read_at
from shared_spec.containers.source import JSON_LIMIT, Source, parse_json
from shared_spec.errors import FrameworkError, WeightsError
from shared_spec.tensors import Tensor, Tensors

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
_LIST_LIMIT = 2 * 10**6
"""Bytes of a list of names; ResNet152's takes 20,000."""
_GROUPS = 50_000
"""Groups in a file; ResNet-1202's has 6,000."""


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
    # h5py raises errors of many kinds for files that are damaged.
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        UnicodeError,
        AttributeError,
        zipfile.BadZipFile,
        NotImplementedError,
        OverflowError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: not a readable Keras weights file ({reason})") from None


def open_hdf5(path: Path) -> Source:
    """A legacy file (arrays named `<layer>/<leaf>`) or one of Keras 3 (`<layer>/<number>`).

    Raises:
        WeightsError: if the file is damaged, or holds something else.
    """
    with _reporting(path), h5py_module().File(path, "r") as file:
        return _opened(_Place(path), file, {})


def open_keras(path: Path) -> Source:
    """A `.keras` file: its weights, and its configuration as metadata.

    Raises:
        WeightsError: as `open_hdf5`.
    """
    with _reporting(path), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        if len(set(members)) < len(members) or not {CONFIG, WEIGHTS} <= set(members):
            raise ValueError(f"it has no {CONFIG} and {WEIGHTS}, or one of them twice")
        config = archive.getinfo(CONFIG)
        if config.file_size > JSON_LIMIT:
            raise ValueError(f"{CONFIG} is larger than any model's")
        metadata = parse_json(archive.read(config), f"{path}: {CONFIG}")
        if not isinstance(metadata, dict):
            raise ValueError(f"{CONFIG} holds no mapping")
        begin, size = _member(archive)
        place = _Place(path, begin, size)
        with place.open() as file:
            return _opened(place, file, metadata)


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


def _opened(place: _Place, file: Any, metadata: Mapping[str, Any]) -> Source:
    path = place.path
    if "layers" in file or "_layer_checkpoint_dependencies" in file:
        return Source(path, "keras3", Tensors(dict(_keras3(file, place))), metadata)
    root = _child(file, "model_weights", path) if "model_weights" in file else file
    return Source(path, "keras2", Tensors(dict(_legacy(root, place))), metadata)


def _keras3(file: Any, place: _Place) -> Iterator[tuple[str, Tensor]]:
    """`<layer>/<number of the variable>` to array. A group is named for its layer's class and
    number; the layer's own name is an attribute of it.
    """
    path = place.path
    seen: set[str] = set()
    for where, group in _groups(file, "", path):
        if not where.endswith("/vars") or "optimizer" in where.split("/"):
            continue
        names = [name for name in group if re.fullmatch(r"\d+", name)]
        if not names:
            continue
        layer = group.attrs.get("name")
        if not isinstance(layer, str):
            raise WeightsError(
                f"{path}: {where[:200]} does not tell the name of its layer, as files of Keras "
                f"before 3.10 do not; save it again with a newer Keras"
            )
        if layer in seen:
            raise WeightsError(f"{path}: has two layers named {layer[:200]!r}")
        seen.add(layer)
        for name in names:
            yield f"{layer}/{name}", _dataset(_child(group, name, path), f"{layer}/{name}", place)


def _groups(group: Any, where: str, path: Path) -> Iterator[tuple[str, Any]]:
    """All groups really in the file, with their paths."""
    h5py = h5py_module()
    pending, count = [(where, group)], 0
    while pending:
        here, node = pending.pop()
        count += 1
        if count > _GROUPS:
            raise WeightsError(f"{path}: has more groups than any model")
        yield here, node
        for name in node:
            inside = f"{here}/{name}" if here else name
            if not isinstance(node.get(name, getlink=True), h5py.HardLink):
                raise WeightsError(f"{path}: {inside[:200]!r} is a link, and none is followed")
            if node.get(name, getclass=True) is h5py.Group:
                pending.append((inside, node[name]))


def _child(group: Any, name: str, path: Path) -> Any:
    """A member of a group that is really in the file; `name` may be a path of such."""
    h5py = h5py_module()
    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or part in ("", ".", ".."):
            raise WeightsError(f"{path}: {name[:200]!r} names nothing in the file")
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise WeightsError(
                f"{path}: {name[:200]!r} is missing, or a link, and none is followed"
            )
        group = group[part]
    return group


def _names(group: Any, attribute: str, path: Path) -> list[str]:
    """A list of names in an attribute, which Keras splits if it is long."""
    chunks = [attribute] if attribute in group.attrs else []
    while not chunks or f"{attribute}{len(chunks)}" in group.attrs:
        key = f"{attribute}{len(chunks)}"
        if key not in group.attrs:
            break
        chunks.append(key)
    if not chunks and attribute == "layer_names":
        raise WeightsError(f"{path}: has no list of layers, so Keras did not write it")
    found = []
    for key in chunks:
        stored = group.attrs.get_id(key)
        if math.prod(stored.shape) * stored.dtype.itemsize > _LIST_LIMIT:
            raise WeightsError(f"{path}: its list {key} is longer than any model's")
        found += [x.decode() if isinstance(x, bytes) else str(x) for x in group.attrs[key]]
    return found


def _legacy(root: Any, place: _Place) -> Iterator[tuple[str, Tensor]]:
    """`<layer>/<leaf>` to array."""
    path = place.path
    seen: set[str] = set()
    for layer in _names(root, "layer_names", path):
        group = _child(root, layer, path)
        for name in _names(group, "weight_names", path):
            leaf = name.rpartition("/")[2].partition(":")[0]
            key = f"{layer}/{leaf}"
            if key in seen:
                raise WeightsError(f"{path}: has two arrays {key[:200]!r}")
            seen.add(key)
            yield key, _dataset(_child(group, name, path), name, place)


def _dataset(found: Any, name: str, place: _Place) -> Tensor:
    h5py, path = h5py_module(), place.path
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise WeightsError(f"{path}: {name[:200]!r} is no array in the file itself")
    shape, stored, dtype = found.shape, found.dtype, _dtype(found)
    if shape is None or dtype is None:
        raise WeightsError(f"{path}: {name[:200]!r} is no array of numbers")
    offset, inside = found.id.get_offset(), found.name
    if offset is not None and not found.file.userblock_size:
        # In one piece, as Keras writes them: no need to open the file with h5py again.
        start = place.begin + offset
        return Tensor(tuple(shape), dtype, lambda: read_at(path, start, shape, dtype))

    def read() -> np.ndarray:
        with _reporting(path), place.open() as file:
            array = np.empty(shape, stored)
            if array.size:
                _child(file, inside.strip("/"), path).read_direct(array)
            return array if stored == dtype else array.view(dtype)

    return Tensor(tuple(shape), dtype, read)


def _dtype(found: Any) -> np.dtype[Any] | None:
    """Keras keeps bfloat16 as bytes and says so in an attribute."""
    dtype: np.dtype[Any] = found.dtype
    if found.attrs.get("dtype") == "bfloat16" and dtype.itemsize == 2:
        dtype = np.dtype(ml_dtypes.bfloat16)
        return dtype
    return dtype if str(dtype.kind) in "fiub" else None


@dataclass(frozen=True)
class KerasLayer:
    """A layer that has variables, as Keras saves it."""

    name: str
    kind: str
    """Its class in snake case, such as `conv2d`."""
    variables: Mapping[str, Tensor]
    """Leaf (`kernel`) to array, in the order of Keras's own list."""


def save_legacy(path: Path, layers: Sequence[KerasLayer]) -> None:
    """Write what Keras 2 and 3 load from a `.h5`; the order of layers is the one of their graph."""
    with h5py_module().File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        file.attrs["backend"] = "tensorflow"
        file.attrs["keras_version"] = "2.15.0"
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{leaf}:0" for leaf in layer.variables]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, layer.variables.values(), strict=True):
                group.create_dataset(name, data=np.ascontiguousarray(array.read()))


def save_keras3(path: Path, layers: Sequence[KerasLayer]) -> None:
    """Write a `.weights.h5` of Keras 3: groups are named by class and number in this order."""
    counts: dict[str, int] = {}
    with h5py_module().File(path, "w") as file:
        for layer in layers:
            count = counts.get(layer.kind, 0)
            counts[layer.kind] = count + 1
            number = f"_{count}" if count else ""
            group = file.create_group(f"layers/{layer.kind}{number}/vars")
            group.attrs["name"] = layer.name
            for index, array in enumerate(layer.variables.values()):
                data = np.ascontiguousarray(array.read())
                found = group.create_dataset(str(index), data=data)
                if array.dtype.name == "bfloat16":
                    found.attrs["dtype"] = "bfloat16"
        file.create_group("vars")


__all__ = ["KerasLayer", "h5py_module", "open_hdf5", "open_keras", "save_keras3", "save_legacy"]
