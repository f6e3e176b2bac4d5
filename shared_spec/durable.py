"""Writing that leaves either the old file or the new one, whatever happens."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared_spec.errors import ResNetError


@contextmanager
def durable(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write a file or a directory to; move it to `path` on success.

    The temporary lies in the same directory and has the same suffixes, so that libraries that look
    at them behave. It is flushed to disk before the move and the directory after it, gets the mode
    that the umask asks for, and is removed if anything fails.

    Raises:
        ResNetError: if the directory is missing or cannot be written.
    """
    target = Path(path)
    folder = target.resolve().parent
    target = folder / target.resolve().name
    if not folder.is_dir():
        raise ResNetError(f"{path}: the directory {folder} does not exist; create it first")
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".resnet-parity-", dir=folder))
    except OSError as error:
        raise ResNetError(f"{path}: cannot write there ({error.strerror})") from None
    try:
        draft = scratch / target.name
        yield draft
        _flush(draft)
        _move(draft, target)
        _flush_directory(folder)
    except OSError as error:
        raise ResNetError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _flush(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _flush(child)
        _flush_directory(path)
        return
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move(draft: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        # No system call swaps directories portably: step the old one aside first.
        if not draft.is_dir():
            raise IsADirectoryError(21, "Is a directory", str(target))
        aside = draft.parent / "old"
        target.rename(aside)
        try:
            draft.rename(target)
        except OSError:
            aside.rename(target)
            raise
    else:
        os.replace(draft, target)
