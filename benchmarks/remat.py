"""What `remat` saves and costs: memory and time of a training step, in a process of its own each.

python benchmarks/remat.py [--model resnet50] [--batch 16] [--size 224] [--engines torch,flax]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np

from resnet_parity.engines.registry import ENGINES
from shared_spec import optimization
from shared_spec.kernels import xla

STEPS = 2
"""That are timed, after one that is not."""


def measure(engine: str, model: str, batch: int, size: int, remat: bool) -> dict[str, Any]:
    """In this process: the median time of a step in seconds, and in MiB what steps add to the peak
    of the resident memory; in JAX, whose compiler needs more than that, what it plans for a step.
    """
    package, _, backend = engine.partition(":")
    if backend:
        os.environ["KERAS_BACKEND"] = backend
    resnet = import_module("resnet_keras" if backend else f"resnet_{package}")
    generator = np.random.default_rng(0)
    images = generator.normal(size=(batch, size, size, 3)).astype(np.float32)
    labels = generator.integers(0, 1000, batch)
    net = resnet.create_model(model)
    how = optimization(learning_rate=1e-3, remat=remat)
    if engine in ("flax", "keras:jax"):
        step, memory = _compiled(resnet, net, how, images, labels)
    else:
        trainer = resnet.Trainer(net, how, 100)
        before = _peak()

        def step() -> float:
            return float(trainer.step(images, labels).loss)

        def memory() -> int:
            return _peak() - before

    times = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        loss = step()
        times.append(time.perf_counter() - start)
    seconds = round(median(times[1:]), 2)
    return {"engine": engine, "remat": remat, "MiB": memory() >> 20, "s": seconds, "loss": loss}


def _compiled(
    resnet: Any, net: Any, how: Any, images: np.ndarray, labels: np.ndarray
) -> tuple[Callable[[], float], Callable[[], int]]:
    """The trainer's step as JAX compiles it, and its memory in bytes."""
    try:
        with xla.ahead_of_time("cpu"):
            resnet.Trainer(net, how, 100).step(images, labels)
    except xla.Planned as planned:
        (kept, *rest), function = planned.args, planned.function
    compiled = function.lower(kept, *rest).compile()

    def step() -> float:
        nonlocal kept
        kept, loss, _ = compiled(kept, *rest)
        return float(loss)

    return step, lambda: int(compiled.memory_analysis().temp_size_in_bytes)


def _peak() -> int:
    """Bytes that this process has had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    """Measure every engine with and without, one process after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--inside", choices=("0", "1"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside is not None:
        found = measure(args.engines, args.model, args.batch, args.size, args.inside == "1")
        print(json.dumps(found), flush=True)
        return
    given = ["--model", args.model, "--batch", str(args.batch), "--size", str(args.size)]
    for engine in args.engines.split(","):
        for inside in "01":
            command = [sys.executable, __file__, *given, "--engines", engine, "--inside", inside]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
