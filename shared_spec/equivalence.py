"""Whether two plans compute the same function of the same weights."""

from __future__ import annotations

from typing import Any

from shared_spec.plan import BatchNorm, Plan


def function_of(p: Plan) -> list[Any]:
    """What decides a plan's results: neither how statistics move in training, nor what starts at
    zero. Two plans whose lists are equal compute the same function.
    """
    blocks = [(b.name, b.shortcut_from, [_kept(x) for x in b.layers()]) for b in p.blocks()]
    return [[_kept(x) for x in p.stem], blocks, [_kept(x) for x in p.head], p.outputs]


def _kept(layer: Any) -> Any:
    if isinstance(layer, BatchNorm):
        return (layer.name, layer.channels, layer.eps)
    return layer


def parting(a: Plan, b: Plan) -> str | None:
    """The first layer in which two plans differ, in words; None if they are equivalent."""
    first, second = function_of(a), function_of(b)
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
