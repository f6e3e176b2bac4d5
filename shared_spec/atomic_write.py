"""Writing that leaves either the old file or the new one, whatever happens.

Where the system cannot swap two directories at once (Linux can), a directory takes two renames, and
a file whose data lie in another of a fixed name takes more; a kill between them leaves the old ones
in the hidden directory beside the target, and the next run puts them back.
"""

from __future__ import annotations

import contextlib
import ctypes
import filecmp
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from shared_spec.errors import ResNetError

_ASIDE = "old-"


@contextmanager
def durable(
    path: str | os.PathLike[str], replaceable: Callable[[Set[str]], bool] = lambda files: not files
) -> Iterator[Path]:
    """Give a temporary path to write a file or a directory to; move it to `path` on success.

    A directory that is there already is replaced if `replaceable` says so of the names in it.

    The temporary lies in the same directory and has the same suffixes, so that libraries that look
    at them behave. It is flushed to disk before the move and the directory after it, gets the mode
    that the umask asks for, and is removed if anything fails.

    Raises:
        ResNetError: if the directory is missing or cannot be written.
    """
    try:
        target = Path(path).resolve()
        folder = target.parent
        _refuse_foreign(target, path, replaceable)
        missing = not folder.is_dir()
    except OSError as error:  # a name that is too long
        raise ResNetError(f"{path}: cannot be written ({error.strerror})") from None
    if missing:
        raise ResNetError(f"{path}: the directory {folder} does not exist; create it first")
    _sweep(folder, ".")
    try:
        scratch = Path(tempfile.mkdtemp(prefix=_prefix("."), dir=folder))
    except OSError as error:
        raise ResNetError(f"{path}: cannot write there ({error.strerror})") from None
    draft = scratch / target.name
    try:
        yield draft
        _flush(draft)
        _move(draft, target)
        _flush_directory(folder)
    except ResNetError as error:
        # Whoever wrote knows the draft alone.
        raise type(error)(str(error).replace(str(draft), str(path))) from None
    except OSError as error:
        raise ResNetError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        _restore(folder, scratch)
        shutil.rmtree(scratch, ignore_errors=True)


def move_beside(draft: Path, target: Path) -> None:
    """Move what was written beside a draft of `durable` to its place beside the target, whose old
    form stays whole until the draft takes its place.

    Where another file lies at such a place, the two would be mixed. The old target then steps aside
    first, and what is beside it: if this is interrupted, they come back, after a kill with whatever
    is written to their folder next.
    """
    others = [x for x in sorted(draft.parent.iterdir()) if x != draft and x.is_file()]
    places = [target.with_name(other.name) for other in others]
    if any(
        x.exists() and not filecmp.cmp(x, y, False) for x, y in zip(places, others, strict=True)
    ):
        for old in (target, *places):
            with contextlib.suppress(FileNotFoundError):
                old.rename(draft.parent / f"{_ASIDE}{old.name}")
    for other, place in zip(others, places, strict=True):
        with durable(place) as moved:
            os.replace(other, moved)


@contextmanager
def workspace() -> Iterator[Path]:
    """A temporary directory for files that pass between processes, removed at the end, or by the
    next one if this process is killed.
    """
    base = Path(tempfile.gettempdir())
    _sweep(base, "")
    with tempfile.TemporaryDirectory(prefix=_prefix(""), dir=base) as folder:
        yield Path(folder)


_EARLY = 2**24


@contextmanager
def early(descriptor: int) -> Iterator[Callable[[int], None]]:
    """Have a file that is written from its beginning to its end go to the disk meanwhile, where the
    system has a call for it (Linux): the flush at the end then waits for less.

    Returns what is to be called with how much of the file is written.
    """
    try:
        call = ctypes.CDLL(None).sync_file_range
        call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    except (OSError, AttributeError, TypeError):
        yield lambda end: None
        return
    begun = 0

    def written(end: int) -> None:
        nonlocal begun
        if end - begun >= _EARLY:
            call(descriptor, begun, end - begun, 2)  # SYNC_FILE_RANGE_WRITE: does not wait
            begun = end

    yield written


def _prefix(dot: str) -> str:
    """Names the process that a directory belongs to."""
    return f"{dot}resnet-parity-{_machine()}-{os.getpid()}-"


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", platform.node())[:64]


def _sweep(folder: Path, dot: str) -> None:
    """Remove what processes of this machine left behind when they were killed."""
    owned = re.compile(rf"{re.escape(dot)}resnet-parity-{_machine()}-(\d+)-\w+")
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            found = owned.fullmatch(name)
            if found and not _alive(int(found[1])):
                _restore(folder, folder / name)
                shutil.rmtree(folder / name, ignore_errors=True)


def _restore(folder: Path, scratch: Path) -> None:
    """Put back what had stepped aside and was not yet replaced: all of it, if any of it was not.

    Those that were replaced come first, so that the target, which is replaced last, has what
    belongs to it when it is there again.
    """
    places = {folder / x.name.removeprefix(_ASIDE): x for x in scratch.glob(f"{_ASIDE}*")}
    if not all(place.exists() for place in places):
        for place in sorted(places, key=lambda place: not place.exists()):
            places[place].replace(place)


def _alive(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another user's, or unknown
    return True


def _refuse_foreign(target: Path, given: object, replaceable: Callable[[Set[str]], bool]) -> None:
    """A device or a pipe is not replaced, and a directory only if it holds what is known."""
    if not target.is_dir():
        if target.exists() and not target.is_file():
            raise ResNetError(f"{given}: is neither a file nor a directory; name another path")
        return
    if Path.cwd().resolve().is_relative_to(target):
        raise ResNetError(f"{given}: is the working directory or holds it; name another path")
    if not replaceable({child.name for child in target.iterdir()}):
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
    if not target.is_dir() or target.is_symlink():
        os.replace(draft, target)
        return
    if not draft.is_dir():
        raise IsADirectoryError(21, "Is a directory", str(target))
    if _exchange(draft, target):
        return
    target.rename(draft.parent / f"{_ASIDE}{target.name}")
    draft.rename(target)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two directories at once; False where the system has no call for it."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(call(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0)
