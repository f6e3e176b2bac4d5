"""The process in which HDF5 files are opened, seen from outside.

One serves all files of this process, one after the other; importing h5py takes longer than
looking through a file.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from shared_spec.errors import FrameworkError
from shared_spec.formats.containers import hdf5_child

_MISSING = "Keras's files need h5py, which is not installed; run: pip install h5py"


def h5py_module() -> Any:
    """h5py, for files that are written here.

    Raises:
        FrameworkError: if it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise FrameworkError(_MISSING) from None
    return h5py


def ask(path: Path, begin: int, size: int) -> dict[str, Any]:
    """What `hdf5_child.index` finds in a file: `found`, `refused` or `failed`.

    Raises:
        FrameworkError: if h5py is not installed, or no process with it can be started.
        ValueError: if the HDF5 library crashed, did not end, or said what is no answer.
    """
    whole = begin == 0 and size == path.stat().st_size
    question = {
        "path": os.path.abspath(path),
        "begin": begin,
        "size": None if whole else size,
    }
    code, said = _PROCESS.ask(json.dumps(question).encode() + b"\n")
    if len(said) > hdf5_child.ANSWER:
        raise ValueError("it is damaged: it describes more than any model has")
    if code:
        raise ValueError(f"it is damaged: the HDF5 library {_ending(code)}")
    answer = None
    with contextlib.suppress(ValueError, RecursionError):
        answer = json.loads(said)
    if not isinstance(answer, dict):
        raise ValueError("it is damaged: the HDF5 library gave no answer")
    return answer


def start() -> None:
    """Start the process if none is there, so that it is ready when the first file is opened.

    Raises:
        FrameworkError: if h5py is not installed.
    """
    _PROCESS.start()


def wait() -> None:
    """Return when the process has imported h5py.

    Raises:
        FrameworkError: if h5py is not installed, or no process with it can be started.
    """
    _PROCESS.ask(b"\n")


def _ending(code: int) -> str:
    if -code in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL):
        return "did not come to an end with it"
    with contextlib.suppress(ValueError):
        return f"crashed on it ({signal.Signals(-code).name})"
    return f"crashed on it ({code})"


class _Process:
    """A running `hdf5_child`; another is started when it has ended."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._running: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def start(self) -> None:
        with self._lock:
            if self._owner != os.getpid():  # a fork shares no pipes with its parent
                self._running, self._owner = None, os.getpid()
            if self._running is None or self._running.poll() is not None:
                self.stop()
                self._running = subprocess.Popen(
                    [sys.executable, "-I", "-S", hdf5_child.__file__, *_folders()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=os.sep,
                    env=os.environ | _ENVIRONMENT,
                )

    def ask(self, question: bytes) -> tuple[int, bytes]:
        """How the fork ended that was asked, and what it said."""
        with self._lock:
            try:
                # What waited too long for a question may end just when one comes.
                for _ in range(2):
                    self.start()
                    with contextlib.suppress(EOFError, BrokenPipeError):
                        return self._asked(question)
                    self.stop()
            except BaseException:
                self.stop()  # an answer may still come, and would be taken for the next one's
                raise
        raise FrameworkError(f"h5py cannot be used: {sys.executable} does not start with it")

    def _asked(self, question: bytes) -> tuple[int, bytes]:
        assert self._running is not None
        questions, answers = self._running.stdin, self._running.stdout
        assert questions is not None
        assert answers is not None
        questions.write(question)
        questions.flush()
        head = answers.readline().split()
        if not head:
            raise EOFError
        code, length = map(int, head)
        said = answers.read(length)
        if len(said) < length:
            raise EOFError
        return code, said

    def stop(self) -> None:
        with self._lock:
            if self._running is not None and self._owner == os.getpid():
                self._running.kill()
                self._running.wait()
                with contextlib.suppress(BrokenPipeError):  # a question that it never took
                    self._running.communicate()
            self._running = None


_PROCESS = _Process()
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}
"""No threads, of which a fork would have none, and no plug-ins, of which no file needs one."""
atexit.register(_PROCESS.stop)


def _folders() -> list[str]:
    """Where h5py and numpy are for this process, whatever it has them from."""
    found = []
    for name in ("h5py", "numpy"):
        module = importlib.util.find_spec(name)
        if module is None or module.origin is None:
            raise FrameworkError(_MISSING)
        found.append(str(Path(module.origin).absolute().parents[1]))
    return list(dict.fromkeys(found))
