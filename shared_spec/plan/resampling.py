"""How maps and learnt tables of positions are resampled to another size: once, for every framework
that has no such operation of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def nearest(xp: Any, side: Any, length: Any) -> Any:
    """Which of `side` numbers each of `length` takes, as PyTorch's `nearest` has it: those at
    floor(i * side / length).

    Args:
        xp: numpy, or another module with its functions.
        side: numbers that there are.
        length: numbers that there will be; either may be a scalar tensor of `xp`'s.
    """
    return xp.arange(length) * side // length


def linear(xp: Any, side: Any, length: Any) -> tuple[Any, Any, Any, Any]:
    """Between which two of `side` numbers each of `length` lies, and how far from the first, as
    PyTorch's `bilinear` has it without `align_corners`: numerators, and what divides them. All are
    whole numbers, so that no dtype rounds them; arguments as of `nearest`.
    """
    at = xp.maximum((2 * xp.arange(length) + 1) * side - length, 0)
    low = at // (2 * length)
    return low, xp.minimum(low + 1, side - 1), at - low * (2 * length), 2 * length


def cubic(xp: Any, side: int, length: Any) -> Any:
    """Weights [length, side] that resample a row of `side` numbers to one of `length`: cubic with
    a = -0.5, and wider where it shrinks, as PIL and PyTorch's `bicubic` with `antialias` have it.

    Args:
        xp: numpy, or another module with its functions.
        side: numbers that there are.
        length: numbers that there will be; a scalar tensor of `xp`'s where it is not known yet.
    """
    ratio = side / (length if isinstance(length, int) else xp.cast(length, "float64"))
    centres = (xp.arange(length, dtype="float64") + 0.5) * ratio
    pixels = xp.arange(side, dtype="float64") + 0.5
    x = xp.abs(pixels - centres[:, None]) / xp.maximum(ratio, 1.0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    weights = xp.where(x < 1, near, xp.where(x < 2, far, 0 * x))
    return weights / xp.sum(weights, axis=1, keepdims=True)


def table_weights(side: int, height: int, width: int) -> np.ndarray:
    """The matrix [1 + height * width, 1 + side * side] that makes, of a table with a first row
    beside those of side x side pixels, the table of a map of another size.
    """
    whole = np.zeros((1 + height * width, 1 + side * side))
    whole[0, 0] = 1.0
    whole[1:, 1:] = np.kron(cubic(np, side, height), cubic(np, side, width))
    return whole
