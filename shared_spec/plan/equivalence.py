"""Whether two plans compute the same function, and weights for one plan from those of another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shared_spec.plan.layers import BatchNorm, Conv
from shared_spec.plan.network import Plan


def function_of(p: Plan, exact: bool = True) -> list[Any]:
    """What decides a plan's results: neither how statistics move in training, nor what starts at
    zero. Two plans whose lists are equal compute the same function; unless `exact`, with weights
    for their batch norms that take up the rest.
    """

    def kept(layer: Any) -> Any:
        if isinstance(layer, BatchNorm):
            return (layer.name, layer.channels, layer.eps if exact else None)
        if isinstance(layer, Conv) and not exact:
            return replace(layer, bias=False)
        return layer.mapped(lambda chain: tuple(map(kept, chain)))

    blocks = [(b.name, b.shortcut_from, [kept(x) for x in b.layers()]) for b in p.blocks()]
    behind = [(j.sources, [kept(x) for x in j.layers]) for j in p.junctions]
    return [[kept(x) for x in p.stem], blocks, [kept(x) for x in p.head], behind, p.outputs]


def parting(a: Plan, b: Plan, exact: bool = True) -> str | None:
    """The first layer in which two plans differ, in words; None if they are equivalent."""
    first, second = function_of(a, exact), function_of(b, exact)
    if first == second:
        return None
    flat = [
        [*stem, *(layer for *_, layers in (*blocks, *behind) for layer in layers), *head]
        for stem, blocks, head, behind, _ in (first, second)
    ]
    for ours, theirs in zip(*flat, strict=False):
        if ours != theirs:
            return f"{ours} would be {theirs}"
    return "it has other layers or outputs"
