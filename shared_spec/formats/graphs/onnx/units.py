"""Tensors of a graph, and the nodes that make them of others, while the graph is gone through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shared_spec import plan
from shared_spec.formats.containers.onnx import OnnxGraph, OnnxNode
from shared_spec.formats.graphs.onnx.constants import Constant, Scale
from shared_spec.formats.graphs.onnx.functions import Function, Term, leaf
from shared_spec.formats.graphs.onnx.sizes import Length, Size, letter
from shared_spec.formats.graphs.walk import LayerError, Tensor
from shared_spec.plan.layers import Layer
from shared_spec.weights.lazy_array import LazyArray

PART = -1
"""The unit of a tensor that is only part of what others compute."""


@dataclass(frozen=True)
class Unit:
    """What one node computes from tensors, or several together; the first is the input."""

    node: OnnxNode | None
    sources: tuple[Tensor, ...] = ()
    layer: Layer | None = None
    arrays: Mapping[str, LazyArray] = field(default_factory=dict)
    """Of the layer, by their leaves in the plan."""
    function: Function | None = None
    """If it acts on each number by itself: what it makes of those of its sources."""
    numbers: LazyArray | None = None
    """If it computes with a constant: one number, or one a channel."""
    first: bool = True
    """Whether the constant is what comes second."""
    scale: Scale | None = None
    """What the constant is of a norm's arrays, if it is."""

    def __str__(self) -> str:
        return "the input" if self.node is None else str(self.node)

    @property
    def operator(self) -> str:
        """What its last node is."""
        return "" if self.node is None else self.node.operator


@dataclass(frozen=True)
class Value:
    """A tensor while a graph is gone through."""

    unit: Tensor
    axes: str
    """What its axes are, in their order, of N, C, H and W."""
    channels: int | None
    size: tuple[Length, Length]
    """Height and width."""
    pooled: bool = False
    """Whether a map has become one pixel."""
    pads: tuple[Length, Length, Length, Length] | None = None
    """Zeros above, left, below and right that are still to be added."""
    unseen: bool = False
    """Whether in place of zeros it is what no maximum sees, as the edges once more."""
    reflected: bool = False
    """Whether one pixel is still to be added on all sides, by reflection."""
    spread: bool = False
    """Whether it is one pixel, given for all of a map."""
    whole: bool = False
    """Whether it is of whole numbers, whose arithmetic cuts and overflows."""
    term: Term | None = None
    """What it is of another tensor, if a norm may be made of it."""

    @property
    def known(self) -> tuple[int, int] | None:
        """Height and width, if they are so much for all images."""
        return None if any(isinstance(n, Size) for n in self.size) else self.size


Item = Value | Constant


class Units:
    """A graph, and the units of it that have been found so far."""

    def __init__(self, graph: OnnxGraph, same: bool) -> None:
        self.graph, self.same = graph, same
        """`same`: whether pads that are what TensorFlow's rule gives are taken for it."""
        self.guessed = False
        """Whether some were."""
        self.exact: set[str] = set()
        """Pools by what they give whose windows lie side by side and fill the model's own size."""
        self.rounded = False
        """Whether a number of pixels was rounded to float32."""
        self.units: list[Unit] = [Unit(None)]

    @property
    def images(self) -> Length:
        """How many images there are."""
        return self.graph.shape[0] or letter("N")

    def lengths(self, x: Value) -> dict[str, Length]:
        """Of the axes of a tensor, by their letters."""
        known = {"N": self.images, "C": x.channels or letter("C"), "1": 1}
        return known | dict(zip("HW", x.size, strict=True))

    def add(self, value: Value, unit: Unit, **changes: Any) -> Value:
        """A unit, and the tensor that it gives: that which it takes, but for `changes`."""
        self.units.append(unit)
        return replace(value, unit=len(self.units) - 1, **({"term": None} | changes))

    def pooled(self, x: Value, node: OnnxNode, kind: Any, kept: bool) -> Value:
        """A mean or a maximum over the pixels of a map."""
        unit = Unit(node, (x.unit,), plan.GlobalPool(node.outputs[0], kept, kind))
        axes = x.axes if kept else x.axes.replace("H", "").replace("W", "")
        return self.add(x, unit, axes=axes, size=(1, 1), pooled=True)

    def term(self, item: Item | None) -> Term | None:
        """What an item is of another tensor, or of an array of the file."""
        if not isinstance(item, Value):
            return leaf(item)
        plain = item.axes in ("NCHW", "NHWC") and not (item.pads or item.reflected)
        plain = plain and not (item.spread or item.whole)
        return item.term or (("of", item.unit, item.axes) if plain else None)


def entry_of(node: OnnxNode, item: Item | None, rank: int) -> LazyArray:
    """An array of a layer."""
    if not isinstance(item, Constant):
        raise LayerError(f"{node} computes with something else than an array of the file")
    if item.entry.problem or len(item.entry.shape) != rank:
        raise LayerError(f"{node} has an array of {len(item.entry.shape)} axes, expected {rank}")
    return item.entry


def map_of(node: OnnxNode, given: Sequence[Item | None], axes: str = "NCHW") -> Value:
    """The first input, a tensor of these axes."""
    x = given[0] if given else None
    if not isinstance(x, Value) or x.axes != axes:
        raise LayerError(f"{node} takes something else than a tensor of the axes {axes}")
    return x


Builder = Callable[[Units, OnnxNode, Sequence[Item | None]], Item]
"""What a node gives of its inputs, some of which depend on the image; a `LayerError` for what no
ResNet here has.
"""
