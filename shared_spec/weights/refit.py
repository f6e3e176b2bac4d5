"""Weights for a net that computes the same by other numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from shared_spec.errors import SpecError
from shared_spec.plan.equivalence import function_of, parting
from shared_spec.plan.layers import BatchNorm, Conv
from shared_spec.plan.network import Plan
from shared_spec.weights.lazy_array import LazyArray, LazyArrays, entries_of

Entries = dict[str, LazyArray]


def weights_for_library(
    state: Mapping[str, np.ndarray], ours: Plan, theirs: Plan
) -> Mapping[str, np.ndarray]:
    """Weights with which `theirs` computes what `ours` computes with `state`.

    The plans may differ in the biases of convolutions before a batch norm, which go into its mean
    or are zeros, and in the eps of batch norms, whose difference goes into the variance. Nothing
    is rounded where the plans are equivalent; else the means and variances are, once.

    Raises:
        SpecError: naming the first layer that would be another, where there are no such weights.
    """
    if function_of(ours) == function_of(theirs):
        return state
    found = parting(ours, theirs, exact=False)
    if found is not None:
        raise SpecError(found)
    entries = entries_of(state)
    changed = {q.name: entries[q.name] for q in theirs.parameters() if q.name in entries}
    for (layer, norm), (other, _) in zip(_chained(ours), _chained(theirs), strict=True):
        if isinstance(layer, Conv) and isinstance(other, Conv) and layer.bias != other.bias:
            changed |= _moved_bias(layer, norm, other.bias, entries)
        if isinstance(layer, BatchNorm) and isinstance(other, BatchNorm) and layer.eps != other.eps:
            name = f"{layer.name}.running_var"
            changed[name] = _shifted(entries[name], layer.eps - other.eps, layer.name)
    return LazyArrays(changed)


def _chained(p: Plan) -> Iterator[tuple[Any, Any]]:
    """Each layer with the one that alone takes its output."""
    chains = [p.stem, p.head]
    for block in p.blocks():
        chains += [block.pre, block.branch, block.shortcut, block.output]
    chains += [junction.layers for junction in p.junctions]
    for chain in chains:
        yield from zip(chain, [*chain[1:], None], strict=False)  # an empty chain has none


def _moved_bias(layer: Conv, norm: Any, wanted: bool, entries: Entries) -> Entries:
    name = f"{layer.name}.bias"
    if wanted:
        dtype = entries[f"{layer.name}.weight"].dtype
        return {name: LazyArray.of(np.zeros(layer.out_channels, dtype))}
    if not isinstance(norm, BatchNorm):
        raise SpecError(f"the bias of {layer.name} has no batch norm behind it to go into")
    mean, bias = entries[f"{norm.name}.running_mean"], entries[name]

    def moved() -> np.ndarray:
        wide = mean.read().astype(np.float64) - bias.read().astype(np.float64)
        return wide.astype(mean.dtype)

    return {f"{norm.name}.running_mean": LazyArray(mean.shape, mean.dtype, moved)}


def _shifted(variance: LazyArray, by: float, name: str) -> LazyArray:
    wide = variance.read().astype(np.float64) + by
    if (wide < 0).any():
        raise SpecError(f"the variance of {name} is smaller than the change of its eps, {by:g}")
    return LazyArray.of(wide.astype(variance.dtype))
