"""Spec to plan: the one place that knows the topology of residual networks.

What layers are called is in `shared_spec.plan.names`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal, NamedTuple

from shared_spec import plan
from shared_spec.errors import SpecError
from shared_spec.plan.layers import Layer, Layers, Padding
from shared_spec.plan.names import names_of
from shared_spec.plan.network import Block, Plan, Stage
from shared_spec.spec.resnet_spec import GAMMAS, HEAD, ResNetSpec


class _Site(NamedTuple):
    """Where a block stands, with the numbers that follow from what is before it."""

    stage: int
    number: int
    in_channels: int
    widths: tuple[int, ...]
    """Output channels of the branch's convolutions."""
    nominal_stride: int
    """The block's stride in a net that does not dilate; it decides which block projects, so that
    weights do not depend on `output_stride`."""
    stride: int
    first_dilation: int
    """Dilation of the block's first 3x3 convolution: in the first block that of the stage before,
    as the pixels that it sees lie that far apart."""
    dilation: int
    drop_path: float
    variance: float = 1.0
    """Of the block's input, as it is expected in a net without norms."""

    @property
    def out_channels(self) -> int:
        return self.widths[-1]

    @property
    def same_shape(self) -> bool:
        return self.nominal_stride == 1 and self.in_channels == self.out_channels


@lru_cache(maxsize=256)  # the catalogue, while a file is compared with it
def compile_plan(spec: ResNetSpec) -> Plan:
    """Resolve every number that follows from `spec`.

    Returns:
        A frozen, hashable `Plan`; equal specs give equal plans.

    Raises:
        SpecError: if some layer's channels do not divide as the spec asks.
    """
    build = _pre_activation_block if spec.pre_activation else _block_or_start
    names, sites = names_of(spec), [*_sites(spec)]
    stages: list[Stage] = []
    for index, members in groupby(sites, key=lambda site: site.stage):
        name = _numbered(names.stage, index)
        blocks = (build(spec, f"{name}.{_numbered(names.block, s.number)}", s) for s in members)
        stages.append(Stage(name, tuple(blocks)))
    stem, before_last_stride = _stem(spec)
    pool = _stem_pool(spec, names.stem_pool)
    if not spec.features_only:
        stride = spec.stem_stride_total * math.prod(s.stride for s in sites)
        head = _head(spec, sites[-1].out_channels, stride)
        return Plan(spec.in_channels, stem + pool, tuple(stages), head)
    final = _final(spec, sites[-1].out_channels)[0] if names.final_feature else ()
    end = final[-1].name if final else stages[-1].name
    levels = (before_last_stride, *(stage.name for stage in stages[:-1]), end)
    wanted = spec.out_indices or range(len(levels))
    last = wanted[-1]
    # Nothing is built that no output needs.
    if not last:
        kept = 1 + next(i for i, layer in enumerate(stem) if layer.name == before_last_stride)
        return Plan(spec.in_channels, stem[:kept], (), (), levels[:1])
    outputs = tuple(levels[i] for i in wanted)
    head = final if end in outputs else ()
    return Plan(spec.in_channels, stem + pool, tuple(stages[:last]), head, outputs)


def _numbered(name: str, index: int) -> str:
    return name.format(i=index, n=index + 1)


def _sites(spec: ResNetSpec) -> Iterator[_Site]:
    """Every block, first to last."""
    reduction, channels = spec.stem_stride_total, spec.stem_width
    dilation = 1
    index, last, variance = 0, max(sum(spec.depths) - 1, 1), 1.0
    for stage, depth in enumerate(spec.depths):
        nominal, before = spec.strides[stage], dilation
        stride = nominal
        if spec.output_stride is not None and reduction >= spec.output_stride:
            dilation, stride = dilation * nominal, 1
        reduction *= stride
        strided = depth - 1 if spec.stride_block == "last" else 0
        for number in range(depth):
            pruned = spec.block_widths[index] if spec.block_widths else ()
            yield _Site(
                stage,
                number,
                channels,
                pruned or _widths(spec, stage, channels),
                nominal_stride=nominal if number == strided else 1,
                stride=stride if number == strided else 1,
                first_dilation=before if number == 0 else dilation,
                dilation=dilation,
                drop_path=spec.drop_path_rate * index / last,
                variance=variance,
            )
            # A projection takes the block's scaled input, which sets the variance back to one.
            variance = (variance if number else 1.0) + spec.branch_scale**2
            channels = pruned[-1] if pruned else spec.out_channels[stage]
            index += 1


def _widths(spec: ResNetSpec, stage: int, in_channels: int) -> tuple[int, ...]:
    """Output channels of the convolutions of a block in `stage` that so many channels enter."""
    width, out_channels = spec.inner_width(stage, in_channels), spec.out_channels[stage]
    if spec.blocks[stage] != "bottleneck":
        return width // spec.reduce_first, out_channels
    if spec.convolution == "hierarchical":
        return width * spec.scale, width * spec.scale, out_channels
    extra = (width,) if spec.extra_conv else ()
    return width // spec.reduce_first, width, *extra, out_channels


def _kernels(spec: ResNetSpec, stage: int) -> tuple[int, ...]:
    """Kernel sizes of the convolutions of a stage's branches."""
    if spec.blocks[stage] == "bottleneck":
        return (1, 3, 3, 1) if spec.extra_conv else (1, 3, 1)
    return (3, 3) if spec.blocks[stage] == "basic" else (3, 1)


def _head(spec: ResNetSpec, channels: int, stride: int) -> Layers:
    """Pool, dropout and classifier, such as they are, behind maps of so many channels that have a
    pixel for so many of the image's.
    """
    names = names_of(spec)
    final, channels = _final(spec, channels)
    side = -(-spec.image_size // stride)
    pooled = channels * (2 if spec.head_pool == "catavgmax" else 1)
    keep_axes = names.conv_classifier
    drop: Layers = (plan.Dropout(f"{names.head}drop", spec.drop_rate),) if spec.drop_rate else ()
    if spec.head_pool == "flatten":
        pooled = channels * side * side
        pool: Layer = plan.FlattenMaps(f"{names.head}flatten", side, side, channels)
    elif spec.head_pool == "attention":
        table = max(spec.image_size // stride, 1)
        pool = _attention_pool(f"{names.head}pool", channels, table)
    else:
        keeps = keep_axes or spec.head_hidden is not None
        pool = plan.GlobalPool(f"{names.head}global_pool", keeps, spec.head_pool)
    hidden, pooled = _hidden(spec, pooled)
    fc, ends = f"{names.head}{names.classifier}", (pooled, spec.num_classes)
    layer = plan.Conv(fc, *ends, 1, bias=True) if keep_axes else plan.Dense(fc, *ends)
    classifier = (layer,) if spec.num_classes else ()
    flatten = (plan.Flatten(f"{names.head}flatten"),) if keep_axes else ()
    return (*final, pool, *hidden, *drop, *classifier, *flatten, *_output_norm(spec))


def _output_norm(spec: ResNetSpec) -> Layers:
    if not (spec.output_norm and spec.num_classes):
        return ()
    norm = _norm(spec, names_of(spec).output_norm, spec.num_classes)
    assert isinstance(norm, plan.BatchNorm)
    return (replace(norm, of_features=True),)


def _attention_pool(name: str, channels: int, side: int) -> Layer:
    query, key, value = (plan.Dense(leaf, channels, channels, start="lecun") for leaf in "qkv")
    tokens = plan.Tokens("tokens", channels, side)
    return plan.AttentionPool(name, tokens, query, key, value, channels // HEAD)


def _hidden(spec: ResNetSpec, channels: int) -> tuple[Layers, int]:
    """A norm and a dense layer behind the pool, and the channels after them."""
    if spec.head_hidden is None:
        return (), channels
    head, fc = names_of(spec).head, f"{names_of(spec).head}pre_logits"
    layers = (
        _norm(spec, f"{head}norm", channels),
        plan.Flatten(f"{head}flatten"),
        plan.Dense(f"{fc}.fc", channels, spec.head_hidden),
        _act(spec, f"{fc}.act", spec.head_hidden),
    )
    return layers, spec.head_hidden


def _final(spec: ResNetSpec, channels: int) -> tuple[Layers, int]:
    """What is between the last stage and the pool, and the channels after it."""
    names = names_of(spec)
    conv, norm, act = names.final
    if spec.head_width is not None:
        width = spec.head_width
        layer = _conv(spec, conv, (channels, width), 1)
        return (layer, *_norm_act(spec, norm, act, width)), width
    norms = _norms(spec, norm, channels) if spec.has_final_norm else ()
    if not spec.has_final_activation or (norms and _norm_activates(spec)):
        return norms, channels
    return (*norms, _act(spec, act if norms else names.final_act, channels)), channels


def _stem(spec: ResNetSpec) -> tuple[Layers, str]:
    """Convolutions, each with norm and activation, without the pool after them; and the name of the
    layer before the stem's last stride.

    A pre-activation net leaves the last norm and activation to its first block.
    """
    kernel_size = 7 if spec.stem == "conv7x7" else 3
    names, widths = names_of(spec), spec.stem_channels
    padding = _padding(spec.stem_padding or spec.padding, kernel_size)
    layers: list[Layer] = []
    channels, tap, last = spec.in_channels, "", len(widths) - 1
    for index, out_channels in enumerate(widths):
        conv, norm, act = names.of_stem(index, len(widths), len(layers))
        stride = spec.stem_stride if index == 0 else 1
        if index == last and spec.stem_last_stride > 1:
            stride, tap = stride * spec.stem_last_stride, layers[-1].name
        normed = index < last or not spec.pre_activation
        if index < spec.stem_linear:
            conv, normed = names.linear_stem_conv.format(n=index + 1, c=len(layers)), False
        shape = (channels, out_channels)
        layers.append(_conv(spec, conv, shape, kernel_size, stride, normed, padding))
        if normed:
            layers += _norm_act(spec, norm, act, out_channels)
        channels = out_channels
    pools = spec.stem_pool != "none"
    return tuple(layers), layers[-1].name if pools or not tap else tap


def _stem_pool(spec: ResNetSpec, name: str) -> Layers:
    """What halves the resolution after the stem."""
    width, anti_alias = spec.stem_width, spec.anti_alias != "none"
    if spec.stem_pool == "none":
        return ()
    if spec.stem_pool == "max_zero":
        pad, at = names_of(spec).padded_stem_pool
        return (plan.ZeroPad(pad, 1), plan.MaxPool(at, 3, 2))
    if spec.stem_pool == "conv":
        layers = [_conv(spec, f"{name}.0", (width, width), 3, 1 if anti_alias else 2)]
        layers += [_anti_alias(spec, f"{name}.1", width, 2)] if anti_alias else []
        next_ = len(layers)
        return (*layers, *_norm_act(spec, f"{name}.{next_}", f"{name}.{next_ + 1}", width))
    if spec.anti_alias == "avg":
        return (_anti_alias(spec, name, width, 2),)
    if spec.stem_pool == "max_ceil":
        return (plan.MaxPool(name, 3, 2, ceil=True),)
    padding = _padding(spec.padding, 3)
    if spec.anti_alias == "blur":
        pool = plan.MaxPool(f"{name}.0", 3, 1, padding)
        return (pool, _anti_alias(spec, f"{name}.1", width, 2))
    return (plan.MaxPool(name, 3, 2, padding),)


def _block_or_start(spec: ResNetSpec, name: str, site: _Site) -> Block:
    if spec.stage_start == "conv_pool" and site.number == 0:
        return _conv_pool(spec, name, site)
    return _block(spec, name, site)


def _conv_pool(spec: ResNetSpec, name: str, site: _Site) -> Block:
    """A plain block of one convolution, whose pool has the stride."""
    conv, norm, act = (f"{name}.{part}" for part in names_of(spec).branch("1", 3))
    branch = (
        _conv(spec, conv, (site.in_channels, site.out_channels), 3),
        *_norm_act(spec, norm, act, site.out_channels),
        *((plan.MaxPool(f"{name}.pool", site.stride, site.stride),) if site.stride > 1 else ()),
    )
    return Block(name, (), branch, (), None, ())


def _block(spec: ResNetSpec, name: str, site: _Site) -> Block:
    names = names_of(spec)
    last_act = names.last_act.format(n=len(site.widths) + spec.branch_activation)
    first = f"{name}.{names.norm.format(n=names.first_norm - 1, k='kxk')}"
    return Block(
        name=name,
        pre=(_norm(spec, first, site.in_channels),) if spec.pre_norm else (),
        branch=(*_branch(spec, name, site), *_end_of_branch(spec, name, site)),
        shortcut=_shortcut(spec, name, site),
        shortcut_from="input" if _has_sum(spec, site) else None,
        output=(_act(spec, f"{name}.{last_act}", site.out_channels),)
        if spec.output_activation
        else (),
    )


def _pre_activation_block(spec: ResNetSpec, name: str, site: _Site) -> Block:
    """He et al. 2016, arXiv:1603.05027: the first norm and activation feed branch and projection;
    an identity takes the block's input as it is, or as `identity_from` says, and nothing follows
    the sum.
    """
    shortcut = _pre_activation_shortcut(spec, name, site)
    projects = any(isinstance(layer, plan.Conv) for layer in shortcut)
    source: Literal["input", "pre"] = "pre" if projects else spec.identity_from
    return Block(
        name=name,
        pre=(
            *_norm_act(spec, f"{name}.norm1", f"{name}.act1", site.in_channels),
            *_expected_scale(spec, f"{name}.beta", site),
        ),
        branch=(*_branch(spec, name, site), *_end_of_branch(spec, name, site)),
        shortcut=shortcut,
        shortcut_from=source if _has_sum(spec, site) else None,
        output=(),
    )


def _expected_scale(spec: ResNetSpec, name: str, site: _Site) -> Layers:
    """What brings a block's input to a variance of one, in a net without norms."""
    if spec.norm != "none" or site.variance == 1.0:
        return ()
    return (plan.Scale(name, 1 / site.variance**0.5),)


def _branch(spec: ResNetSpec, name: str, site: _Site) -> Layers:
    """Convolutions, norms and activations. With pre-activation, the norm before the first
    convolution is in the block's `pre`; else the activation after the last follows the sum.
    """
    kernels, names = _kernels(spec, site.stage), names_of(spec)
    numbers = ("1", "2", "2b", "3") if len(kernels) == 4 else ("1", "2", "3")[: len(kernels)]
    first_3x3 = kernels.index(3) + 1
    layers: list[Layer] = []
    channels, strided = site.in_channels, {}
    if spec.stride_on != "3x3":
        strided = {1 if spec.stride_on == "1x1" else len(kernels): site.stride}
        site = site._replace(stride=1)
    for number, (kernel_size, width) in enumerate(zip(kernels, site.widths, strict=True), start=1):
        shape, last = (channels, width), number == len(kernels)
        label = numbers[number - 1]
        conv, norm, act = (f"{name}.{part}" for part in names.branch(label, kernel_size))
        normed = not (last and spec.pre_activation)
        channels = width
        if last and spec.branch_drop_rate:
            layers.append(plan.Dropout(f"{name}.drop", spec.branch_drop_rate))
        if number == first_3x3 and spec.convolution != "plain":
            layers += _composite(spec, f"{name}.conv{number}", shape, site)
            continue
        if number == first_3x3:
            layers.append(_first_3x3(spec, conv, shape, site))
        else:
            stride = strided.get(number, 1)
            more: dict[str, int] = {}
            if kernel_size == 3:
                more = {"dilation": site.dilation, "groups": spec.grouped(site.stage, width)}
            layers.append(_conv(spec, conv, shape, kernel_size, stride, normed, **more))
        if last:
            layers[-1] = _at_rest(spec, layers[-1])
        attends = number == len(kernels) - 1 and spec.attention_on == "middle"
        attention = _attention(spec, name, width, site) if attends else ()
        if spec.pre_activation:  # the norm that follows belongs to the next convolution
            layers += attention
        if normed:
            layers += _norms(spec, norm, width, last=last)
        if number == first_3x3:
            drop = names.drop_block.format(n=label, k="kxk")
            layers += _drop_block(spec, f"{name}.{drop}", site)
        if (not last or spec.branch_activation) and not _norm_activates(spec):
            layers.append(_act(spec, act, width))
        if number == first_3x3:
            layers += _strided(spec, name, width, site)
        if not spec.pre_activation:
            layers += attention
    return tuple(layers)


def _at_rest(spec: ResNetSpec, layer: Layer) -> Layer:
    """The last convolution of a branch without norms, which starts by giving nothing."""
    if spec.norm != "none" or spec.skip_gain:
        return layer
    assert isinstance(layer, plan.Conv)
    return replace(layer, gain_init=0.0)


def _first_3x3(spec: ResNetSpec, name: str, shape: tuple[int, int], site: _Site) -> Layer:
    """The convolution that has the block's groups and, unless a filter takes it, its stride."""
    stride = 1 if spec.anti_alias != "none" else site.stride
    groups = spec.grouped(site.stage, shape[1])
    return _conv(spec, name, shape, 3, stride, groups=groups, dilation=site.first_dilation)


def _composite(spec: ResNetSpec, name: str, shape: tuple[int, int], site: _Site) -> Layers:
    """What stands in the place of the first 3x3 convolution, its norm and its activation."""
    parent = name.rpartition(".")[0]
    if spec.convolution == "selective":
        return (_selective_kernel(spec, name, shape, site),)
    if spec.convolution == "hierarchical":
        split = _hierarchical_split(spec, name, site)
        return (split, *_drop_block(spec, f"{parent}.drop_block", site))
    attention = _split_attention(spec, name, shape, site)
    if spec.stride_pool == "none" or site.stride == 1:
        return (attention,)
    pool = plan.AvgPool(f"{parent}.avd_{spec.stride_pool}", 3, site.stride, 1, count_padding=True)
    return (pool, attention) if spec.stride_pool == "first" else (attention, pool)


def _selective_kernel(
    spec: ResNetSpec, name: str, shape: tuple[int, int], site: _Site
) -> plan.SelectiveKernel:
    """Paths with kernels of 3 and 5 pixels, the second being one of 3 that dilates."""
    inputs, channels = shape
    paths = tuple(
        (
            _conv(
                spec,
                "conv",
                (inputs // 2 if spec.split_input else inputs, channels),
                3,
                site.stride,
                groups=spec.groups,
                dilation=times * site.first_dilation,
            ),
            _norm(spec, "bn", channels),
            *_drop_block(spec, "drop", site),
            _act(spec, "act", channels),
        )
        for times in (1, 2)
    )
    reduced = divisible(channels * spec.se_ratio, spec.se_divisor)
    gate = (
        plan.GlobalPool("pool", keep_axes=True),
        plan.Conv("fc_reduce", channels, reduced, 1),
        _norm(spec, "bn", reduced),
        plan.Activation("act", "relu"),
        plan.Conv("fc_select", reduced, 2 * channels, 1),
    )
    return plan.SelectiveKernel(name, inputs, paths, gate, spec.split_input)


def _hierarchical_split(spec: ResNetSpec, name: str, site: _Site) -> plan.HierarchicalSplit:
    """A block that changes its shape takes its parts one by one, and averages the last."""
    width = site.widths[1] // spec.scale
    changes = site.stride > 1 or _has_shortcut_layers(spec, site)
    shape, groups, dilation = (width, width), spec.groups, site.first_dilation
    path = (
        _conv(spec, "conv", shape, 3, site.stride, groups=groups, dilation=dilation),
        _norm(spec, "bn", width),
        _act(spec, "act", width),
    )
    count = max(1, spec.scale - 1)
    pool = plan.AvgPool("pool", 3, site.stride, 1, count_padding=True)
    rest = (pool,) if changes and spec.scale > 1 else ()
    paths = (path,) * count
    return plan.HierarchicalSplit(name, site.widths[1], paths, rest, spec.scale, not changes)


def _split_attention(
    spec: ResNetSpec, name: str, shape: tuple[int, int], site: _Site
) -> plan.SplitAttention:
    channels, parts = shape[1], shape[1] * spec.radix
    groups, dilation = spec.groups * spec.radix, site.first_dilation
    stride = site.stride if spec.stride_pool == "none" else 1
    branch = (
        _conv(spec, "conv", (shape[0], parts), 3, stride, groups=groups, dilation=dilation),
        _norm(spec, "bn0", parts),
        *_drop_block(spec, "drop", site),
        plan.Activation("act0", "relu"),
    )
    reduced = divisible(shape[0] * spec.radix * spec.se_ratio, spec.se_divisor, least=32)
    gate = (
        plan.GlobalPool("pool", keep_axes=True),
        plan.Conv("fc1", channels, reduced, 1, groups=spec.groups, bias=True),
        _norm(spec, "bn1", reduced),
        plan.Activation("act1", "relu"),
        plan.Conv("fc2", reduced, parts, 1, groups=spec.groups, bias=True),
    )
    return plan.SplitAttention(name, channels, branch, gate, spec.radix, spec.groups)


def _multiple(number: float, divisor: int) -> int:
    """The nearest multiple of `divisor` that is not zero."""
    return max(divisor, int(number + divisor / 2) // divisor * divisor)


def divisible(number: float, divisor: int, least: int = 0) -> int:
    """The nearest multiple of `divisor` that is not below `least` nor by a tenth below `number`."""
    nearest = max(least, _multiple(number, divisor))
    return nearest + divisor if nearest < 0.9 * number else nearest


def _strided(spec: ResNetSpec, name: str, channels: int, site: _Site) -> Layers:
    """The filter after a block's first 3x3 convolution, under anti-aliasing: it takes the stride,
    and the blur stays where dilation has taken the stride's place.
    """
    replaced = site.first_dilation != site.dilation and spec.anti_alias == "blur"
    if spec.anti_alias == "none" or (site.stride == 1 and not replaced):
        return ()
    return (_anti_alias(spec, f"{name}.aa", channels, site.stride),)


def _anti_alias(spec: ResNetSpec, name: str, channels: int, stride: int) -> Layer:
    if spec.anti_alias == "blur":
        return plan.BlurPool(name, channels, stride)
    return plan.AvgPool(name, stride, stride)


def _end_of_branch(spec: ResNetSpec, name: str, site: _Site) -> Layers:
    """Attention, a scale, and stochastic depth, before the addition."""
    layers: list[Layer] = []
    channels = site.out_channels
    if spec.attention_on == "last":
        layers += _attention(spec, name, channels, site)
    if spec.layer_scale is not None:
        layers.append(plan.LayerScale(f"{name}.layer_scale", channels, spec.layer_scale))
    if site.drop_path > 0 and _has_sum(spec, site):
        layers.append(plan.DropPath(f"{name}.drop_path", site.drop_path))
    if spec.skip_gain:
        layers.append(plan.SkipGain(f"{name}.skipinit_gain"))
    if spec.norm == "none":
        layers.append(plan.Scale(f"{name}.alpha", spec.branch_scale))
    return tuple(layers)


def _attention(spec: ResNetSpec, name: str, channels: int, site: _Site) -> Layers:
    """What scales so many channels by what they are on the whole map."""
    if spec.attention == "none":
        return ()
    last = spec.attention_on == "last"
    names = names_of(spec)
    at = f"{name}.{names.last_attention if last else names.attention}"
    # A gate halves what it scales, on average.
    twice = (plan.Scale(f"{at}_gain", 2.0),) if spec.norm == "none" else ()
    if spec.attention == "se":
        reduced = _squeezed(spec, channels, site)
        return (plan.SqueezeExcite(at, channels, reduced, spec.se_activation), *twice)
    if spec.attention == "gc":
        return (_global_context(at, channels, _squeezed(spec, channels, site)),)
    # Of the width before pruning.
    inner = spec.inner_width(site.stage, site.in_channels)
    whole = spec.out_channels[site.stage] if last else inner
    t = int(abs(math.log2(whole) + 1) / 2)
    return (plan.ChannelAttention(at, channels, max(t if t % 2 else t + 1, 3)), *twice)


def _global_context(name: str, channels: int, reduced: int) -> Layer:
    if reduced == 1:
        raise SpecError(
            f"se_ratio: of the {channels} channels of {name} one is left, which the norm there "
            f"would make a constant"
        )
    weigh = (plan.Conv("conv_attn", channels, 1, 1, bias=True, start="fan_in"),)
    transform = (
        plan.Conv("fc1", channels, reduced, 1, bias=True),
        plan.GroupNorm("norm", reduced, 1, 1e-6),
        plan.Activation("act", "relu"),
        plan.Conv("fc2", reduced, channels, 1, bias=True, start="zeros"),
    )
    return plan.GlobalContext(name, channels, weigh, transform)


def _squeezed(spec: ResNetSpec, channels: int, site: _Site) -> int:
    """Channels inside of squeeze-and-excitation or global context."""
    if spec.se_of == "own":
        return _multiple(channels * spec.se_ratio, spec.se_divisor)
    reduced = round(site.in_channels * spec.se_ratio)
    if not reduced:
        raise SpecError(
            f"se_ratio: {spec.se_ratio:g} of the {site.in_channels} channels that enter stage "
            f"{site.stage + 1} leaves none"
        )
    return reduced


def _drop_block(spec: ResNetSpec, name: str, site: _Site) -> Layers:
    """As timm has it: squares of 5 in the last stage but one, at a quarter of the rate, and of 3 in
    the last.
    """
    sizes = {len(spec.depths) - 2: (5, 0.25), len(spec.depths) - 1: (3, 1.0)}
    if not spec.drop_block_rate or site.stage not in sizes:
        return ()
    return (plan.DropBlock(name, spec.drop_block_rate, *sizes[site.stage]),)


def _shortcut(spec: ResNetSpec, name: str, site: _Site) -> Layers:
    """The chain beside the branch; empty where it is the identity, or where there is none."""
    if not _has_shortcut_layers(spec, site):
        return ()
    names = names_of(spec)
    if spec.shortcut == "zero_pad":
        return _zero_pad(f"{name}.{names.shortcut}", site)
    layers: list[Layer] = []
    stride = site.stride
    if spec.shortcut_pool == "avg":
        pool, stride = f"{name}.{names.shortcut_pool.format(i=0)}", 1
        layers += _shortcut_pool(spec, pool, site) or (plan.Identity(pool),)
    dilates = site.dilation > 1 or stride > 1
    kernel_size = spec.shortcut_kernel if dilates else 1
    at, normed = f"{name}.{names.shortcut_conv.format(i=len(layers))}", spec.shortcut_norm
    shape = (site.in_channels, site.out_channels)
    dilation = site.first_dilation if kernel_size > 1 else 1
    layers.append(_conv(spec, at, shape, kernel_size, stride, normed, dilation=dilation))
    if normed:
        at = f"{name}.{names.shortcut_norm.format(i=len(layers))}"
        layers.append(_norm(spec, at, site.out_channels))
    return tuple(layers)


def _pre_activation_shortcut(spec: ResNetSpec, name: str, site: _Site) -> Layers:
    """As `_shortcut`, without a norm; a stage of bottlenecks begins with a projection always."""
    first_bottleneck = site.number == 0 and spec.blocks[site.stage] == "bottleneck"
    names = names_of(spec)
    at = f"{name}.{names.shortcut}"
    if spec.shortcut == "zero_pad" and not site.same_shape:
        return _zero_pad(at, site)
    if spec.shortcut in ("none", "zero_pad", "identity"):
        return ()
    if not _has_shortcut_layers(spec, site) and not first_bottleneck:
        return ()
    if spec.stride_block == "last" and site.number > 0 and spec.shortcut != "projection_all":
        return (plan.MaxPool(at, 1, site.stride),)
    averages = spec.shortcut_pool == "avg"
    before = f"{name}.{names.shortcut_pool.format(i=0)}"
    pool = _shortcut_pool(spec, before, site) if averages else ()
    if averages and before.rpartition(".")[2].isdigit():
        pool = pool or (plan.Identity(before),)
    shape, stride = (site.in_channels, site.out_channels), 1 if averages else site.stride
    return (*pool, _conv(spec, f"{name}.{names.shortcut_conv}", shape, 1, stride, normed=False))


def _has_shortcut_layers(spec: ResNetSpec, site: _Site) -> bool:
    everywhere = spec.shortcut == "projection_all"
    first = spec.shortcut == "projection_stage" and site.number == 0
    changes = not site.same_shape or everywhere or first
    return changes and spec.shortcut not in ("none", "identity")


def _has_sum(spec: ResNetSpec, site: _Site) -> bool:
    """Whether anything is added to the branch."""
    return spec.shortcut != "none" and (site.same_shape or spec.shortcut != "identity")


def _zero_pad(name: str, site: _Site) -> Layers:
    extra = site.out_channels - site.in_channels
    before = extra // 2
    return (plan.ZeroPadShortcut(name, site.stride, before, extra - before),)


def _shortcut_pool(spec: ResNetSpec, name: str, site: _Site) -> Layers:
    """The mean before a projection: 2x2 pixels with the block's stride, or, where dilation has
    taken its place, around each pixel, zeros at the border counted as timm does.

    Some of timm's nets average only where the pixels that the block sees are apart already.
    """
    dilation = site.first_dilation if names_of(spec).averages_apart else site.dilation
    if dilation > 1:
        return (plan.AvgPool(name, 2, 1, "same", count_padding=True),)
    return (plan.AvgPool(name, 2, site.stride, "same"),) if site.stride > 1 else ()


def _conv(
    spec: ResNetSpec,
    name: str,
    shape: tuple[int, int],
    kernel_size: int,
    stride: int = 1,
    normed: bool = True,
    padding: Padding | None = None,
    **more: Any,
) -> Layer:
    """A convolution from `shape[0]` channels to `shape[1]`; `normed` says that a norm follows, and
    `more` gives groups and dilation.
    """
    if padding is None:
        padding = _padding(spec.padding, kernel_size, more.get("dilation", 1))
    fan_in = shape[0] // more.get("groups", 1) * kernel_size**2
    return plan.Conv(
        name,
        *shape,
        kernel_size,
        stride,
        padding,
        bias=not normed if spec.conv_bias == "without_norm" else spec.conv_bias,
        standardize_eps=spec.standardize,
        scale=GAMMAS[spec.activation] * fan_in**-0.5 if spec.norm == "none" else None,
        **more,
    )


def _padding(rule: str, kernel_size: int, dilation: int = 1) -> Padding:
    # A 1x1 kernel is never padded under either rule.
    if kernel_size == 1:
        return 0
    return "same" if rule == "same" else dilation * (kernel_size - 1) // 2


def _norm(spec: ResNetSpec, name: str, channels: int, *, last: bool = False) -> Layer:
    scale = 0.0 if last and spec.zero_init_last else 1.0
    if spec.norm == "frn":
        return plan.FilterResponseNorm(name, channels, spec.norm_eps)
    if spec.norm == "batch":
        return plan.BatchNorm(
            name, channels, spec.norm_eps, spec.norm_momentum, spec.norm_variance, scale
        )
    field = "norm_groups" if spec.norm_group_width is None else "norm_group_width"
    divisor: int = getattr(spec, field)
    if channels % divisor:
        raise SpecError(f"{field}: {divisor} does not divide the {channels} channels of {name}")
    groups = divisor if spec.norm_group_width is None else channels // divisor
    if spec.norm == "evonorm_s0":
        return plan.EvoNorm(name, channels, groups, spec.norm_eps, activates=not last)
    return plan.GroupNorm(name, channels, groups, spec.norm_eps, scale)


def _norms(spec: ResNetSpec, name: str, channels: int, *, last: bool = False) -> Layers:
    """The norm, if the net has any."""
    return () if spec.norm == "none" else (_norm(spec, name, channels, last=last),)


def _norm_activates(spec: ResNetSpec) -> bool:
    """Whether the norm holds the activation, so that none follows it."""
    return spec.norm in ("evonorm_s0", "frn")


def _norm_act(spec: ResNetSpec, norm: str, act: str, channels: int) -> Layers:
    """A norm and the activation after it, unless the norm holds one."""
    after = () if _norm_activates(spec) else (_act(spec, act, channels),)
    return (*_norms(spec, norm, channels), *after)


def _act(spec: ResNetSpec, name: str, channels: int) -> Layer:
    if spec.activation == "prelu":
        return plan.PReLU(name, channels)
    return plan.Activation(name, spec.activation)
