"""Where the input of each layer of a plan comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared_spec import plan
from shared_spec.plan.layers import Layers
from shared_spec.plan.network import Plan

IMAGES = ""
"""The source of a layer that takes the images."""

_AVERAGING = (
    plan.GlobalPool,
    plan.AttentionPool,
    plan.SqueezeExcite,
    plan.ChannelAttention,
    plan.GlobalContext,
    plan.SelectiveKernel,
    plan.SplitAttention,
    plan.GroupNorm,
    plan.EvoNorm,
    plan.FilterResponseNorm,
)


@dataclass(frozen=True)
class Node:
    """A layer or a block: `sources` are the nodes whose outputs' sum enters it."""

    name: str
    kind: str
    sources: tuple[str, ...]
    inside: tuple[str, ...] = ()
    """The layers of a block."""
    averages: bool = False
    """Whether it sums over whole maps."""


def recorded(found: Sequence[Node]) -> list[str]:
    """The names of nodes, and of what takes several maps and so is none."""
    sources = (name for node in found for name in node.sources if name != IMAGES)
    return [*dict.fromkeys((*(node.name for node in found), *sources))]


def nodes(p: Plan) -> list[Node]:
    """All layers and blocks in the order of `p.layers()`, each block after its layers; but none of
    those that take several maps, which are sources alone.
    """
    found: list[Node] = []

    def chain(layers: Layers, entering: tuple[str, ...]) -> tuple[str, ...]:
        for layer in layers:
            kind = type(layer)
            found.append(Node(layer.name, kind.__name__, entering, (), kind in _AVERAGING))
            entering = (layer.name,)
        return entering

    x = chain(p.stem, (IMAGES,))
    for block in p.blocks():
        h = chain(block.pre, x)
        y = chain(block.branch, h)
        if block.shortcut_from is not None:
            y += chain(block.shortcut, x if block.shortcut_from == "input" else h)
        chain(block.output, y)
        inside = tuple(layer.name for layer in block.layers())
        found.append(Node(block.name, "block", x, inside))
        x = (block.name,)
    chain(p.head, x)
    for junction in p.junctions:
        ends = tuple(map(p.end, junction.sources))
        first, *rest = junction.layers
        if isinstance(first, plan.Join):
            chain(tuple(rest), (first.name,))
        else:
            chain(junction.layers, ends)
    return found
