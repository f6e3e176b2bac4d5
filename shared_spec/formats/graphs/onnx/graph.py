"""ONNX's operators as records of the plan, each with its arrays: what each one computes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from shared_spec import plan
from shared_spec.formats.containers.onnx import OnnxGraph, OnnxNode
from shared_spec.formats.containers.source import shown
from shared_spec.formats.graphs.onnx.arithmetic import ARITHMETIC, IDLE, PAIRS, arithmetic, idle
from shared_spec.formats.graphs.onnx.axes import AXES
from shared_spec.formats.graphs.onnx.constants import Constant, folded
from shared_spec.formats.graphs.onnx.functions import Term, combined
from shared_spec.formats.graphs.onnx.layers import LAYERS
from shared_spec.formats.graphs.onnx.sizes import letter
from shared_spec.formats.graphs.onnx.units import PART, Item, Unit, Units, Value
from shared_spec.formats.graphs.walk import ENLARGES, LayerError, Tensor
from shared_spec.plan.layers import Layer
from shared_spec.weights.lazy_array import LazyArray

_FOLDED = 2**22
"""Elements that are computed of a file's constants, at most."""
_OUTPUTS = 9
"""Maps before the stem's pool and after each of eight stages."""
OUTSIDE = -1
"""What stands for the user of a model among units."""


@dataclass(frozen=True)
class UnitGraph:
    """A model as units in the order of computation; `units[0]` is the input."""

    units: tuple[Unit, ...]
    output: Tensor
    """The last one."""
    levels: tuple[Tensor, ...]
    """Outputs before it, in their order."""
    end: Value
    first: Value
    """The input."""
    guessed: bool
    """Whether pads were taken for TensorFlow's rule, whose numbers they are at the model's size."""
    exact: frozenset[str]
    """Pools that do without pads, and would with TensorFlow's rule, at the model's own size."""
    rounded: bool
    """Whether a norm that several nodes compute has an eps that was rounded to float32, or a mean
    a number of pixels.
    """

    @cached_property
    def consumers(self) -> dict[Tensor, tuple[Tensor, ...]]:
        """The units that the output needs, by what enters them."""
        used = {self.output, *self.levels}
        for number in range(len(self.units) - 1, -1, -1):
            if number in used:
                used.update(self.units[number].sources)
        found: dict[Tensor, list[Tensor]] = {}
        for number in sorted(used):
            for source in self.units[number].sources:
                found.setdefault(source, []).append(number)
        return {source: tuple(numbers) for source, numbers in found.items()}

    def users(self, number: Tensor) -> tuple[Tensor, ...]:
        """The units that a tensor enters, and `OUTSIDE` if it is an output too."""
        given = number in self.levels
        return (*self.consumers.get(number, ()), *((OUTSIDE,) if given else ()))


def units_of(graph: OnnxGraph, arrays: Mapping[str, LazyArray]) -> UnitGraph:
    """What the nodes compute on which the output depends.

    Raises:
        LayerError: naming a node that no ResNet here has.
    """
    if len(graph.outputs) > _OUTPUTS:
        raise LayerError(
            f"it gives {len(graph.outputs)} outputs, and no ResNet here over {_OUTPUTS}"
        )
    found = _Reader(graph, arrays, same=False).read()
    return _Reader(graph, arrays, same=True).read() if found.guessed else found


class _Reader(Units):
    def __init__(self, graph: OnnxGraph, arrays: Mapping[str, LazyArray], same: bool) -> None:
        super().__init__(graph, same)
        self.items: dict[str, Item] = {name: Constant(entry) for name, entry in arrays.items()}
        self.folded = 0

    def read(self) -> UnitGraph:
        graph = self.graph
        if len(graph.shape) != 4:
            raise LayerError(f"its input has {len(graph.shape)} axes, expected 4")
        needed = self._needed()
        axes = self._axes(needed)
        places = {axis: graph.shape[i] for i, axis in enumerate(axes)}
        height, width = places["H"], places["W"]
        size = (height or letter("H"), width or letter("W"))
        image = Value(0, axes, places["C"], size, whole=graph.dtype.kind in "iub")
        self.items[graph.input] = image
        for node in needed:
            self._take(node)
        results = [self._result(name) for name in graph.outputs]
        outputs, end = [x.unit for x in results], results[-1]
        if outputs != sorted(set(outputs)):
            raise LayerError("it gives a tensor twice, or later ones before earlier ones")
        maps = all(x.axes == end.axes and len(x.axes) == 4 and not x.pooled for x in results)
        if len(results) > 1 and not maps:
            raise LayerError("it gives several outputs, which are not all maps")
        return UnitGraph(
            tuple(self.units),
            end.unit,
            tuple(outputs[:-1]),
            end,
            image,
            self.guessed,
            frozenset(self.exact),
            self.rounded or any(_rounded(unit.layer) for unit in self.units),
        )

    def _result(self, name: str) -> Value:
        """An output."""
        end = self.items.get(name)
        if not isinstance(end, Value):
            raise LayerError(f"its output {shown(name)} does not depend on its input")
        if end.pads is not None or end.reflected or end.spread or end.unit == PART:
            raise LayerError(f"its output {shown(name)} is no layer's of a ResNet here")
        return end

    def _needed(self) -> list[OnnxNode]:
        """The nodes that the output depends on, in their order."""
        wanted, kept = {*self.graph.outputs}, []
        for node in reversed(self.graph.nodes):
            if wanted.isdisjoint(node.outputs):
                continue
            kept.append(node)
            wanted.update(_taken(node))
        return kept[::-1]

    def _axes(self, nodes: Sequence[OnnxNode]) -> str:
        """Of the input: what transposes before the first convolution say."""
        known = {self.graph.input: "0123"}
        for node in nodes:
            at = known.get(node.inputs[0]) if node.inputs else None
            if at is None:
                at = next((known[name] for name in node.inputs if name in known), None)
            if at is None:
                continue
            if node.operator == "Conv":
                letters = dict(zip(at, "NCHW", strict=True))
                found = "".join(letters[place] for place in "0123")
                if found not in ("NCHW", "NHWC"):
                    raise LayerError(f"it takes images of the axes {found}, expected NCHW or NHWC")
                return found
            order = node.attributes.get("perm", (0, 1, 2, 3))
            if node.operator == "Transpose" and sorted(order) == [0, 1, 2, 3]:
                at = "".join(at[i] for i in order)
            known |= dict.fromkeys(node.outputs, at)
        raise LayerError("no convolution takes its input")

    def _take(self, node: OnnxNode) -> None:
        given: list[Item | None] = []
        for name in _taken(node):
            if name and name not in self.items:
                raise LayerError(f"{node} takes {shown(name)}, which nothing before it gives")
            item = self.items[name] if name else None
            if isinstance(item, Constant) and item.entry.problem:
                raise LayerError(f"{node} takes {shown(name)}, which {item.entry.problem}")
            given.append(item)
        if any(name in self.items for name in node.outputs):
            raise LayerError(f"{node} gives a tensor that there is already")
        values = [item for item in given if isinstance(item, Value)]
        terms = [self.term(item) for item in given]
        lifted = node.operator in ("ReduceMean", "BatchNormalization")
        term = combined(node, terms, given) if values or lifted else None
        if term is not None:
            found: Item = self._joined(node, term, given)
        elif values:
            self._check(node, given, values)
            found = _BUILDERS[node.operator](self, node, given)
        else:
            made = folded(node, [x for x in given if not isinstance(x, Value)])
            if made.computed:
                self.folded += math.prod(made.entry.shape)
                if self.folded > _FOLDED:
                    raise LayerError("it computes more of its constants than any model does")
            found = made
        self.items[node.outputs[0]] = found

    def _check(self, node: OnnxNode, given: Sequence[Item | None], values: Sequence[Value]) -> None:
        """Raise a `LayerError` for a node that no builder is for."""
        if node.operator in ("Resize", "Upsample"):
            raise LayerError(f"{node} {ENLARGES}")
        if node.operator not in _BUILDERS:
            raise LayerError(f"{node} is of an operator that no ResNet here has")
        if not isinstance(given[0], Value) and node.operator not in _EITHER:
            raise LayerError(f"{node} computes what no ResNet here does of its input")
        if any(x.whole for x in values) and node.operator not in _WHOLE:
            raise LayerError(f"{node} computes with whole numbers, which no model here does")
        if any(x.unit == PART for x in values) and node.operator not in _OF_PARTS:
            raise LayerError(f"{node} takes part of a norm, and is none of a ResNet here")
        if any(x.spread for x in values) and node.operator not in PAIRS:
            raise LayerError(f"{node} takes one pixel for a map, which no ResNet here does")
        if any(x.unseen for x in values) and node.operator not in ("MaxPool", *IDLE, "Transpose"):
            raise LayerError(f"{node} comes after a pad that only a maximum does not see")
        padded = any(x.pads and not x.unseen for x in values)
        if padded and node.operator not in ("Conv", *IDLE, "Transpose"):
            raise LayerError(f"{node} comes after zeros that are not the same on all sides")
        if any(x.reflected for x in values) and node.operator not in ("Conv", "Slice", *IDLE):
            raise LayerError(f"{node} comes after pixels that are reflected, and is no blur")

    def _joined(self, node: OnnxNode, term: Term, given: Sequence[Item | None]) -> Value:
        """What a node gives that computes a term."""
        values = [x for x in given if isinstance(x, Value)]
        x = next((v for v in values if v.unit != PART), values[0] if values else None)
        if node.operator in IDLE and x is not None:
            return replace(idle(self, node, given), term=x.term)
        match term:
            case ("average", ("of", u, axes), kept, exact) if x is not None:
                self.rounded = self.rounded or not exact
                return self.pooled(replace(x, unit=u, axes=axes), node, "avg", kept)
            case ("blurred", ("blurred", ("mirror", u, axes), one, s), other, t) if x is not None:
                if {one, other} == {"H", "W"} and s == t:
                    blur = plan.BlurPool(node.outputs[0], x.channels or 0, s)
                    size = tuple((n - 3) // s + 1 for n in x.size)
                    return self.add(x, Unit(node, (u,), blur), axes=axes, size=size)
            case ("square", ("of", _, _)):
                return replace(arithmetic(self, node, given), term=term)
            case ("ratio", ("of", u, axes), ("power", t, True), eps) if t == ("of", u, axes) and x:
                norm = plan.FilterResponseNorm(node.outputs[0], x.channels or 0, eps)
                return self.add(x, Unit(node, (u,), norm), axes=axes)
        if x is None:
            return Value(PART, "", None, (0, 0), term=term)
        return replace(x, unit=PART, axes="", term=term)


def _rounded(layer: Layer | None) -> bool:
    """Whether a layer has an eps that float32 cannot hold, and that nothing made up for."""
    if isinstance(layer, plan.Conv):
        eps = layer.standardize_eps
    else:
        kinds = plan.GroupNorm | plan.EvoNorm | plan.FilterResponseNorm
        eps = layer.eps if isinstance(layer, kinds) else None
    return eps is not None and eps != float(np.float32(eps))


def _taken(node: OnnxNode) -> tuple[str, ...]:
    """The inputs that change what it gives: in training a norm takes no statistics of others."""
    return node.inputs[: 3 if node.attributes.get("training_mode", 0) else None]


_OF_PARTS = ("Conv", "Expand", "Reshape", "Shape", "Slice", "Transpose")
"""Operators that may take part of a norm."""
_EITHER = (*PAIRS, "CastLike", "Concat")
"""Operators whose first input may be a constant beside a tensor."""
_WHOLE = ("Cast", "Gather", "Identity", "Shape", "Transpose")
"""Operators that do the same with whole numbers as with others."""
_BUILDERS = LAYERS | AXES | ARITHMETIC
