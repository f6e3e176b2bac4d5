"""Post-training quantisation: a float graph as one of 8-bit integers.

Between pairs of QuantizeLinear and DequantizeLinear, which runtimes fuse with what lies between
them into integer kernels. Kernels have a scale for each output channel, other tensors one; all are
symmetric: zero is a multiple of the scale. What follows a ReLU has no sign to spend a bit on.

Everything is stored as runtimes on CPUs want it. Tensors are uint8, in which a signed number is
shifted by 128: ONNX Runtime fuses a convolution only if what enters and what leaves it are of one
type, and drops a ReLU before uint8 whose zero is 0. Kernels are int8, biases int32 with the scale
of the sums that they are added to.

What gates channels (squeeze and excitation) stays in float32, as norms do that are in no kernel,
and what pools by attention: its sums of products have no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from resnet_onnx.graph import Graph
from resnet_onnx.model import network
from shared_spec import plan
from shared_spec.export_formats import IMAGES
from shared_spec.plan.network import Plan
from shared_spec.plan.parameters import leaves, parameters_of
from shared_spec.weights.lazy_array import LazyArray

_KERNEL_STEPS = 127

_LARGEST_BIAS = 2**30
"""Of int32, so that products can be added to it."""

_SAME_NUMBERS = ("MaxPool", "Pad", "Slice")
"""Operators whose outputs are some of their inputs and zeros."""
_KEEP_SIGN = (*_SAME_NUMBERS, "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Flatten")
_RECTIFIERS = ("Relu", "Clip")


@dataclass(frozen=True)
class Point:
    """A tensor that is rounded to 8 bits."""

    name: str
    signed: bool
    like: str
    """The one whose scale it has: itself, or where its numbers come from."""

    @property
    def steps(self) -> int:
        """From zero to the largest number."""
        return 127 if self.signed else 255


Limits = Mapping[str, float]
"""By the name of a point, the largest magnitude that it is to represent."""


def points_of(p: Plan) -> dict[str, Point]:
    """The points of a net: see `points`."""
    return points(_graph(p), p)


def _graph(p: Plan) -> Graph:
    g = Graph("float32", 17)
    network(g, p, IMAGES)
    return g


def points(g: Graph, p: Plan) -> dict[str, Point]:
    """The tensors that are to be rounded: what enters and leaves convolutions and sums of blocks,
    what leaves them behind their ReLU, and what enters dense layers; not the logits.
    """
    layers, sums = _in_integers(p), {f"{b.name}/sum" for b in p.blocks()}
    logits = {p.classifier.name} if p.classifier else set()
    producers = {node.output[0]: node for node in g.nodes}
    found: dict[str, None] = {}
    for node in g.nodes:
        if node.name in layers:
            found[node.input[0]] = None
        elif node.name in sums:
            found |= dict.fromkeys(node.input)
        if node.name in (layers | sums) - logits:
            found[_behind(g, node)] = None

    def origin(name: str) -> str:
        first = name
        while (node := producers.get(name)) is not None and node.op_type in _SAME_NUMBERS:
            name = node.input[0]
            if name in found:
                return origin(name)
        return first

    def signed(name: str) -> bool:
        while (node := producers.get(name)) is not None and node.op_type in _KEEP_SIGN:
            name = node.input[0]
        return node is None or node.op_type not in _RECTIFIERS

    return {name: Point(name, signed(name), origin(name)) for name in found}


def _in_integers(p: Plan) -> set[str]:
    """The convolutions and dense layers whose products are of integers."""
    parts = (layer for layer in p.layers() if not isinstance(layer, plan.AttentionPool))
    found = (leaf for layer in parts for leaf in leaves(layer))
    return {leaf.name for leaf in found if isinstance(leaf, plan.Conv | plan.Dense)}


def _behind(g: Graph, node: NodeProto) -> str:
    """What a node gives, or the ReLU that alone takes it."""
    (output,) = node.output
    after = [other for other in g.nodes if output in other.input]
    if len(after) == 1 and after[0].op_type in _RECTIFIERS:
        output = after[0].output[0]
    return str(output)


def quantize(g: Graph, p: Plan, limits: Limits) -> None:
    """Put a whole float graph into 8 bits; its weights are then `quantized_weights`."""
    rounded, layers = points(g, p), _in_integers(p)
    nodes, g.nodes = g.nodes, []
    names = {}
    for name, point in rounded.items():
        scale = g.constant(f"{name}/scale", activation_scale(point, limits))
        zero = g.constant(f"{name}/zero_point", np.array(128 if point.signed else 0, np.uint8))
        names[name] = scale, zero

    def round_off(name: str) -> None:
        if name in names:
            whole = g.node("QuantizeLinear", name, *names[name], name=f"{name}/quantized")
            g.node("DequantizeLinear", whole, *names[name], name=f"{name}/rounded")

    made = {node.output[0] for node in nodes}
    for name in names:
        if name not in made:
            round_off(name)
    for node in nodes:
        for i, name in enumerate(node.input):
            if name in names:
                node.input[i] = f"{name}/rounded"
        if node.name in layers:
            for i, name in enumerate(node.input[1:], 1):
                inputs = name, f"{name}/scale", f"{name}/zero_point"
                node.input[i] = g.node("DequantizeLinear", *inputs, name=f"{name}/float", axis=0)
        g.nodes.append(node)
        round_off(node.output[0])


def activation_scale(point: Point, limits: Limits) -> np.ndarray:
    """The step of a point, float32."""
    return np.array(limits[point.like] / point.steps, np.float32)


@dataclass(frozen=True)
class Stored:
    """An array of a quantised file."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def stored(p: Plan) -> Iterator[tuple[plan.Layer, str, list[Stored]]]:
    """What stands for each parameter: its layer, its leaf, and one array of float32, or integers
    with scales and zero points for each output channel.
    """
    whole = _in_integers(p)
    for layer in p.leaves():
        for q in parameters_of(layer):
            if layer.name not in whole:
                yield layer, q.leaf, [Stored(q.name, "float32", q.shape)]
                continue
            kind, channels = "int8" if q.leaf == "weight" else "int32", q.shape[:1]
            scale = Stored(f"{q.name}/scale", "float32", channels)
            zero = Stored(f"{q.name}/zero_point", kind, channels)
            yield layer, q.leaf, [Stored(q.name, kind, q.shape), scale, zero]


def quantized_weights(
    p: Plan, entries: Mapping[str, LazyArray], limits: Limits
) -> dict[str, LazyArray]:
    """The arrays of a quantised file, each computed when it is read.

    Args:
        p: a plan for inference.
        entries: its weights, of float32 or wider, by canonical name.
        limits: as for `quantize`.
    """
    g = _graph(p)
    entering = {node.name: node.input[0] for node in g.nodes}
    rounded = points(g, p)
    found: dict[str, LazyArray] = {}
    for layer, leaf, arrays in stored(p):
        read: tuple[Callable[[], np.ndarray], ...] = (entries[arrays[0].name].read,)
        if len(arrays) > 1:
            scale = activation_scale(rounded[entering[layer.name]], limits)
            one = _Quantized(layer.name, entries, scale)
            read = (one.bias, one.bias_scale) if leaf == "bias" else (one.kernel, one.kernel_scale)
            read = (*read, _Zeros(arrays[2]))
        for array, how in zip(arrays, read, strict=True):
            found[array.name] = LazyArray(array.shape, np.dtype(array.dtype), how)
    return found


@dataclass(frozen=True)
class _Zeros:
    array: Stored

    def __call__(self) -> np.ndarray:
        return np.zeros(self.array.shape, self.array.dtype)


@dataclass(frozen=True, eq=False)
class _Quantized:
    """A layer's kernel and bias as integers, given the scale of what enters it."""

    name: str
    entries: Mapping[str, LazyArray]
    entering: np.ndarray

    def _wide(self, leaf: str) -> np.ndarray:
        return self.entries[f"{self.name}.{leaf}"].read().astype(np.float64)

    @cached_property
    def _scale(self) -> np.ndarray:
        """Of each output channel, float32: the largest weight takes all steps, unless its bias
        would leave its own range.
        """
        kernel = self._wide("weight")
        scale = np.abs(kernel).reshape(len(kernel), -1).max(1) / _KERNEL_STEPS
        if f"{self.name}.bias" in self.entries:
            least = np.abs(self._wide("bias")) / (float(self.entering) * _LARGEST_BIAS)
            scale = np.maximum(scale, least)
        smallest = np.finfo(np.float32).tiny
        return np.where(scale < smallest, 1, scale).astype(np.float32)

    def kernel_scale(self) -> np.ndarray:
        return self._scale

    def kernel(self) -> np.ndarray:
        kernel = self._wide("weight")
        steps: np.ndarray = np.rint(kernel / self._scale.reshape(-1, *[1] * (kernel.ndim - 1)))
        return steps.clip(-_KERNEL_STEPS, _KERNEL_STEPS).astype(np.int8)

    def bias_scale(self) -> np.ndarray:
        scale: np.ndarray = self._scale * self.entering
        return scale

    def bias(self) -> np.ndarray:
        steps: np.ndarray = np.rint(self._wide("bias") / self.bias_scale())
        return steps.astype(np.int32)


def misfit(model: ModelProto, p: Plan, entries: Mapping[str, LazyArray]) -> str | None:
    """What of a quantised file, in words, is not the integers nearest to its net's weights; or that
    a bias has another scale than the sums that it is added to. None if all of it is.
    """
    arrays = {x.name: x for x in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    nodes = {node.name: node for node in model.graph.node}

    def parts(name: str) -> list[np.ndarray]:
        return [numpy_helper.to_array(arrays[x]) for x in makers[name].input]

    for layer, leaf, stands in stored(p):
        if len(stands) == 1:
            continue
        node, name = nodes[layer.name], f"{layer.name}.{leaf}"
        if (place := {"weight": 1, "bias": 2}[leaf]) >= len(node.input):
            return f"{name} is missing"
        whole, scale, zero = parts(node.input[place])
        wanted = entries[name].read().astype(np.float64)
        column = (-1, *[1] * (wanted.ndim - 1))
        off = np.abs(
            wanted / scale.reshape(column) - (whole.astype(np.float64) - zero.reshape(column))
        )
        far = np.flatnonzero(~(off.reshape(len(off), -1).max(1) <= 0.5))
        if len(far):
            return f"{name} is not rounded to the nearest step in channel {far[0]}"
        if leaf == "bias":
            entering = numpy_helper.to_array(arrays[makers[node.input[0]].input[1]])
            if not np.array_equal(scale, parts(node.input[1])[1] * entering):
                return f"{name} has another scale than the sums that it is added to"
    return None
