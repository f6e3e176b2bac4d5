"""Workers without a framework: they answer as the real ones, in the seconds that a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resnet_parity.engines.bench_job import distinct
from resnet_parity.engines.process import EngineError
from resnet_parity.engines.registry import Device, Engine
from shared_spec.formats.canonical_file import write_safetensors
from shared_spec.weights.checkpoint import Checkpoint

RATES = {
    "dtype": "float32",
    "flops_per_second": 1e12,
    "kernel": "a kernel",
    "copies": [[2**20, 1e11], [2**28, 1e10]],
}
EXACT = np.linspace(-1, 1, 28).reshape(4, 7)
"""Logits of four images."""


@dataclass
class Fakes:
    """Starts fake workers, and writes down what they are asked."""

    seconds: Callable[[str], float] = lambda key: 0.01
    """Of a pass, by the side's key."""
    error: Callable[[str], float] = lambda key: 0.0
    """Of the logits, relative to the largest."""
    breaks: Callable[[str, str], str | None] = lambda operation, key: None
    missing: Callable[[str], str | None] = lambda key: None
    finite: bool = True
    rates: Iterator[float] | None = None
    """Of arithmetic, one after the other."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    latencies: dict[str, list[float]] = field(default_factory=dict)
    """Of single calls, by the side's key."""

    @contextmanager
    def start(self, engine: Engine, device: Device = "cpu") -> Iterator[Any]:
        self.calls.append(("start", engine.name))
        yield Fake(self, engine)
        self.calls.append(("end", engine.name))

    def rounds(self) -> list[str]:
        """The sides in the order in which they were timed."""
        return [key for operation, key in self.calls if operation == "bench_time"]


@dataclass
class Fake:
    fakes: Fakes
    engine: Engine

    def call(self, operation: str, **arguments: Any) -> Any:
        key = arguments.get("key", self.engine.name)
        self.fakes.calls.append((operation, key))
        broken = self.fakes.breaks(operation, key)
        if broken is not None:
            raise EngineError(broken)
        return getattr(self, operation)(**arguments)

    def info(self) -> dict[str, Any]:
        return {"versions": {self.engine.name: "1.0"}, "device": "an accelerator"}

    def bench_rates(self, dtype: str, tf32: bool) -> dict[str, Any]:
        given = RATES | {"dtype": dtype}
        if self.fakes.rates is not None:
            given |= {"flops_per_second": next(self.fakes.rates)}
        return given

    def bench_reference(
        self, job: dict[str, Any], roundoff: str, trials: int, outputs: str
    ) -> None:
        exact = EXACT[: distinct(job["batch"])]
        found = {f"trial{i}/logits": exact * (1 + 1e-6) for i in range(trials)}
        write_safetensors(outputs, Checkpoint({"exact/logits": exact, **found}))

    def bench_build(self, key: str, job: dict[str, Any], outputs: str) -> dict[str, Any]:
        exact = EXACT[: distinct(job["batch"])]
        logits = np.tile(exact, (job["batch"] // len(exact), 1))
        logits[-1, 3] += self.fakes.error(key)
        write_safetensors(outputs, Checkpoint({"logits": logits}))
        missing = self.fakes.missing(key)
        if missing is not None:
            return {"missing": missing}
        settings: dict[str, Any] = {"framework": "torch", "threads": 3}
        times = {"imported": 1.0, "build": 2.0, "load": 3.0, "first_call": 4.0}
        settings |= {"matmul_precision": "highest", "variables": {"OMP_NUM_THREADS": "3"}}
        return {**times, "versions": {"timm": "2.0"}, "settings": settings}

    def bench_time(self, key: str, passes: int) -> dict[str, Any]:
        peaks = {"peak_host_bytes": 10**9, "peak_device_bytes": None}
        seconds = self.fakes.seconds(key) * passes
        return {"seconds": seconds, "finite": self.fakes.finite, "peaks": peaks}

    def bench_latency(self, key: str, calls: int) -> list[float]:
        """One call in fifty takes ten times as long as the others."""
        slow = range(len(self.fakes.latencies.setdefault(key, [])), 10**6)
        found = [self.fakes.seconds(key) * (1 if (n + 1) % 50 else 10) for n in slow[:calls]]
        self.fakes.latencies[key] += found
        return found

    def bench_close(self, key: str) -> None:
        pass
