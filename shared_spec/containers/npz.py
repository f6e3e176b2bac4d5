"""`.npz`: a zip of numpy arrays, read with numpy's own parser of headers, and nothing unpickled."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from shared_spec.containers.source import Source
from shared_spec.errors import WeightsError
from shared_spec.tensors import Tensor, Tensors

_HEADER_LIMIT = 10_000


def open_npz(path: Path) -> Source:
    """Shapes and dtypes of its arrays; each is read when it is asked for.

    Raises:
        WeightsError: if the file is damaged, or holds anything but floats.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) < len(names):
                raise WeightsError(f"{path}: holds two arrays of one name")
            entries = {name.removesuffix(".npy"): _entry(path, archive, name) for name in names}
    # zipfile and numpy raise errors of many kinds for files that are damaged.
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        EOFError,
        NotImplementedError,
        SyntaxError,
    ) as error:
        if isinstance(error, WeightsError):
            raise
        raise _unreadable(path, error) from None
    return Source(path, "npz", Tensors(entries))


def _unreadable(path: Path, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return WeightsError(f"{path}: not a readable .npz file ({reason})")


def _entry(path: Path, archive: zipfile.ZipFile, member: str) -> Tensor:
    with archive.open(member) as file:
        shape, _, dtype = _header(file)

    def read() -> np.ndarray:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as file:
                shape, fortran, dtype = _header(file)
                data = file.read(math.prod(shape) * dtype.itemsize)
            array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
            raise _unreadable(path, error) from None
        return array.astype(dtype.newbyteorder("="))

    return Tensor(shape, dtype.newbyteorder("="), read)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"its arrays are of version {version}")
    shape, fortran, dtype = readers[version](file, max_header_size=_HEADER_LIMIT)
    if dtype.kind != "f":
        raise ValueError(f"an array is of {dtype}")
    return shape, fortran, dtype


__all__ = ["open_npz"]
