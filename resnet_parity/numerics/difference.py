"""Comparing arrays, and the one place that holds the tolerances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from resnet_parity.numerics.record import Count, Measured
from shared_spec.errors import ResNetError

FLOAT64_TOLERANCE = 1e-12
"""Largest max|a - b| / max|reference| in float64. Different orders of summation alone give about
2e-15 on a ResNet-50; an error of 1e-6 would have a cause."""

GRADIENT_TOLERANCE = 1e-10
"""Largest max|a - b| / max|reference| of the gradient of any one parameter in float64."""

TRAINED_TOLERANCE = 1e-8
"""The same of losses, statistics and weights after some steps: each step amplifies what the ones
before it left."""

VANISHING = 1e-12
"""A gradient this much smaller than the net's largest is zero except for rounding, like that of a
bias before a norm: there is nothing in it to compare."""

ROUNDING_FACTOR = 4.0
"""How far an engine may be from the float64 reference, in units of the error that rounding itself
is measured to cause (see `resnet_parity.numerics.rounding.perturbed`)."""

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half the spacing of floats at 1."""

COARSE = {"gpu": "float16", "tpu": "bfloat16"}
"""What the products of float32 numbers are rounded like where a framework is left to its defaults:
TF32 on GPUs has the mantissa of float16, and TPUs multiply in bfloat16."""

RULE = "max|a - b| / max|reference|"


@dataclass(frozen=True)
class Difference:
    """How far an array is from a reference, in units of the reference's largest magnitude.

    `worst` is the index of the largest difference. `maximum` is also the smallest tolerance that
    would have passed; it is NaN if either array holds one, and NaN never passes.
    """

    maximum: Measured
    mean: Measured = math.nan
    p99: Measured = math.nan
    worst: tuple[Count, ...] = ()
    scale: Measured = math.nan

    @property
    def size(self) -> float:
        """`maximum`, where NaN counts for more than any number."""
        return float("inf") if np.isnan(self.maximum) else self.maximum

    def within(self, tolerance: float) -> bool:
        """True if the difference is at most `tolerance`; never for NaN."""
        return bool(self.maximum <= tolerance)


def difference(reference: np.ndarray, other: np.ndarray) -> Difference:
    """Compare `other` with `reference`, of any one shape, under `RULE`.

    Raises:
        ResNetError: if the shapes differ, or if there is nothing to compare: no elements, or a
            reference that is zero everywhere.
    """
    if reference.shape != other.shape:
        raise ResNetError(f"compared arrays have shapes {reference.shape} and {other.shape}")
    if reference.size == 0:
        raise ResNetError("compared arrays have no elements")
    a, b = reference.astype(np.float64), other.astype(np.float64)
    scale = float(np.max(np.abs(a)))
    if scale == 0:
        raise ResNetError("the reference is zero everywhere, so nothing would be compared")
    with np.errstate(invalid="ignore"):
        delta = np.abs(a - b)
    if not np.all(np.isfinite(delta)):
        worst = _index(int(np.argmin(np.isfinite(delta))), a)
        return Difference(math.nan, worst=worst, scale=scale)
    return Difference(
        maximum=float(delta.max()) / scale,
        mean=float(delta.mean()) / scale,
        p99=float(np.percentile(delta, 99)) / scale,
        worst=_index(int(delta.argmax()), a),
        scale=scale,
    )


def farthest(reference: np.ndarray, other: np.ndarray, least: float = 0.0) -> float:
    """The `maximum` of `difference` alone, which is all that thousands of arrays need: 0 for equal
    arrays, and for such as are both within `least` of 0; NaN if either holds one.
    """
    if reference.shape != other.shape:
        raise ResNetError(f"compared arrays have shapes {reference.shape} and {other.shape}")
    a, b = reference.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        delta, scale = float(np.max(np.abs(a - b))), float(np.max(np.abs(a)))
    if not np.isfinite(delta):
        return float("nan")
    if delta == 0 or max(scale, float(np.max(np.abs(b)))) <= least:
        return 0.0
    return delta / scale if scale else float("inf")


def _index(flat: int, like: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, like.shape))
