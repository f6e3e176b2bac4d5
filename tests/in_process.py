"""An engine in the tests' own process, so that `breakpoint()` stops in a worker's code."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

import pytest

from resnet_parity.engines.registry import Device, Engine


class InProcessWorker:
    """In the place of `Worker`: operations are called here, with what they would get as JSON.

    Keras has one engine a process.
    """

    keras: str | None = None
    """The Keras engine that this process has."""

    def __init__(self, engine: Engine, device: Device) -> None:
        # These import what only a worker may.
        from resnet_parity.worker.session import Session
        from tests.worker import ALL_OPERATIONS

        if engine.keras_backend is not None:
            if InProcessWorker.keras not in (None, engine.name):
                pytest.skip(f"--in-process: this process has {InProcessWorker.keras} already")
            InProcessWorker.keras = engine.name
        self.engine = engine
        os.environ |= engine.environment(device)
        self._operations = ALL_OPERATIONS
        self._session = Session(engine.package, device)

    def call(self, operation: str, timeout: float | None = None, **arguments: Any) -> Any:
        """As `Worker.call`; errors are the operation's own, with their traceback."""
        passed = json.loads(json.dumps(arguments))
        with warnings.catch_warnings():  # which the tests make errors, and a worker does not
            warnings.simplefilter("ignore")
            result = self._operations[operation](self._session, **passed)
        return json.loads(json.dumps(result))

    def resident(self) -> int:
        """Nothing: it ends with the tests."""
        return 0

    def close(self) -> None:
        """It ends with the tests."""
