"""A fault in how files are read, to be found by somebody who reads them by himself."""

from __future__ import annotations

from typing import Any

from shared_spec.formats import read
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import Dialect
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import METADATA_KEY
from shared_spec.weights.lazy_array import LazyArrays

_SOUND = read.arrays_of


def _swapped(dialect: Dialect, source: Source, spec: ResNetSpec) -> LazyArrays:
    """As `arrays_of`, with weight and bias of one norm in the place of one another. Files of our
    own, and what has been read already, are read rightly.
    """
    found = _SOUND(dialect, source, spec)
    if METADATA_KEY in source.metadata or not source.path.exists():
        return found
    entries = dict(found.entries)
    norms = (name.removesuffix("bias") for name in entries if name.endswith(".bias"))
    bias, weight = next(
        (f"{norm}bias", f"{norm}weight")
        for norm in norms
        if entries[f"{norm}bias"].shape == entries[f"{norm}weight"].shape
    )
    entries[bias], entries[weight] = entries[weight], entries[bias]
    return LazyArrays(entries)


def misread(resnet: Any, wrong: bool) -> None:
    """Read files wrongly from now on, or rightly again."""
    read.arrays_of = _swapped if wrong else _SOUND
