"""A process that reads damaged files, so that a crash, a hang or a lack of memory is a finding and
not the end of the tests. Run as `python -m tests.hardening.attack.child SAMPLES FOLDER MEGABYTES`.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tests.tiers  # noqa: F401 hides the frameworks where the parent does

HANG = 300.0
"""Seconds without an answer that no slow machine needs."""
ADDRESS_SPACE = 1024
"""Megabytes."""
ROOT = Path(__file__).parents[3]


class Child:
    """The process, started again whenever it ends.

    Args:
        samples: what `make_samples` wrote.
        folder: an empty one, for the files that are read.
        megabytes: of address space.
    """

    def __init__(self, samples: Path, folder: Path, megabytes: int = ADDRESS_SPACE) -> None:
        self.arguments = [str(samples), str(folder), str(megabytes)]
        self.process: subprocess.Popen[str] | None = None
        self.lines: queue.Queue[str | None] = queue.Queue()

    def run(self, do: str, **job: Any) -> Iterator[dict[str, Any]]:
        """The answers to a request, one for each case; a crash or a hang is one too.

        A request of several `cases` goes on behind the one at which the process ended.
        """
        cases = list(job.pop("cases", [None]))
        while cases:
            self._send({"do": do, "cases": cases, **job})
            answers = 0
            while answers < len(cases):
                line, why = self._line()
                answers += 1
                if line is None:
                    yield {"case": cases[answers - 1], **_broken(why)}
                    break
                yield json.loads(line)
            cases = cases[answers:]

    def one(self, do: str, **job: Any) -> dict[str, Any]:
        """The answer to a request of one case."""
        (answer,) = self.run(do, **job)
        return answer

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                assert stream is not None
                stream.close()
            self.process = None

    def _send(self, request: dict[str, Any]) -> None:
        if self.process is None or self.process.poll() is not None:
            self.close()
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def _start(self) -> None:
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
        # What killed processes of other tests have left is not swept while this one is watched.
        temporary = Path(f"{self.arguments[1]}-temporary")
        temporary.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.hardening.attack.child", *self.arguments],
            cwd=self.arguments[1],
            env={
                **os.environ,
                **threads,
                "PYTHONPATH": str(ROOT),
                "COLUMNS": "100",
                "TMPDIR": str(temporary),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines = queue.Queue()
        threading.Thread(target=_read, args=(self.process.stdout, self.lines), daemon=True).start()
        if self.lines.get(timeout=120) != "ready\n":
            raise RuntimeError("the process that reads files does not start")

    def _line(self) -> tuple[str | None, str]:
        assert self.process is not None
        try:
            line = self.lines.get(timeout=HANG)
        except queue.Empty:
            self.close()
            return None, f"hung for {HANG:.0f} s"
        if line is None:
            code = self.process.wait()
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return None, f"crashed ({name})"
        return line, ""


def _read(stream: Any, lines: queue.Queue[str | None]) -> None:
    try:
        for line in stream:
            lines.put(line)
    except ValueError:  # closed meanwhile
        pass
    lines.put(None)


def _broken(why: str) -> dict[str, Any]:
    return {
        "kind": "broken",
        "detail": why,
        "problem": why,
        "seconds": 0.0,
        "ratio": 0.0,
        "megabytes": 0.0,
        "events": [],
    }


def serve(samples: Path, folder: Path, megabytes: int) -> None:
    from shared_spec import ResNetSpec
    from tests.hardening.attack import attempt
    from tests.hardening.attack.mutate import mutate
    from tests.hardening.attack.samples import FORMATS, Files, Sample, load_sample, write_files

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loaded: dict[str, Sample] = {}

    def sample(name: str) -> Sample:
        if name not in loaded:
            loaded[name] = load_sample(samples, name)
        return loaded[name]

    def read(name: str, files: Files) -> attempt.Outcome:
        form = FORMATS[name]
        write_files(folder, files)
        return attempt.attempt(form.reader, folder / form.path, form.spec)

    def answer(case: object, outcome: attempt.Outcome) -> None:
        text = {"case": case, **outcome.to_dict(), "problem": outcome.problem}
        answers.write(json.dumps(text) + "\n")
        answers.flush()

    _warm(samples, folder)
    here = [name for i, name in enumerate(FORMATS) if (samples / str(i)).is_dir()]
    for name in here:  # so that nothing is left to be imported
        found = read(name, sample(name).files)
        assert found.kind == "valid", (name, found)
        _empty(folder)
    attempt.limit_address_space(megabytes)
    attempt.watch()
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        for case in request["cases"]:
            if request["do"] == "mutate":
                form = request["format"]
                answer(case, read(form, mutate(sample(form), form, case)))
            elif request["do"] == "cut":
                form, (file, size) = request["format"], case
                files = dict(sample(form).files)
                files[file] = files[file][:size]
                answer(case, read(form, files))
            elif request["do"] == "attempt":
                given = request.get("spec")
                spec = None if given is None else ResNetSpec.parse(given)
                answer(case, attempt.attempt(request["reader"], Path(request["path"]), spec))
            elif request["do"] == "command":
                done = attempt.command(
                    request["arguments"],
                    Path(request["path"]),
                    Path(request["untouched"]),
                    request["allowed"],
                )
                answer(case, done)
            if request["do"] in ("mutate", "cut"):
                _empty(folder)


def _warm(samples: Path, folder: Path) -> None:
    """Run a command that succeeds and one that is refused, for what they import."""
    import resnet_parity.check.catalogue  # noqa: F401 the command line imports both when it is asked for them
    from tests.hardening.attack import attempt

    source = samples / "0" / "a.safetensors"
    for wrong in ([], ["--to", "nothing"]):
        command = ["convert", str(source), str(folder / "b.h5.pth"), "--no-verify", *wrong]
        attempt.command(command, source)
    _empty(folder)


def _empty(folder: Path) -> None:
    for item in folder.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


def run_all(child: Child, do: str, cases: Sequence[Any], **job: Any) -> list[dict[str, Any]]:
    """All answers to a request."""
    return list(child.run(do, cases=cases, **job))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
