"""The layers that units are, by themselves or several together: activations, norms of arithmetic,
biases, attention, blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeGuard

import numpy as np

from shared_spec import plan
from shared_spec.formats.containers.onnx import OnnxNode
from shared_spec.formats.graphs.events import ChannelConv, Output, Part, Step
from shared_spec.formats.graphs.onnx.functions import KNOWN, SAMPLES
from shared_spec.formats.graphs.onnx.graph import UnitGraph
from shared_spec.formats.graphs.onnx.units import Unit
from shared_spec.formats.graphs.walk import LayerError, Tensor, Walk, summed
from shared_spec.plan.layers import Layer
from shared_spec.weights.folding import PLAIN, filled
from shared_spec.weights.lazy_array import LazyArray

_REGION = 64
"""Nodes of one function; a gelu has 9."""
_EVALUATED = 2**15
"""Nodes that are evaluated on the samples; ResNet-1202 with gelu has a third as many."""
_NEAR = 1e-7
"""How far a function may be from one of a plan, as a share: its constants are of float32."""
_EXACT = 1e-13
"""Within which one is not rounded."""
_DEFINED = ("Gelu", "HardSwish", "Mish")
"""Operators that ONNX defines by others, with numbers of float32."""
LAYER_SCALE = 1e-6
"""From what a LayerScale starts, which files do not say; ConvNeXt's number, and that of most."""
OTHER_NORMS = (plan.GroupNorm, plan.EvoNorm, plan.FilterResponseNorm)


@dataclass(frozen=True)
class Owner:
    """Who has a layer: a node, and its arrays by their leaves in the plan."""

    node: OnnxNode | None
    arrays: Mapping[str, LazyArray] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.node)


@dataclass
class _Node:
    """A unit, or several that together are a layer."""

    unit: Unit
    sources: tuple[Tensor, ...]
    steps: tuple[Step, ...] = ()
    halves: bool = False
    halved: bool = False
    """Whether the one node that follows halves it."""

    def __str__(self) -> str:
        return str(self.unit)


class _Walk(Walk[_Node]):
    def entered(self, at: Tensor) -> Iterable[Part]:
        """See `Walk`."""
        return self.steps(at)

    def steps(self, at: Tensor) -> Iterable[Step]:
        """See `Walk`."""
        node = self.nodes[at]
        if len(node.sources) != 1:
            raise LayerError(f"{node} joins tensors that do not come from one fork")
        if node.halves and not self.nodes[node.sources[0]].halved:
            raise LayerError(f"{node} halves a tensor, which no ResNet here does")
        return node.steps

    def joined(self, end: _Node, ways: Mapping[Tensor, list[Step]]) -> Part:
        """See `Walk`."""
        a, b = (ways[source] for source in end.sources)
        kinds = tuple(
            getattr(steps[0].layer, "kind", "") if len(steps) == 1 else "" for steps in (a, b)
        )
        assert end.unit.node is not None
        name, owner = end.unit.node.outputs[0], Owner(end.unit.node)
        if end.unit.operator == "Concat" and kinds == ("avg", "max"):
            return Step(plan.GlobalPool(name, False, "catavgmax"), owner)
        if end.unit.operator == "Add" and sorted(kinds) == ["avg", "max"] and end.halved:
            return Step(plan.GlobalPool(name, False, "avgmax"), owner)
        if end.unit.operator != "Add" or end.halved:
            raise LayerError(f"{end} joins two tensors, which no ResNet here does in this way")
        return summed(ways)


_GATES = (["mean", "fc", "relu", "fc", "sigmoid"], ["mean", "along", "sigmoid"])
"""Layers of squeeze-and-excitation, and of channel attention."""
_GATE = 8
"""Nodes of either, in which biases may be nodes of their own."""


def _gate(steps: list[Step]) -> tuple[Layer, dict[str, LazyArray]] | None:
    """The attention whose layers these are, with its arrays."""
    kinds = [_what(step.layer) for step in steps]
    if kinds not in _GATES:
        return None
    if kinds == _GATES[1]:
        along = steps[1].layer
        assert isinstance(along, ChannelConv)
        arrays = {"conv.weight": steps[1].owner.arrays["weight"]}
        return plan.ChannelAttention("", along.channels, along.kernel_size), arrays
    one, two = steps[1].layer, steps[3].layer
    assert isinstance(one, plan.Conv)
    assert isinstance(two, plan.Conv)
    if (two.out_channels, two.in_channels) != (one.in_channels, one.out_channels):
        return None
    arrays = {
        f"{place}.{leaf}": array
        for place, step in (("fc1", steps[1]), ("fc2", steps[3]))
        for leaf, array in step.owner.arrays.items()
    }
    return plan.SqueezeExcite("", one.in_channels, one.out_channels), arrays


def _what(layer: Layer) -> str:
    """Which of these a layer is."""
    if isinstance(layer, plan.GlobalPool) and layer.kind == "avg":
        return "mean"
    if isinstance(layer, ChannelConv):
        return "along"
    if isinstance(layer, plan.Activation):
        return layer.function
    if not isinstance(layer, plan.Conv) or not layer.bias or layer.padding not in (0, "same"):
        return ""
    return "fc" if (layer.kernel_size, layer.stride, layer.groups) == (1, 1, 1) else ""


_SCALED = ("M", "MAM", "AMAM", "AAMAM")
"""What ends with a factor behind a norm, or behind what has taken one in."""
_KINDS = {"Add": "A", "Sub": "A", "Mul": "M", "Max": "X"}


def _sees_pixels(layer: Layer) -> TypeGuard[plan.Conv]:
    """Whether it is a convolution of single pixels."""
    return isinstance(layer, plan.Conv) and layer.kernel_size == 1 and layer.padding in (0, "same")


def _layer_scale(unit: Unit) -> Step:
    """A product with a number for each channel that is no norm's."""
    assert unit.numbers is not None
    assert unit.node is not None
    layer = plan.LayerScale(unit.node.outputs[0], unit.numbers.shape[0], LAYER_SCALE)
    return Step(layer, Owner(unit.node, {"gamma": unit.numbers}))


def _distance(found: np.ndarray, known: np.ndarray) -> float:
    """How far two functions are apart on the samples, as a share of those or of themselves."""
    if np.shape(found) != known.shape:
        return np.inf
    scale = np.maximum(np.abs(SAMPLES), np.abs(known))
    far = np.abs(found - known) / np.where(scale == 0, 1, scale)
    return float(np.where(np.isnan(far), np.inf, far).max())


def _addend(unit: Unit) -> LazyArray:
    assert unit.numbers is not None
    return _negative(unit.numbers) if unit.operator == "Sub" else unit.numbers


def _negative(entry: LazyArray) -> LazyArray:
    return LazyArray(entry.shape, entry.dtype, lambda: -entry.read())


class Joined:
    """The layers of a graph, and what was found out about them."""

    def __init__(self, graph: UnitGraph, rounded: bool) -> None:
        self.graph = graph
        self.rounded = rounded
        """Whether numbers of a norm or an activation were rounded to float32."""
        self.folded = 0
        """Norms that have no variance of their own."""
        self._evaluated = 0

    def parts(self, start: Tensor) -> list[Part]:
        """Chains and forks from a tensor on."""
        nodes = self._nodes(start)
        consumers: dict[Tensor, list[Tensor]] = {}
        for number, node in enumerate(nodes):
            for source in node.sources:
                consumers.setdefault(source, []).append(number)
        uses = {number: tuple(users) for number, users in consumers.items()}
        levels = frozenset(self.graph.levels)
        parts = list(_Walk(nodes, uses, self.graph.output, 0, levels).parts(start))
        if sum(isinstance(p, Step) and isinstance(p.layer, Output) for p in parts) < len(levels):
            raise LayerError("it gives a tensor from inside a block")
        return parts

    def _nodes(self, start: Tensor) -> list[_Node]:
        """Units from a tensor on, put together to layers; those that are within others are left
        without sources.
        """
        units = self.graph.units
        used = {user for users in self.graph.consumers.values() for user in users}
        roots = self._roots(start, used)
        nodes = [_Node(unit, ()) for unit in units]
        for number, unit in enumerate(units):
            if number <= start or number not in used:
                continue
            if number in roots:
                inside = [u for u in self.graph.users(number) if roots.get(u) == roots[number]]
                outside = len(inside) < len(self.graph.users(number)) or number == self.graph.output
                if outside:
                    nodes[number] = self._function(number, roots)
            elif unit.layer is not None:
                layer = unit.layer
                every = self._every(unit)
                if every > 1 and _sees_pixels(layer):
                    layer = replace(layer, stride=layer.stride * every)
                    nodes[unit.sources[0]].steps = ()
                step = Step(layer, Owner(unit.node, unit.arrays))
                nodes[number] = _Node(unit, unit.sources, (step,))
            elif unit.numbers is None:
                nodes[number] = _Node(unit, unit.sources)
        self._join_affine(nodes, used, start)
        for number in used:
            self._join_gate(nodes, number)
        for node in nodes:
            if node.halves and len(self.graph.users(node.sources[0])) == 1:
                nodes[node.sources[0]].halved = len(nodes[node.sources[0]].sources) == 2
        return nodes

    def _every(self, unit: Unit) -> int:
        """At which steps a unit sees pixels, since it alone takes what leaves the others out."""
        before = self.graph.units[unit.sources[0]].layer
        alone = len(self.graph.users(unit.sources[0])) == 1
        if alone and isinstance(before, plan.MaxPool) and before.kernel_size == 1:
            return before.stride
        return 1

    def _roots(self, start: Tensor, used: set[Tensor]) -> dict[Tensor, Tensor]:
        """Of each unit that computes a function of one tensor, number by number: that tensor."""
        roots: dict[Tensor, Tensor] = {}
        for number, unit in enumerate(self.graph.units):
            if unit.function is None or number <= start or number not in used:
                continue
            sources = {roots.get(source, source) for source in unit.sources}
            if len(sources) == 1:
                roots[number] = sources.pop()
        return roots

    def _function(self, end: Tensor, roots: Mapping[Tensor, Tensor]) -> _Node:
        """The activation that a unit gives of the tensor from which it and others begin."""
        units, root = self.graph.units, roots[end]
        region, waiting = {end}, [end]
        while waiting:
            for source in units[waiting.pop()].sources:
                if source != root and source not in region:
                    region.add(source)
                    waiting.append(source)
            if len(region) > _REGION:
                raise LayerError(f"{units[end]} is the last of more steps than any activation has")
        self._evaluated += len(region)
        if self._evaluated > _EVALUATED:
            raise LayerError("it has more activations, or longer ones, than any ResNet")
        found = {root: SAMPLES}
        with np.errstate(all="ignore"):
            for number in sorted(region):
                function = units[number].function
                assert function is not None
                found[number] = function(*(found[s] for s in units[number].sources))
            far = {name: _distance(found[end], known) for name, known in self._known.items()}
        name = min(far, key=far.__getitem__)
        if far[name] > _NEAR:
            raise LayerError(f"{units[end]} ends a function that is no activation of a spec")
        defined = any(units[number].operator in _DEFINED for number in region)
        self.rounded = self.rounded or defined or far[name] > _EXACT
        node = units[end].node
        assert node is not None
        if name == "half":
            return _Node(units[end], (root,), halves=True)
        step = Step(plan.Activation(node.outputs[0], name), Owner(node))
        return _Node(units[end], (root,), (step,))

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            return {name: function(SAMPLES) for name, function in KNOWN.items()}

    def _join_affine(self, nodes: list[_Node], used: set[Tensor], start: Tensor) -> None:
        """Put what multiplies and adds numbers of each channel together to norms and biases."""
        units = self.graph.units
        affine = {
            n
            for n in used
            if n > start and units[n].numbers is not None and units[n].function is None
        }
        for number in sorted(affine):
            if units[number].sources[0] in affine:
                continue
            run = [number]
            while len(users := self.graph.users(run[-1])) == 1 and users[0] in affine:
                run.append(users[0])
            if any(user in affine for user in self.graph.users(run[-1])):
                raise LayerError(f"{units[run[-1]]} enters several nodes")
            self._put(nodes, run)

    def _put(self, nodes: list[_Node], run: list[Tensor]) -> None:
        """A norm, or a bias of the layer before it, or both, in the place of some units."""
        units = [self.graph.units[n] for n in run]
        kinds = "".join(_KINDS.get(unit.operator, "?") for unit in units)
        if "?" in kinds or not all(unit.first or unit.operator != "Sub" for unit in units):
            raise LayerError(f"{units[0]} begins arithmetic that is no norm's")
        before, last = nodes[units[0].sources[0]], units[-1]
        steps: tuple[Step, ...] = ()
        step = before.steps[0] if before.steps else None
        alone = len(self.graph.users(units[0].sources[0])) == 1
        ends = isinstance(step.layer, OTHER_NORMS) if step is not None else False
        scales: tuple[Step, ...] = ()
        if kinds in _SCALED:
            scales, units, kinds = (_layer_scale(last),), units[:-1], kinds[:-1]
        if ends and alone and step is not None and "weight" not in step.owner.arrays:
            tau = isinstance(step.layer, plan.FilterResponseNorm)
            if kinds != ("MAX" if tau else "MA"):
                raise LayerError(f"{last} ends arithmetic that is no norm's")
            leaves = ("weight", "bias", "tau")
            own = dict(zip(leaves, map(_addend, units), strict=False))
            before.steps = (Step(step.layer, Owner(step.owner.node, {**step.owner.arrays, **own})),)
            kinds = ""
        if kinds in ("A", "AAMA"):
            if step is None or not alone or "bias" in step.owner.arrays or len(before.steps) != 1:
                raise LayerError(f"{units[0]} adds numbers that are no bias")
            if not isinstance(step.layer, plan.Conv | plan.Dense):
                raise LayerError(f"{units[0]} adds numbers that are no bias")
            owner = Owner(step.owner.node, {**step.owner.arrays, "bias": _addend(units[0])})
            before.steps = (Step(replace(step.layer, bias=True), owner),)
            units = units[1:]
            kinds = kinds[1:]
        if kinds in ("MA", "AMA"):
            scale, offset, eps = units[-2].numbers, _addend(units[-1]), PLAIN
            assert scale is not None
            (channels,) = scale.shape
            variance = filled(0.0, scale)
            told = units[-2].scale
            if told is not None and told.how == "inverse" and told.scale is not None:
                scale, variance, eps = told.scale, told.variance, told.eps
                self.rounded = self.rounded or eps != float(np.float32(eps))
            else:
                self.folded += 1
            mean = filled(0.0, scale) if kinds == "MA" else _negative(_addend(units[0]))
            node = units[-1].node
            assert node is not None
            arrays = {
                "weight": scale,
                "bias": offset,
                "running_mean": mean,
                "running_var": variance,
            }
            norm = plan.BatchNorm(node.outputs[0], channels, eps, 0.1, "unbiased")
            steps = (Step(norm, Owner(node, arrays)),)
        elif kinds:
            raise LayerError(f"{units[0]} begins arithmetic that is no norm's")
        nodes[run[-1]] = _Node(last, self.graph.units[run[0]].sources, steps + scales)

    def _join_gate(self, nodes: list[_Node], number: Tensor) -> None:
        """Squeeze-and-excitation in the place of a product and of the way to its second factor."""
        end = nodes[number]
        if end.unit.operator != "Mul" or len(end.sources) != 2:
            return
        for entering, at in (end.sources, end.sources[::-1]):
            way: list[Tensor] = []
            while at != entering and len(nodes[at].sources) == 1 and len(way) < _GATE:
                if len(self.graph.users(at)) != 1 or len(nodes[at].steps) > 1:
                    break
                way.insert(0, at)
                (at,) = nodes[at].sources
            steps = [step for n in way for step in nodes[n].steps]
            found = _gate(steps) if at == entering else None
            if found is None:
                continue
            node = end.unit.node
            assert node is not None
            layer, arrays = found
            for n in way:
                nodes[n] = _Node(nodes[n].unit, ())
            step = Step(replace(layer, name=node.outputs[0]), Owner(node, arrays))
            nodes[number] = _Node(end.unit, (entering,), (step,))
            return
