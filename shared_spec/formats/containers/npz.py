"""`.npz`: a zip of numpy arrays of floats. Nothing is unpickled, and headers are matched with the
text that numpy writes: numpy itself evaluates them.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from shared_spec.errors import WeightsError
from shared_spec.formats.containers.source import Source, open_zip, reading, shown
from shared_spec.weights.lazy_array import LazyArray, LazyArrays

_KIND = ".npz file"
_HEADER_LIMIT = 1000
_HEADER = re.compile(
    r"\{'descr': '([<>=]?f[248])', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,18}L?(?:, ?|(?=\))))*)\), *\} *\n"
)
_LENGTHS = {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4}
"""How a file begins, to the bytes of the length that follows; numpy.lib.format tells the format."""


def open_npz(path: Path) -> Source:
    """Shapes and dtypes of its arrays; each is read on demand.

    Raises:
        WeightsError: if the file is damaged, or holds anything but floats.
    """
    with reading(path, _KIND), open_zip(path) as archive:
        names = archive.namelist()
        if len({name.removesuffix(".npy") for name in names}) < len(names):
            raise WeightsError(f"{path}: holds two arrays of one name")
        entries = {name.removesuffix(".npy"): _entry(path, archive, name) for name in names}
    return Source(path, "npz", LazyArrays(entries))


def _entry(path: Path, archive: zipfile.ZipFile, member: str) -> LazyArray:
    if archive.getinfo(member).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{shown(member)} is neither stored nor deflated")
    with archive.open(member) as file:
        shape, fortran, dtype = _header(file)
        begin, size = file.tell(), math.prod(shape) * dtype.itemsize
    if archive.getinfo(member).file_size != begin + size:
        raise ValueError(f"{shown(member)} does not have the length of its shape")

    def read() -> np.ndarray:
        with reading(path, _KIND), open_zip(path) as archive, archive.open(member) as file:
            file.read(begin)
            array = np.frombuffer(file.read(size), dtype)
            array = array.reshape(shape, order="F" if fortran else "C")
        return array.astype(dtype.newbyteorder("="))

    return LazyArray(shape, dtype.newbyteorder("="), read)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    begin = file.read(8)
    if begin not in _LENGTHS:
        raise ValueError("an array is in no form that numpy writes")
    length = int.from_bytes(file.read(_LENGTHS[begin]), "little")
    if length > _HEADER_LIMIT:
        raise ValueError("an array has a longer header than any model's")
    text = file.read(length).decode("latin1")
    found = _HEADER.fullmatch(text)
    if found is None:
        raise ValueError(f"an array is not of floats as numpy writes them: {shown(text.strip())}")
    shape = tuple(int(n) for n in re.findall(r"\d+", found[3]))
    return shape, found[2] == "True", np.dtype(found[1])
