"""The processor of this machine."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """How many of its cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # which only Linux has
        return os.cpu_count() or 1


def processor() -> str:
    """What the processor is called."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
