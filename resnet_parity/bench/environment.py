"""What a speed was measured on: processor, memory, threads, settings."""

from __future__ import annotations

import os
import platform
from typing import Any

from resnet_parity.bench.result import BenchRequest
from resnet_parity.engines.machine import processor
from resnet_parity.engines.memory import installed_memory


def measured_on(request: BenchRequest) -> dict[str, Any]:
    """Device, processor, memory, threads and environment variables, as JSON data."""
    return {
        "device": request.device,
        "hardware": processor(),
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
