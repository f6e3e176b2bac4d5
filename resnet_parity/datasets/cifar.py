"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), as published: the binary and the Python version, as a
directory or as the .tar.gz.

Layouts: https://www.cs.toronto.edu/~kriz/cifar.html. An image is 3,072 bytes: 32 x 32 of red, then
of green, then of blue. Before it a binary record has its label, or CIFAR-100's coarse and fine one.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from resnet_parity.datasets.bounded_read import Readable, read_up_to, why
from resnet_parity.datasets.dataset import InMemory, in_memory
from resnet_parity.datasets.unpickle import PickledArray, unpickled
from shared_spec.errors import DataError
from shared_spec.training.data_spec import DataSpec, Split

_PIXELS = 3 * 32 * 32
_PIECE = 2**20
_MEMBERS = 1_000
"""Entries of an archive; the published ones have 9 at most."""
_LARGEST = 2**30
"""Bytes of an unpacked archive, or of a file; the published ones have 190 million at most."""


@dataclass(frozen=True)
class _Version:
    """One of the published layouts: the folder's name, and those of its files."""

    folder: str
    pickled: bool
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    names: str
    labels: int = 1
    """Bytes of labels before each image of the binary version."""

    def files(self, split: Split) -> tuple[str, ...]:
        return self.train if split == "train" else self.held_out


_TEN = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEN_BINARY = tuple(f"{name}.bin" for name in _TEN)
_VERSIONS = {
    "cifar10": (
        _Version(
            "cifar-10-batches-bin", False, _TEN_BINARY, ("test_batch.bin",), "batches.meta.txt"
        ),
        _Version("cifar-10-batches-py", True, _TEN, ("test_batch",), "batches.meta"),
    ),
    "cifar100": (
        _Version("cifar-100-binary", False, ("train.bin",), ("test.bin",), "_label_names.txt", 2),
        _Version("cifar-100-python", True, ("train",), ("test",), "meta"),
    ),
}
_CLASSES = {"cifar10": 10, "fine": 100, "coarse": 20}

Read = Callable[[str], bytes]
"""Gives a file of the version by its name."""


def read_cifar(spec: DataSpec, split: Split) -> InMemory:
    """One split: uint8 [N, 32, 32, 3].

    The batches of a split need not have their 10,000 images each, but one number of them.

    Raises:
        DataError: if files are missing, damaged, cut off or not CIFAR's.
    """
    path = Path(spec.path or "")
    version, read = _opened(spec, path, split)
    pixels, labels = [], []
    for name in version.files(split):
        where = f"{path}: {name}"
        part = (_pickled if version.pickled else _binary)(read(name), spec, version, where)
        pixels.append(part[0])
        labels.append(part[1])
        if len(part[1]) != len(labels[0]):
            raise DataError(
                f"{where}: it holds {len(part[1])} images, and {version.files(split)[0]} "
                f"{len(labels[0])}; batches have one size"
            )
    source = str(path)
    names = _names(spec, version, read, source)
    stacked = np.concatenate(pixels).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return in_memory(spec, stacked, np.concatenate(labels), names, source)


def _opened(spec: DataSpec, path: Path, split: Split) -> tuple[_Version, Read]:
    versions = _VERSIONS[spec.format]
    if path.is_dir():
        for version in versions:
            for folder in (path, path / version.folder):
                if (folder / version.files(split)[0]).is_file():
                    return version, partial(_from_folder, folder)
    elif path.is_file():
        wanted = {name for v in versions for name in (_names_file(spec, v), *v.files(split))}
        found = _from_archive(path, wanted, {version.folder for version in versions})
        for version in versions:
            if version.files(split)[0] in found:
                return version, partial(_member, found, path)
    else:
        raise DataError(f"{path}: there is no such directory or archive")
    raise DataError(
        f"{path}: no {spec.format} in it; it should hold "
        + " or ".join(version.files(split)[0] for version in versions)
    )


def _from_folder(folder: Path, name: str) -> bytes:
    try:
        if (folder / name).exists() and not (folder / name).is_file():
            raise DataError(f"{folder / name}: is not a file")
        with (folder / name).open("rb") as file:
            data = read_up_to(file, _LARGEST + 1)
    except OSError as error:
        raise DataError(f"{folder / name}: cannot be read ({why(error)})") from None
    if len(data) > _LARGEST:
        raise DataError(f"{folder / name}: larger than any file of CIFAR")
    return bytes(data)


def _from_archive(path: Path, wanted: set[str], folders: set[str]) -> dict[str, bytes]:
    """The wanted files by name, from one pass over the archive. Nothing is written to disk."""
    found: dict[str, bytes] = {}
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with (
            gzip.open(path, "rb") if packed else path.open("rb") as file,
            tarfile.open(fileobj=cast(Any, limited := _Limited(file, path)), mode="r|") as archive,
        ):
            for count, member in enumerate(archive):
                parts = [part for part in member.name.split("/") if part != "."]
                if count >= _MEMBERS:
                    raise DataError(f"{path}: more entries than an archive of CIFAR has")
                if len(parts) > 2 or parts[-1:] == [] or parts[-1] not in wanted:
                    continue
                if not member.isfile() or (len(parts) == 2 and parts[0] not in folders):
                    continue
                # Holes of a sparse file are zeros that are in no archive.
                if member.issparse() or member.size > _LARGEST:
                    raise DataError(f"{path}: {member.name} is larger than any file of CIFAR")
                content = archive.extractfile(member)
                data = b"" if content is None else bytes(read_up_to(content, member.size))
                if len(data) < member.size:
                    raise DataError(f"{path}: {member.name} is cut off; download it again")
                found[parts[-1]] = data
            while limited.read(_PIECE):  # the sum over all bytes stands at the end
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: not a readable .tar.gz ({why(error)}); download it again"
        ) from None
    return found


class _Limited:
    """An archive, of which no more is unpacked than one of CIFAR has."""

    def __init__(self, file: Readable, path: Path) -> None:
        self._file, self._path, self._left = file, path, _LARGEST

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"{self._path}: unpacks to more than any archive of CIFAR")
        return data


def _member(found: Mapping[str, bytes], path: Path, name: str) -> bytes:
    if name not in found:
        raise DataError(f"{path}: {name} is missing in the archive")
    return found[name]


def _binary(data: bytes, spec: DataSpec, version: _Version, where: str) -> tuple[np.ndarray, ...]:
    record = version.labels + _PIXELS
    if not data or len(data) % record:
        raise DataError(
            f"{where}: {len(data):,} bytes are not a whole number of records of {record:,}; the "
            f"file is cut off or not of {spec.format}"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    column = version.labels - 1 if spec.labels == "fine" else 0
    return rows[:, version.labels :], _checked(rows[:, column], spec, where)


def _pickled(data: bytes, spec: DataSpec, version: _Version, where: str) -> tuple[np.ndarray, ...]:
    batch = unpickled(data, where)
    key = "labels" if spec.format == "cifar10" else f"{spec.labels}_labels"
    pixels, labels = batch.get("data"), batch.get(key)
    if not isinstance(pixels, PickledArray) or not isinstance(labels, list):
        raise DataError(f"{where}: holds no array 'data' and list {key!r}, as {spec.format} does")
    array = pixels.uint8(where)
    if array.ndim != 2 or array.shape[1] != _PIXELS or not len(array):
        raise DataError(f"{where}: 'data' is {list(array.shape)}; [N, {_PIXELS}] is expected")
    if len(labels) != len(array) or not all(type(x) is int and 0 <= x < 256 for x in labels):
        raise DataError(
            f"{where}: {key!r} has to hold {len(array)} labels, one per image, and holds "
            f"{len(labels)} or what are none"
        )
    return array, _checked(np.array(labels), spec, where)


def _checked(labels: np.ndarray, spec: DataSpec, where: str) -> np.ndarray:
    classes = _classes(spec)
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        raise DataError(
            f"{where}: image {wrong[0]} has the label {labels[wrong[0]]}, and {spec.format} has "
            f"0 to {classes - 1}"
        )
    return labels.astype(np.int64)


def _classes(spec: DataSpec) -> int:
    return _CLASSES[spec.labels if spec.format == "cifar100" else spec.format]


def _names_file(spec: DataSpec, version: _Version) -> str:
    return f"{spec.labels}{version.names}" if version.labels == 2 else version.names


def _names(spec: DataSpec, version: _Version, read: Read, source: str) -> list[str]:
    """Those in the version's own file. A user's own names need none."""
    classes = _classes(spec)
    if spec.class_names:
        return [str(i) for i in range(classes)]
    file = _names_file(spec, version)
    data = read(file)
    if version.pickled:
        key = "label_names" if spec.format == "cifar10" else f"{spec.labels}_label_names"
        found = unpickled(data, f"{source}: {file}").get(key)
        names = list(found) if isinstance(found, list) else []
    else:
        names = data.decode("utf-8", "replace").split()
    if len(names) != classes or not all(isinstance(name, str) for name in names):
        raise DataError(f"{source}: {file} should hold the names of {classes} classes")
    return names
