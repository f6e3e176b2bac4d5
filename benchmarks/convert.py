"""Conversions beside `cp`, and beside the usual route: load the model, load the state, save it; and
looking into large files.

    python benchmarks/convert.py [--repeat 5] [--output docs/results/convert.md]

Each kind of conversion has a process of its own, in which it is done several times, by turns with a
copy of the same bytes as `cp` makes it, both to a new file and until it is on the disk: the ratio
is what travels between machines. Caches are warm on both sides, and the first of each is not
counted: memory that a system has not handed out yet is slow, for the pages of files too. Start-up
and the read-back that ends every conversion are reported apart, and so is the verification, which
is not run here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from shared_spec import (
    Checkpoint,
    ResNetSpec,
    compile_plan,
    random_weights,
    resolve,
    write_safetensors,
)
from shared_spec.atomic_write import durable

# Peak memory is Linux's own figure for this process, which begins anew with its program.
PEAK = """
def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
"""
OURS = (
    PEAK
    + """
import json, os, shutil, sys, time
begin = time.perf_counter()
from pathlib import Path
from resnet_parity.convert.conversion import convert, keep_freed_memory
from shared_spec import ResNetSpec
keep_freed_memory()
imports, idle = time.perf_counter() - begin, peak()
source, target = map(Path, sys.argv[1:3])
spec, to, rounds = ResNetSpec.parse(json.loads(sys.argv[3])), sys.argv[4] or None, int(sys.argv[5])
copy = target.with_name("copy.bin")

def copied():
    copy.unlink(missing_ok=True)
    files = [source] if source.is_file() else sorted(source.iterdir())
    begin = time.perf_counter()
    for file in files:
        shutil.copyfile(file, copy)
        with copy.open("rb+") as out:
            os.fsync(out.fileno())
    return time.perf_counter() - begin

copies, runs = [], []
for _ in range(rounds):
    copies.append(copied())
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    runs.append(convert(source, target, spec, to).seconds)
loaded = [m for m in ("torch", "tensorflow", "jax", "keras", "flax") if m in sys.modules]
print(json.dumps({"copies": copies, "runs": runs, "imports": imports, "memory": peak() - idle,
                  "frameworks": loaded}))
"""
)
USUAL = {
    "torch": """
import torch
idle, start = peak(), time.perf_counter()
import resnet_torch
model = resnet_torch.create_model(spec)
model.load_state_dict(torch.load(source, weights_only=True))
torch.save(model.state_dict(), target)
""",
    "keras": """
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
idle, start = peak(), time.perf_counter()
model = keras.applications.ResNet152(weights=None, classifier_activation=None)
model.load_weights(source)
model.save_weights(target)
""",
    "flax": """
import jax
from flax import nnx, serialization
idle, start = peak(), time.perf_counter()
import resnet_flax
model = resnet_flax.create_model(spec)
with open(source, "rb") as file:
    tree = serialization.msgpack_restore(file.read())
state = nnx.state(model)
nnx.replace_by_pure_dict(state, nnx.statelib.restore_int_paths(tree))
nnx.update(model, state)
with open(target, "wb") as file:
    file.write(serialization.msgpack_serialize(nnx.to_pure_dict(nnx.state(model))))
""",
}
USUAL_ROUTES = [
    ("torch", "a.pth", "b.pth", "load_state_dict, torch.save"),
    ("keras", "k.weights.h5", "l.weights.h5", "keras.applications: load_weights, save_weights"),
    ("flax", "a.msgpack", "b.msgpack", "msgpack_restore, nnx.update, msgpack_serialize"),
]


@dataclass(frozen=True)
class Job:
    """One conversion."""

    net: str
    source: str
    target: str
    to: str = ""


JOBS = [
    Job("resnet152", "a.safetensors", "a.pth"),
    Job("resnet152", "a.pth", "b.safetensors"),
    Job("resnet152", "a.safetensors", "a.msgpack"),
    Job("resnet152", "a.msgpack", "b.safetensors"),
    Job("resnet152", "a.pth", "b.msgpack"),
    Job("resnet152", "a.safetensors", "hf", "huggingface"),
    Job("resnet152", "hf", "b.safetensors"),
    Job("keras_resnet152", "k.safetensors", "k.h5"),
    Job("keras_resnet152", "k.h5", "l.safetensors"),
    Job("keras_resnet152", "k.h5", "k.weights.h5", "keras-applications"),
    Job("keras_resnet152", "k.weights.h5", "l.safetensors"),
    Job("1 GB", "g.safetensors", "g.pth"),
    Job("1 GB", "g.pth", "h.safetensors"),
    Job("1 GB", "g.safetensors", "g.msgpack"),
    Job("1 GB", "g.msgpack", "h.pth"),
    Job("1 GB", "g.safetensors", "hf1", "huggingface"),
]


def nets() -> dict[str, tuple[ResNetSpec, str]]:
    """Specs, and the file each begins with. The large one is a ResNet-152 of twice the width."""
    wide = resolve("resnet152", {"widths": [130, 260, 520, 1040], "stem_width": 128})
    return {
        "resnet152": (resolve("resnet152"), "a.safetensors"),
        "keras_resnet152": (resolve("keras_resnet152"), "k.safetensors"),
        "1 GB": (wide, "g.safetensors"),
    }


def child(script: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def kind(name: str) -> str:
    return "." + name.partition(".")[2] if "." in name else "directory"


def largest(spec: ResNetSpec) -> int:
    return max(q.size for q in compile_plan(spec).parameters()) * 4


def ours(job: Job, spec: ResNetSpec, folder: Path, rounds: int) -> dict[str, Any]:
    """What a process tells that does a conversion so often."""
    source, target = (str(folder / name) for name in (job.source, job.target))
    return child(OURS, source, target, json.dumps(spec.to_dict()), job.to, str(rounds))


def measure(job: Job, spec: ResNetSpec, folder: Path, repeat: int) -> str:
    """A row of the table."""
    found = ours(job, spec, folder, repeat + 1)
    copies, runs = found["copies"][1:], found["runs"][1:]
    seconds = [run["convert"] for run in runs]
    ratio = statistics.median(s / c for s, c in zip(seconds, copies, strict=True))
    start = found["imports"] + found["runs"][0]["start_up"]
    back = statistics.median(run["read_back"] for run in runs)
    room = (found["memory"] - largest(spec)) / 1e6
    kinds = f"{kind(job.source)} → {job.to if job.to == 'huggingface' else kind(job.target)}"
    return (
        f"| {job.net} | {kinds} | {statistics.median(copies):.2f} s | "
        f"{statistics.median(seconds):.2f} s | **{ratio:.2f}** ({min(seconds) / min(copies):.2f}) "
        f"| {start:.2f} s | {back:.2f} s | {found['memory'] / 1e6:.0f} MB ({room:+.0f} MB) | "
        f"{', '.join(found['frameworks']) or 'none'} |"
    )


def usual(
    route: str, source: Path, target: Path, spec: ResNetSpec, repeat: int
) -> tuple[float, ...]:
    """Seconds and peak memory of the usual route, and seconds of starting the framework."""
    script = (
        PEAK
        + "import json, sys, time\nfrom shared_spec import ResNetSpec\n"
        + "source, target = sys.argv[1:3]\nspec = ResNetSpec.parse(json.loads(sys.argv[3]))\n"
        + "begin = time.perf_counter()\n"
        + USUAL[route]
        + "print(json.dumps({'seconds': time.perf_counter() - start, 'imports': start - begin, "
        + "'extra': peak() - idle}))"
    )
    runs = [
        child(script, str(source), str(target), json.dumps(spec.to_dict())) for _ in range(repeat)
    ]
    return tuple(
        statistics.median(float(r[key]) for r in runs)  # type: ignore[arg-type]
        for key in ("seconds", "imports", "extra")
    )


def inspected(file: Path, repeat: int) -> str:
    """A row of `resnet-parity inspect`, start-up included."""
    command = [sys.executable, "-m", "resnet_parity", "inspect", str(file)]
    seconds = []
    for _ in range(repeat + 1):
        begin = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(time.perf_counter() - begin)
    size = file.stat().st_size / 1e6
    middle, slowest = statistics.median(seconds[1:]), max(seconds[1:])
    return f"| {kind(file.name)} | {size:.0f} MB | {middle:.2f} s | {slowest:.2f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="of each (5)")
    parser.add_argument("--output", type=Path, help="a Markdown file for the tables")
    parser.add_argument(
        "--folder", type=Path, help="where to put the files (8 GB); a temporary one"
    )
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        text = report(Path(name), options.repeat, console)
    if options.output:
        with durable(options.output) as draft:
            draft.write_text(text, encoding="utf-8")


def report(folder: Path, repeat: int, console: Console) -> str:
    known = nets()
    for spec, file in known.values():
        write_safetensors(folder / file, Checkpoint(random_weights(compile_plan(spec)), spec))
    lines = [
        "# Conversions, measured",
        "",
        f"`python benchmarks/convert.py --repeat {repeat}` on {datetime.now(UTC):%Y-%m-%d}: "
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}. "
        "Medians; the ratio is that of the conversion to `cp` and fsync of the same bytes, done "
        "just before it, and in brackets that of the fastest of each. Start-up (imports) and the "
        "read-back that ends every conversion are apart. Memory is the peak over the idle "
        "interpreter; in brackets, what is left of it without the largest tensor.",
        "",
        "| net | conversion | cp + fsync | convert | ratio | start-up | read back | memory | "
        "frameworks imported |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for job in JOBS:
        row = measure(job, known[job.net][0], folder, repeat)
        console.print(row, highlight=False, soft_wrap=True)
        lines.append(row)
    lines += [
        "",
        "`resnet-parity inspect`, from its start to its end:",
        "",
        "| file | size | median | slowest |",
        "|---|---|---|---|",
    ]
    for file in ("g.safetensors", "g.pth", "g.msgpack"):
        row = inspected(folder / file, repeat)
        console.print(row, highlight=False, soft_wrap=True)
        lines.append(row)
    lines += [
        "",
        "The usual route to the same kind of file: build the model, load the state, save it. Its "
        "memory is over the interpreter with the framework imported.",
        "",
        "| framework | usual route | time | start-up | memory | convert | start-up | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, source, target, words in USUAL_ROUTES:
        spec = known["keras_resnet152" if kind == "keras" else "resnet152"][0]
        seconds, imports, extra = usual(kind, folder / source, folder / target, spec, repeat)
        job = Job("", source, target, "keras-applications" if kind == "keras" else "")
        runs = [ours(job, spec, folder, 1) for _ in range(repeat)]
        parts = [run["runs"][0] for run in runs]
        mine = statistics.median(p["convert"] + p["read_back"] for p in parts)
        start = statistics.median(r["imports"] + r["runs"][0]["start_up"] for r in runs)
        room = max(r["memory"] for r in runs)
        row = (
            f"| {kind} | {words} | {seconds:.2f} s | {imports:.2f} s | {extra / 1e6:.0f} MB | "
            f"{mine:.2f} s, read back | {start:.2f} s | {room / 1e6:.0f} MB |"
        )
        console.print(row, highlight=False, soft_wrap=True)
        lines.append(row)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
