"""Operators that are layers by themselves: convolutions, norms, pools, pads and classifiers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from shared_spec import plan
from shared_spec.formats.containers.onnx import OnnxNode
from shared_spec.formats.containers.source import shown
from shared_spec.formats.graphs.events import ChannelConv, LowestPad
from shared_spec.formats.graphs.onnx.constants import Constant, integers
from shared_spec.formats.graphs.onnx.functions import epsilon, standardised
from shared_spec.formats.graphs.onnx.sizes import Length, Size, larger
from shared_spec.formats.graphs.onnx.units import (
    Builder,
    Item,
    Unit,
    Units,
    Value,
    entry_of,
    map_of,
)
from shared_spec.formats.graphs.walk import LayerError
from shared_spec.plan.layers import Layer
from shared_spec.weights.lazy_array import LazyArray

_BINOMIAL = np.outer((1, 2, 1), (1, 2, 1)) / 16
_MOMENTUM = 0.1
"""Which inference does not need, and files so do not say; the spec's own default."""


def _square(node: OnnxNode, key: str, default: int) -> int:
    values = node.attributes.get(key, (default, default))
    if len(values) != 2 or values[0] != values[1] or values[0] < 1:
        raise LayerError(
            f"{node} has {key} {shown(str(list(values)))}, expected one number for rows and columns"
        )
    return int(values[0])


def _window(
    r: Units, node: OnnxNode, x: Value, kernel: int, stride: int, dilation: int = 1
) -> tuple[plan.layers.Padding, tuple[Length, Length]]:
    """Padding of a convolution or a pool, and the size of what it gives."""
    auto = node.attributes.get("auto_pad", "NOTSET")
    extent = (kernel - 1) * dilation + 1
    rule = [_padded(n, stride, extent) for n in x.size]
    after = _every(x.size, stride)
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
    known = [n for n in rule if n is not None]
    same = pads == [n // 2 for n in known] + [n - n // 2 for n in known]
    if same and any(isinstance(n, Size) for n in pads):
        return "same", after
    if len(set(pads)) > 1:
        if not same:
            sized = any(isinstance(n, Size) for n in pads)
            told = "what depends on the size of the image" if sized else shown(str(pads))
            raise LayerError(
                f"{node} pads {told}, expected one number on all sides, or what TensorFlow's rule "
                f"gives"
            )
        r.guessed = True
        return "same", after
    if same and r.same:
        return "same", after
    h, w = ((n + 2 * top - extent) // stride + 1 for n in x.size)
    return top, (h, w)


def _padded(length: Length, stride: int, extent: int) -> Length | None:
    """How many rows TensorFlow's rule adds in all; None if that is not one expression."""
    with suppress(ValueError):
        return larger((length - 1) // stride * stride + extent - length, 0)
    return None


def _every(size: tuple[Length, Length], stride: int) -> tuple[Length, Length]:
    """As much of a size as steps reach."""
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


def _conv(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    if isinstance(given[0], Value) and given[0].axes == "N1C":
        return _channel_conv(r, node, entry_of(node, given[1], 3), given)
    if isinstance(given[0], Value) and given[0].axes == "NHWC" and given[0].pooled:
        return _channel_conv(r, _along_last(node), _without_row(node, given), given)
    x, second, eps = map_of(node, given), given[1], None
    if isinstance(second, Value) and (found := standardised(second.term)) is not None:
        second, eps = Constant(found[0][1]), found[1]
    kernel = entry_of(node, second, 4)
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
            arrays["bias"] = entry_of(node, bias, 1)
    if x.reflected:
        return _blur(r, node, x, arrays, stride, (groups, dilation))
    padding, size = _window(r, node, x, rows, stride, dilation)
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


def _without_row(node: OnnxNode, given: Sequence[Item | None]) -> LazyArray:
    """A kernel of one row as one of none."""
    kernel = entry_of(node, given[1], 4)
    if kernel.shape[2] != 1:
        raise LayerError(f"{node} is along the channels, and not as in channel attention")
    return kernel.reshaped((*kernel.shape[:2], kernel.shape[3]))


def _along_last(node: OnnxNode) -> OnnxNode:
    """A convolution of one row as one of none."""
    a = dict(node.attributes)
    for key, nothing in (("strides", 1), ("dilations", 1), ("kernel_shape", 1), ("pads", 0)):
        if key in a and set(a[key][::2]) == {nothing}:
            a[key] = a[key][1::2]
    return replace(node, attributes=a)


def _channel_conv(
    r: Units, node: OnnxNode, kernel: LazyArray, given: Sequence[Item | None]
) -> Value:
    """A convolution along the channels."""
    x, a = given[0], node.attributes
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
    r: Units,
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
    size = tuple((n - 3) // stride + 1 for n in x.size)
    return r.add(x, Unit(node, (x.unit,), layer), size=size, reflected=False)


def _batch_norm(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x = map_of(node, given)
    if node.attributes.get("training_mode", 0) or len([o for o in node.outputs if o]) > 1:
        raise LayerError(f"{node} is in training, in which a batch changes what it computes")
    leaves = ("weight", "bias", "running_mean", "running_var")
    arrays = {k: entry_of(node, v, 1) for k, v in zip(leaves, given[1:], strict=True)}
    (channels,) = arrays["weight"].shape
    layer = plan.BatchNorm(node.outputs[0], channels, epsilon(node), _MOMENTUM, "unbiased")
    return r.add(x, Unit(node, (x.unit,), layer, arrays))


def _group_norm(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x, arrays = map_of(node, given), {}
    arrays = {k: entry_of(node, v, 1) for k, v in zip(("weight", "bias"), given[1:], strict=True)}
    groups, channels = node.attributes["num_groups"], arrays["weight"].shape[0]
    layer = plan.GroupNorm(node.outputs[0], channels, groups, epsilon(node))
    return r.add(x, Unit(node, (x.unit,), layer, arrays))


def _pool(record: type[Layer]) -> Callable[[Units, OnnxNode, Sequence[Item | None]], Value]:
    def build(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
        x = map_of(node, given)
        if "kernel_shape" not in node.attributes or len([o for o in node.outputs if o]) > 1:
            raise LayerError(f"{node} gives indices, or has no kernel")
        kernel, stride = _square(node, "kernel_shape", 1), _square(node, "strides", 1)
        if _square(node, "dilations", 1) != 1:
            raise LayerError(f"{node} is dilated")
        if record is plan.MaxPool and _reaches_beyond(node, x, kernel, stride):
            beyond = plan.MaxPool(node.outputs[0], kernel, stride, ceil=True)
            h, w = ((n - kernel + stride - 1) // stride + 1 for n in x.size)
            return r.add(x, Unit(node, (x.unit,), beyond), size=(h, w), unseen=False)
        # Of rows and columns that are there already, a maximum is what it is without them.
        padding, size = _window(r, node, x, kernel, stride)
        if x.pads and (record is not plan.MaxPool or not (padding == "same" or padding < kernel)):
            raise LayerError(f"{node} comes after a pad that it may see")
        if kernel == stride and padding == 0 and not any(n % stride for n in x.known or (1,)):
            r.exact.add(node.outputs[0])
        counted = bool(node.attributes.get("count_include_pad", 0))
        if node.attributes.get("ceil_mode", 0):
            # Where windows do not overlap, TensorFlow's rule is that of a last one that is cut.
            if kernel != stride or padding != 0 or record is not plan.AvgPool:
                raise LayerError(f"{node} has ceil_mode, which no pool here has")
            padding, counted = "same", False
            size = _every(x.size, stride)
        if record is plan.AvgPool:
            told = counted and padding != 0
            layer: Layer = plan.AvgPool(node.outputs[0], kernel, stride, padding, told)
        else:
            layer = plan.MaxPool(node.outputs[0], kernel, stride, padding)
        return r.add(x, Unit(node, (x.unit,), layer), size=size, pads=None, unseen=False)

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
    known = x.known or ()
    rule = known and all((-(-n // stride) - 1) * stride + kernel - n == stride - 1 for n in known)
    return stride > 1 and not rule and pads == [0, 0, stride - 1, stride - 1]


def _global_pool(kind: Any) -> Callable[[Units, OnnxNode, Sequence[Item | None]], Value]:
    def build(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
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
        return r.pooled(x, node, kind, kept)

    return build


def _pad(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
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
        size = (x.size[0] + 2, x.size[1] + 2)
        return replace(x, reflected=True, size=size, term=None)
    zeros = lowest == 0 and mode == "constant" and images == (0, 0) and numbers == {0}
    if zeros and before + after and min(before, after) >= 0:
        return _more_channels(r, node, x, before, after)
    none = images == (before, after) == (0, 0)
    (top, bottom), (left, right) = around["H"], around["W"]
    known = not any(isinstance(n, Size) for n in numbers)
    if not none or (known and min(numbers) < 0):
        raise LayerError(f"{node} pads other things than rows and columns")
    added = (top, left, bottom, right)
    if mode == "edge":
        return replace(x, pads=added, unseen=True, term=None)
    record = {0.0: plan.ZeroPad, -math.inf: LowestPad}.get(lowest)
    if record is None and lowest <= float(np.finfo(np.float32).min):
        record = LowestPad
    if record is None or mode != "constant":
        raise LayerError(f"{node} pads other things than zeros around rows and columns")
    if numbers == {0}:
        return x
    if known and len(numbers) == 1:
        size = (x.size[0] + top + bottom, x.size[1] + left + right)
        unit = Unit(node, (x.unit,), record(node.outputs[0], numbers.pop()))
        return r.add(x, unit, size=size)
    return replace(x, pads=added, unseen=record is LowestPad, term=None)


def _more_channels(r: Units, node: OnnxNode, x: Value, before: int, after: int) -> Value:
    """Channels of zeros, behind a step from pixel to pixel if there is one."""
    source, stride = x.unit, 1
    match x.term:
        case ("every", source, _, stride, _):
            pass
    layer = plan.ZeroPadShortcut(node.outputs[0], stride, before, after)
    channels = None if x.channels is None else x.channels + before + after
    return r.add(x, Unit(node, (source,), layer), channels=channels)


def _pointwise(r: Units, node: OnnxNode, x: Value, kernel: LazyArray) -> Value:
    """A convolution of single pixels, as a product with all of them."""
    inside, out = kernel.shape
    layer = plan.Conv(node.outputs[0], inside, out, 1)
    weight = kernel.permuted((1, 0)).reshaped((out, inside, 1, 1))
    return r.add(x, Unit(node, (x.unit,), layer, {"weight": weight}), channels=out)


def _dense(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    kernel, a = entry_of(node, given[1], 2), node.attributes
    if node.operator == "MatMul" and isinstance(given[0], Value) and given[0].axes == "NHWC":
        return _pointwise(r, node, given[0], kernel)
    x = map_of(node, given, "NC")
    transposed = bool(a.get("transB", 0))
    if a.get("alpha", 1.0) != 1 or a.get("beta", 1.0) != 1 or a.get("transA", 0):
        raise LayerError(f"{node} scales or turns what it takes")
    arrays = {"weight": kernel if transposed else kernel.permuted((1, 0))}
    out, inside = arrays["weight"].shape
    if len(given) > 2 and given[2] is not None:
        arrays["bias"] = entry_of(node, given[2], 1)
    layer = plan.Dense(node.outputs[0], inside, out, "bias" in arrays)
    return r.add(x, Unit(node, (x.unit,), layer, arrays), channels=out)


LAYERS: dict[str, Builder] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "MaxPool": _pool(plan.MaxPool),
    "AveragePool": _pool(plan.AvgPool),
    "GlobalAveragePool": _global_pool("avg"),
    "GlobalMaxPool": _global_pool("max"),
    "ReduceMean": _global_pool("avg"),
    "ReduceMax": _global_pool("max"),
    "GroupNormalization": _group_norm,
    "Pad": _pad,
    "Gemm": _dense,
    "MatMul": _dense,
}
"""Their builders."""
