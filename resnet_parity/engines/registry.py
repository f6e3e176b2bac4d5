"""The five engines, and worker processes that run them apart from one another.

Keras can have one engine a process, and frameworks compete for memory and threads; so each engine
runs in a process of its own and exchanges safetensors files with this one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from shared_spec.errors import FrameworkError, ResNetError, did_you_mean

Device = Literal["cpu", "gpu", "tpu"]
DEVICES: tuple[Device, ...] = ("cpu", "gpu", "tpu")

Precision = Literal["highest", "default"]
"""Of the products of float32 numbers: in full, or as each framework does them when nobody asks."""
PRECISIONS: tuple[Precision, ...] = ("highest", "default")


@dataclass(frozen=True)
class Engine:
    """A backend package on a framework: `requires` are the modules that must be installed,
    `install` the extra that brings them.
    """

    name: str
    package: str
    requires: tuple[str, ...]
    install: str
    keras_backend: str | None = None

    def missing(self) -> str | None:
        """None, or a sentence that says what is not installed and how to get it."""
        absent = [m for m in self.requires if importlib.util.find_spec(m) is None]
        if not absent:
            return None
        return (
            f"{', '.join(absent)} not installed; run: pip install 'resnet-parity[{self.install}]'"
        )

    def environment(self, device: Device) -> dict[str, str]:
        """Environment of the worker process."""
        env = dict(os.environ)
        # Most of the notes that TensorFlow and XLA print on every start.
        env |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_ENABLE_X64": "1", "PYTHONUNBUFFERED": "1"}
        if self.keras_backend is not None:
            env["KERAS_BACKEND"] = self.keras_backend
        if device == "cpu":
            env |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
        elif device == "tpu":
            env["JAX_PLATFORMS"] = "tpu"
        else:
            env["JAX_PLATFORMS"] = "cuda"
            env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        return env


ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine("torch", "resnet_torch", ("torch",), "torch"),
        Engine(
            "keras:tensorflow",
            "resnet_keras",
            ("keras", "h5py", "tensorflow"),
            "tensorflow",
            "tensorflow",
        ),
        Engine("keras:jax", "resnet_keras", ("keras", "h5py", "jax"), "keras,flax", "jax"),
        Engine("keras:torch", "resnet_keras", ("keras", "h5py", "torch"), "keras,torch", "torch"),
        Engine("flax", "resnet_flax", ("jax", "flax", "optax"), "flax"),
    )
}


def parse_engines(text: str | None) -> list[Engine]:
    """Engines from a comma-separated list; all five if None.

    Raises:
        FrameworkError: naming an unknown or repeated entry.
    """
    if text is None:
        return list(ENGINES.values())
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise FrameworkError(f"engines: name at least one of {', '.join(ENGINES)}")
    for name in names:
        if name not in ENGINES:
            near = did_you_mean(name, ENGINES)
            raise FrameworkError(
                f"engines: there is no engine {name!r}{near or '; known: ' + ', '.join(ENGINES)}"
            )
        if names.count(name) > 1:
            raise FrameworkError(f"engines: {name!r} is named twice")
    return [ENGINES[name] for name in names]


def parse_device(text: str) -> Device:
    """A device kind.

    Raises:
        FrameworkError: if it is none of cpu, gpu, tpu.
    """
    for device in DEVICES:
        if text == device:
            return device
    raise FrameworkError(f"device: {text!r} is not one of {', '.join(DEVICES)}")


def parse_precision(text: str) -> Precision:
    """A precision.

    Raises:
        FrameworkError: if it is neither highest nor default.
    """
    for precision in PRECISIONS:
        if text == precision:
            return precision
    raise FrameworkError(f"precision: {text!r} is not one of {', '.join(PRECISIONS)}")


class EngineError(Exception):
    """An engine is missing, died, or raised something that is not the user's fault."""


class Worker:
    """A process that has one engine loaded. Use as a context manager.

    Args:
        engine: which engine.
        device: where it computes.
        module: what the process runs; it must call `resnet_parity.worker.operations.serve`.
    """

    def __init__(
        self,
        engine: Engine,
        device: Device = "cpu",
        module: str = "resnet_parity.worker.operations",
    ) -> None:
        missing = engine.missing()
        if missing is not None:
            raise EngineError(missing)
        self.engine = engine
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed in close()
        self._replies: queue.Queue[bytes] = queue.Queue()
        self._process = subprocess.Popen(
            # -P: a file of the user's that is called like a module must not take its place.
            [sys.executable, "-P", "-m", module, engine.package, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=engine.environment(device),
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def call(self, operation: str, timeout: float | None = None, **arguments: Any) -> Any:
        """Run an operation of the worker and return its result.

        Raises:
            ResNetError: what the operation itself raised about its input.
            EngineError: if the process died, timed out, or the operation broke.
        """
        assert self._process.stdin is not None
        try:
            line = json.dumps({"operation": operation, "arguments": arguments}) + "\n"
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError:
            raise EngineError(self._obituary()) from None
        try:
            reply = self._replies.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise EngineError(f"gave no answer within {timeout:.0f} s") from None
        if not reply:
            raise EngineError(self._obituary())
        answer = json.loads(reply)
        if "refused" in answer:
            raise ResNetError(answer["refused"])
        if "broken" in answer:
            raise EngineError(answer["broken"])
        return answer["result"]

    def resident(self) -> int:
        """Bytes of memory that the process holds now; 0 where the system does not tell."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """End the process and all that it started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            for line in stdout:
                self._replies.put(line)
        except (OSError, ValueError):
            pass  # closed while waiting
        self._replies.put(b"")

    def _obituary(self) -> str:
        """How the process ended, with the last line that it printed."""
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        last = f"; its last words: {lines[-1].strip()[:300]}" if lines else ""
        return f"the worker process {how}{last}"


def first_available(names: Sequence[str]) -> Engine:
    """The first of several engines that is installed.

    Raises:
        FrameworkError: if none is.
    """
    for name in names:
        if ENGINES[name].missing() is None:
            return ENGINES[name]
    raise FrameworkError(f"{names[0]}: {ENGINES[names[0]].missing()}")
