"""A worker process as its parent sees it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from resnet_parity.engines.registry import Device, Engine
from shared_spec.errors import ResNetError


class EngineError(Exception):
    """An engine is missing, died, or raised something that is not the user's fault."""


class Worker(AbstractContextManager["Worker"]):
    """A process that has one engine loaded. Use as a context manager.

    Args:
        engine: which engine.
        device: where it computes.
        module: what the process runs; it must call `resnet_parity.worker.serve`.
    """

    def __init__(
        self,
        engine: Engine,
        device: Device = "cpu",
        module: str = "resnet_parity.worker",
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
        """Bytes of memory that the process holds now; 0 if the system does not say."""
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

    def __exit__(self, *failure: object) -> None:
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


Start = Callable[[Engine, Device], AbstractContextManager[Worker]]
