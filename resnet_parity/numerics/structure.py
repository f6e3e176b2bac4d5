"""Which operators of a foreign graph are which layers of a plan: by the way there from the images,
and the shapes of weights. Names and values play no part, so that a faulty graph is followed too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shared_spec import plan
from shared_spec.formats.containers.onnx import OnnxGraph, OnnxNode
from shared_spec.plan.dataflow import IMAGES
from shared_spec.plan.layers import TRAINING_ONLY, Layer, Layers
from shared_spec.plan.network import Plan
from shared_spec.plan.parameters import squeeze_convs
from shared_spec.weights.lazy_array import LazyArray, entries_of
from shared_spec.weights.state import State

Arrays = Mapping[str, LazyArray]
"""Constants of an operator by the leaves that they have in a plan, with a plan's order of axes."""

Place = str | int
"""Where a tensor is: behind the layer with weights of that name, or behind a sum of that number."""


_NOTHING = (plan.Identity, *TRAINING_ONLY)
"""Layers that compute nothing in inference."""


@dataclass(frozen=True)
class Call:
    """An operator of a foreign graph, with the names of the tensors that it takes and gives."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class _Site:
    """A layer with weights that a foreign graph has as an operator, or as two."""

    layer: Layer
    norm: plan.BatchNorm | None = None
    """What follows it, and may have gone into it."""


@dataclass
class Matching:
    """What of a foreign graph stands for what of a plan."""

    arrays: dict[str, dict[str, LazyArray]] = field(default_factory=dict)
    """Of layers with weights, by their names. A norm has a `bias` alone where a convolution has
    taken it in, or `weight` and `bias` where it multiplies and adds.
    """
    tensors: dict[Place, list[str]] = field(default_factory=dict)
    """The graph's, in its order."""
    layers: dict[Place, list[str]] = field(default_factory=dict)
    """The plan's, in its order; a block where no layer gives its output."""


def matched(p: Plan, images: str, calls: Sequence[Call]) -> Matching:
    """Match a graph with a plan.

    A sum has a number for the set of places that enter it, whatever the order: so each tensor costs
    the same, however deep it lies.

    Args:
        p: the plan.
        images: the tensor that enters the graph.
        calls: its operators, in the order of computation.
    """
    match = _Match(p)
    return match.followed(images, calls)


class _Match:
    def __init__(self, p: Plan) -> None:
        self.sums: dict[frozenset[Place], int] = {}
        self.sites: dict[tuple[Place, tuple[int, ...]], list[_Site]] = {}
        self.found = Matching()
        x = self._chain(p.stem, IMAGES)
        given: dict[str, Place] = {}
        for block in p.blocks():
            h = self._chain(block.pre, x)
            ends = {self._chain(block.branch, h)}
            if block.shortcut_from is not None:
                ends.add(self._chain(block.shortcut, x if block.shortcut_from == "input" else h))
            x = self._chain(block.output, self._sum(ends))
            if not block.output:
                self.found.layers.setdefault(x, []).append(block.name)
            given[block.name] = x
        x = self._chain(p.head, x)
        given |= {layer.name: x for layer in p.head[-1:]} | {"": IMAGES}
        for junction in p.junctions:
            x = self._sum(given[p.end(name)] for name in junction.sources)
            given[junction.name] = self._chain(junction.layers, x)
        self.by_name = {s.layer.name: s for sites in self.sites.values() for s in sites}

    def _sum(self, places: Iterable[Place]) -> Place:
        several = frozenset(places)
        if len(several) == 1:
            return next(iter(several))
        return self.sums.setdefault(several, len(self.sums))

    def _chain(self, layers: Layers, at: Place) -> Place:
        for i, layer in enumerate(layers):
            after = layers[i + 1] if i + 1 < len(layers) else None
            match layer:
                case plan.Conv() | plan.Dense():
                    norm = after if isinstance(after, plan.BatchNorm) else None
                    at = self._site(_Site(layer, norm), at)
                case plan.BatchNorm():
                    at = self._site(_Site(layer), at)
                case plan.SqueezeExcite():
                    first, second = squeeze_convs(layer)
                    gate = self._site(_Site(second), self._site(_Site(first), at))
                    at = self._sum((at, gate))
            if not isinstance(layer, _NOTHING):
                self.found.layers.setdefault(at, []).append(layer.name)
        return at

    def _site(self, site: _Site, at: Place) -> Place:
        self.sites.setdefault((at, _shape(site.layer)), []).append(site)
        return site.layer.name

    def followed(self, images: str, calls: Sequence[Call]) -> Matching:
        places: dict[str, Place] = {images: IMAGES}
        normed = {name for call in calls if _is_norm(call.arrays) for name in call.inputs}
        for call in calls:
            entering = {places[name] for name in call.inputs if name in places}
            if not entering:
                continue  # of constants alone
            at = self._sum(entering)
            if call.arrays:
                at = self._take(call.arrays, at, folded=not normed & set(call.outputs))
            for name in call.outputs:
                places[name] = at
                self.found.tensors.setdefault(at, []).append(name)
        return self.found

    def _take(self, arrays: Arrays, at: Place, folded: bool) -> Place:
        """Where what an operator with constants gives is; `folded` if no norm follows it."""
        taken = self.found.arrays
        if arrays.keys() == {"bias"}:
            return self._added(arrays["bias"], at, folded)
        sites = self.sites.get((at, _kernel(arrays["weight"].shape)), [])
        if len(sites) != 1 or sites[0].layer.name in taken:
            return at
        (site,) = sites
        name, own = site.layer.name, dict(arrays)
        taken[name] = own
        if "bias" in own and site.norm is not None and folded:
            taken[site.norm.name] = {"bias": own.pop("bias")}
            return site.norm.name
        return name

    def _added(self, bias: LazyArray, at: Place, folded: bool) -> Place:
        """As `_take`, of numbers that are added: the bias of the layer there, or of its norm."""
        site = self.by_name.get(at) if isinstance(at, str) else None
        own = None if site is None else self.found.arrays.get(site.layer.name)
        if site is None or own is None or "bias" in own or bias.shape != own["weight"].shape[:1]:
            return at
        if site.norm is not None and folded:
            self.found.arrays[site.norm.name] = {"bias": bias}
            return site.norm.name
        own["bias"] = bias
        self.found.tensors[at] = []  # what lacked it is no layer's
        return at


def _is_norm(arrays: Arrays) -> bool:
    """Whether an operator multiplies channels."""
    return "weight" in arrays and len(arrays["weight"].shape) == 1


def _shape(layer: Layer) -> tuple[int, ...]:
    match layer:
        case plan.Conv(kernel_size=k):
            return _kernel((layer.out_channels, layer.in_channels // layer.groups, k, k))
        case plan.Dense():
            return layer.out_features, layer.in_features
        case plan.BatchNorm():
            return (layer.channels,)
    raise TypeError(layer)


def _kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution of one pixel may be a product."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def weights_in(p: Plan, arrays: Mapping[str, Arrays]) -> tuple[State, list[str]]:
    """Canonical weights of the layers in `arrays`, and the names of those that none has.

    A norm that multiplies and adds alone has a mean of 0 and a variance that makes 1 with its eps.
    """
    norms = {x.name: x for x in p.layers() if isinstance(x, plan.BatchNorm)}
    # Whose weights a graph has in another form.
    changed = {x.name for x in p.layers() if isinstance(x, plan.Conv) and x.standardize_eps}
    state: State = {}
    for q in p.parameters():
        own = arrays.get(q.module, {})
        if q.module in changed or not own:
            continue
        norm = norms.get(q.module)
        if q.leaf in own:
            if not own[q.leaf].problem and math.prod(own[q.leaf].shape) == q.size:
                state[q.name] = own[q.leaf].array().reshape(q.shape)
        elif norm is not None:
            known = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1 - norm.eps}
            state[q.name] = np.full(q.shape, known[q.leaf])
        elif q.leaf == "bias":  # which exporters leave out where it is zero
            state[q.name] = np.zeros(q.shape)
    return state, [q.name for q in p.parameters() if q.name not in state]


def onnx_calls(graph: OnnxGraph, arrays: Mapping[str, np.ndarray]) -> list[Call]:
    """The operators of an ONNX file."""
    constants, calls = entries_of(arrays), []
    for node in graph.nodes:
        first = node.inputs[0] if node.inputs else ""
        if node.operator == "Identity" and first in constants:
            constants[node.outputs[0]] = constants[first]
            continue
        read = _ONNX.get(node.operator)
        given = [constants.get(name) for name in node.inputs]
        own = None if read is None else read(node, given)
        inputs = tuple(name for name in node.inputs if name and name not in constants)
        calls.append(Call(inputs, node.outputs, own or {}))
    return calls


Given = Sequence[LazyArray | None]


def _leaves(*names: str) -> Callable[[OnnxNode, Given], Arrays | None]:
    """Reads constants behind the first operand, of which the first has to be one."""

    def read(node: OnnxNode, given: Given) -> Arrays | None:
        if len(given) < 2 or given[1] is None:
            return None
        computed = LazyArray.refused("is computed")
        return {name: x or computed for name, x in zip(names, given[1:], strict=False)}

    return read


def _matrix(node: OnnxNode, given: Given) -> Arrays | None:
    weight = given[1]
    if weight is None or len(weight.shape) != 2 or given[0] is not None:
        return None
    own = {"weight": weight if node.attributes.get("transB") else weight.permuted((1, 0))}
    if len(given) > 2 and (bias := given[2]) is not None:
        own["bias"] = bias
    return own


def _per_channel(leaf: str) -> Callable[[OnnxNode, Given], Arrays | None]:
    def read(node: OnnxNode, given: Given) -> Arrays | None:
        own = [x for x in given if x is not None]
        if len(own) != 1 or math.prod(own[0].shape) != max(own[0].shape, default=0):
            return None
        return {leaf: own[0].reshaped((max(own[0].shape),))}

    return read


_ONNX: dict[str, Callable[[OnnxNode, Given], Arrays | None]] = {
    "Conv": _leaves("weight", "bias"),
    "BatchNormalization": _leaves("weight", "bias", "running_mean", "running_var"),
    "Gemm": _matrix,
    "MatMul": _matrix,
    "Add": _per_channel("bias"),
    "Mul": _per_channel("weight"),
}
