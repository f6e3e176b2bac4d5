"""Worker processes that are kept from one model to the next, and the memory that they may take."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from resnet_parity.engines.registry import Device, Engine, EngineError, Worker
from shared_spec.weights.state import numpy_dtype

Start = Callable[[Engine, Device], Worker]

RESIDENT_LIMIT = 3 * 2**30
"""A worker that holds more than this once its model is gone is started anew."""

WORKING_BYTES = 3 * 2**29
"""What a model needs besides its weights: the framework, activations, one layer's copies."""


class Fleet:
    """One worker an engine and device. Starting one takes seconds, and compiling its first
    operations as long again, so that they stay; one that failed or grew is replaced.
    """

    def __init__(self, start: Start = Worker) -> None:
        self._start = start
        self._workers: dict[tuple[str, Device], Worker] = {}

    def call(self, engine: Engine, device: Device, operation: str, **arguments: Any) -> Any:
        """As `Worker.call`, in the engine's worker.

        Raises:
            ResNetError: what the operation itself raised about its input.
            EngineError: if the engine cannot run, or broke on the way.
        """
        key = engine.name, device
        if key not in self._workers:
            self._workers[key] = self._start(engine, device)
        worker = self._workers[key]
        try:
            return worker.call(operation, **arguments)
        except EngineError:
            self._drop(key)
            raise
        finally:
            if key in self._workers and worker.resident() > RESIDENT_LIMIT:
                self._drop(key)

    def close(self) -> None:
        """End all workers; the next calls start new ones."""
        for key in list(self._workers):
            self._drop(key)

    def _drop(self, key: tuple[str, Device]) -> None:
        self._workers.pop(key).close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def available_memory() -> int | None:
    """Bytes that processes can still take without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        facts = {key: int(rest.split()[0]) for key, rest in (x.split(":", 1) for x in lines)}
        return facts["MemAvailable"] * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def peak_bytes(parameters: int, dtype: str) -> int:
    """Memory that a worker takes at most for a net of so many parameters, when it loads a float32
    file into a model of `dtype`: both are there for a moment, and a tenth is measured on top.
    """
    return parameters * (4 + numpy_dtype(dtype).itemsize) * 11 // 10 + WORKING_BYTES


def fitting_dtype(parameters: int, dtype: str, available: int | None) -> str | None:
    """`dtype` if a net of so many parameters fits into memory in it, else float32 if it fits in
    that, else None.
    """
    for candidate in dict.fromkeys((dtype, "float32")):
        if available is None or peak_bytes(parameters, candidate) <= available:
            return candidate
    return None
