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
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np

from resnet_parity.engines.registry import ENGINES
from shared_spec import optimization
from shared_spec.kernels import xla

STEPS = 3
"""That are timed, after one that is not."""


def measure(engine: str, model: str, batch: int, size: int, remat: bool) -> dict[str, Any]:
    """In this process: growth of the peak resident memory in training steps, in MiB, the median
    time of a step in seconds, the last loss, and in JAX what the compiled step reserves.
    """
    package, _, backend = engine.partition(":")
    if backend:
        os.environ["KERAS_BACKEND"] = backend
    resnet = import_module("resnet_keras" if backend else f"resnet_{package}")
    generator = np.random.default_rng(0)
    images = generator.normal(size=(batch, size, size, 3)).astype(np.float32)
    labels = generator.integers(0, 1000, batch)
    net = resnet.create_model(model)

    def trainer() -> Any:
        return resnet.Trainer(net, optimization(learning_rate=1e-3, remat=remat), 100)

    found: dict[str, Any] = {"engine": engine, "remat": remat}
    if engine in ("flax", "keras:jax"):
        try:
            with xla.ahead_of_time("cpu"):
                trainer().step(images, labels)
        except xla.Planned as planned:
            compiled = planned.function.lower(*planned.args).compile()
            found["compiled_mib"] = compiled.memory_analysis().temp_size_in_bytes >> 20
    training = trainer()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        loss = float(training.step(images, labels).loss)
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found | {
        "grown_mib": (peak - before) >> 10,
        "seconds": round(median(times[1:]), 2),
        "loss": loss,
    }


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
