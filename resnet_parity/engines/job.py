"""What the worker processes of several engines are given and what they give back.

Weights and images lie in files that are written once and that every engine reads. They are
temporary, so that nothing waits for the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.engines.process import EngineError, Start, Worker
from resnet_parity.engines.registry import Device, Engine
from shared_spec.errors import FrameworkError, ResNetError
from shared_spec.formats.canonical_file import read_safetensors, save_canonical
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.state import State


@dataclass(frozen=True)
class EngineJob:
    """A folder of files that workers read and write, and the way workers are started."""

    folder: Path
    start: Start | None = None
    """None starts a process each."""

    def path(self, name: str) -> str:
        """Of a file of arrays."""
        return str(self.folder / f"{name}.safetensors")

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> str:
        """Write arrays, in place of an earlier file of that name; its path."""
        path = self.path(name)
        save_canonical(Path(path), Checkpoint(arrays))
        return path

    def run(
        self, call: Callable[..., Any], operation: str, outputs: str = "outputs", **arguments: Any
    ) -> tuple[Any, State]:
        """A worker's answer to an operation, and the arrays that it wrote under the name `outputs`.

        Raises:
            ResNetError, EngineError: see `Worker.call`.
        """
        path = self.path(outputs)
        answer = call(operation, outputs=path, **arguments)
        return answer, dict(read_safetensors(path).state)

    def begin(self, engine: Engine, device: Device = "cpu") -> AbstractContextManager[Worker]:
        """An engine's worker, whose failures are its own `EngineError`."""
        return (self.start or Worker)(engine, device)

    @contextmanager
    def worker(self, engine: Engine, device: Device = "cpu") -> Iterator[Worker]:
        """An engine's worker; what goes wrong with it is an error that names the engine.

        Raises:
            FrameworkError: if the engine is not installed.
            ResNetError: if its process dies, or an operation breaks.
        """
        absent = engine.missing()
        if absent is not None:
            raise FrameworkError(f"{engine.name}: {absent}")
        try:
            with self.begin(engine, device) as worker:
                yield worker
        except EngineError as error:
            raise ResNetError(f"{engine.name} failed: {error}") from None


@dataclass(frozen=True)
class ForwardPass:
    """What the worker's operation `run` is asked for: a net on files of images, see there."""

    spec: dict[str, Any]
    weights: str
    dtype: str
    images: list[str]
    blocks: bool = True
    compiled: bool = True
    precision: str = "highest"
    form: str = "predict"
    """What gives the results: `predict`, or another of `Session.function`."""
