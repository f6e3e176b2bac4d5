"""Spec to plan: the one place that knows the topology of residual networks.

Names follow torchvision: `conv1`, `bn1`, `layer1.0.conv2`, `layer1.0.downsample.0`, `fc`. Layers
without parameters have timm's names (`act1`, `maxpool`, `global_pool`), and pre-activation nets
those of timm's resnetv2 throughout (`stem.conv`, `stages.0.blocks.0.norm1`, `head.fc`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from shared_spec import plan
from shared_spec.errors import SpecError
from shared_spec.plan import Block, Layer, Layers, Padding, Plan, Stage
from shared_spec.spec import ResNetSpec

_STEM_NAMES: dict[tuple[bool, bool], tuple[tuple[str, str, str], ...]] = {
    (False, False): (("conv1", "bn1", "act1"),),
    (False, True): (
        ("conv1.0", "conv1.1", "conv1.2"),
        ("conv1.3", "conv1.4", "conv1.5"),
        ("conv1.6", "bn1", "act1"),
    ),
    (True, False): (("stem.conv", "stem.norm", "stem.act"),),
    (True, True): tuple((f"stem.conv{n}", f"stem.norm{n}", f"stem.act{n}") for n in (1, 2, 3)),
}
"""Names of each convolution, norm and activation, by pre-activation and by a deep stem."""


@lru_cache(maxsize=64)
def compile_plan(spec: ResNetSpec) -> Plan:
    """Resolve every number that follows from `spec`.

    Returns:
        A frozen, hashable `Plan`; equal specs give equal plans.

    Raises:
        SpecError: if some layer's channels do not divide as the spec asks.
    """
    stages = []
    channels = spec.stem_width
    pruned = iter(spec.block_widths)
    for index in range(len(spec.depths)):
        stage, channels = _stage(spec, index, channels, pruned)
        stages.append(stage)
    return Plan(spec.in_channels, _stem(spec), tuple(stages), _head(spec, channels))


def _head(spec: ResNetSpec, channels: int) -> Layers:
    if spec.pre_activation:
        return (
            *_norm_act(spec, "norm", "act", channels),
            plan.GlobalPool("head.global_pool", keep_axes=True),
            plan.Conv("head.fc", channels, spec.num_classes, 1, bias=True),
            plan.Flatten("head.flatten"),
        )
    return (plan.GlobalPool("global_pool"), plan.Dense("fc", channels, spec.num_classes))


def _stem(spec: ResNetSpec) -> Layers:
    """Convolutions, each with norm and activation, and a pool.

    A pre-activation net leaves the last norm and activation to its first block.
    """
    width = spec.stem_width
    deep = spec.stem.startswith("deep")
    widths: tuple[int, ...]
    if deep:
        first = 3 * width // 8 if spec.stem == "deep_tiered" else width // 2
        widths, kernel_size = (first, width // 2, width), 3
    else:
        widths, kernel_size = (width,), {"conv7x7": 7, "conv3x3": 3}[spec.stem]
    names = _STEM_NAMES[spec.pre_activation, deep]
    layers: list[Layer] = []
    channels = spec.in_channels
    for index, (out_channels, (conv, norm, act)) in enumerate(zip(widths, names, strict=True)):
        stride = spec.stem_stride if index == 0 else 1
        layers.append(_conv(spec, conv, channels, out_channels, kernel_size, stride))
        if index < len(names) - 1 or not spec.pre_activation:
            layers += _norm_act(spec, norm, act, out_channels)
        channels = out_channels
    return (*layers, *_stem_pool(spec, "stem.pool" if spec.pre_activation else "maxpool"))


def _stem_pool(spec: ResNetSpec, name: str) -> Layers:
    """What halves the resolution after the stem."""
    width, anti_alias = spec.stem_width, spec.anti_alias != "none"
    if spec.stem_pool == "none":
        return ()
    if spec.stem_pool == "max_zero":
        return (
            plan.ZeroPad("stem.pad" if spec.pre_activation else f"{name}.0", 1),
            plan.MaxPool(name if spec.pre_activation else f"{name}.1", 3, 2),
        )
    if spec.stem_pool == "conv":
        layers = [_conv(spec, f"{name}.0", width, width, 3, 1 if anti_alias else 2)]
        layers += [_anti_alias(spec, f"{name}.1", width, 2)] if anti_alias else []
        layers += [_norm(spec, f"{name}.{len(layers)}", width)]
        return (*layers, _act(spec, f"{name}.{len(layers)}"))
    if spec.anti_alias == "avg":
        return (_anti_alias(spec, name, width, 2),)
    if spec.anti_alias == "blur":
        pool = plan.MaxPool(f"{name}.0", 3, 1, _padding(spec, 3))
        return (pool, _anti_alias(spec, f"{name}.1", width, 2))
    return (plan.MaxPool(name, 3, 2, _padding(spec, 3)),)


def _stage(
    spec: ResNetSpec, index: int, in_channels: int, pruned: Iterator[tuple[int, ...]]
) -> tuple[Stage, int]:
    """The stage, and the channels after it."""
    name = f"stages.{index}.blocks" if spec.pre_activation else f"layer{index + 1}"
    build = _pre_activation_block if spec.pre_activation else _block
    blocks = []
    channels = in_channels
    for number in range(spec.depths[index]):
        stride = spec.strides[index] if number == 0 else 1
        widths = next(pruned, None) or _widths(spec, index)
        blocks.append(build(spec, f"{name}.{number}", index, channels, widths, stride))
        channels = widths[-1]
    return Stage(name, tuple(blocks)), channels


def _widths(spec: ResNetSpec, index: int) -> tuple[int, ...]:
    """Output channels of the convolutions of a block in stage `index`."""
    planes, out_channels = spec.widths[index], spec.out_channels[index]
    if spec.blocks[index] == "basic":
        return planes // spec.reduce_first, out_channels
    width = planes * spec.base_width // 64 * spec.groups
    return width // spec.reduce_first, width, out_channels


def _block(
    spec: ResNetSpec,
    name: str,
    index: int,
    in_channels: int,
    widths: tuple[int, ...],
    stride: int,
) -> Block:
    branch = {"basic": _basic, "bottleneck": _bottleneck}[spec.blocks[index]]
    return Block(
        name=name,
        pre=(),
        branch=(
            *branch(spec, name, in_channels, widths, stride),
            *_attention(spec, name, widths[-1], spec.out_channels[index]),
        ),
        shortcut=_shortcut(spec, name, in_channels, widths[-1], stride),
        shortcut_from=None if spec.shortcut == "none" else "input",
        output=(_act(spec, f"{name}.act{len(widths)}"),),
    )


def _pre_activation_block(
    spec: ResNetSpec,
    name: str,
    index: int,
    in_channels: int,
    widths: tuple[int, ...],
    stride: int,
) -> Block:
    """He et al. 2016, arXiv:1603.05027: the first norm and activation feed branch and projection;
    an identity takes the block's input as it is, and nothing follows the sum.
    """
    first = name.endswith(".0")
    shortcut = _pre_activation_shortcut(spec, name, index, first, in_channels, widths[-1], stride)
    projects = any(isinstance(layer, plan.Conv) for layer in shortcut)
    source: Literal["input", "pre"] = "pre" if projects else "input"
    return Block(
        name=name,
        pre=_norm_act(spec, f"{name}.norm1", f"{name}.act1", in_channels),
        branch=(
            *_pre_activation_branch(spec, name, in_channels, widths, stride),
            *_attention(spec, name, widths[-1], spec.out_channels[index]),
        ),
        shortcut=shortcut,
        shortcut_from=None if spec.shortcut == "none" else source,
        output=(),
    )


def _pre_activation_branch(
    spec: ResNetSpec, name: str, in_channels: int, widths: tuple[int, ...], stride: int
) -> Layers:
    """Convolutions with norm and activation between them; the stride is on the first 3x3."""
    kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
    layers: list[Layer] = []
    channels = in_channels
    for number, (kernel_size, width) in enumerate(zip(kernels, widths, strict=True), start=1):
        strided = number == kernels.index(3) + 1
        step = stride if strided and spec.anti_alias == "none" else 1
        groups = spec.groups if strided else 1
        at = f"{name}.conv{number}"
        layers.append(_conv(spec, at, channels, width, kernel_size, step, groups=groups))
        if number < len(widths):
            after = number + 1
            layers += _norm_act(spec, f"{name}.norm{after}", f"{name}.act{after}", width)
        if strided:
            layers += _strided(spec, name, width, stride)
        channels = width
    return tuple(layers)


def _pre_activation_shortcut(
    spec: ResNetSpec,
    name: str,
    index: int,
    first: bool,
    in_channels: int,
    out_channels: int,
    stride: int,
) -> Layers:
    """As `_shortcut`, without a norm; a stage of bottlenecks begins with a projection always."""
    if spec.shortcut in ("none", "zero_pad"):
        return _shortcut(spec, name, in_channels, out_channels, stride)
    bottleneck = first and spec.blocks[index] == "bottleneck"
    same_shape = stride == 1 and in_channels == out_channels
    if same_shape and not bottleneck and spec.shortcut != "projection_all":
        return ()
    pool: Layers = ()
    if spec.shortcut_pool == "avg" and stride > 1:
        pool, stride = (plan.AvgPool(f"{name}.downsample.pool", 2, stride, "same"),), 1
    return (*pool, _conv(spec, f"{name}.downsample.conv", in_channels, out_channels, 1, stride))


def _basic(
    spec: ResNetSpec, name: str, in_channels: int, widths: tuple[int, ...], stride: int
) -> Layers:
    middle, out_channels = widths
    aliased = stride if spec.anti_alias == "none" else 1
    return (
        _conv(spec, f"{name}.conv1", in_channels, middle, 3, aliased),
        _norm(spec, f"{name}.bn1", middle),
        _act(spec, f"{name}.act1"),
        *_strided(spec, name, middle, stride),
        _conv(spec, f"{name}.conv2", middle, out_channels, 3),
        _norm(spec, f"{name}.bn2", out_channels, last=True),
    )


def _bottleneck(
    spec: ResNetSpec, name: str, in_channels: int, widths: tuple[int, ...], stride: int
) -> Layers:
    first, width, out_channels = widths
    on_1x1, on_3x3 = (1, stride) if spec.stride_on == "3x3" else (stride, 1)
    aliased = on_3x3 if spec.anti_alias == "none" else 1
    return (
        _conv(spec, f"{name}.conv1", in_channels, first, 1, on_1x1),
        _norm(spec, f"{name}.bn1", first),
        _act(spec, f"{name}.act1"),
        _conv(spec, f"{name}.conv2", first, width, 3, aliased, groups=spec.groups),
        _norm(spec, f"{name}.bn2", width),
        _act(spec, f"{name}.act2"),
        *_strided(spec, name, width, on_3x3),
        _conv(spec, f"{name}.conv3", width, out_channels, 1),
        _norm(spec, f"{name}.bn3", out_channels, last=True),
    )


def _strided(spec: ResNetSpec, name: str, channels: int, stride: int) -> Layers:
    """The filter that takes a 3x3 convolution's stride, under anti-aliasing."""
    if spec.anti_alias == "none" or stride == 1:
        return ()
    return (_anti_alias(spec, f"{name}.aa", channels, stride),)


def _anti_alias(spec: ResNetSpec, name: str, channels: int, stride: int) -> Layer:
    if spec.anti_alias == "blur":
        return plan.BlurPool(name, channels, stride)
    return plan.AvgPool(name, stride, stride)


def _attention(spec: ResNetSpec, name: str, channels: int, unpruned: int) -> Layers:
    if spec.attention == "se":
        reduced = max(8, int(channels * spec.se_ratio + 4) // 8 * 8)
        return (plan.SqueezeExcite(f"{name}.se", channels, reduced),)
    if spec.attention == "eca":
        t = int(abs(math.log2(unpruned) + 1) / 2)
        return (plan.ChannelAttention(f"{name}.se", channels, max(t if t % 2 else t + 1, 3)),)
    return ()


def _shortcut(
    spec: ResNetSpec, name: str, in_channels: int, out_channels: int, stride: int
) -> Layers:
    """The chain beside the branch; empty where it is the identity, or where there is none."""
    same_shape = stride == 1 and in_channels == out_channels
    if spec.shortcut == "none" or (same_shape and spec.shortcut != "projection_all"):
        return ()
    if spec.shortcut == "zero_pad":
        extra = out_channels - in_channels
        return (plan.ZeroPadShortcut(f"{name}.downsample", stride, extra // 2, extra - extra // 2),)
    layers: list[Layer] = []
    if spec.shortcut_pool == "avg":
        pool = f"{name}.downsample.0"
        layers.append(plan.Identity(pool) if stride == 1 else plan.AvgPool(pool, 2, stride, "same"))
        stride = 1
    kernel_size = 1 if stride == 1 else spec.shortcut_kernel
    at = f"{name}.downsample.{len(layers)}"
    layers.append(_conv(spec, at, in_channels, out_channels, kernel_size, stride))
    if spec.shortcut_norm:
        layers.append(_norm(spec, f"{name}.downsample.{len(layers)}", out_channels))
    return tuple(layers)


def _conv(
    spec: ResNetSpec,
    name: str,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    *,
    groups: int = 1,
) -> Layer:
    return plan.Conv(
        name,
        in_channels,
        out_channels,
        kernel_size,
        stride,
        _padding(spec, kernel_size),
        groups,
        spec.conv_bias,
        spec.standardize,
    )


def _padding(spec: ResNetSpec, kernel_size: int) -> Padding:
    # A 1x1 kernel is never padded under either rule.
    if kernel_size == 1:
        return 0
    return "same" if spec.padding == "same" else (kernel_size - 1) // 2


def _norm(spec: ResNetSpec, name: str, channels: int, *, last: bool = False) -> Layer:
    scale = 0.0 if last and spec.zero_init_last else 1.0
    if spec.norm == "frn":
        return plan.FilterResponseNorm(name, channels, spec.norm_eps)
    if spec.norm == "batch":
        return plan.BatchNorm(
            name, channels, spec.norm_eps, spec.norm_momentum, spec.norm_variance, scale
        )
    if channels % spec.norm_groups:
        raise SpecError(
            f"norm_groups: {spec.norm_groups} does not divide the {channels} channels of {name}"
        )
    if spec.norm == "evonorm_s0":
        return plan.EvoNorm(name, channels, spec.norm_groups, spec.norm_eps)
    return plan.GroupNorm(name, channels, spec.norm_groups, spec.norm_eps, scale)


def _norm_act(spec: ResNetSpec, norm: str, act: str, channels: int) -> Layers:
    """A norm and the activation after it, unless the norm holds one."""
    if spec.norm in ("evonorm_s0", "frn"):
        return (_norm(spec, norm, channels),)
    return (_norm(spec, norm, channels), _act(spec, act))


def _act(spec: ResNetSpec, name: str) -> Layer:
    return plan.Activation(name, spec.activation)
