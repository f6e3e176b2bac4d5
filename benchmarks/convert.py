"""Conversions beside `cp`, and beside the usual route: load the model, load the state, save it.

    python benchmarks/convert.py [--repeat 5] [--output docs/results/convert.md]

Every conversion runs in a fresh process. `cp` copies a file of the same bytes and waits until it is
on the disk, before each conversion and in the same minute: the ratio is what travels between
machines. Caches are warm on both sides. Start-up and the read-back that ends every conversion are
reported apart, and so is the verification, which is not run here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from shared_spec import (
    Checkpoint,
    ResNetSpec,
    compile_plan,
    random_weights,
    resolve,
    write_safetensors,
)
from shared_spec.durable import durable

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
import json, sys, time
start = time.perf_counter()
from resnet_parity.convert import convert, keep_freed_memory
from shared_spec import ResNetSpec
keep_freed_memory()
imports, idle = time.perf_counter() - start, peak()
spec = ResNetSpec.parse(json.loads(sys.argv[3]))
done = convert(sys.argv[1], sys.argv[2], spec, sys.argv[4] or None)
loaded = [m for m in ("torch", "tensorflow", "jax", "keras", "flax") if m in sys.modules]
print(json.dumps({"seconds": done.seconds | {"imports": imports}, "idle": idle, "peak": peak(),
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


def child(script: str, *arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-2000:]}")
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def copied(source: Path, target: Path) -> float:
    """Seconds to copy a file or a directory's files and wait for the disk."""
    files = [source] if source.is_file() else sorted(source.iterdir())
    start = time.perf_counter()
    for file in files:
        shutil.copyfile(file, target)
        with target.open("rb+") as out:
            os.fsync(out.fileno())
    return time.perf_counter() - start


def kind(name: str) -> str:
    return "." + name.partition(".")[2] if "." in name else "directory"


def largest(spec: ResNetSpec) -> int:
    return max(q.size for q in compile_plan(spec).parameters()) * 4


def measure(job: Job, spec: ResNetSpec, folder: Path, repeat: int) -> str:
    """A row of the table."""
    seconds, copies, apart, runs = [], [], [], []
    # The first round is not counted: memory that the system has not handed out yet is slow.
    for number in range(repeat + 1):
        copy = copied(folder / job.source, folder / "copy.bin")
        old = folder / job.target
        if old.is_dir():
            shutil.rmtree(old)
        old.unlink(missing_ok=True)
        run = child(
            OURS,
            str(folder / job.source),
            str(folder / job.target),
            json.dumps(spec.to_dict()),
            job.to,
        )
        if not number:
            continue
        copies.append(copy)
        parts = dict(run["seconds"])  # type: ignore[call-overload]
        seconds.append(parts["convert"])
        apart.append((parts["imports"] + parts["start_up"], parts["read_back"]))
        runs.append(run)
    extra = max(int(r["peak"]) - int(r["idle"]) for r in runs)  # type: ignore[call-overload]
    ratio = statistics.median(s / c for s, c in zip(seconds, copies, strict=True))
    room = (extra - largest(spec)) / 1e6
    frameworks = sorted({str(m) for r in runs for m in r["frameworks"]})  # type: ignore[attr-defined]
    start, back = (statistics.median(x[i] for x in apart) for i in (0, 1))
    kinds = f"{kind(job.source)} → {job.to if job.to == 'huggingface' else kind(job.target)}"
    return (
        f"| {job.net} | {kinds} | {statistics.median(copies):.2f} s | "
        f"{statistics.median(seconds):.2f} s | **{ratio:.2f}** | {start:.2f} s | {back:.2f} s | "
        f"{extra / 1e6:.0f} MB ({room:+.0f} MB) | {', '.join(frameworks) or 'none'} |"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="fresh processes of each (5)")
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
        "Medians over fresh processes; the ratio is that of the conversion to `cp` and fsync of "
        "the same bytes, taken just before it. Start-up (imports) and the read-back that ends "
        "every conversion are apart. Memory is the peak over the idle interpreter; in brackets, "
        "what is left of it without the largest tensor.",
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
        "The usual route to the same kind of file: build the model, load the state, save it. Its "
        "memory is over the interpreter with the framework imported.",
        "",
        "| framework | usual route | time | start-up | memory | convert | start-up | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, source, target, words in USUAL_ROUTES:
        spec = known["keras_resnet152" if kind == "keras" else "resnet152"][0]
        seconds, imports, extra = usual(kind, folder / source, folder / target, spec, repeat)
        to = "keras-applications" if kind == "keras" else ""
        runs = [
            child(OURS, str(folder / source), str(folder / target), json.dumps(spec.to_dict()), to)
            for _ in range(repeat)
        ]
        parts = [dict(r["seconds"]) for r in runs]  # type: ignore[call-overload]
        mine = statistics.median(p["convert"] + p["read_back"] for p in parts)
        start = statistics.median(p["imports"] + p["start_up"] for p in parts)
        room = max(int(r["peak"]) - int(r["idle"]) for r in runs)  # type: ignore[call-overload]
        row = (
            f"| {kind} | {words} | {seconds:.2f} s | {imports:.2f} s | {extra / 1e6:.0f} MB | "
            f"{mine:.2f} s, read back | {start:.2f} s | {room / 1e6:.0f} MB |"
        )
        console.print(row, highlight=False, soft_wrap=True)
        lines.append(row)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
