"""Worker processes that are kept from one model to the next, and the memory that they may take."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from resnet_parity.engines.process import EngineError, Worker
from resnet_parity.engines.registry import Device, Engine

Start = Callable[[Engine, Device], Worker]

RESIDENT_LIMIT = 3 * 2**30
"""A worker that holds more than this once its model is gone is started anew."""


class WorkerPool(AbstractContextManager["WorkerPool"]):
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

    def __exit__(self, *failure: object) -> None:
        self.close()
