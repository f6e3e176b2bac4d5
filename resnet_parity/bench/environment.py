"""What a speed was measured on: processor, memory, threads, settings."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnet_parity.bench.result import BenchRequest
from resnet_parity.engines.memory import installed_memory


def measured_on(request: BenchRequest) -> dict[str, Any]:
    """Device, processor, memory, threads and environment variables, as JSON data."""
    return {
        "device": request.device,
        "hardware": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": installed_memory(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {},
        "threads": {},
        "tf32": request.tf32,
        "matmul_precision": {},
        "variables": {},
        "rounds": request.rounds,
        "processes": request.processes,
        "seed": request.seed,
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
