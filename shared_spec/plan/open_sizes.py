"""How the sizes of maps are written while the size of images is open.

Exporters that trace with symbols compare two sizes by how they are written: JAX has
`floordiv(height - 1, 2) + 1` for a convolution of stride 2 with padding as a number, and
`-floordiv(-height, 2)` for one with `same`, and does not know that these are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import count

from shared_spec import plan
from shared_spec.errors import SpecError
from shared_spec.plan.layers import Layer, Layers, Padding
from shared_spec.plan.network import Plan
from shared_spec.plan.summary import layer_rows


@dataclass(frozen=True)
class Side:
    """Pixels of a side of a map: those of the images after some divisions, and `more`.

    A division is what is added before it, by what is divided, and whether it rounds up.
    """

    divisions: tuple[tuple[int, int, bool], ...] = ()
    more: int = 0

    def window(self, extent: int, stride: int, padding: Padding) -> Side:
        """The side after windows of an extent, with so much padding at both ends together."""
        if padding == "same":
            if extent > 1 and stride > 1:
                return Side((*self.divisions, (self.more, stride, True)))
            padding = extent - 1
        inside = self.more + padding - extent
        if stride == 1:
            return Side(self.divisions, inside + 1)
        return Side((*self.divisions, (inside, stride, False)), 1)


def told_apart(p: Plan) -> str | None:
    """The first block or layer whose parts have sizes that are written differently, and so cannot
    be put together; None if there is none.
    """
    side = reduce(_after, p.stem, Side())
    for block in p.blocks():
        for layer in block.layers():
            if len({*_paths(layer, side)}) > 1:
                return layer.name
        entering = reduce(_after, block.pre, side)
        given = reduce(_after, block.branch, entering)
        start = side if block.shortcut_from == "input" else entering
        if block.shortcut_from is not None and reduce(_after, block.shortcut, start) != given:
            return block.name
        side = reduce(_after, block.output, given)
    return None


def smallest(p: Plan) -> int:
    """Height and width of the smallest square images that the net takes, of those that have any
    size.
    """
    return next(side for side in count(1) if _takes(p, side))


def _takes(p: Plan, side: int) -> bool:
    try:
        layer_rows(p, (side, side))
    except SpecError:
        return False
    return True


def _after(side: Side, layer: Layer) -> Side:
    """The side behind a layer; most keep it."""
    match layer:
        case plan.Conv(extent=k, stride=s, padding=p):
            return side.window(k, s, p if p == "same" else 2 * p)
        case plan.MaxPool(kernel_size=k, stride=s, padding=p):
            return side.window(k, s, p if p == "same" else sum(layer.around()))
        case plan.AvgPool(kernel_size=k, stride=s, padding=p):
            # Of two pixels, `same` is one pixel at the end for every size (`resnet_flax.layers`).
            one = p == "same" and k == 2
            return side.window(k, s, 1 if one else p if p == "same" else 2 * p)
        case plan.BlurPool(stride=s) | plan.ZeroPadShortcut(stride=s):
            return side.window(1, s, 0)
        case plan.ZeroPad(amount=n):
            return Side(side.divisions, side.more + 2 * n)
    return next(_paths(layer, side), side)


def _paths(layer: Layer, side: Side) -> Iterator[Side]:
    """The sides behind the chains that a layer's maps come from."""
    chains: tuple[Layers, ...] = ()
    match layer:
        case plan.SelectiveKernel(paths=paths):
            chains = paths
        case plan.HierarchicalSplit(paths=paths, rest=rest, parts=parts):
            chains = (*paths, rest) if parts > len(paths) else paths
        case plan.SplitAttention(branch=branch):
            chains = (branch,)
    return (reduce(_after, chain, side) for chain in chains)
