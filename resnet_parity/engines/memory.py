"""How much memory there is, and what fits into it."""

from __future__ import annotations

import os
from pathlib import Path

from shared_spec.weights.state import numpy_dtype

WORKING_BYTES = 3 * 2**29
"""What a model needs besides its weights: the framework, activations, one layer's copies."""


def available_memory() -> int | None:
    """Bytes that processes can still take without swapping; None if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        facts = {key: int(rest.split()[0]) for key, rest in (x.split(":", 1) for x in lines)}
        return facts["MemAvailable"] * 1024
    except (OSError, KeyError, ValueError):
        return installed_memory()


def installed_memory() -> int | None:
    """Bytes of the machine's memory; None if the system does not say."""
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
