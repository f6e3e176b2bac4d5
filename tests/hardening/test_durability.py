"""What is at the target when a conversion is killed, meets another one, or finds no room."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_parity.convert.conversion import convert
from shared_spec import (
    Checkpoint,
    ResNetError,
    compile_plan,
    digest,
    random_weights,
    read_checkpoint,
    resolve,
    write_safetensors,
)
from shared_spec import atomic_write as module
from shared_spec.atomic_write import durable, move_beside, workspace
from shared_spec.weights.initialize import generator
from tests.specs import SMALL
from tests.tiers import amount

V1 = resolve("keras_resnet50", {"depths": [1, 1, 1, 1], "num_classes": 3})
TARGETS = {
    "safetensors": ("a.safetensors", SMALL, None),
    "torch": ("a.pth", SMALL, None),
    "msgpack": ("a.msgpack", SMALL, None),
    "keras": ("a.h5", V1, None),
    "transformers": ("a", SMALL, "huggingface"),
}
KILLS = amount("kills of a conversion")


def checkpoints(folder: Path, kind: str, count: int) -> list[Path]:
    spec = TARGETS[kind][1]
    paths = [folder / f"source{seed}.safetensors" for seed in range(count)]
    for seed, path in enumerate(paths):
        write_safetensors(path, Checkpoint(random_weights(compile_plan(spec), seed), spec))
    return paths


def in_child(work: Callable[[], object], messages: int = 2) -> int:
    """Start work in a copy of this process, where every module is already imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, of PyTorch's and JAX's, which it does not use
        pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except ResNetError as error:
        os.write(messages, str(error).encode())
        os._exit(2)
    finally:
        os._exit(3)


@pytest.mark.parametrize("kind", TARGETS)
def test_killed_at_any_moment_the_old_one_or_the_new_one_is_there(
    tmp_path: Path, kind: str
) -> None:
    name, spec, to = TARGETS[kind]
    first, second = checkpoints(tmp_path, kind, 2)
    target = tmp_path / name
    known = [digest(read_checkpoint(path).state) for path in (first, second)]
    start = time.perf_counter()
    convert(first, target, spec, to)
    whole = time.perf_counter() - start
    moments = generator(0, kind).uniform(0, 4 * whole, KILLS)
    seen = set()
    for i in range(KILLS):
        source = (second, first)[i % 2]
        pid = in_child(lambda source=source: convert(source, target, spec, to))  # type: ignore[misc]
        time.sleep(moments[i])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        found = digest(read_checkpoint(target, spec).state)
        assert found in known
        seen.add(found)
    assert len(seen) == 2  # some were killed before the end, and some after it
    convert(first, target, spec, to)
    assert digest(read_checkpoint(target, spec).state) == known[0]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([name, first.name, second.name])


def test_where_directories_cannot_be_swapped_the_next_run_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = checkpoints(tmp_path, "transformers", 2)
    target = tmp_path / "a"
    convert(first, target, to="huggingface")
    monkeypatch.setattr(module, "_exchange", lambda a, b: False)
    rename = Path.rename

    def die(self: Path, other: Path) -> Path:
        if other == target:
            os._exit(9)
        return rename(self, other)

    def work() -> None:
        monkeypatch.setattr(Path, "rename", die)
        convert(second, target, to="huggingface")

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(work), 0)[1]) == 9
    assert not target.exists()
    convert(second, tmp_path / "b.safetensors")
    assert digest(read_checkpoint(target).state) == digest(read_checkpoint(first).state)
    assert not list(tmp_path.glob(".resnet-parity-*"))


def write_pair(target: Path, what: str, data: str) -> None:
    """A graph, and the file with its data, as an export puts them in their places."""
    with durable(target) as draft:
        draft.write_text(f"{data} {what}")
        draft.with_name(data).write_text(what)
        move_beside(draft, target)


def pair(target: Path) -> str | None:
    """What a graph is, and its data with it; None if it is not there."""
    if not target.exists():
        return None
    data, what = target.read_text().split()
    assert (target.parent / data).read_text() == what
    return what


@pytest.mark.parametrize("names", [("a.bin", "a.bin"), ("a.1.data", "a.2.data")])
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "failed"])
def test_between_any_two_steps_a_graph_has_its_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], killed: bool
) -> None:
    target, seen = tmp_path / "a.xml", set()
    for step in range(9):
        write_pair(target, "old", names[0])
        left = [step]

        def counted(move: Any, left: list[int] = left) -> Any:
            def moved(*given: Any) -> Any:
                left[0] -= 1
                if left[0] == -1 and killed:
                    os._exit(9)
                if left[0] == -1:
                    raise OSError(5, "Input/output error")
                return move(*given)

            return moved

        def work() -> None:
            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", counted(os.replace))
                patch.setattr(Path, "rename", counted(Path.rename))
                write_pair(target, "new", names[1])

        code = os.waitstatus_to_exitcode(os.waitpid(in_child(work), 0)[1])
        assert code in ((9, 0) if killed else (2, 0))
        found = pair(target)
        if found is None:
            assert killed
            assert names[0] == names[1]
            with durable(tmp_path / "another.txt") as draft:
                draft.touch()
            assert pair(target) == "old"
        seen.add(found)
        if code == 0:
            break
        assert found != "new"
    assert code == 0
    assert {"old", "new"} <= seen
    assert (None in seen) == (killed and names[0] == names[1])


@pytest.mark.parametrize("kind", TARGETS)
def test_of_eight_at_once_one_remains(tmp_path: Path, kind: str) -> None:
    name, spec, to = TARGETS[kind]
    sources = checkpoints(tmp_path, kind, 8)
    target = tmp_path / name
    pids = [in_child(lambda s=source: convert(s, target, spec, to)) for source in sources]  # type: ignore[misc]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0] * 8
    assert digest(read_checkpoint(target, spec).state) in [
        digest(read_checkpoint(source).state) for source in sources
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [name, *(source.name for source in sources)]
    )


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("room", [0, 1, 1000, 50_000])
def test_without_room_the_old_one_stays(tmp_path: Path, kind: str, room: int) -> None:
    name, spec, to = TARGETS[kind]
    first, second = checkpoints(tmp_path, kind, 2)
    target = tmp_path / name
    convert(first, target, spec, to)

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        convert(second, target, spec, to)

    reader, writer = os.pipe()  # a file would be limited too
    code = os.waitstatus_to_exitcode(os.waitpid(in_child(work, writer), 0)[1])
    message = os.read(reader, 10_000).decode() if code == 2 else ""
    os.close(reader)
    os.close(writer)
    assert code == 2
    assert f"{target}: cannot be written (File too large)" in message
    assert digest(read_checkpoint(target, spec).state) == digest(read_checkpoint(first).state)
    assert not list(tmp_path.glob(".resnet-parity-*"))


@pytest.mark.parametrize("kind", TARGETS)
def test_a_full_disk_is_told(tmp_path: Path, kind: str) -> None:
    """On a file system of 100 kB, where this process may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount here; the limit on the size of files stands in for it")
    try:
        name, spec, to = TARGETS[kind]
        (source,) = checkpoints(tmp_path, kind, 1)
        with pytest.raises(ResNetError, match=r"cannot be written \(.*(No space|28)"):
            convert(source, disk / name, spec, to)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)  # noqa: S607


@pytest.mark.parametrize("folder", ["missing", "/proc", "/sys", "file.txt"])
def test_where_nothing_can_be_written_it_is_said(tmp_path: Path, folder: str) -> None:
    (source,) = checkpoints(tmp_path, "safetensors", 1)
    (tmp_path / "file.txt").write_text("")
    target = tmp_path / folder / "a.safetensors"
    with pytest.raises(ResNetError, match=r"does not exist|cannot write there"):
        convert(source, target)


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    (source,) = checkpoints(tmp_path, "safetensors", 1)
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(ResNetError, match=r"pipe\.safetensors: is neither a file nor"):
        convert(source, pipe)
    assert pipe.is_fifo()
    with pytest.raises(ResNetError, match=r"cannot be written \(File name too long\)"):
        convert(source, tmp_path / f"{'a' * 300}.safetensors")


def test_a_workspace_left_by_a_killed_process_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))

    def work() -> None:
        with workspace() as folder:
            (folder / "big.bin").write_bytes(b"x")
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(in_child(work), 0)
    (left,) = tmp_path.iterdir()
    other = tmp_path / left.name.replace(module._machine(), "elsewhere")
    other.mkdir()
    with workspace() as folder:
        assert sorted(tmp_path.iterdir()) == sorted([folder, other])
    assert list(tmp_path.iterdir()) == [other]


def test_a_living_process_keeps_its_draft(tmp_path: Path) -> None:
    script = (
        "import sys; from shared_spec.atomic_write import durable\n"
        "with durable(sys.argv[1]) as draft:\n"
        "    draft.write_text('one')\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    target = tmp_path / "a.txt"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        with durable(target) as draft:
            draft.write_text("two")
        assert target.read_text() == "two"
        process.stdin.close()
        assert process.wait() == 0
    assert target.read_text() == "one"
