"""Writing that leaves either the old file or the new one, whatever happens.

A directory takes two renames, since no system call swaps two portably; a kill just between them
leaves the old one in the hidden directory beside the target.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared_spec.errors import ResNetError

CHECKPOINT_MARK = "_CHECKPOINT_METADATA"
"""A file that every orbax checkpoint directory holds."""

HUGGINGFACE_FILES = {"config.json", "model.safetensors", "preprocessor_config.json"}
"""All that a directory in the layout of transformers holds that was written here."""


KERAS_HUB_FILES = {
    "config.json",
    "metadata.json",
    "model.weights.h5",
    "task.json",
    "task.weights.h5",
    "preprocessor.json",
    "image_converter.json",
}
"""The same of a directory in the layout of KerasHub."""


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
    _refuse_foreign_directory(target, path)
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


def _refuse_foreign_directory(target: Path, given: object) -> None:
    """A directory is replaced only if it is empty or a checkpoint: it may hold anything else."""
    if not target.is_dir():
        return
    if Path.cwd().resolve().is_relative_to(target):
        raise ResNetError(f"{given}: is the working directory or holds it; name another path")
    files = {child.name for child in target.iterdir()}
    known = files <= HUGGINGFACE_FILES or files <= KERAS_HUB_FILES or CHECKPOINT_MARK in files
    if not known:
        raise ResNetError(f"{given}: is a directory that holds other files; name another path")


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
