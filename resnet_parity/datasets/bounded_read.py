"""Reading no more of a file than is there, and no more than can be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from shared_spec.errors import DataError

_PIECE = 2**20
LARGEST = 2**32
"""Bytes of one file of a data set, unpacked: twenty times the largest that is published."""


class Readable(Protocol):
    """Gives bytes, as files do."""

    def read(self, size: int, /) -> bytes:
        """So many bytes or fewer; none at the end."""


def read_up_to(file: Readable, size: int) -> bytearray:
    """Up to `size` bytes. Memory grows with what is read, whatever size a header claims."""
    out = bytearray()
    while len(out) < size:
        piece = file.read(min(_PIECE, size - len(out)))
        if not piece:
            break
        out += piece
    return out


def directory(path: str) -> Path:
    """A directory that is there.

    Raises:
        DataError: if it is not, or is a file.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    what = "is a file, and a directory is needed" if folder.is_file() else "there is none"
    raise DataError(f"{path}: {what}")


def why(error: Exception) -> str:
    """What an operating system's or a library's error says, in a line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]
