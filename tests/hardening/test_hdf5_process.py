"""The process that opens HDF5 files: what it may do, how it ends, and what comes of it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from shared_spec import FrameworkError, WeightsError, digest
from shared_spec.formats.containers import hdf5_child, hdf5_sandbox
from shared_spec.formats.detect import open_source
from tests.hardening.attack.samples import FORMATS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.weights.h5"
    FORMATS[".weights.h5"].write(path)
    return path


@pytest.fixture
def fresh() -> Iterator[None]:
    """A process of this test's own."""
    hdf5_sandbox._PROCESS.stop()
    yield
    hdf5_sandbox._PROCESS.stop()


def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """In the place of looking through a file, run `body`."""
    text = Path(hdf5_child.__file__).read_text(encoding="utf-8")
    head = "    part ="
    assert head in text
    path = tmp_path / "index.py"
    path.write_text(text.replace(head, f"    {body}\n{head}"), encoding="utf-8")
    monkeypatch.setattr(hdf5_child, "__file__", str(path))


def answering(answer: Any) -> str:
    return f"return json.loads({json.dumps(answer)!r})"


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os.abort()", r"it is damaged: the HDF5 library crashed on it \(SIGABRT\)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"crashed on it \(SIGSEGV\)"),
        ("while True: pass", "did not come to an end with it"),
        ("bytearray(2**31)", "not a readable Keras weights file"),
        ("return {'arrays': ['x' * 2**26]}", "describes more than any model has"),
        ("os.write(max(map(int, os.listdir('/dev/fd'))), b'!')", "gave no answer|no readable"),
        ("os._exit(3)", r"crashed on it \(3\)"),
    ],
)
def test_whatever_befalls_the_library_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path, body: str, words: str
) -> None:
    script(tmp_path, monkeypatch, body)
    start = time.monotonic()
    with pytest.raises(WeightsError, match=words) as caught:
        open_source(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert time.monotonic() - start < 30
    monkeypatch.undo()
    with pytest.raises(WeightsError, match=words):  # the same process serves the next file
        open_source(file)
    hdf5_sandbox._PROCESS.stop()
    assert len(open_source(file).tensors) > 0


ARRAY = ["a/kernel", [2, 3], "<f4", 100]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    "arrays",
    [
        None,
        [None],
        [["a"]],
        [["a/kernel", [2, -3], "<f4", 100]],
        [["a/kernel", [2, 3.0], "<f4", 100]],
        [["a/kernel", [2, 3], "O", 100]],
        [["a/kernel", [2, 3], "<f4", -1]],
        [["a/kernel", [2, 3], "<f4", None]],
        [["a/kernel", [2, 3], "<f4", 10**9]],
        [["a/kernel", [10**9, 10**9, 0], "<f4", True]],
        [["a/kernel", [10**9, 10**9], "<f4", 0]],
        [["a/kernel", [2, 3], "<f4", base64.b64encode(bytes(23)).decode()]],
        [["a/kernel", [2, 3], "<f4", "="]],
        [["a/kernel", [2, 3], "<f4", [[2, 2], [100]]]],
        [["a/kernel", [2, 3], "<f4", [[2, 0], [100]]]],
        [["a/kernel", [2, 3], "<f4", [[2], [100, 200]]]],
        [["a/kernel", [2, 3], "<f4", [[2, 2], [100, 10**9]]]],
        [["a/kernel", [2, 3], "<f4", [[2, 2], [100, 108]]]],
        [ARRAY, ["b/kernel", [2, 3], "<f4", 120]],
        [ARRAY, ARRAY],
        [[7, [2, 3], "<f4", 100]],
    ],
)
def test_what_it_says_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path, arrays: Any
) -> None:
    script(tmp_path, monkeypatch, answering({"kind": "keras3", "arrays": arrays}))
    with pytest.raises(WeightsError, match="not a readable Keras weights file") as caught:
        open_source(file)
    assert str(caught.value).startswith(f"{file}: ")


def keep(path: Path, how: Callable[[Any, str, np.ndarray], Any]) -> None:
    """Keep the arrays of a file in another layout."""
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path, "r+") as out:
        out.visititems(
            lambda name, found: arrays.update(
                {name: found[()]} if isinstance(found, h5py.Dataset) else {}
            )
        )
        for name, array in arrays.items():
            del out[name]
            how(out, name, array)


def compact(out: Any, name: str, array: np.ndarray) -> None:
    kept = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kept.set_layout(h5py.h5d.COMPACT)
    group, _, leaf = name.rpartition("/")
    space = h5py.h5s.create_simple(array.shape)
    kind = h5py.h5t.py_create(array.dtype)
    made = h5py.h5d.create(out[group].id, leaf.encode(), kind, space, kept)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array))


def small_chunks(out: Any, name: str, array: np.ndarray) -> None:
    out.create_dataset(name, data=array, chunks=tuple(min(n, 3) for n in array.shape))


@pytest.mark.parametrize("how", [compact, small_chunks])
def test_every_layout_is_read(file: Path, how: Callable[[Any, str, np.ndarray], Any]) -> None:
    before = digest(dict(open_source(file).tensors))
    keep(file, how)
    assert digest(dict(open_source(file).tensors)) == before


def test_chunks_that_are_not_there_are_missed(file: Path) -> None:
    def fewer(out: Any, name: str, array: np.ndarray) -> None:
        made = out.create_dataset(name, array.shape, array.dtype, chunks=(1,) * array.ndim)
        made[:1] = array[:1]

    keep(file, fewer)
    with pytest.raises(WeightsError, match="has less data than its shape"):
        open_source(file)


def test_numbers_of_a_strange_layout_are_refused(file: Path) -> None:
    """As wide as a float32, with another exponent: their bytes are not what numpy would read."""

    def strange(out: Any, name: str, array: np.ndarray) -> None:
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_ebias(100)
        group, _, leaf = name.rpartition("/")
        space = h5py.h5s.create_simple(array.shape)
        h5py.h5d.create(out[group].id, leaf.encode(), kind, space).write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array)
        )

    keep(file, strange)
    with pytest.raises(WeightsError, match="is no array of numbers"):
        open_source(file)


@pytest.mark.usefixtures("fresh")
def test_it_is_started_anew_when_it_has_ended(file: Path) -> None:
    assert open_source(file).kind == "keras3"
    running = hdf5_sandbox._PROCESS._running
    assert running is not None
    for wait in (False, True):
        os.kill(running.pid, signal.SIGKILL)
        if wait:
            running.wait()
        assert open_source(file).kind == "keras3"
        again = hdf5_sandbox._PROCESS._running
        assert again is not None
        assert again.pid != running.pid
        running = again


@pytest.mark.usefixtures("fresh")
def test_a_fork_has_its_own(file: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from shared_spec.formats.detect import open_source\n"
        "path = Path(sys.argv[1])\n"
        "open_source(path)\n"
        "child = os.fork()\n"
        "for _ in range(20): assert len(open_source(path).tensors) > 0\n"
        "if child: sys.exit(os.waitpid(child, 0)[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, check=True, timeout=60)


def processes(mark: str) -> list[int]:
    """Those that run with `mark` among their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in line.split(b"\0"):
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.parametrize("end", ["", "; os.kill(os.getpid(), 9)"])
def test_it_ends_with_its_parent(tmp_path: Path, file: Path, end: str) -> None:
    own = tmp_path / "index.py"
    own.write_text(Path(hdf5_child.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from shared_spec.formats.detect import open_source\n"
        "from shared_spec.formats.containers import hdf5_child\n"
        "hdf5_child.__file__ = sys.argv[2]\n"
        f"open_source(Path(sys.argv[1])){end}\n"
    )
    subprocess.run([sys.executable, "-c", code, str(file), str(own)], cwd=ROOT, check=not end)
    until = time.monotonic() + 10
    while processes(str(own)) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes(str(own)) == []


@pytest.mark.usefixtures("fresh")
def test_without_h5py_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setattr(hdf5_sandbox.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FrameworkError, match="pip install h5py"):
        open_source(file)
    monkeypatch.undo()
    monkeypatch.setattr(hdf5_sandbox, "_folders", lambda: [])
    with pytest.raises(FrameworkError, match="h5py cannot be used"):
        open_source(file)
