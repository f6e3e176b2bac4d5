"""How sure a share of images is: intervals that hold the true one in 95 of 100 samples."""

from __future__ import annotations

import math

_Z = 1.959963984540054
"""Of the normal distribution, 95 % lie within so many standard deviations."""


def share(count: int, of: int) -> tuple[float, float]:
    """For `count` of so many images: Wilson's score interval (1927), which does not end at a share
    of 0 or 1 when none or all of a few are counted.
    """
    centre = (count + _Z**2 / 2) / (of + _Z**2)
    spread = _Z * math.sqrt(count * (of - count) / of + _Z**2 / 4) / (of + _Z**2)
    return max(0.0, centre - spread), min(1.0, centre + spread)


def paired_difference(only_first: int, only_second: int, of: int) -> tuple[float, float]:
    """For the difference of two shares of the same images, from how many are counted in one alone:
    Wald's interval with half an image added to each of the four cases (Agresti and Min 2005), which
    has a width where the two never differ.
    """
    first, second, total = only_first + 0.5, only_second + 0.5, of + 2
    centre = (first - second) / total
    spread = _Z * math.sqrt(first + second - (first - second) ** 2 / total) / total
    return centre - spread, centre + spread
