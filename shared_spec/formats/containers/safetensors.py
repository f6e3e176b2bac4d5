"""`.safetensors`. The library checks a file's header; the data are read and written here, one array
at a time and without a memory map, so that no more than one is ever in memory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from shared_spec.atomic_write import early
from shared_spec.errors import WeightsError
from shared_spec.formats.containers.source import Source, parse_json, reading, system_errors
from shared_spec.weights.lazy_array import LazyArray, LazyArrays, entries_of, read_ahead

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_HEADER_LIMIT = 4 * 2**20
"""Bytes; ResNet-1202's takes 0.8 million."""


def open_safetensors(path: Path) -> Source:
    """Its header, checked; the arrays are read from the file on demand.

    Raises:
        WeightsError: if the file is truncated, damaged or something else.
    """
    from safetensors import safe_open

    with reading(path, "safetensors file"):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > _HEADER_LIMIT:
                raise ValueError(
                    f"its header would have {size:,} bytes, expected at most {_HEADER_LIMIT:,}"
                )
            text = file.read(size)
        # The library checks lengths, offsets, overlaps and holes.
        with safe_open(path, framework="numpy") as checked:
            metadata = checked.metadata() or {}
    header = parse_json(text, path)
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, item, 8 + size) for name, item in header.items()}
    return Source(path, "safetensors", LazyArrays(entries), metadata)


def _entry(path: Path, name: str, item: Mapping[str, Any], data: int) -> LazyArray:
    dtype = _DTYPES.get(item["dtype"])
    if dtype is None:
        raise WeightsError(f"{path}: {name} has dtype {item['dtype']}, which no model has")
    shape, start = tuple(item["shape"]), data + item["data_offsets"][0]
    return LazyArray(shape, dtype, lambda: read_at(path, start, shape, dtype))


def read_at(path: Path, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array that lies in a file as it is.

    Raises:
        WeightsError: if the file ends before it does.
    """
    size = math.prod(shape) * dtype.itemsize
    array = np.empty(0, np.uint8)
    with system_errors(path), path.open("rb", buffering=0) as file:
        if start + size <= os.fstat(file.fileno()).st_size:  # before memory is set aside
            file.seek(start)
            array = np.fromfile(file, np.uint8, size)
    if array.size != size:
        raise WeightsError(f"{path}: ends before the data of its arrays do")
    return array.view(dtype).reshape(shape)


def save_safetensors(
    path: Path, state: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write arrays in the library's order, aligned to their size; equal ones make equal files.

    Raises:
        WeightsError: naming an array whose dtype the format lacks.
    """
    entries = entries_of(state)
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    order = sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name))
    for name in order:
        entry = entries[name]
        kind = _NAMES.get(entry.dtype.newbyteorder("<"))
        if kind is None:
            raise WeightsError(f"{path}: {name} has dtype {entry.dtype}, which safetensors lacks")
        offsets = [position, position + entry.nbytes]
        header[name] = {"dtype": kind, "shape": list(entry.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with path.open("wb", buffering=0) as file, early(file.fileno()) as written:
        file.write(len(text).to_bytes(8, "little") + text)
        arrays = read_ahead(entries[name] for name in order)
        for _ in order:
            write_array(file, next(arrays))
            written(file.tell())


def write_array(file: Any, array: np.ndarray) -> None:
    """Write the data of a contiguous array, little-endian."""
    data = little_endian(array)
    while data:
        data = data[file.write(data) :]


def little_endian(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array."""
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return array.reshape(-1).view(np.uint8).data
