"""A fault in how files are read, to be found by somebody who reads them by himself."""

from __future__ import annotations

from typing import Any

from shared_spec.formats import read
from shared_spec.weights.lazy_array import LazyArrays

_SOUND = read.arrays_of


def _swapped(*arguments: Any) -> LazyArrays:
    """As `arrays_of`, with two arrays of one shape in the place of one another: a norm's mean and
    variance, or else its weight and bias.
    """
    entries = dict(_SOUND(*arguments).entries)
    leaves = ("running_mean", "running_var")
    if not any(name.endswith(leaves) for name in entries):
        leaves = ("weight", "bias")
    norm = next(
        name.removesuffix(leaves[1])
        for name, entry in entries.items()
        if name.endswith(leaves[1])
        and entry.shape == entries[name.removesuffix(leaves[1]) + leaves[0]].shape
    )
    a, b = (norm + leaf for leaf in leaves)
    entries[a], entries[b] = entries[b], entries[a]
    return LazyArrays(entries)


def misread(resnet: Any, wrong: bool) -> None:
    """Read files wrongly from now on, or rightly again."""
    read.arrays_of = _swapped if wrong else _SOUND
