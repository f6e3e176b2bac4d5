"""`.msgpack`: nested dicts of arrays as `flax.serialization` writes them, read and written one
array at a time. The format is that of https://github.com/msgpack/msgpack/blob/master/spec.md; Flax
packs an array as an extension of type 1 that holds its shape, its dtype's name and its bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from shared_spec.atomic_write import early
from shared_spec.formats.containers.safetensors import read_at, write_array
from shared_spec.formats.containers.source import NAME_LIMIT, Source, reading, shown
from shared_spec.weights.lazy_array import LazyArray, LazyArrays, entries_of, read_ahead

_ARRAY = 1
_DEPTH = 64
_MEMBERS = 50_000
"""Of all maps and lists; ResNet-1202 has 12,000."""
_NUMBERS = "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
_DTYPES = {name: np.dtype(name) for name in _NUMBERS.split()}
_DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
_UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_PLAIN = _UNSIGNED | {0xCA: 4, 0xCB: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
"""First byte of a number to the bytes after it."""


def open_msgpack(path: Path) -> Source:
    """The arrays of a tree, named by their paths with `/` between; numbers and text are left out.

    Raises:
        WeightsError: if the file is damaged, or holds something else.
    """
    with reading(path, "Flax msgpack file"), path.open("rb") as file:
        length = path.stat().st_size
        entries = dict(_Walk(path, file, length).tree())
        if file.tell() != length:
            raise ValueError(f"{length - file.tell()} bytes follow its end")
    return Source(path, "flax", LazyArrays(entries))


class _Walk:
    """Once through a file, over the data of its arrays without reading them."""

    def __init__(self, path: Path, file: IO[bytes], length: int) -> None:
        self.path, self.file, self.length = path, file, length
        self.members = 0

    def tree(self, where: tuple[str, ...] = ()) -> Iterator[tuple[str, LazyArray]]:
        """The arrays of the next object."""
        first = self._take(1)[0]
        if (count := self._map(first)) is not None:
            if len(where) > _DEPTH:
                raise ValueError("nested deeper than any model")
            yield from self._members(count, where)
        elif (size := self._extension(first)) is not None:
            kind = self._take(1)[0]
            end = self.file.tell() + size
            if kind == _ARRAY:
                yield "/".join(where), self._array(end, "/".join(where))
            self._skip_to(end)
        elif not where:
            raise ValueError("its outermost object is not a map")
        else:
            self._skip(first, len(where))

    def _members(self, count: int, where: tuple[str, ...]) -> Iterator[tuple[str, LazyArray]]:
        self._count(count)
        seen: set[str] = set()
        # Each name below this one begins with it.
        room = NAME_LIMIT - sum(len(part) + 1 for part in where)
        for _ in range(count):
            name = self._text()
            if len(name) > room:
                raise ValueError(f"the name of {shown(name)} is longer than any model's")
            if name in seen or not name or "/" in name or name == "__msgpack_chunked_array__":
                raise ValueError(f"the name {shown(name)} is not one of a model's")
            seen.add(name)
            yield from self.tree((*where, name))

    def _array(self, end: int, where: str) -> LazyArray:
        if self._take(1) != b"\x93":
            raise ValueError(f"{where[:200]} is not an array")
        shape = tuple(self._integers())
        name = self._text()
        dtype = _DTYPES.get(name)
        if dtype is None:
            raise ValueError(f"{where[:200]} has dtype {name[:50]!r}, which no model has")
        first = self._take(1)[0]
        size = self._length(first, 1, 0, {0xC4: 1, 0xC5: 2, 0xC6: 4}) or 0
        start = self.file.tell()
        if size != math.prod(shape) * dtype.itemsize or start + size != end or end > self.length:
            raise ValueError(f"{where[:200]} does not have the size of its shape {shape}")
        path = self.path
        return LazyArray(shape, dtype, lambda: read_at(path, start, shape, dtype))

    def _integers(self) -> Iterator[int]:
        first = self._take(1)[0]
        count = self._length(first, 0x90, 0x9F, {0xDC: 2})
        if count is None or count > 32:
            raise ValueError("an array has a shape that no model's has")
        for _ in range(count):
            first = self._take(1)[0]
            if first >= 0x80 and first not in _UNSIGNED:
                raise ValueError("an array has a shape that no model's has")
            yield int.from_bytes(self._take(_UNSIGNED[first]), "big") if first >= 0x80 else first

    def _text(self) -> str:
        first = self._take(1)[0]
        size = self._length(first, 0xA0, 0xBF, {0xD9: 1, 0xDA: 2, 0xDB: 4})
        if size is None or size > 4 * NAME_LIMIT:
            raise ValueError("a name is not text")
        return self._take(size).decode()

    def _count(self, members: int) -> None:
        self.members += members
        if self.members > _MEMBERS:
            raise ValueError("it has more members than any model")

    def _map(self, first: int) -> int | None:
        return self._length(first, 0x80, 0x8F, {0xDE: 2, 0xDF: 4})

    def _extension(self, first: int) -> int | None:
        if 0xD4 <= first <= 0xD8:
            return int(2 ** (first - 0xD4))
        return self._length(first, 1, 0, {0xC7: 1, 0xC8: 2, 0xC9: 4})

    def _length(self, first: int, low: int, high: int, wide: Mapping[int, int]) -> int | None:
        """A count in the first byte's low bits or the bytes after it; None for another object."""
        if low <= first <= high:
            return first - low
        size = wide.get(first)
        return None if size is None else int.from_bytes(self._take(size), "big")

    def _skip(self, first: int, depth: int) -> None:
        """Over an object that is neither map nor array of numbers."""
        if first < 0x80 or first >= 0xE0 or first in (0xC0, 0xC2, 0xC3):
            return
        wide = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
        size = _PLAIN.get(first, self._length(first, 0xA0, 0xBF, wide))
        if size is not None:
            self._skip_to(self.file.tell() + size)
            return
        count = self._length(first, 0x90, 0x9F, {0xDC: 2, 0xDD: 4})
        if count is None or depth > _DEPTH:
            raise ValueError(f"the byte {first:#x} begins nothing that a model has")
        self._count(count)
        for _ in range(count):
            inner = self._take(1)[0]
            if (extension := self._extension(inner)) is not None:
                self._skip_to(self.file.tell() + 1 + extension)
            elif (pairs := self._map(inner)) is None:
                self._skip(inner, depth + 1)
            elif pairs:
                raise ValueError("a list holds a map, as no model's does")

    def _skip_to(self, position: int) -> None:
        if position > self.length:
            raise ValueError("it is cut off")
        self.file.seek(position)

    def _take(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) < size:
            raise ValueError("it is cut off")
        return data


def save_msgpack(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write arrays named by paths with `/` between, for `flax.serialization.msgpack_restore`."""
    tree: dict[str, Any] = {}
    for name, entry in entries_of(state).items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = entry
    with path.open("wb") as file, early(file.fileno()) as written:
        parts = list(_parts(tree))
        arrays = read_ahead(part for part in parts if isinstance(part, LazyArray))
        for part in parts:
            if isinstance(part, LazyArray):
                write_array(file, next(arrays))
                written(file.tell())
            else:
                file.write(part)


def _parts(node: dict[str, Any] | LazyArray) -> Iterator[bytes | LazyArray]:
    """What is written, in its order: arrays, and what stands between them."""
    if isinstance(node, LazyArray):
        shape = b"".join(struct.pack(">BI", 0xCE, n) for n in node.shape)
        head = b"\x93" + bytes([0x90 + len(node.shape)]) + shape + _string(node.dtype.name)
        head += struct.pack(">BI", 0xC6, node.nbytes)
        yield struct.pack(">BIB", 0xC9, len(head) + node.nbytes, _ARRAY) + head
        yield node
        return
    yield struct.pack(">BI", 0xDF, len(node))
    for name, child in node.items():
        yield _string(name)
        yield from _parts(child)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">BI", 0xDB, len(data)) + data
