"""What every kind of file is opened as."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from shared_spec.errors import ResNetError, WeightsError
from shared_spec.spec.files import read_start
from shared_spec.weights.lazy_array import LazyArrays

JSON_LIMIT = 32 * 2**20
"""Bytes; a `.keras` file's description of ResNet-1202 takes 9 million."""
VALUES = 300_000
"""Values in a JSON text; the header of ResNet-1202's safetensors has 90,000."""
NAME_LIMIT = 500
"""Characters of an array's name."""
ARRAYS = 50_000
"""In one file; ResNet-1202 has 8,000."""
_AXES = 16
_DIRECTORY_LIMIT = 4 * 2**20
"""Bytes of a zip file's directory; that of ResNet-1202's `.pth` takes 600,000."""
_PLAIN_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Module:
    """A part of a whole model, as the file describes it."""

    type: str
    """Its class, such as `torch.nn.modules.conv.Conv2d`."""
    attributes: Mapping[str, Any]
    """Its settings: numbers, text, truth values, None, and tuples and lists of these."""


@dataclass(frozen=True)
class Source:
    """A file of arrays under its own names."""

    path: Path
    kind: str
    """`safetensors`, `pytorch`, `keras2` (legacy HDF5), `keras3` (HDF5), `npz`, `onnx` or `flax`;
    `keras` in memory alone. Of directories `huggingface`, or `huggingface flax` with weights in
    msgpack.
    """
    tensors: LazyArrays
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What else the file says of itself: text by key, or a configuration."""
    opaque: Mapping[str, str] = field(default_factory=dict)
    """Path to the type of each object beside the tensors whose meaning is not known."""
    modules: Mapping[str, Module] = field(default_factory=dict)
    """The modules of whole models by their paths; that of a model by itself is empty."""
    notes: tuple[str, ...] = ()
    """What was left out or chosen when it was opened, a sentence each."""

    def __post_init__(self) -> None:
        """Refuse what no checkpoint has, and what would make a message unreadable."""
        entries = self.tensors.entries
        if len(entries) > ARRAYS:
            raise WeightsError(f"{self.path}: holds {len(entries):,} arrays, more than any model")
        for name, entry in entries.items():
            if len(name) > NAME_LIMIT:
                raise WeightsError(
                    f"{self.path}: the name {shown(name)} has {len(name):,} characters, expected "
                    f"at most {NAME_LIMIT}"
                )
            if not name.isprintable():
                raise WeightsError(f"{self.path}: the name {shown(name)} is not printable text")
            if len(entry.shape) > _AXES:
                raise WeightsError(f"{self.path}: {name} has {len(entry.shape):,} axes")


def shown(name: str) -> str:
    """A name for a message, quoted and of limited length."""
    return repr(name[:100]) + ("..." if len(name) > 100 else "")


def reason(error: BaseException) -> str:
    """What an error says, in one short line of printable text."""
    text = "".join(c if c.isprintable() else " " for c in str(error)[:2000])
    return " ".join(text.split())[:200] or type(error).__name__


def mapping(found: object) -> dict[str, Any]:
    """What should be a mapping, if it is one; else one without entries."""
    return found if isinstance(found, dict) else {}


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Say of what goes wrong with a file that it is not a readable `kind`; a machine without memory
    is not the file's fault. zipfile and pickletools raise errors of many kinds for damaged files.
    """
    try:
        yield
    except (ResNetError, MemoryError):
        raise
    except Exception as error:
        raise WeightsError(f"{path}: not a readable {kind} ({reason(error)})") from None


@contextmanager
def system_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say of an error of the system that `path` cannot be read."""
    try:
        yield
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None


def parse_json(text: str | bytes, where: object, values: int = VALUES) -> Any:
    """JSON of a limited size, from a file that need not be well meant.

    Raises:
        WeightsError: if it is not JSON, too long, or names one key twice.
    """
    if len(text) > JSON_LIMIT:
        raise WeightsError(f"{where}: has {len(text):,} bytes of JSON; expected {JSON_LIMIT:,}")
    try:
        known = text if isinstance(text, str) else text.decode("utf-8-sig")
        count = sum(known.count(mark) for mark in ",[{")
        if count <= values:
            return json.loads(known, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        raise WeightsError(
            f"{where}: not readable as JSON ({'nested too deep' if deep else reason(error)})"
        ) from None
    raise WeightsError(f"{where}: has {count:,} values in its JSON, more than any model's")


def read_json(path: Path) -> dict[str, Any]:
    """A mapping from a JSON file.

    Raises:
        WeightsError: if the file is missing or holds something else.
    """
    data = parse_json(read_start(path, JSON_LIMIT, WeightsError), path)
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: expected a mapping, got {type(data).__name__}")
    return data


def write_json(path: Path, data: Mapping[str, Any], indent: int) -> None:
    """Write a mapping as a library writes its configuration."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{shown(twice)} appears twice")
    return found


def open_zip(file: Path | IO[bytes]) -> zipfile.ZipFile:
    """A zip file whose directory is known to be of a size that can be read.

    Raises:
        OSError, zipfile.BadZipFile, ValueError: if it is none, or its directory is too large.
    """
    with file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
        # The very record that ZipFile goes by: another reading of it could be led astray.
        end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]
    if end and end[5] > _DIRECTORY_LIMIT:
        raise ValueError(f"its directory would have {end[5]:,} bytes")
    return zipfile.ZipFile(file)


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member of a zip file that has at most `limit` bytes, however much it would unpack to.

    Raises:
        ValueError: if it is longer, or packed in a way that cannot be unpacked in parts.
        OSError, BadZipFile, zlib.error, NotImplementedError, RuntimeError: if it is damaged.
    """
    info = archive.getinfo(name)
    if info.compress_type not in _PLAIN_METHODS:
        raise ValueError(f"{shown(name)} is neither stored nor deflated")
    if info.file_size > limit:
        raise ValueError(f"{shown(name)} has {info.file_size:,} bytes, more than any model's")
    with archive.open(info) as file:
        data = file.read(info.file_size)  # a number, so that no more than that is unpacked
        if len(data) < info.file_size or file.read(1):
            raise ValueError(f"{shown(name)} does not have the length that the file states")
    return data


def require_file(path: str | os.PathLike[str], kind: str = "weights") -> None:
    """Raise a `WeightsError` unless `path` exists."""
    with system_errors(path):  # a name that is too long, a directory that may not be searched
        if not Path(path).exists():
            raise WeightsError(f"{path}: there is no such file of {kind}")
