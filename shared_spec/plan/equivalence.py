"""Whether two plans compute the same function, and weights for one plan from those of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from shared_spec.errors import SpecError
from shared_spec.plan.network import BatchNorm, Conv, Plan
from shared_spec.weights.lazy_array import Tensor, Tensors, entries_of


def function_of(p: Plan) -> list[Any]:
    """What decides a plan's results: neither how statistics move in training, nor what starts at
    zero. Two plans whose lists are equal compute the same function.
    """
    return _described(p, exact=True)


def _described(p: Plan, exact: bool) -> list[Any]:
    def kept(layer: Any) -> Any:
        if isinstance(layer, BatchNorm):
            return (layer.name, layer.channels, layer.eps if exact else None)
        if isinstance(layer, Conv) and not exact:
            return replace(layer, bias=False)
        return layer

    blocks = [(b.name, b.shortcut_from, [kept(x) for x in b.layers()]) for b in p.blocks()]
    return [[kept(x) for x in p.stem], blocks, [kept(x) for x in p.head], p.outputs]


def parting(a: Plan, b: Plan) -> str | None:
    """The first layer in which two plans differ, in words; None if they are equivalent."""
    return _parting(function_of(a), function_of(b))


def _parting(first: list[Any], second: list[Any]) -> str | None:
    if first == second:
        return None
    flat = [
        [*stem, *(layer for _, _, layers in blocks for layer in layers), *head]
        for stem, blocks, head, _ in (first, second)
    ]
    for ours, theirs in zip(*flat, strict=False):
        if ours != theirs:
            return f"{ours} would be {theirs}"
    return "it has other layers or outputs"


def refitted(state: Mapping[str, np.ndarray], ours: Plan, theirs: Plan) -> Mapping[str, np.ndarray]:
    """Weights with which `theirs` computes what `ours` computes with `state`.

    The plans may differ in the biases of convolutions before a batch norm, which go into its mean
    or are zeros, and in the eps of batch norms, whose difference goes into the variance. Nothing
    is rounded where the plans are equivalent; else the means and variances are, once.

    Raises:
        SpecError: naming the first layer that would be another, where there are no such weights.
    """
    if function_of(ours) == function_of(theirs):
        return state
    found = _parting(_described(ours, exact=False), _described(theirs, exact=False))
    if found is not None:
        raise SpecError(found)
    entries = entries_of(state)
    changed = {q.name: entries[q.name] for q in theirs.parameters() if q.name in entries}
    for mine, its in zip(_chained(ours), _chained(theirs), strict=True):
        (layer, norm), (other, _) = mine, its
        if isinstance(layer, Conv) and isinstance(other, Conv) and layer.bias != other.bias:
            _move_bias(layer, norm, other.bias, entries, changed)
        if isinstance(layer, BatchNorm) and isinstance(other, BatchNorm) and layer.eps != other.eps:
            name = f"{layer.name}.running_var"
            changed[name] = _shifted(entries[name], layer.eps - other.eps, layer.name)
    return Tensors(changed)


def _chained(p: Plan) -> Iterator[tuple[Any, Any]]:
    """Each layer with the one that alone takes its output."""
    chains = [p.stem, p.head]
    for block in p.blocks():
        chains += [block.pre, block.branch, block.shortcut, block.output]
    for chain in chains:
        yield from zip(chain, [*chain[1:], None], strict=False)  # an empty chain has none


def _move_bias(
    layer: Conv, norm: Any, wanted: bool, entries: dict[str, Tensor], changed: dict[str, Tensor]
) -> None:
    name = f"{layer.name}.bias"
    if wanted:
        dtype = entries[f"{layer.name}.weight"].dtype
        changed[name] = Tensor.of(np.zeros(layer.out_channels, dtype))
        return
    if not isinstance(norm, BatchNorm):
        raise SpecError(f"the bias of {layer.name} has no batch norm behind it to go into")
    mean, bias = entries[f"{norm.name}.running_mean"], entries[name]
    changed[f"{norm.name}.running_mean"] = Tensor(
        mean.shape, mean.dtype, lambda: _difference(mean.read(), bias.read())
    )


def _difference(mean: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (mean.astype(np.float64) - bias.astype(np.float64)).astype(mean.dtype)


def _shifted(variance: Tensor, by: float, name: str) -> Tensor:
    wide = variance.read().astype(np.float64) + by
    if (wide < 0).any():
        raise SpecError(f"the variance of {name} is smaller than the change of its eps, {by:g}")
    return Tensor.of(wide.astype(variance.dtype))


__all__ = ["function_of", "parting", "refitted"]
