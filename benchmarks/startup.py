"""How long a user waits before anything is computed: `list`, and building ResNet-50.

    python benchmarks/startup.py [--repeat 7]

Each figure is the median over fresh processes, ours and the native peer's alternated: an import
that is already warm would flatter whoever comes second. Ratios travel between machines, times do
not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

# A CUDA build of torchvision beside a CPU build of torch lacks two operators; see tests/peers.py.
TORCHVISION = """
import torch
try:
    import torchvision.models as models
except RuntimeError:
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision.models as models
"""
# Flax has no ResNet of its own to import: the module is ours, initialised by Flax under jit.
FLAX = """
import jax
from flax import nnx
from resnet_flax.model import ResNet
from shared_spec import compile_plan, resolve
import resnet_flax.layers as layers
layers.ZEROS = nnx.initializers.he_normal()
spec = resolve("resnet50")
make = nnx.jit(lambda: ResNet(compile_plan(spec), spec, "float32", nnx.Rngs(0)))
"""
OURS = "import {package} as resnet"
BUILD = 'resnet.create_model("resnet50")'

# Name, environment, then set-up and timed statement: ours, the peer's.
PAIRS = [
    (
        "torch / torchvision.models.resnet50()",
        {},
        (OURS.format(package="resnet_torch"), BUILD),
        (TORCHVISION, "models.resnet50()"),
    ),
    *(
        (
            f"keras:{engine} / keras.applications.ResNet50(weights=None)",
            {"KERAS_BACKEND": engine},
            (OURS.format(package="resnet_keras"), BUILD),
            ("import keras", "keras.applications.ResNet50(weights=None)"),
        )
        for engine in ("tensorflow", "jax", "torch")
    ),
    (
        "flax / nnx.jit of the module's own initialisation",
        {},
        (OURS.format(package="resnet_flax"), BUILD),
        (FLAX, "jax.block_until_ready(nnx.state(make()))"),
    ),
]


def seconds(setup: str, statement: str, environment: dict[str, str]) -> tuple[float, float]:
    """First and second run of `statement` in a fresh process, after `setup`."""
    script = (
        f"{setup}\nimport time, json\nout = []\n"
        f"for _ in range(2):\n    t = time.perf_counter(); {statement}\n"
        f"    out.append(time.perf_counter() - t)\nprint(json.dumps(out))"
    )
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    first, second = json.loads(done.stdout.splitlines()[-1])
    return first, second


def command_seconds(*arguments: str) -> float:
    """Wall time of a command line."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "resnet_parity", *arguments], capture_output=True,
                   check=True)  # fmt: skip
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=7, help="fresh processes a side (7)")
    repeat = parser.parse_args().repeat
    console = Console()
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    for arguments in (["list"], ["show", "resnet50"], ["--help"]):
        times = [command_seconds(*arguments) for _ in range(repeat)]
        console.print(f"resnet-parity {' '.join(arguments)}: {statistics.median(times):.2f} s")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("create_model('resnet50') / its peer", no_wrap=True)
    for name in ("ours, first", "peer, first", "ratio", "ours, second", "peer, second", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, environment, ours, peers in PAIRS:
        mine, theirs = [], []
        for _ in range(repeat):
            mine.append(seconds(*ours, environment))
            theirs.append(seconds(*peers, environment))
        cells = []
        for i in (0, 1):
            a, b = (statistics.median(t[i] for t in side) for side in (mine, theirs))
            cells += [f"{a:.2f} s", f"{b:.2f} s", f"{a / b:.2f}"]
        table.add_row(name, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
