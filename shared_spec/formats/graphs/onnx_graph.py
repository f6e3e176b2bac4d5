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
from shared_spec.formats.graphs.events import ChannelConv, LowestPad
from shared_spec.formats.graphs.onnx_constants import (
    UNKNOWN,
    Constant,
    folded,
    integers,
    shape_of,
    unknown,
)
from shared_spec.formats.graphs.onnx_functions import (
    FUNCTIONS,
    Function,
    Term,
    combined,
    epsilon,
    leaf,
    standardised,
)
from shared_spec.formats.graphs.walk import LayerError, Tensor
from shared_spec.plan.layers import Layer
from shared_spec.plan.summary import output_shape
from shared_spec.weights.lazy_array import LazyArray

_FOLDED = 2**22
"""Elements that are computed of a file's constants, at most."""
_FLOATS = (1, 10, 11, 16)
"""Types, by number, in which a model may compute."""
_OUTPUTS = 9
"""Maps before the stem's pool and after each of eight stages."""
_FAR = 2**31 - 1
"""Behind the last row of any map."""
_PART = -1
"""The unit of a tensor that is only part of what others compute."""
_BINOMIAL = np.outer((1, 2, 1), (1, 2, 1)) / 16
_MOMENTUM = 0.1
"""Which inference does not need, and files so do not say; the spec's own default."""


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
    reflected: bool = False
    """Whether one pixel is still to be added on all sides, by reflection."""
    spread: bool = False
    """Whether it is one pixel, given for all of a map."""
    whole: bool = False
    """Whether it is of whole numbers, whose arithmetic cuts and overflows."""
    term: Term | None = None
    """What it is of another tensor, if a norm may be made of it."""


Item = Value | Constant


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
    rounded: bool
    """Whether a norm that several nodes compute has an eps that was rounded to float32."""

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
            any(_rounded(unit.layer) for unit in self.units),
        )

    def _result(self, name: str) -> Value:
        """An output."""
        end = self.items.get(name)
        if not isinstance(end, Value):
            raise LayerError(f"its output {shown(name)} does not depend on its input")
        if end.pads is not None or end.reflected or end.spread or end.unit == _PART:
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
        terms = [self._term(item) for item in given]
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
        if node.operator not in _BUILDERS:
            raise LayerError(f"{node} is of an operator that no ResNet here has")
        if not isinstance(given[0], Value) and node.operator not in _EITHER:
            raise LayerError(f"{node} computes what no ResNet here does of its input")
        if any(x.whole for x in values) and node.operator not in _WHOLE:
            raise LayerError(f"{node} computes with whole numbers, which no model here does")
        if any(x.unit == _PART for x in values) and node.operator not in _OF_PARTS:
            raise LayerError(f"{node} takes part of a norm, and is none of a ResNet here")
        if any(x.spread for x in values) and node.operator not in _PAIRS:
            raise LayerError(f"{node} takes one pixel for a map, which no ResNet here does")
        if any(x.pads for x in values) and node.operator not in ("Conv", *_IDLE, "Transpose"):
            raise LayerError(f"{node} comes after zeros that are not the same on all sides")
        if any(x.reflected for x in values) and node.operator not in ("Conv", *_IDLE):
            raise LayerError(f"{node} comes after pixels that are reflected, and is no blur")

    def _term(self, item: Item | None) -> Term | None:
        if not isinstance(item, Value):
            return leaf(item)
        plain = item.unit != _PART and item.axes == "NCHW" and not (item.pads or item.reflected)
        plain = plain and not (item.spread or item.whole)
        return item.term or (("of", item.unit) if plain else None)

    def _joined(self, node: OnnxNode, term: Term, given: Sequence[Item | None]) -> Value:
        """What a node gives that computes a term."""
        values = [x for x in given if isinstance(x, Value)]
        x = next((v for v in values if v.unit != _PART), values[0] if values else None)
        if node.operator in _IDLE and x is not None:
            return replace(_idle(self, node, given), term=x.term)
        match term:
            case ("square", ("of", _)):
                return replace(_arithmetic(self, node, given), term=term)
            case ("ratio", ("of", u), ("power", ("of", v), True), eps) if u == v and x is not None:
                norm = plan.FilterResponseNorm(node.outputs[0], x.channels or 0, eps)
                return self.add(x, Unit(node, (u,), norm))
        if x is None:
            return Value(_PART, "", None, None, term=term)
        return replace(x, unit=_PART, axes="", term=term)

    def add(self, value: Value, unit: Unit, **changes: Any) -> Value:
        """A unit, and the tensor that it gives: that which it takes, but for `changes`."""
        self.units.append(unit)
        return replace(value, unit=len(self.units) - 1, **({"term": None} | changes))

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
    if isinstance(given[0], Value) and given[0].axes == "N1C":
        return _channel_conv(r, node, given)
    x, second, eps = _map(node, given), given[1], None
    if isinstance(second, Value) and (found := standardised(second.term)) is not None:
        second, eps = Constant(found[0][1]), found[1]
    kernel = _entry(node, second, 4)
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
    if x.reflected:
        return _blur(r, node, x, arrays, stride, (groups, dilation))
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
        eps,
        dilation,
    )
    unit = Unit(node, (x.unit,), layer, arrays)
    return r.add(x, unit, channels=out, size=size, pads=None)


def _channel_conv(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """A convolution along the channels."""
    x, kernel, a = given[0], _entry(node, given[1], 3), node.attributes
    assert isinstance(x, Value)
    pixels = kernel.shape[2]
    ones = {"strides": (1,), "dilations": (1,), "group": 1}
    plain = all(a.get(key, one) == one for key, one in ones.items())
    auto, pads = a.get("auto_pad", "NOTSET"), a.get("pads", (0, 0))
    padded = auto == "SAME_UPPER" or (auto == "NOTSET" and pads == (pixels // 2,) * 2)
    whole = a.get("kernel_shape", (pixels,)) == (pixels,) and kernel.shape[:2] == (1, 1)
    if not (plain and padded and whole and pixels % 2) or any(given[2:]):
        raise LayerError(f"{node} is along the channels, and not as in channel attention")
    layer = ChannelConv(node.outputs[0], x.channels or 0, pixels)
    return r.add(x, Unit(node, (x.unit,), layer, {"weight": kernel}))


def _blur(
    r: _Reader,
    node: OnnxNode,
    x: Value,
    arrays: Mapping[str, LazyArray],
    stride: int,
    more: tuple[int, int],
) -> Value:
    """The binomial filter of each channel, over pixels of which one on all sides is reflected."""
    kernel, a = arrays["weight"], node.attributes
    bare = set(arrays) == {"weight"} and a.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    bare = bare and not any(a.get("pads", ())) and more == (x.channels, 1)
    filters = Constant(kernel).numbers(node) if kernel.shape[1:] == (1, 3, 3) else None
    if not bare or filters is None or (filters != _BINOMIAL).any():
        raise LayerError(f"{node} comes after pixels that are reflected, and is no blur of 1 2 1")
    layer = plan.BlurPool(node.outputs[0], kernel.shape[0], stride)
    size = None if x.size is None else tuple((n - 3) // stride + 1 for n in x.size)
    return r.add(x, Unit(node, (x.unit,), layer), size=size, reflected=False)


def _batch_norm(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x = _map(node, given)
    if node.attributes.get("training_mode", 0) or len([o for o in node.outputs if o]) > 1:
        raise LayerError(f"{node} is in training, in which a batch changes what it computes")
    leaves = ("weight", "bias", "running_mean", "running_var")
    arrays = {k: _entry(node, v, 1) for k, v in zip(leaves, given[1:], strict=True)}
    (channels,) = arrays["weight"].shape
    layer = plan.BatchNorm(node.outputs[0], channels, epsilon(node), _MOMENTUM, "unbiased")
    return r.add(x, Unit(node, (x.unit,), layer, arrays))


def _group_norm(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x, arrays = _map(node, given), {}
    arrays = {k: _entry(node, v, 1) for k, v in zip(("weight", "bias"), given[1:], strict=True)}
    groups, channels = node.attributes["num_groups"], arrays["weight"].shape[0]
    layer = plan.GroupNorm(node.outputs[0], channels, groups, epsilon(node))
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


def _reshape(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x, shape = given[0], integers(node, "shape", given, 1) or []
    if not isinstance(x, Value) or (x.pooled and x.unit != _PART):
        return _pixel(r, node, given)
    term = r._term(x)
    match term:
        case ("of", _) | ("gated", ("of", _), _):
            if (groups := _groups(r, x, shape)) is not None:
                return replace(x, unit=_PART, axes="", term=("groups", term, groups, len(shape)))
        case (("variance" | "mean") as kind, ("groups", _, g, rank) as t, _):
            if len(shape) == rank and _batch(r, shape[0]) and shape[1:] == [g] + [1] * (rank - 2):
                return replace(x, term=(kind, t, True))
        case ("ratio", top, ("variance", ("groups", ("of", u), g, _) as t, True), eps):
            if not _is_map(r, x, shape):
                raise LayerError(f"{node} makes something else than a map of groups")
            axes, channels, name = "NCHW", x.channels or 0, node.outputs[0]
            if top == ("centred", t):
                unit = Unit(node, (u,), plan.GroupNorm(name, channels, g, eps))
                return r.add(x, unit, axes=axes)
            if top[0] == "groups" and top[1][:2] == ("gated", ("of", u)) and top[2:] == t[2:]:
                layer = plan.EvoNorm(name, channels, g, eps)
                return r.add(x, Unit(node, (u,), layer, {"v": top[1][2]}), axes=axes)
    if (found := standardised(term)) is not None and found[0][0] == "kernel":
        (_, kernel, axis), eps = found
        fits = len(shape) == 4 and shape[0] == kernel.shape[axis] and min(shape) > 0
        if fits and math.prod(shape) == math.prod(kernel.shape):
            t = ("kernel", kernel.reshaped(tuple(shape)), 0)
            return replace(x, term=("ratio", ("centred", t), ("variance", t, True), eps))
    raise LayerError(f"{node} changes the axes of a map")


def _batch(r: _Reader, length: int) -> bool:
    """Whether a number in a shape stands for the images."""
    return length in (-1, 0, UNKNOWN, r.graph.shape[0])


def _groups(r: _Reader, x: Value, shape: Sequence[int]) -> int | None:
    """How many groups a shape puts the channels of a map into, all else of an image behind them."""
    if len(shape) not in (3, 5) or not _batch(r, shape[0]) or list(shape).count(-1) > 1:
        return None
    groups, channels = shape[1], x.channels or 0
    if groups < 1 or channels % groups:
        return None
    if len(shape) == 5:
        whole = [shape[0], channels, *shape[3:]]
        return groups if shape[2] == channels // groups and _is_map(r, x, whole) else None
    every = None if x.size is None else channels // groups * math.prod(x.size)
    return groups if shape[2] in (-1, every) else None


def _is_map(r: _Reader, x: Value, shape: Sequence[int]) -> bool:
    """Whether a shape is that of a map."""
    if len(shape) != 4 or not _batch(r, shape[0]) or list(shape).count(-1) > 1:
        return False
    sides = x.size or (UNKNOWN - 2, UNKNOWN - 3)
    return shape[1] in (-1, x.channels) and all(
        n in (-1, side) for n, side in zip(shape[2:], sides, strict=True)
    )


def _pixel(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """A pixel with other axes of length 1."""
    x = given[0]
    if not isinstance(x, Value) or not x.pooled:
        raise LayerError(f"{node} changes the axes of a map")
    ones = ["1" if axis in "HW1" else axis for axis in x.axes]
    if node.operator == "Flatten":
        fits, ones = node.attributes.get("axis", 1) == 1 and ones[0] == "N", ["N", "C"]
    elif node.operator == "Reshape":
        shape = integers(node, "shape", given, 1) or []
        fits = len(shape) in (2, 3, 4) and _batch(r, shape[0]) and ones[0] == "N"
        rest = [ones[i] if n == 0 and i < len(ones) else n for i, n in enumerate(shape) if i]
        ones = ["N", *("C" if n in ("C", -1, x.channels) else "1" for n in rest)]
        fits = (
            fits and ones.count("C") == 1 and all(n in ("C", "1", 1, -1, x.channels) for n in rest)
        )
        fits = fits and [*shape].count(-1) < 2
    else:
        axes = integers(node, "axes", given, 1) or []
        rank = len(ones) + (len(axes) if node.operator == "Unsqueeze" else 0)
        places = sorted({a % rank for a in axes if -rank <= a < rank})
        fits = len(places) == len(axes) > 0 and rank <= 4
        if node.operator == "Unsqueeze":
            for place in places:
                ones.insert(place, "1")
        else:
            fits = fits and all(ones[i] == "1" for i in places)
            ones = [axis for i, axis in enumerate(ones) if i not in places]
    if not fits:
        raise LayerError(f"{node} makes something else than a vector of each image")
    known = {"N1C1": "N1C1", "NC11": "NCHW", "N11C": "NHWC"}
    return replace(x, axes=known.get("".join(ones), "".join(ones)), term=None)


def _expand(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """A pixel for all of a map, or of an axis that it has already."""
    x, shape = given[0], integers(node, "shape", given, 1) or []
    if isinstance(x, Value) and x.unit == _PART and x.term is not None:
        match x.term:
            case ("variance", ("groups", _, g, rank), True):
                if (
                    len(shape) == rank
                    and _batch(r, shape[0])
                    and shape[1:] == [g] + [1] * (rank - 2)
                ):
                    return x
            case (_, ("power", _, True), _) if _is_map(r, x, shape):
                return x
    elif isinstance(x, Value) and x.pooled and x.axes == "NCHW" and len(shape) == 4:
        sides = tuple(shape[2:])
        whole = sides == (UNKNOWN - 2, UNKNOWN - 3) or min(sides) > 0
        if (_batch(r, shape[0]) or shape[0] == 1) and shape[1] in (1, x.channels) and whole:
            size = (sides[0], sides[1]) if min(sides) > 0 else None
            return replace(x, spread=True, size=size)
    raise LayerError(f"{node} spreads something else than one pixel over a map")


def _slice(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """Every other row and column."""
    x = given[0]
    keys = ("starts", "ends", "axes", "steps")
    told = [integers(node, key, given, i) for i, key in enumerate(keys, start=1)]
    starts, ends = told[0] or [], told[1] or []
    axes, steps = told[2] or [*range(len(starts))], told[3] or [1] * len(starts)
    if not isinstance(x, Value) or not len(starts) == len(ends) == len(axes) == len(steps):
        raise LayerError(f"{node} takes part of something else than a map")
    source, letters, paces, size = x.unit, x.axes, {"H": 1, "W": 1}, x.size
    if x.unit == _PART:
        match x.term:
            case ("every", source, letters, rows, columns):
                paces = {"H": rows, "W": columns}
            case _:
                raise LayerError(f"{node} takes part of something else than a map")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        letter = letters[axis] if -len(letters) <= axis < len(letters) else ""
        side = None if x.size is None or letter not in "HW" else x.size["HW".index(letter)]
        side = x.channels if letter == "C" else side
        whole = start == 0 and (end >= _FAR or (side is not None and end >= side)) and step >= 1
        if not letter or not whole or (step > 1 and letter not in "HW"):
            raise LayerError(f"{node} leaves out other things than rows and columns at equal steps")
        if step > 1:
            paces[letter] *= step
        if size is not None and letter in "HW":
            h, w = (-(-n // step) if letter == a else n for n, a in zip(size, "HW", strict=True))
            size = (h, w)
    rows, columns = paces["H"], paces["W"]
    term = ("every", source, letters, rows, columns)
    if rows != columns:
        return replace(x, unit=_PART, axes="", size=size, term=term)
    if rows == 1:
        return x
    unit = Unit(node, (source,), plan.MaxPool(node.outputs[0], 1, rows))
    return r.add(x, unit, axes=letters, size=size, term=term)


def _transpose(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x = given[0]
    assert isinstance(x, Value)
    order = node.attributes.get("perm", tuple(range(len(x.axes)))[::-1])
    if sorted(order) != list(range(len(x.axes))) or x.axes[order[0]] != "N":
        raise LayerError(f"{node} changes the axis of images")
    return replace(x, axes="".join(x.axes[i] for i in order), term=None)


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
    images, (before, after) = around.pop("N"), around.pop("C")
    numbers = {n for pair in around.values() for n in pair}
    mode = node.attributes.get("mode", "constant")
    if mode == "reflect" and numbers == {1} and images == (before, after) == (0, 0):
        size = None if x.size is None else (x.size[0] + 2, x.size[1] + 2)
        return replace(x, reflected=True, size=size, term=None)
    zeros = lowest == 0 and mode == "constant" and images == (0, 0) and numbers == {0}
    if zeros and before + after and min(before, after) >= 0:
        return _more_channels(r, node, x, before, after)
    none = images == (before, after) == (0, 0)
    record = {0.0: plan.ZeroPad, -math.inf: LowestPad}.get(lowest)
    if record is None and lowest <= float(np.finfo(np.float32).min):
        record = LowestPad
    if not none or record is None or mode != "constant" or min(numbers) < 0:
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
    return replace(x, pads=(top, left, bottom, right), term=None)


def _more_channels(r: _Reader, node: OnnxNode, x: Value, before: int, after: int) -> Value:
    """Channels of zeros, behind a step from pixel to pixel if there is one."""
    source, stride = x.unit, 1
    match x.term:
        case ("every", source, _, stride, _):
            pass
    layer = plan.ZeroPadShortcut(node.outputs[0], stride, before, after)
    channels = None if x.channels is None else x.channels + before + after
    return r.add(x, Unit(node, (source,), layer), channels=channels)


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
    if x.unit == _PART and (node.attributes.get("start", 0), node.attributes.get("end")) == (0, 1):
        return shape_of(node, [known["N"] or UNKNOWN])
    if x.unit == _PART or "1" in x.axes:
        raise LayerError(f"{node} gives the shape of part of a norm")
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
    one = x.pooled and -len(x.axes) <= axis < len(x.axes) and x.axes[axis] not in "NC"
    if one and places.entry.shape == () and places.whole(node) == [0]:
        rest = [*x.axes]
        del rest[axis]
        return replace(x, axes="".join(rest), term=None)
    if not -4 <= axis < len(x.axes) or x.axes[axis] != "C" or len(places.entry.shape) != 1:
        raise LayerError(f"{node} takes other parts than channels")
    return r.add(x, Unit(node, (x.unit,), numbers=places.entry))


def _arithmetic(r: _Reader, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """Of two tensors, or of one with a number, or with one a channel."""
    if len(given) != 2:  # Min and Max take any number
        raise LayerError(f"{node} takes {len(given)} inputs, expected two")
    function, a, b = FUNCTIONS[node.operator](node.attributes), given[0], given[1]
    if isinstance(a, Value) and isinstance(b, Value):
        if a.axes != b.axes:
            raise LayerError(f"{node} joins tensors of different axes")
        pooled = a.pooled and b.pooled
        larger, smaller = (b, a) if a.pooled and not b.pooled else (a, b)
        known = None not in (larger.size, smaller.size)
        if smaller.spread and (larger.spread or (known and larger.size != smaller.size)):
            raise LayerError(f"{node} takes one pixel for a map of another size")
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
    scaled = node.operator == "Mul" and scalar is None and r._term(x) == ("of", x.unit)
    return r.add(x, unit, term=("scaled", ("of", x.unit), numbers) if scaled else None)


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


_PAIRS = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max")
_IDLE = ("Identity", "Dropout", "Cast")
_OF_PARTS = ("Conv", "Expand", "Reshape", "Shape", "Slice")
"""Operators that may take part of a norm."""
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
    "GroupNormalization": _group_norm,
    **dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze"), _pixel),
    "Reshape": _reshape,
    "Expand": _expand,
    "Slice": _slice,
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
