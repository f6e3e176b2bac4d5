"""How the report writes numbers: one form for each quantity, the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

ABSENT = "–"


def error(value: float | None) -> str:
    """A relative error: `1.3e-15`, and `0` where two sides are equal bit for bit."""
    if value is None or math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞"
    return "0" if value == 0 else f"{value:.1e}"


def bound(value: float | None) -> str:
    """A bound, which is often a round one: `1e-12`."""
    if value is None or not math.isfinite(value):
        return error(value)
    short = f"{value:.0e}"
    return short if math.isclose(float(short), value, rel_tol=1e-9) else f"{value:.1e}"


def count(value: float | None) -> str:
    """A whole number in groups of three."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:,.0f}"


def rate(value: float | None) -> str:
    """Images a second: three digits at least, none after the point from 100 on."""
    return ABSENT if value is None or not math.isfinite(value) else _digits(value)


def percent(value: float | None) -> str:
    """A share."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:.0%}".replace("%", " %") if value >= 0.1 else f"{100 * value:.1f} %"


def ratio(value: float | None) -> str:
    """How many times as fast."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.2f}×"


def seconds(value: float | None) -> str:
    """What takes long, such as a start: seconds, so that columns align."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:,.2f} s"


def milliseconds(value: float | None) -> str:
    """What takes little, such as a batch; from seconds."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value * 1e3:,.1f} ms" if value >= 1e-3 else f"{value * 1e3:.3f} ms"


def scaled(value: float | None, unit: str) -> str:
    """With the prefix that leaves one to three digits before the point: `4.09 G`."""
    if value is None or not math.isfinite(value):
        return ABSENT
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{_digits(value / size)} {prefix}{unit}"
    return f"{value:g} {unit}".rstrip()


def memory_unit(values: Sequence[float]) -> tuple[float, str]:
    """One unit for several amounts of memory, in bytes, and its name."""
    return (1e9, "GB") if max(values, default=0) >= 1e9 else (1e6, "MB")


def shape(values: Sequence[object]) -> str:
    """`224 × 224 × 3`."""
    return " × ".join(map(str, values))


def plural(number: int, one: str) -> str:
    """`1 engine`, `5 engines`."""
    return f"{number:,} {one if number == 1 else one + 's'}"


def _digits(value: float) -> str:
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{places}f}"
