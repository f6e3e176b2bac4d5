"""ONNX's operators as records of the plan, each with its arrays: what each one computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from shared_spec import plan
from shared_spec.formats.containers.onnx import OnnxGraph, OnnxNode
from shared_spec.formats.containers.source import shown
from shared_spec.formats.graphs.events import LowestPad
from shared_spec.formats.graphs.onnx_constants import (
    UNKNOWN,
    Constant,
    folded,
    integers,
    shape_of,
    unknown,
)
from shared_spec.formats.graphs.walk import LayerError, Tensor
from shared_spec.plan.layers import Layer
from shared_spec.plan.summary import output_shape
from shared_spec.weights.lazy_array import LazyArray

_FOLDED = 2**22
"""Elements that are computed of a file's constants, at most."""
_FLOATS = (1, 10, 11, 16)
"""Types, by number, in which a model may compute."""
_MOMENTUM = 0.1
"""Which inference does not need, and files so do not say; the spec's own default."""

Function = Callable[..., np.ndarray]


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
    size: tuple[int, int] | None
    """Height and width, where they are known."""
    pooled: bool = False
    """Whether a map has become one pixel."""
    pads: tuple[int, int, int, int] | None = None
    """Zeros above, left, below and right that are still to be added."""
    whole: bool = False
    """Whether it is of whole numbers, whose arithmetic cuts and overflows."""


Item = Value | Constant


@dataclass(frozen=True)
class UnitGraph:
    """A model as units in the order of computation; `units[0]` is the input."""

    units: tuple[Unit, ...]
    output: Tensor
    end: Value
    first: Value
    """The input."""
    guessed: bool
    """Whether pads were taken for TensorFlow's rule, whose numbers they are at the model's size."""

    def consumers(self) -> dict[Tensor, tuple[Tensor, ...]]:
        """The units that the output needs, by what enters them."""
        used = {self.output}
        for number in range(len(self.units) - 1, -1, -1):
            if number in used:
                used.update(self.units[number].sources)
        found: dict[Tensor, list[Tensor]] = {}
        for number in sorted(used):
            for source in self.units[number].sources:
                found.setdefault(source, []).append(number)
        return {source: tuple(numbers) for source, numbers in found.items()}


def units_of(graph: OnnxGraph, arrays: Mapping[str, LazyArray]) -> UnitGraph:
    """What the nodes compute on which the output depends.

    Raises:
        LayerError: naming a node that no ResNet here has.
    """
    if graph.outputs != 1:
        raise LayerError(f"it gives {graph.outputs} outputs, expected one")
    found = _Reader(graph, arrays, same=False).read()
    return _Reader(graph, arrays, same=True).read() if found.guessed else found


class _Reader:
    def __init__(self, graph: OnnxGraph, arrays: Mapping[str, LazyArray], same: bool) -> None:
        self.graph, self.same = graph, same
        """`same`: whether pads that are what TensorFlow's rule gives are taken for it."""
        self.guessed = False
        self.units: list[Unit] = [Unit(None)]
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
        size = None if height is None or width is None else (height, width)
        image = Value(0, axes, places["C"], size, whole=graph.dtype.kind in "iub")
        self.items[graph.input] = image
        for node in needed:
            self._take(node)
        end = self.items.get(graph.output)
        if not isinstance(end, Value):
            raise LayerError("its output does not depend on its input")
        if end.pads is not None:
            raise LayerError("it ends in zeros around a map")
        return UnitGraph(tuple(self.units), end.unit, end, image, self.guessed)

    def _needed(self) -> list[OnnxNode]:
        """The nodes that the output depends on, in their order."""
        wanted, kept = {self.graph.output}, []
        for node in reversed(self.graph.nodes):
            if wanted.isdisjoint(node.outputs):
                continue
            kept.append(node)
            wanted.update(node.inputs)
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
        for name in node.inputs:
            if name and name not in self.items:
                raise LayerError(f"{node} takes {shown(name)}, which nothing before it gives")
            item = self.items[name] if name else None
            if isinstance(item, Constant) and item.entry.problem:
                raise LayerError(f"{node} takes {shown(name)}, which {item.entry.problem}")
            given.append(item)
        if any(name in self.items for name in node.outputs):
            raise LayerError(f"{node} gives a tensor that there is already")
        values = [item for item in given if isinstance(item, Value)]
        found: Item
        if not values:
            made = folded(node, [x for x in given if not isinstance(x, Value)])
            if made.computed:
                self.folded += math.prod(made.entry.shape)
                if self.folded > _FOLDED:
                    raise LayerError("it computes more of its constants than any model does")
            found = made
        else:
            build = _BUILDERS.get(node.operator)
            if build is None:
                raise LayerError(f"{node} is of an operator that no ResNet here has")
            if not isinstance(given[0], Value) and node.operator not in _EITHER:
                raise LayerError(f"{node} computes what no ResNet here does of its input")
            if any(x.whole for x in values) and node.operator not in _WHOLE:
                raise LayerError(f"{node} computes with whole numbers, which no model here does")
            if values[0].pads is not None and node.operator not in ("Conv", *_IDLE, "Transpose"):
                raise LayerError(f"{node} comes after zeros that are not the same on all sides")
            found = build(self, node, given)
        self.items[node.outputs[0]] = found

    def add(self, value: Value, unit: Unit, **changes: Any) -> Value:
        """A unit, and the tensor that it gives: that which it takes, but for `changes`."""
        self.units.append(unit)
        return replace(value, unit=len(self.units) - 1, **changes)

    def window(
        self, node: OnnxNode, x: Value, kernel: int, stride: int, dilation: int = 1
    ) -> tuple[plan.layers.Padding, tuple[int, int] | None]:
        """Padding of a convolution or a pool, and the size of what it gives."""
        auto = node.attributes.get("auto_pad", "NOTSET")
        extent = (kernel - 1) * dilation + 1
        rule = None
        if x.size is not None:
            rule = [max((-(-n // stride) - 1) * stride + extent - n, 0) for n in x.size]
        after = None if x.size is None else (-(-x.size[0] // stride), -(-x.size[1] // stride))
        if auto == "SAME_UPPER":
            if x.pads is not None:
                raise LayerError(f"{node} pads once more")
            return "same", after
        if auto not in ("NOTSET", "VALID"):
            raise LayerError(f"{node} has auto_pad {shown(auto)}")
        told = (0,) * 4 if auto == "VALID" else node.attributes.get("pads", (0,) * 4)
        if len(told) != 4:
            raise LayerError(f"{node} pads other axes than rows and columns")
        top, left, bottom, right = told
        if x.pads is not None:
            if (top, left, bottom, right) != (0, 0, 0, 0):
                raise LayerError(f"{node} pads once more")
            top, left, bottom, right = x.pads
        pads = [top, left, bottom, right]
        same = rule is not None and pads == [n // 2 for n in rule] + [n - n // 2 for n in rule]
        if len(set(pads)) > 1:
            if not same:
                raise LayerError(
                    f"{node} pads {shown(str(pads))}, expected one number on all sides, or what "
                    f"TensorFlow's rule gives"
                )
            self.guessed = True
            return "same", after
        if same and self.same:
            return "same", after
        if x.size is not None:
            h, w = ((n + 2 * top - extent) // stride + 1 for n in x.size)
            after = (h, w)
        return top, after


def _square(node: OnnxNode, key: str, default: int) -> int:
    values = node.attributes.get(key, (default, default))
    if len(values) != 2 or values[0] != values[1] or values[0] < 1:
        raise LayerError(
            f"{node} has {key} {shown(str(list(values)))}, expected one number for rows and columns"
        )
    return int(values[0])


def _entry(node: OnnxNode, item: Item | None, rank: int) -> LazyArray:
    """An array of a layer."""
    if not isinstance(item, Constant):
        raise LayerError(f"{node} computes with something else than an array of the file")
    if item.entry.problem or len(item.entry.shape) != rank:
        raise LayerError(f"{node} has an array of {len(item.entry.shape)} axes, expected {rank}")
    return item.entry


def _map(node: OnnxNode, given: Sequence[Item | None], axes: str = "NCHW") -> Value:
    x = given[0] if given else None
    if not isinstance(x, Value) or x.axes != axes:
        raise LayerError(f"{node} takes something else than a tensor of the axes {axes}")
    return x


def _conv(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x, kernel = _map(node, given), _entry(node, given[1], 4)
    out, inside, rows, columns = kernel.shape
    stride, dilation = _square(node, "strides", 1), _square(node, "dilations", 1)
    if rows != columns or node.attributes.get("kernel_shape", kernel.shape[2:]) != (rows, columns):
        raise LayerError(f"{node} has a kernel that is not square")
    groups = node.attributes.get("group", 1)
    arrays = {"weight": kernel}
    if len(given) > 2 and given[2] is not None:
        bias = given[2]
        # Exporters make zeros where a convolution has no bias.
        made = isinstance(bias, Constant) and bias.computed and not bias.numbers(node).any()
        if not made:
            arrays["bias"] = _entry(node, bias, 1)
    padding, size = r.window(node, x, rows, stride, dilation)
    layer = plan.Conv(
        node.outputs[0],
        inside * groups,
        out,
        rows,
        stride,
        padding,
        groups,
        "bias" in arrays,
        dilation=dilation,
    )
    unit = Unit(node, (x.unit,), layer, arrays)
    return r.add(x, unit, channels=out, size=size, pads=None)


def _batch_norm(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x = _map(node, given)
    if node.attributes.get("training_mode", 0) or len([o for o in node.outputs if o]) > 1:
        raise LayerError(f"{node} is in training, in which a batch changes what it computes")
    leaves = ("weight", "bias", "running_mean", "running_var")
    arrays = {k: _entry(node, v, 1) for k, v in zip(leaves, given[1:], strict=True)}
    (channels,) = arrays["weight"].shape
    # An attribute is of float32 whatever the model is: the decimal that was rounded to it.
    eps = float(str(np.float32(node.attributes.get("epsilon", 1e-5))))
    layer = plan.BatchNorm(node.outputs[0], channels, eps, _MOMENTUM, "unbiased")
    return r.add(x, Unit(node, (x.unit,), layer, arrays))


def _pool(record: type[Layer]) -> Callable[[_Reader, OnnxNode, Sequence[Item | None]], Value]:
    def build(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
        x = _map(node, given)
        if "kernel_shape" not in node.attributes or len([o for o in node.outputs if o]) > 1:
            raise LayerError(f"{node} gives indices, or has no kernel")
        kernel, stride = _square(node, "kernel_shape", 1), _square(node, "strides", 1)
        if _square(node, "dilations", 1) != 1:
            raise LayerError(f"{node} is dilated")
        if record is plan.MaxPool and _reaches_beyond(node, x, kernel, stride):
            beyond = plan.MaxPool(node.outputs[0], kernel, stride, ceil=True)
            after = None if x.size is None else output_shape(beyond, (*x.size, 1))[:2]
            return r.add(x, Unit(node, (x.unit,), beyond), size=after)
        padding, size = r.window(node, x, kernel, stride)
        counted = bool(node.attributes.get("count_include_pad", 0))
        if node.attributes.get("ceil_mode", 0):
            # Where windows do not overlap, TensorFlow's rule is that of a last one that is cut.
            if kernel != stride or padding != 0 or record is not plan.AvgPool:
                raise LayerError(f"{node} has ceil_mode, which no pool here has")
            padding, counted = "same", False
            size = None if x.size is None else (-(-x.size[0] // stride), -(-x.size[1] // stride))
        if record is plan.AvgPool:
            told = counted and padding != 0
            layer: Layer = plan.AvgPool(node.outputs[0], kernel, stride, padding, told)
        else:
            layer = plan.MaxPool(node.outputs[0], kernel, stride, padding)
        return r.add(x, Unit(node, (x.unit,), layer), size=size)

    return build


def _reaches_beyond(node: OnnxNode, x: Value, kernel: int, stride: int) -> bool:
    """Whether the last windows of a maximum may reach beyond an image that is not padded before its
    first pixels.
    """
    pads = list(node.attributes.get("pads", (0,) * 4))
    if node.attributes.get("auto_pad", "NOTSET") != "NOTSET" or x.pads or kernel < stride:
        return False
    if node.attributes.get("ceil_mode", 0):
        return pads == [0] * 4
    # At the sizes at which TensorFlow's rule is the same, a file may mean that.
    rule = x.size and all((-(-n // stride) - 1) * stride + kernel - n == stride - 1 for n in x.size)
    return stride > 1 and not rule and pads == [0, 0, stride - 1, stride - 1]


def _global_pool(kind: Any) -> Callable[[_Reader, OnnxNode, Sequence[Item | None]], Value]:
    def build(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
        x = given[0]
        assert isinstance(x, Value)
        kept = True
        if node.operator.startswith("Reduce"):
            axes = integers(node, "axes", given, 1)
            kept = bool(node.attributes.get("keepdims", 1))
            rank = len(x.axes)
            if sorted(x.axes[a % rank] if -rank <= a < rank else "" for a in axes or ()) != [*"HW"]:
                raise LayerError(f"{node} is over other axes than rows and columns")
        elif x.axes != "NCHW":
            raise LayerError(f"{node} takes something else than a tensor of the axes NCHW")
        unit = Unit(node, (x.unit,), plan.GlobalPool(node.outputs[0], kept, kind))
        axes_after = x.axes if kept else x.axes.replace("H", "").replace("W", "")
        return r.add(x, unit, axes=axes_after, size=(1, 1), pooled=True)

    return build


def _flatten(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """A pixel without the axes of rows and columns."""
    x = given[0]
    if not isinstance(x, Value) or not x.pooled:
        raise LayerError(f"{node} changes the axes of a map")
    kept = "".join(axis for axis in x.axes if axis in "NC")
    if node.operator == "Squeeze":
        axes = integers(node, "axes", given, 1) or []
        fits = sorted(x.axes[a % len(x.axes)] for a in axes if -4 <= a < 4) == ["H", "W"]
    elif node.operator == "Flatten":
        fits = node.attributes.get("axis", 1) == 1
    else:
        shape = integers(node, "shape", given, 1) or []
        batch = (-1, 0, UNKNOWN, r.graph.shape[0])
        fits = len(shape) == 2 and shape[0] in batch and shape[1] in (-1, x.channels)
    if not fits:
        raise LayerError(f"{node} makes something else than a vector of each image")
    return replace(x, axes=kept)


def _transpose(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x = given[0]
    assert isinstance(x, Value)
    order = node.attributes.get("perm", tuple(range(len(x.axes)))[::-1])
    if sorted(order) != list(range(len(x.axes))) or x.axes[order[0]] != "N":
        raise LayerError(f"{node} changes the axis of images")
    return replace(x, axes="".join(x.axes[i] for i in order))


def _pad(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x = given[0]
    assert isinstance(x, Value)
    pads = integers(node, "pads", given, 1) or []
    value = given[2] if len(given) > 2 else None
    if isinstance(value, Value) or len(pads) != 2 * len(x.axes) or len(x.axes) != 4:
        raise LayerError(f"{node} pads other axes than rows and columns")
    if value and math.prod(value.entry.shape) != 1:
        raise LayerError(f"{node} pads other things than one number")
    lowest = float(value.numbers(node).ravel()[0]) if value else node.attributes.get("value", 0.0)
    around = {axis: (pads[i], pads[i + 4]) for i, axis in enumerate(x.axes)}
    if len(given) > 3 and given[3] is not None:
        raise LayerError(f"{node} names the axes that it pads")
    none = around.pop("N") == around.pop("C") == (0, 0)
    numbers = {n for pair in around.values() for n in pair}
    record = {0.0: plan.ZeroPad, -math.inf: LowestPad}.get(lowest)
    if record is None and lowest <= float(np.finfo(np.float32).min):
        record = LowestPad
    constant = node.attributes.get("mode", "constant") == "constant"
    if not none or record is None or not constant or min(numbers) < 0:
        raise LayerError(f"{node} pads other things than zeros around rows and columns")
    (top, bottom), (left, right) = around["H"], around["W"]
    size = None if x.size is None else (x.size[0] + top + bottom, x.size[1] + left + right)
    if numbers == {0}:
        return x
    if len(numbers) == 1:
        unit = Unit(node, (x.unit,), record(node.outputs[0], numbers.pop()))
        return r.add(x, unit, size=size)
    if record is not plan.ZeroPad:
        raise LayerError(f"{node} does not pad the same on all sides")
    return replace(x, pads=(top, left, bottom, right))


def _idle(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """What gives in inference what it takes."""
    x = given[0]
    assert isinstance(x, Value)
    training = given[2] if len(given) > 2 else None
    acts = isinstance(training, Value) or (training is not None and training.numbers(node).any())
    if node.operator == "Dropout" and acts:
        raise LayerError(f"{node} is in training")
    if node.operator == "Cast" and node.attributes.get("to") not in _FLOATS:
        raise LayerError(f"{node} makes whole numbers of a tensor")
    return replace(x, whole=x.whole and node.operator != "Cast")


def _cast_like(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Constant:
    """A number of the type of a tensor, in which the model computes."""
    if len(given) != 2 or not isinstance(given[0], Constant):
        raise LayerError(f"{node} takes a tensor, expected a number")
    if unknown(given[0].numbers(node)):
        raise LayerError(f"{node} makes a number of the size of an image, which may be any")
    return replace(given[0], computed=True)


def _shape(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Constant:
    x = given[0]
    assert isinstance(x, Value)
    known = {"N": r.graph.shape[0], "C": x.channels}
    known |= dict(zip("HW", x.size or (None, None), strict=True))
    return shape_of(node, [known[a] or UNKNOWN - "NCHW".index(a) for a in x.axes])


def _dense(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x, kernel, a = _map(node, given, "NC"), _entry(node, given[1], 2), node.attributes
    transposed = bool(a.get("transB", 0))
    if a.get("alpha", 1.0) != 1 or a.get("beta", 1.0) != 1 or a.get("transA", 0):
        raise LayerError(f"{node} scales or turns what it takes")
    arrays = {"weight": kernel if transposed else kernel.permuted((1, 0))}
    out, inside = arrays["weight"].shape
    if len(given) > 2 and given[2] is not None:
        arrays["bias"] = _entry(node, given[2], 1)
    layer = plan.Dense(node.outputs[0], inside, out, "bias" in arrays)
    return r.add(x, Unit(node, (x.unit,), layer, arrays), channels=out)


def _softmax(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x = _map(node, given, "NC")
    if node.attributes.get("axis", -1 if r.graph.opset >= 13 else 1) not in (-1, 1):
        raise LayerError(f"{node} is not over the classes")
    return r.add(x, Unit(node, (x.unit,), plan.Activation(node.outputs[0], "softmax")))


def _gather(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """The channels of an image in another order."""
    x, places = given[0], given[1]
    if not isinstance(x, Value) or not isinstance(places, Constant):
        raise LayerError(f"{node} takes places that depend on the image")
    axis = node.attributes.get("axis", 0)
    if not -4 <= axis < len(x.axes) or x.axes[axis] != "C" or len(places.entry.shape) != 1:
        raise LayerError(f"{node} takes other parts than channels")
    return r.add(x, Unit(node, (x.unit,), numbers=places.entry))


def _arithmetic(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """Of two tensors, or of one with a number, or with one a channel."""
    if len(given) != 2:  # Min and Max take any number
        raise LayerError(f"{node} takes {len(given)} inputs, expected two")
    function, a, b = FUNCTIONS[node.operator](node.attributes), given[0], given[1]
    if isinstance(a, Value) and isinstance(b, Value):
        if a.axes != b.axes or a.pads or b.pads:
            raise LayerError(f"{node} joins tensors of different axes")
        pooled = a.pooled and b.pooled
        larger = b if a.pooled and not b.pooled else a
        unit = Unit(node, (a.unit, b.unit), function=function)
        return r.add(larger, unit, pooled=pooled)
    x, constant = (a, b) if isinstance(a, Value) else (b, a)
    assert isinstance(x, Value)
    assert isinstance(constant, Constant)
    shape = constant.entry.shape
    if constant.entry.problem or len(shape) > len(x.axes):
        raise LayerError(f"{node} computes with an array of other axes than its tensor")
    aligned = (1,) * (len(x.axes) - len(shape)) + shape
    lengths = dict(zip(x.axes, aligned, strict=True))
    if any(n != 1 for axis, n in lengths.items() if axis != "C"):
        raise LayerError(f"{node} computes with other numbers than one a channel")
    numbers = constant.entry.reshaped((lengths["C"],))
    scalar: Function | None = None
    if lengths["C"] == 1:
        number = numbers.array().astype(np.float64)
        scalar = _with_number(function, number, isinstance(a, Value))
    unit = Unit(node, (x.unit,), function=scalar, numbers=numbers, first=isinstance(a, Value))
    return r.add(x, unit)


def _with_number(function: Function, number: np.ndarray, second: bool) -> Function:
    return lambda x: function(x, number) if second else function(number, x)


def _elementwise(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """A function of each number by itself."""
    x = given[0]
    if not isinstance(x, Value):
        raise LayerError(f"{node} takes no tensor")
    told: dict[str, Any] = dict(node.attributes)
    if node.operator in ("Clip", "PRelu"):
        for key, item in zip(("min", "max"), given[1:], strict=False):
            if isinstance(item, Value) or (item is not None and math.prod(item.entry.shape) != 1):
                raise LayerError(f"{node} has more than one limit, or slope")
            if item is not None:
                told[key] = float(item.numbers(node).ravel()[0])
    unit = Unit(node, (x.unit,), function=FUNCTIONS[node.operator](told))
    return r.add(x, unit)


def _concat(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    values = [x for x in given if isinstance(x, Value)]
    axis = node.attributes.get("axis", 0)
    pair = len(values) == len(given) == 2 and values[0].axes == values[1].axes
    if not pair or not all(x.pooled for x in values) or not -4 <= axis < len(values[0].axes):
        raise LayerError(f"{node} puts together other things than two pools of a map")
    if values[0].axes[axis] != "C":
        raise LayerError(f"{node} does not put channels behind one another")
    channels = [x.channels or 0 for x in values]
    unit = Unit(node, tuple(x.unit for x in values))
    return r.add(values[0], unit, channels=sum(channels))


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = x * (1 + _erf(x / math.sqrt(2))) / 2
    return found


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return found


def _sigmoid(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-x))
    return found


def _elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _leaky(x: np.ndarray, slope: float) -> np.ndarray:
    return np.where(x > 0, x, slope * x)


def _selu(x: np.ndarray, alpha: float, gamma: float) -> np.ndarray:
    found: np.ndarray = gamma * _elu(x, alpha)
    return found


def _mish(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = x * np.tanh(np.logaddexp(0, x))
    return found


FUNCTIONS: dict[str, Callable[[Mapping[str, Any]], Function]] = {
    "Add": lambda a: np.add,
    "Sub": lambda a: np.subtract,
    "Mul": lambda a: np.multiply,
    "Div": lambda a: np.divide,
    "Pow": lambda a: np.power,
    "Min": lambda a: np.minimum,
    "Max": lambda a: np.maximum,
    "Neg": lambda a: np.negative,
    "Relu": lambda a: lambda x: np.maximum(x, 0),
    "Clip": lambda a: lambda x: np.clip(x, a.get("min", -np.inf), a.get("max", np.inf)),
    "PRelu": lambda a: lambda x: _leaky(x, a["min"]),
    "LeakyRelu": lambda a: lambda x: _leaky(x, a.get("alpha", 0.01)),
    "Elu": lambda a: lambda x: _elu(x, a.get("alpha", 1.0)),
    "Selu": lambda a: lambda x: _selu(x, a.get("alpha", 1.67326319), a.get("gamma", 1.05070102)),
    "Sigmoid": lambda a: _sigmoid,
    "Tanh": lambda a: np.tanh,
    "Erf": lambda a: _erf,
    "Exp": lambda a: np.exp,
    "Softplus": lambda a: lambda x: np.logaddexp(0, x),
    "Mish": lambda a: _mish,
    "HardSigmoid": lambda a: lambda x: np.clip(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1),
    "HardSwish": lambda a: lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "Gelu": lambda a: _gelu_tanh if a.get("approximate", "none") == "tanh" else _gelu,
}
"""Of one number, or of two, by operator; each is made for a node's attributes."""
KNOWN: dict[str, Function] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: _leaky(x, plan.LEAKY_SLOPE),
    "elu": _elu,
    "selu": lambda x: _selu(x, 1.6732632423543772, 1.0507009873554805),
    "silu": lambda x: x * _sigmoid(x),
    "mish": _mish,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "sigmoid": _sigmoid,
    "half": lambda x: x / 2,
}
"""Of a plan; and what a mean of two is made with."""
_PAIRS = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max")
_IDLE = ("Identity", "Dropout", "Cast")
_EITHER = (*_PAIRS, "CastLike", "Concat")
"""Operators whose first input may be a constant beside a tensor."""
_WHOLE = ("Cast", "Gather", "Identity", "Shape", "Transpose")
"""Operators that do the same with whole numbers as with others."""
_BUILDERS: dict[str, Callable[[_Reader, OnnxNode, Sequence[Item | None]], Item]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "MaxPool": _pool(plan.MaxPool),
    "AveragePool": _pool(plan.AvgPool),
    "GlobalAveragePool": _global_pool("avg"),
    "GlobalMaxPool": _global_pool("max"),
    "ReduceMean": _global_pool("avg"),
    "ReduceMax": _global_pool("max"),
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Squeeze": _flatten,
    "Transpose": _transpose,
    "Pad": _pad,
    "Shape": _shape,
    "CastLike": _cast_like,
    "Gemm": _dense,
    "MatMul": _dense,
    "Softmax": _softmax,
    "Gather": _gather,
    "Concat": _concat,
    **dict.fromkeys(_IDLE, _idle),
    **dict.fromkeys(_PAIRS, _arithmetic),
    **{kind: _elementwise for kind in FUNCTIONS if kind not in _PAIRS},
}


_FAR = np.logspace(-6, 30, 1801)
SAMPLES = np.concatenate([-_FAR[::-1], np.linspace(-12, 12, 1201), _FAR])
"""Numbers on which functions are compared: dense where they bend, and far out, where they may."""
