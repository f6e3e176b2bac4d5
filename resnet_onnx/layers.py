"""One builder a layer record: plan record in, nodes of operators out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from resnet_onnx.graph import HALVES, Graph
from shared_spec import plan
from shared_spec.errors import FrameworkError
from shared_spec.plan.parameters import placed, squeeze_convs
from shared_spec.weights.state import numpy_dtype

_FARTHEST = np.iinfo(np.int64).max


def build(g: Graph, layer: plan.Layer, x: str | list[str]) -> str:
    """Add the nodes of a layer record to `g`; the tensor that they give from the tensor `x`, or
    from several.
    """
    if type(layer) not in BUILDERS:
        raise FrameworkError(f"resnet_onnx has no layer for {type(layer).__name__}")
    g.places[layer.name] = BUILDERS[type(layer)](g, layer, x)
    return g.places[layer.name]


def chain(g: Graph, layers: plan.Layers, x: str) -> str:
    """Layers one after another."""
    for layer in layers:
        x = build(g, layer, x)
    return x


def _nothing(g: Graph, layer: plan.Layer, x: str) -> str:
    return x


def _window(layer: plan.MaxPool | plan.AvgPool | plan.Conv) -> dict[str, Any]:
    window: dict[str, Any] = {
        "kernel_shape": [layer.kernel_size] * 2,
        "strides": [layer.stride] * 2,
    }
    if layer.padding == "same":
        return {**window, "auto_pad": "SAME_UPPER"}
    if isinstance(layer, plan.MaxPool):
        before, after = layer.around()
        return {**window, "pads": [before, before, after, after]}
    return {**window, "pads": [layer.padding] * 4}


def _conv(g: Graph, layer: plan.Conv, x: str) -> str:
    kernel = f"{layer.name}.weight"
    if layer.standardize_eps is not None:
        wide = _widened(g, layer.name, kernel)
        kernel = _normalised(g, wide, (1, 2, 3), layer.standardize_eps, layer.name)
        if layer.scale is not None:
            gain = _widened(g, f"{layer.name}/gain", f"{layer.name}.gain")
            gain = g.node("Mul", gain, _number(g, layer.scale), name=f"{layer.name}/gains")
            kernel = g.node("Mul", kernel, gain, name=f"{layer.name}/scaled")
        if g.dtype in HALVES:
            kernel = g.cast(kernel, g.dtype, f"{layer.name}/kernel")
    inputs = [x, kernel, *([f"{layer.name}.bias"] if layer.bias else [])]
    spread = {"dilations": [layer.dilation] * 2, "group": layer.groups}
    return g.node("Conv", *inputs, name=layer.name, **_window(layer), **spread)


def _normalised(g: Graph, x: str, axes: tuple[int, ...], eps: float, name: str) -> str:
    """(x - mean) / sqrt(variance + eps), mean and biased variance over axes.

    ONNX's own operators have eps as an attribute, which is of float32 in every file.
    """
    centred = g.node("Sub", x, g.mean(x, axes, f"{name}/mean"), name=f"{name}/centred")
    deviation = _deviation(g, centred, axes, eps, name)
    return g.node("Div", centred, deviation, name=f"{name}/normalised")


def _deviation(g: Graph, centred: str, axes: tuple[int, ...], eps: float, name: str) -> str:
    """sqrt(mean of squares + eps)."""
    squares = g.node("Mul", centred, centred, name=f"{name}/squares")
    variance = g.mean(squares, axes, f"{name}/variance")
    padded = g.node("Add", variance, _number(g, eps), name=f"{name}/variance_eps")
    return g.node("Sqrt", padded, name=f"{name}/deviation")


def _number(g: Graph, value: float) -> str:
    return g.number(value, dtype="float32" if g.dtype in HALVES else None)


def _batch_norm(g: Graph, layer: plan.BatchNorm, x: str) -> str:
    leaves = ("weight", "bias", "running_mean", "running_var")
    inputs = [f"{layer.name}.{leaf}" for leaf in leaves]
    return g.node("BatchNormalization", x, *inputs, name=layer.name, epsilon=layer.eps)


def _widened(g: Graph, name: str, x: str) -> str:
    """`x` in float32 if the graph computes in a half: sums of squares would leave its range."""
    return g.cast(x, "float32", f"{name}/wide") if g.dtype in HALVES else x


def _per_channel(g: Graph, layer: plan.Layer, leaf: str) -> str:
    """A vector of the layer's weights, to be broadcast over rows and columns."""
    name = f"{layer.name}.{leaf}"
    wide = _widened(g, f"{layer.name}/{leaf}", name)
    return g.node("Unsqueeze", wide, g.whole(1, 2), name=f"{layer.name}/{leaf}")


def _affine(g: Graph, layer: plan.Layer, x: str, name: str) -> str:
    scaled = g.node("Mul", x, _per_channel(g, layer, "weight"), name=f"{layer.name}/scaled")
    return g.node("Add", scaled, _per_channel(g, layer, "bias"), name=name)


def _narrowed(g: Graph, layer: plan.Layer, make: Callable[[str], str]) -> str:
    """What `make` gives under the name it is told, in the graph's own dtype."""
    if g.dtype not in HALVES:
        return make(layer.name)
    return g.cast(make(f"{layer.name}/whole"), g.dtype, layer.name)


def _group_norm(g: Graph, layer: plan.GroupNorm, x: str) -> str:
    name = layer.name
    wide = _widened(g, name, x)
    groups = g.node("Reshape", wide, g.whole(0, layer.groups, -1), name=f"{name}/groups")
    normalised = _normalised(g, groups, (2,), layer.eps, name)
    shape = g.node("Shape", x, name=f"{name}/shape")
    maps = g.node("Reshape", normalised, shape, name=f"{name}/maps")
    return _narrowed(g, layer, lambda last: _affine(g, layer, maps, last))


def _evo_norm(g: Graph, layer: plan.EvoNorm, x: str) -> str:
    name = layer.name
    wide = _widened(g, name, x)
    groups = g.node("Reshape", wide, g.whole(0, layer.groups, -1), name=f"{name}/groups")
    mean = g.mean(groups, (2,), f"{name}/mean")
    centred = g.node("Sub", groups, mean, name=f"{name}/centred")
    deviation = _deviation(g, centred, (2,), layer.eps, name)
    gated = groups
    if layer.activates:
        gate = g.node("Mul", wide, _per_channel(g, layer, "v"), name=f"{name}/weighted")
        gate = g.node("Sigmoid", gate, name=f"{name}/gate")
        gated = g.node("Mul", wide, gate, name=f"{name}/gated")
        gated = g.node("Reshape", gated, g.whole(0, layer.groups, -1), name=f"{name}/gated_groups")
    divided = g.node("Div", gated, deviation, name=f"{name}/divided")
    maps = g.node("Reshape", divided, g.node("Shape", x, name=f"{name}/shape"), name=f"{name}/maps")
    return _narrowed(g, layer, lambda last: _affine(g, layer, maps, last))


def _filter_response_norm(g: Graph, layer: plan.FilterResponseNorm, x: str) -> str:
    name = layer.name
    wide = _widened(g, name, x)
    deviation = _deviation(g, wide, (2, 3), layer.eps, name)
    divided = g.node("Div", wide, deviation, name=f"{name}/divided")
    y = _affine(g, layer, divided, f"{name}/affine")
    tau = _per_channel(g, layer, "tau")
    return _narrowed(g, layer, lambda last: g.node("Max", y, tau, name=last))


def _zero_pad(g: Graph, layer: plan.ZeroPad, x: str) -> str:
    sides = (0, 0, layer.amount, layer.amount)
    return g.node("Pad", x, g.whole(*sides, *sides), name=layer.name)


def _activation(g: Graph, layer: plan.Activation, x: str) -> str:
    return ACTIVATIONS[layer.function](g, layer.name, x)


def _max_pool(g: Graph, layer: plan.MaxPool, x: str) -> str:
    return g.node("MaxPool", x, name=layer.name, **_window(layer))


def _avg_pool(g: Graph, layer: plan.AvgPool, x: str) -> str:
    counted = int(layer.count_padding)
    return g.node("AveragePool", x, name=layer.name, count_include_pad=counted, **_window(layer))


def _blur_pool(g: Graph, layer: plan.BlurPool, x: str) -> str:
    row = np.array([0.25, 0.5, 0.25])
    kernel = np.broadcast_to(row[:, None] * row, (layer.channels, 1, 3, 3))
    g.constants[f"{layer.name}.filter"] = kernel.astype(numpy_dtype(g.dtype))
    sides = (0, 0, 1, 1)
    padded = g.node("Pad", x, g.whole(*sides, *sides), name=f"{layer.name}/padded", mode="reflect")
    how: dict[str, Any] = {"strides": [layer.stride] * 2, "group": layer.channels}
    return g.node("Conv", padded, f"{layer.name}.filter", name=layer.name, **how)


def _squeeze_excite(g: Graph, layer: plan.SqueezeExcite, x: str) -> str:
    first, second = squeeze_convs(layer)
    y = g.node("GlobalAveragePool", x, name=f"{layer.name}/mean")
    y = ACTIVATIONS[layer.activation](g, f"{layer.name}/{layer.activation}", _conv(g, first, y))
    gate = g.node("Sigmoid", _conv(g, second, y), name=f"{layer.name}/gate")
    return g.node("Mul", x, gate, name=layer.name)


def _channel_attention(g: Graph, layer: plan.ChannelAttention, x: str) -> str:
    name, side = layer.name, layer.kernel_size // 2
    y = g.node("GlobalAveragePool", x, name=f"{name}/mean")
    y = g.node("Reshape", y, g.whole(0, 1, -1), name=f"{name}/channels")
    window: dict[str, Any] = {"kernel_shape": [layer.kernel_size], "pads": [side, side]}
    y = g.node("Conv", y, f"{name}.conv.weight", name=f"{name}.conv", **window)
    gate = g.node("Sigmoid", y, name=f"{name}/sigmoid")
    gate = g.node("Reshape", gate, g.whole(0, -1, 1, 1), name=f"{name}/gate")
    return g.node("Mul", x, gate, name=name)


def _chains(g: Graph, layer: plan.Layer) -> list[Callable[[str], str]]:
    """The chains inside of a layer, as functions of a tensor."""

    def run(before: str, layers: plan.Layers, x: str) -> str:
        return chain(g, tuple(placed(layer, before, inner) for inner in layers), x)

    return [partial(run, before, layers) for before, layers in layer.chains()]


def _global_context(g: Graph, layer: plan.GlobalContext, x: str) -> str:
    weigh, transform = _chains(g, layer)
    name = layer.name
    weights = g.node("Reshape", weigh(x), g.whole(0, 1, -1), name=f"{name}/logits")
    weights = g.node("Softmax", weights, name=f"{name}/weights", axis=2)
    weights = g.node("Transpose", weights, name=f"{name}/column", perm=[0, 2, 1])
    pixels = g.node("Reshape", x, g.whole(0, layer.channels, -1), name=f"{name}/pixels")
    context = g.node("MatMul", pixels, weights, name=f"{name}/mean")
    context = g.node("Unsqueeze", context, g.whole(3), name=f"{name}/context")
    return g.node("Add", x, transform(context), name=name)


def _tokens(g: Graph, layer: plan.Tokens, x: str) -> str:
    name, side = layer.name, layer.side
    table = f"{name}.pos_embed"
    shape = g.node("Shape", x, name=f"{name}/shape")
    weights = [
        _cubic(g, f"{name}/{axis}", shape, i, side) for i, axis in ((2, "rows"), (3, "columns"))
    ]
    first, last = (
        g.node("Slice", table, g.whole(a), g.whole(b), g.whole(0), name=f"{name}/{what}")
        for what, a, b in (("first", 0, 1), ("others", 1, 1 + side * side))
    )
    wide = _widened(g, f"{name}/table", last)
    rows = g.node("Reshape", wide, g.whole(side, -1), name=f"{name}/by_row")
    rows = g.node("MatMul", weights[0], rows, name=f"{name}/rows_there")
    grid = g.node("Reshape", rows, g.whole(-1, side, layer.channels), name=f"{name}/grid")
    grid = g.node("MatMul", weights[1], grid, name=f"{name}/grid_there")
    rest = g.node("Reshape", grid, g.whole(-1, layer.channels), name=f"{name}/pixels_there")
    rest = g.cast(rest, g.dtype, f"{name}/narrow") if g.dtype in HALVES else rest
    whole = g.node("Concat", first, rest, name=f"{name}/positions", axis=0)
    pixels = g.node("Reshape", x, g.whole(0, layer.channels, -1), name=f"{name}/channels")
    pixels = g.node("Transpose", pixels, name=f"{name}/pixels", perm=[0, 2, 1])
    mean = g.mean(pixels, (1,), f"{name}/mean")
    tokens = g.node("Concat", mean, pixels, name=f"{name}/tokens", axis=1)
    return g.node("Add", tokens, whole, name=name)


def _cubic(g: Graph, name: str, shape: str, axis: int, side: int) -> str:
    """`shared_spec.plan.resampling.cubic` for the length of an axis of a map."""

    def step(operator: str, *inputs: str, what: str, **attributes: Any) -> str:
        return g.node(operator, *inputs, name=f"{name}/{what}", **attributes)

    number = partial(_number, g)
    kind = "float32" if g.dtype in HALVES else g.dtype
    length = step("Gather", shape, g.whole(axis), what="length", axis=0)
    scalar = step("Squeeze", length, what="scalar")
    zero, one = (g.constant(f"integers/scalar{i}", np.array(i, np.int64)) for i in (0, 1))
    places = g.cast(step("Range", zero, scalar, one, what="range"), kind, f"{name}/places")
    ratio = step("Div", number(side), g.cast(length, kind, f"{name}/real"), what="ratio")
    centres = step("Mul", step("Add", places, number(0.5), what="middle"), ratio, what="centres")
    centres = step("Unsqueeze", centres, g.whole(1), what="column")
    pixels = g.number(*(i + 0.5 for i in range(side)), dtype=kind)
    pixels = step("Reshape", pixels, g.whole(1, side), what="pixels")
    x = step("Abs", step("Sub", pixels, centres, what="difference"), what="distance")
    x = step("Div", x, step("Max", ratio, number(1), what="width"), what="x")

    def polynomial(what: str, *coefficients: float) -> str:
        y = number(coefficients[0])
        for i, c in enumerate(coefficients[1:]):
            y = step("Mul", y, x, what=f"{what}/product{i}")
            y = step("Add", y, number(c), what=f"{what}/sum{i}")
        return y

    near, far = polynomial("near", 1.5, -2.5, 0, 1), polynomial("far", -0.5, 2.5, -4, 2)
    is_far = step("Less", x, number(2), what="within")
    far = step("Where", is_far, far, number(0), what="far_or_none")
    weights = step("Where", step("Less", x, number(1), what="is_near"), near, far, what="weights")
    mean = step("Mul", g.mean(weights, (1,), f"{name}/mean"), number(side), what="total")
    return step("Div", weights, mean, what="normalised")


def _attention_pool(g: Graph, layer: plan.AttentionPool, x: str) -> str:
    tokens, *_ = _chains(g, layer)
    name, heads = layer.name, layer.heads
    found, width = tokens(x), layer.channels // layer.heads
    dense = tuple(placed(layer, "", part) for part in (layer.query, layer.key, layer.value))
    first = g.node("Slice", found, g.whole(0), g.whole(1), g.whole(1), name=f"{name}/first")
    split: list[str] = []
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    for part, entering, order in zip(dense, (first, found, found), orders, strict=True):
        assert isinstance(part, plan.Dense)
        g.places[part.name] = y = _on_tokens(g, part, entering)
        y = g.node("Reshape", y, g.whole(0, 0, heads, width), name=f"{part.name}/heads")
        split.append(g.node("Transpose", y, name=f"{part.name}/split", perm=order))
    query, key, value = split
    logits = g.node("MatMul", query, key, name=f"{name}/products")
    logits = g.node("Mul", logits, g.number(width**-0.5), name=f"{name}/logits")
    weights = g.node("Softmax", logits, name=f"{name}/weights", axis=3)
    y = g.node("MatMul", weights, value, name=f"{name}/attended")
    return g.node("Reshape", y, g.whole(0, layer.channels), name=name)


def _part(g: Graph, x: str, width: int, number: int, name: str, axis: int = 1) -> str:
    """So many channels, those of a number."""
    first, last = g.whole(number * width), g.whole((number + 1) * width)
    return g.node("Slice", x, first, last, g.whole(axis), name=f"{name}/part{number}")


def _weighted_sum(g: Graph, name: str, gate: str, maps: list[str], groups: int = 1) -> str:
    """Maps weighted for each channel by a softmax over them of a gate that is by group of channels,
    then by map, then by channel of the group.
    """
    gate = g.node("Reshape", gate, g.whole(0, groups, len(maps), -1), name=f"{name}/by_map")
    gate = g.node("Softmax", gate, name=f"{name}/weights", axis=2)
    total = ""
    for i, one in enumerate(maps):
        weight = _part(g, gate, 1, i, f"{name}/weights", axis=2)
        weight = g.node("Reshape", weight, g.whole(0, -1, 1, 1), name=f"{name}/weight{i}")
        weighted = g.node("Mul", one, weight, name=f"{name}/weighted{i}")
        last = name if i == len(maps) - 1 else f"{name}/sum_to{i}"
        total = g.node("Add", total, weighted, name=last) if total else weighted
    return total


def _total(g: Graph, parts: list[str], name: str) -> str:
    total = parts[0]
    for i, part in enumerate(parts[1:], start=1):
        total = g.node("Add", total, part, name=f"{name}/total{i}")
    return total


def _selective_kernel(g: Graph, layer: plan.SelectiveKernel, x: str) -> str:
    *paths, gate = _chains(g, layer)
    width = layer.in_channels // len(paths)
    name = layer.name
    shares = [_part(g, x, width, i, name) if layer.split else x for i in range(len(paths))]
    found = [path(share) for path, share in zip(paths, shares, strict=True)]
    return _weighted_sum(g, name, gate(_total(g, found, name)), found)


def _hierarchical_split(g: Graph, layer: plan.HierarchicalSplit, x: str) -> str:
    *paths, rest = _chains(g, layer)
    name, width = layer.name, layer.channels // layer.parts
    parts = [_part(g, x, width, i, name) for i in range(layer.parts)]
    found: list[str] = []
    for i, (path, part) in enumerate(zip(paths, parts, strict=False)):
        if found and layer.cascade:
            part = g.node("Add", part, found[-1], name=f"{name}/sum{i}")
        found.append(path(part))
    found += [rest(part) for part in parts[len(found) :]]
    return g.node("Concat", *found, name=name, axis=1)


def _split_attention(g: Graph, layer: plan.SplitAttention, x: str) -> str:
    branch, gate = _chains(g, layer)
    found, name = branch(x), layer.name
    if layer.radix == 1:
        weights = g.node("Sigmoid", gate(found), name=f"{name}/weights")
        return g.node("Mul", found, weights, name=name)
    parts = [_part(g, found, layer.channels, i, name) for i in range(layer.radix)]
    return _weighted_sum(g, name, gate(_total(g, parts, name)), parts, layer.groups)


def _prelu(g: Graph, layer: plan.PReLU, x: str) -> str:
    slope = f"{layer.name}.weight"
    slope = g.node("Unsqueeze", slope, g.whole(1, 2), name=f"{layer.name}/slope")
    return g.node("PRelu", x, slope, name=layer.name)


def _layer_scale(g: Graph, layer: plan.LayerScale, x: str) -> str:
    scale = f"{layer.name}.gamma"
    scale = g.node("Unsqueeze", scale, g.whole(1, 2), name=f"{layer.name}/gamma")
    return g.node("Mul", x, scale, name=layer.name)


def _skip_gain(g: Graph, layer: plan.SkipGain, x: str) -> str:
    return g.node("Mul", x, f"{layer.name}.gain", name=layer.name)


def _scale(g: Graph, layer: plan.Scale, x: str) -> str:
    return g.node("Mul", x, g.number(layer.value), name=layer.name)


def _zero_pad_shortcut(g: Graph, layer: plan.ZeroPadShortcut, x: str) -> str:
    starts, ends = g.whole(0, 0), g.whole(_FARTHEST, _FARTHEST)
    axes, steps = g.whole(2, 3), g.whole(layer.stride, layer.stride)
    y = g.node("Slice", x, starts, ends, axes, steps, name=f"{layer.name}/sliced")
    pads = g.whole(0, layer.before, 0, 0, 0, layer.after, 0, 0)
    return g.node("Pad", y, pads, name=layer.name)


def _global_pool(g: Graph, layer: plan.GlobalPool, x: str) -> str:
    name = layer.name
    pooled = name if layer.keep_axes else f"{name}/pooled"
    if layer.kind == "avg":
        y = g.node("GlobalAveragePool", x, name=pooled)
    elif layer.kind == "max":
        y = g.node("GlobalMaxPool", x, name=pooled)
    else:
        both = (
            g.node("GlobalAveragePool", x, name=f"{name}/mean"),
            g.node("GlobalMaxPool", x, name=f"{name}/maximum"),
        )
        if layer.kind == "catavgmax":
            y = g.node("Concat", *both, name=pooled, axis=1)
        else:
            total = g.node("Add", *both, name=f"{name}/sum")
            y = g.node("Mul", total, g.number(0.5), name=pooled)
    return y if layer.keep_axes else g.node("Flatten", y, name=name, axis=1)


def _flatten(g: Graph, layer: plan.Flatten | plan.FlattenMaps, x: str) -> str:
    return g.node("Flatten", x, name=layer.name, axis=1)


def _dense(g: Graph, layer: plan.Dense, x: str) -> str:
    inputs = [x, f"{layer.name}.weight", *([f"{layer.name}.bias"] if layer.bias else [])]
    return g.node("Gemm", *inputs, name=layer.name, transB=1)


def _on_tokens(g: Graph, layer: plan.Dense, x: str) -> str:
    """A dense layer on the last axis of [N, L, C]: Gemm takes two axes alone."""
    kernel = g.node("Transpose", f"{layer.name}.weight", name=f"{layer.name}/kernel", perm=[1, 0])
    y = g.node("MatMul", x, kernel, name=f"{layer.name}/product")
    return g.node("Add", y, f"{layer.name}.bias", name=layer.name)


def _enlarge(g: Graph, layer: plan.Enlarge, xs: list[str]) -> str:
    x = xs[0]
    shapes = [g.node("Shape", t, name=f"{layer.name}/shape{i}") for i, t in enumerate(xs)]
    zero, one = (g.constant(f"integers/scalar{i}", np.array(i, np.int64)) for i in (0, 1))
    for axis, what in ((2, "rows"), (3, "columns")):
        name = layer.name if axis == 3 else f"{layer.name}/{what}"
        place = g.constant(f"integers/scalar{axis}", np.array(axis, np.int64))
        side, length = (
            g.node("Gather", shape, place, name=f"{layer.name}/{what}{i}", axis=0)
            for i, shape in enumerate(shapes)
        )
        places = g.node("Range", zero, length, one, name=f"{layer.name}/{what}/range")
        if layer.how == "bilinear":
            x = _between(g, name, x, (places, side, length), axis)
            continue
        places = g.node("Mul", places, side, name=f"{layer.name}/{what}/times")
        places = g.node("Div", places, length, name=f"{layer.name}/{what}/places")
        x = g.node("Gather", x, places, name=name, axis=axis)
    return x


def _between(g: Graph, name: str, x: str, places: tuple[str, str, str], axis: int) -> str:
    """`shared_spec.plan.resampling.linear` along an axis, of whole numbers 0, 1, … and two
    lengths.
    """
    zero, one, two = (g.constant(f"integers/scalar{i}", np.array(i, np.int64)) for i in range(3))
    numbers, side, length = places

    def step(operator: str, *inputs: str, what: str, **attributes: Any) -> str:
        return g.node(operator, *inputs, name=f"{name}/axis{axis}/{what}", **attributes)

    whole = step("Mul", length, two, what="whole")
    at = step("Add", step("Mul", numbers, two, what="doubled"), one, what="odd")
    at = step("Sub", step("Mul", at, side, what="times"), length, what="centred")
    at = step("Max", at, zero, what="at")
    low = step("Div", at, whole, what="low")
    last = step("Sub", side, one, what="last")
    high = step("Min", step("Add", low, one, what="next"), last, what="high")
    rest = step("Sub", at, step("Mul", low, whole, what="reached"), what="rest")
    kind = "float32" if g.dtype in HALVES else g.dtype
    wide = [g.cast(n, kind, f"{name}/axis{axis}/real{i}") for i, n in enumerate((rest, whole))]
    share = step("Div", *wide, what="share")
    share = step("Unsqueeze", share, g.whole(1), what="column") if axis == 2 else share
    share = g.cast(share, g.dtype, f"{name}/axis{axis}/narrow") if g.dtype in HALVES else share
    a, b = (
        step("Gather", x, n, what=what, axis=axis) for n, what in ((low, "before"), (high, "after"))
    )
    more = step("Mul", step("Sub", b, a, what="difference"), share, what="part")
    return g.node("Add", a, more, name=name)


def _relu6(g: Graph, name: str, x: str) -> str:
    return g.node("Clip", x, g.number(0), g.number(6), name=name)


def _leaky_relu(g: Graph, name: str, x: str) -> str:
    # Not LeakyRelu: its slope is an attribute, which is of float32 in every file.
    return g.node("PRelu", x, g.number(plan.LEAKY_SLOPE), name=name)


def _selu(g: Graph, name: str, x: str) -> str:
    negative, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    y = g.node("Elu", x, name=f"{name}/elu")
    y = g.node("PRelu", y, g.number(negative), name=f"{name}/negative")
    return g.node("Mul", y, g.number(scale), name=name)


def _silu(g: Graph, name: str, x: str) -> str:
    return g.node("Mul", x, g.node("Sigmoid", x, name=f"{name}/sigmoid"), name=name)


def _mish(g: Graph, name: str, x: str) -> str:
    y = g.node("Tanh", g.node("Softplus", x, name=f"{name}/softplus"), name=f"{name}/tanh")
    return g.node("Mul", x, y, name=name)


def _gelu(g: Graph, name: str, x: str) -> str:
    y = g.node("Div", x, g.number(np.sqrt(2)), name=f"{name}/scaled")
    y = g.node("Add", g.node("Erf", y, name=f"{name}/erf"), g.number(1), name=f"{name}/shifted")
    y = g.node("Mul", x, y, name=f"{name}/product")
    return g.node("Mul", y, g.number(0.5), name=name)


def _gelu_tanh(g: Graph, name: str, x: str) -> str:
    cube = g.node("Mul", g.node("Mul", x, x, name=f"{name}/square"), x, name=f"{name}/cube")
    y = g.node("Mul", cube, g.number(0.044715), name=f"{name}/weighted")
    y = g.node(
        "Mul",
        g.node("Add", x, y, name=f"{name}/sum"),
        g.number(np.sqrt(2 / np.pi)),
        name=f"{name}/scaled",
    )
    y = g.node("Add", g.node("Tanh", y, name=f"{name}/tanh"), g.number(1), name=f"{name}/shifted")
    y = g.node("Mul", x, y, name=f"{name}/product")
    return g.node("Mul", y, g.number(0.5), name=name)


def _hardswish(g: Graph, name: str, x: str) -> str:
    y = g.node("Add", x, g.number(3), name=f"{name}/shifted")
    y = g.node("Clip", y, g.number(0), g.number(6), name=f"{name}/relu6")
    y = g.node("Mul", x, y, name=f"{name}/product")
    return g.node("Div", y, g.number(6), name=name)


def _one(operator: str) -> Callable[[Graph, str, str], str]:
    return lambda g, name, x: g.node(operator, x, name=name)


ACTIVATIONS: dict[str, Callable[[Graph, str, str], str]] = {
    "relu": _one("Relu"),
    "relu6": _relu6,
    "leaky_relu": _leaky_relu,
    "elu": _one("Elu"),
    "selu": _selu,
    "silu": _silu,
    "mish": _mish,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hardswish": _hardswish,
}

BUILDERS: dict[type[plan.Layer], Callable[[Graph, Any, Any], str]] = {
    plan.Conv: _conv,
    plan.BatchNorm: _batch_norm,
    plan.Sum: lambda g, layer, xs: g.node("Add", *xs, name=layer.name),
    plan.Enlarge: _enlarge,
    plan.Concat: lambda g, layer, xs: g.node("Concat", *xs, name=layer.name, axis=1),
    plan.GroupNorm: _group_norm,
    plan.EvoNorm: _evo_norm,
    plan.FilterResponseNorm: _filter_response_norm,
    plan.Identity: _nothing,
    plan.ZeroPad: _zero_pad,
    plan.Activation: _activation,
    plan.PReLU: _prelu,
    plan.MaxPool: _max_pool,
    plan.AvgPool: _avg_pool,
    plan.BlurPool: _blur_pool,
    plan.SqueezeExcite: _squeeze_excite,
    plan.ChannelAttention: _channel_attention,
    plan.Tokens: _tokens,
    plan.AttentionPool: _attention_pool,
    plan.GlobalContext: _global_context,
    plan.SelectiveKernel: _selective_kernel,
    plan.HierarchicalSplit: _hierarchical_split,
    plan.SplitAttention: _split_attention,
    plan.LayerScale: _layer_scale,
    plan.Scale: _scale,
    plan.SkipGain: _skip_gain,
    plan.ZeroPadShortcut: _zero_pad_shortcut,
    plan.GlobalPool: _global_pool,
    plan.Flatten: _flatten,
    plan.FlattenMaps: _flatten,
    plan.Dense: _dense,
    plan.Dropout: _nothing,
    plan.DropPath: _nothing,
    plan.DropBlock: _nothing,
}
