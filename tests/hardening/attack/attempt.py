"""One attempt to read a file, watched: what came of it, how long it took, how much memory it
needed, and what else it touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from resnet_parity.cli import app
from resnet_parity.convert import certificate
from resnet_parity.convert import verify as verification
from resnet_parity.engines.registry import ENGINES
from resnet_parity.render import console as printed
from resnet_parity.render import progress, tables
from shared_spec import ResNetError, ResNetSpec, compile_plan, load_spec, read_safetensors
from shared_spec.formats import certified
from shared_spec.formats.containers import hdf5_child, hdf5_sandbox
from shared_spec.formats.read import read_checkpoint
from shared_spec.plan.summary import stage_rows
from shared_spec.weights.lazy_array import entries_of
from shared_spec.weights.state import DTYPES, check_weights

# What is loaded when it is first used is loaded before anything is watched.
_COMMANDS = {f"resnet_parity.cli.{place.partition('.')[0]}" for place in app.EXAMPLES}
for _name in ("numpy.random", "resnet_onnx.file", *_COMMANDS):
    importlib.import_module(_name)

HARMLESS = "[" + "1, " * 24_000 + "1]"
"""About the longest YAML that is read at all."""
RATIO = 4
"""What a hostile file may take, to the time for `HARMLESS` on the same machine at the same time."""
MEGABYTES = 64.0
LONGEST = 16_000
"""Characters of an error's message."""


@dataclass
class Outcome:
    """What came of an attempt."""

    kind: str
    """`refused` (cleanly), `valid` (read, and everything fits) or `broken`."""
    detail: str
    seconds: float = 0.0
    """Of processor time: others may work on the machine."""
    ratio: float = 0.0
    """To the time for `HARMLESS`, which is measured where an attempt takes a second or more."""
    megabytes: float = 0.0
    """The most memory above what was in use before."""
    events: list[str] = field(default_factory=list)
    """Whatever was opened outside the files' folder, imported or executed."""

    @property
    def clean(self) -> bool:
        return not self.problem

    @property
    def problem(self) -> str:
        """What is not as it should be; empty if all is."""
        if self.kind == "broken":
            return self.detail
        if self.ratio > RATIO:
            times = f"{self.ratio:.1f} times a harmless file's"
            return f"took {self.seconds:.1f} s, {times} ({self.detail[:200]})"
        if self.megabytes > MEGABYTES:
            return f"took {self.megabytes:.0f} MB ({self.detail[:200]})"
        return f"touched {self.events[:3]}" if self.events else ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def use_weights(path: Path, spec: ResNetSpec | None) -> None:
    """All that a conversion reads of a file."""
    found = read_checkpoint(path, spec)
    found = replace(found, spec=spec or found.spec)
    assert found.spec is not None
    entries = entries_of(found.state)
    check_weights(compile_plan(found.spec), found.state, "float64", path)
    if len(found.state) != len(list(compile_plan(found.spec).parameters())):
        raise AssertionError("a partial load")
    for q in compile_plan(found.spec).parameters():
        array = entries[q.name].array()
        if array.shape != q.shape or array.dtype not in DTYPES.values():
            raise AssertionError(f"{q.name} is {array.dtype} {array.shape}, expected {q.shape}")
        if array.nbytes != q.size * array.dtype.itemsize:
            raise AssertionError(f"{q.name} has {array.nbytes} bytes")


def use_spec(path: Path, spec: ResNetSpec | None) -> None:
    """What `resnet-parity show` does with a file."""
    found = load_spec(path)
    plan = compile_plan(found)
    stage_rows(plan, (found.image_size, found.image_size))
    plan.parameter_count()
    if ResNetSpec.parse(found.to_dict()) != found:
        raise AssertionError("another spec than it says")


def use_certificate(path: Path, spec: ResNetSpec | None) -> None:
    """What `resnet-parity verify` does with a file before an engine starts, and after."""
    target = path.with_name(path.name.removesuffix(certified.SUFFIX))

    def checks(run: Any, engines: Any, file: Any, held: Any, _: Any) -> list[certificate.Check]:
        """In the place of the engines."""
        array, net = read_safetensors(run.images).state["images"], file.spec
        if array.ndim != 4 or array.dtype != np.float64 or not isinstance(net, ResNetSpec):
            raise AssertionError(f"inputs of {array.dtype} {array.shape}")
        compile_plan(net)
        error = verification._error(held.reference, held.reference, "torch")
        return [certificate.Check("torch", "float64", "cpu", error, held.rounding, True)]

    with mock.patch.object(verification._CertificateRun, "checks", checks):
        found, now = verification.verify(target, [ENGINES["torch"]])
    data = {
        "target": str(target),
        "holds": True,
        "source": found.source,
        "reference": found.reference_engine,
        "judged_by": found.judged_by,
        "assumed": found.assumed,
        "notes": list(found.notes),
        "checks": [asdict(check) for check in now],
    }
    tables.verified(printed.out, data)


READERS: dict[str, Callable[[Path, ResNetSpec | None], None]] = {
    "weights": use_weights,
    "spec": use_spec,
    "certificate": use_certificate,
}


def attempt(reader: str, path: Path, spec: ResNetSpec | None = None) -> Outcome:
    """Read a file in this process."""

    def run() -> tuple[str, str]:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                READERS[reader](path, spec)
        except ResNetError as error:
            named = str(path).removesuffix(certified.SUFFIX)  # the target is named as often
            return _judged(str(error), Path(named))
        return "valid", ""

    return _watched(run, str(path.parent))


def command(
    arguments: Sequence[str],
    path: Path,
    untouched: Path | None = None,
    allowed: Sequence[str] = (),
) -> Outcome:
    """Run the command line in this process. If it refuses `path`, the folder of `untouched` has to
    stay as it was, and nothing but what is in `allowed` may be opened.
    """

    def run() -> tuple[str, str]:
        before = None if untouched is None else _listing(untouched.parent)
        out, err = io.StringIO(), io.StringIO()
        code: object = 0
        console = mock.patch.object(printed.err, "_file", err)
        quiet = mock.patch.object(progress, "QUIET", 1e6)  # a slow machine prints no more
        with console, quiet, mock.patch.object(sys, "argv", ["resnet-parity", *arguments]):
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    app.main()
            except SystemExit as stop:
                code = stop.code
        text = err.getvalue()
        if untouched is not None and _listing(untouched.parent) != before and code != 0:
            return "broken", f"changed the folder of {untouched.name}"
        if code in (0, None):
            return "valid", ""
        expected = (1, 2) if arguments[0] == "verify" else (2,)  # 1: it is another file
        if code not in expected or not text.startswith("error: ") or text.count("\n") != 1:
            return "broken", f"exit {code}: {text[:500]!r}"
        if any(not c.isprintable() for c in text[:-1]):
            return "broken", f"printed control characters: {text[:500]!r}"
        return _judged(text.removeprefix("error: ").rstrip("\n"), path)

    return _watched(run, *(allowed or [str(path.parent)]))


def _listing(folder: Path) -> dict[str, bytes | None]:
    """What a folder holds: small files by their contents."""
    return {
        item.name: item.read_bytes() if item.is_file() and item.stat().st_size < 1000 else None
        for item in folder.iterdir()
    }


def _judged(message: str, path: Path) -> tuple[str, str]:
    """Whether a refusal is one short sentence that names the file."""
    if str(path) not in message:
        return "broken", f"does not name the file: {message[:300]!r}"
    if len(message) > LONGEST + len(str(path)):
        return "broken", f"has {len(message):,} characters: {message[:300]!r}"
    if any(not c.isprintable() for c in message):
        return "broken", f"is not printable text: {message[:300]!r}"
    if not message.replace(str(path), "").strip(": "):
        return "broken", "names no cause"
    return "refused", message


def _watched(run: Callable[[], tuple[str, str]], *allowed: str) -> Outcome:
    """What is too slow is tried again: processor time varies where caches and memory are shared."""
    outcome = _once(run, allowed)
    return _once(run, allowed) if outcome.ratio > RATIO else outcome


def _once(run: Callable[[], tuple[str, str]], allowed: Sequence[str]) -> Outcome:
    start = _processor_seconds()
    with memory() as used, events_outside(allowed) as events:
        try:
            kind, detail = run()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            kind, detail = "broken", _described(error)
    seconds = _processor_seconds() - start
    ratio = seconds / _harmless_seconds() if seconds > 1 else 0.0
    return Outcome(kind, detail, seconds, ratio, used[0], events)


def _harmless_seconds() -> float:
    start = time.process_time()
    yaml.safe_load(HARMLESS)
    return time.process_time() - start


def _processor_seconds() -> float:
    """Of this process, and of the one that opens HDF5 files."""
    running, spent = hdf5_sandbox._PROCESS._running, 0.0
    if running is not None:
        with contextlib.suppress(OSError):  # it has ended
            fields = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
            spent = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return time.process_time() + spent


def _described(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)
    ours = [f for f in where if "/tests/" not in f.filename and "site-packages" not in f.filename]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    try:
        text = " ".join(str(error)[:1000].split())[:300]
    except Exception:
        text = "?"
    return f"{type(error).__name__} at {place}: {text}"


@contextlib.contextmanager
def memory() -> Iterator[list[float]]:
    """The megabytes that are needed at most, above those in use at the beginning: not above what
    earlier attempts have freed and the C library has kept, or it would hide as much.
    """
    found = [0.0]
    with contextlib.suppress(AttributeError):  # without glibc
        ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS") if _reset_peak() else None
    yield found
    if before is not None:
        found[0] = max(0.0, _status("VmHWM") - before)


def _reset_peak() -> bool:
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _status(name: str) -> float:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) / 1024


def limit_address_space(megabytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20,) * 2)


_watching: tuple[list[str], list[str]] | None = None
_NEVER = (
    "exec",
    "import",
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.",
    "marshal.",
    "pickle.",
    "pty.",
    "urllib.",
)
_HARMLESS = {"os.listdir", "os.scandir", "os.putenv", "os.unsetenv", "shutil.rmtree"}
_CALLS = ("mallopt", "sync_file_range")
"""What is asked of the C library: how to keep memory, and to write early."""
_ADDRESSES = {
    ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value for name in _CALLS
}
_EVALUATE_ANNOTATIONS = tuple(
    spec.origin
    for name in ("annotationlib", "inspect", "typing")
    if (spec := importlib.util.find_spec(name))
)
"""Files of the standard library; since Python 3.14 it is `annotationlib` that does."""
_OWN = (".resnet-parity-", "resnet-parity-")
"""What our own temporary directories begin with."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is None:
        return
    events, folders = _watching
    if event == "open":
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        text = os.fsdecode(path)
        if not _inside(text, folders):
            events.append(f"open {text}")
    elif event in _HARMLESS or not event.startswith(_NEVER) or _ordinary(event, arguments):
        return
    elif not event.startswith("os.") or not all(
        _inside(os.fsdecode(a), folders) for a in arguments if isinstance(a, str | bytes)
    ):
        events.append(f"{event} {str(arguments)[:100]}")


def _ordinary(event: str, arguments: tuple[Any, ...]) -> bool:
    """What happens at every call: typer evaluates annotations, modules are there already, HDF5
    files are opened in a process, and `convert` asks two things of the C library.
    """
    caller = sys._getframe(2).f_code.co_filename
    return (
        (event == "exec" and caller in _EVALUATE_ANNOTATIONS)
        or (event == "import" and arguments[0] in sys.modules)
        or (event == "subprocess.Popen" and _opens_hdf5(arguments[1]))
        or (event == "ctypes.dlopen" and arguments == (None,))
        or (event.startswith("ctypes.dlsym") and arguments[1] in _CALLS)
        or (event == "ctypes.call_function" and arguments[0] in _ADDRESSES)
    )


def _opens_hdf5(command: Sequence[Any]) -> bool:
    return list(command[:4]) == [sys.executable, "-I", "-S", hdf5_child.__file__]


def _inside(path: str, folders: Sequence[str]) -> bool:
    full = os.path.realpath(path)
    inside = any(full == folder or full.startswith(f"{folder}/") for folder in folders)
    own = full.startswith(f"/proc/{os.getpid()}/") or full == os.devnull
    return inside or own or any(part.startswith(_OWN) for part in full.split("/"))


@contextlib.contextmanager
def events_outside(allowed: Sequence[str]) -> Iterator[list[str]]:
    """What was opened outside `allowed`, imported, executed or sent."""
    global _watching
    events: list[str] = []
    _watching = (events, [os.path.realpath(path) for path in allowed])
    try:
        yield events
    finally:
        _watching = None


def watch() -> None:
    """Install the audit hook; it cannot be taken off again."""
    sys.addaudithook(_audit)


__all__ = [
    "LONGEST",
    "MEGABYTES",
    "RATIO",
    "Outcome",
    "attempt",
    "command",
    "limit_address_space",
    "watch",
]
