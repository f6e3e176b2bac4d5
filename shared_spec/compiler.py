"""Spec to plan: the one place that knows the topology of residual networks.

Names follow torchvision: `conv1`, `bn1`, `layer1.0.conv2`, `layer1.0.downsample.0`, `fc`. Layers
without parameters have timm's names (`act1`, `maxpool`, `global_pool`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from shared_spec import plan
from shared_spec.errors import SpecError
from shared_spec.plan import Block, Layer, Layers, Padding, Plan, Stage
from shared_spec.spec import ResNetSpec


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
    head: Layers = (
        plan.GlobalPool("global_pool"),
        plan.Dense("fc", channels, spec.num_classes),
    )
    return Plan(spec.in_channels, _stem(spec), tuple(stages), head)


def _stem(spec: ResNetSpec) -> Layers:
    width, stride = spec.stem_width, spec.stem_stride
    if spec.stem.startswith("deep"):
        first = 3 * width // 8 if spec.stem == "deep_tiered" else width // 2
        convs: Layers = (
            _conv(spec, "conv1.0", spec.in_channels, first, 3, stride),
            _norm(spec, "conv1.1", first),
            _act(spec, "conv1.2"),
            _conv(spec, "conv1.3", first, width // 2, 3),
            _norm(spec, "conv1.4", width // 2),
            _act(spec, "conv1.5"),
            _conv(spec, "conv1.6", width // 2, width, 3),
        )
    else:
        kernel_size = {"conv7x7": 7, "conv3x3": 3}[spec.stem]
        convs = (_conv(spec, "conv1", spec.in_channels, width, kernel_size, stride),)
    return (*convs, _norm(spec, "bn1", width), _act(spec, "act1"), *_stem_pool(spec))


def _stem_pool(spec: ResNetSpec) -> Layers:
    """What halves the resolution after the stem, under the name that checkpoints have for it."""
    width, anti_alias = spec.stem_width, spec.anti_alias != "none"
    if spec.stem_pool == "none":
        return ()
    if spec.stem_pool == "conv":
        layers = [_conv(spec, "maxpool.0", width, width, 3, 1 if anti_alias else 2)]
        layers += [_anti_alias(spec, "maxpool.1", width, 2)] if anti_alias else []
        layers += [_norm(spec, f"maxpool.{len(layers)}", width)]
        return (*layers, _act(spec, f"maxpool.{len(layers)}"))
    if spec.anti_alias == "avg":
        return (_anti_alias(spec, "maxpool", width, 2),)
    if spec.anti_alias == "blur":
        pool = plan.MaxPool("maxpool.0", 3, 1, _padding(spec, 3))
        return (pool, _anti_alias(spec, "maxpool.1", width, 2))
    return (plan.MaxPool("maxpool", 3, 2, _padding(spec, 3)),)


def _stage(
    spec: ResNetSpec, index: int, in_channels: int, pruned: Iterator[tuple[int, ...]]
) -> tuple[Stage, int]:
    """The stage, and the channels after it."""
    name = f"layer{index + 1}"
    blocks = []
    channels = in_channels
    for number in range(spec.depths[index]):
        stride = spec.strides[index] if number == 0 else 1
        widths = next(pruned, None) or _widths(spec, index)
        blocks.append(_block(spec, f"{name}.{number}", index, channels, widths, stride))
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
    )


def _padding(spec: ResNetSpec, kernel_size: int) -> Padding:
    # A 1x1 kernel is never padded under either rule.
    if kernel_size == 1:
        return 0
    return "same" if spec.padding == "same" else (kernel_size - 1) // 2


def _norm(spec: ResNetSpec, name: str, channels: int, *, last: bool = False) -> Layer:
    scale = 0.0 if last and spec.zero_init_last else 1.0
    if spec.norm == "group":
        if channels % spec.norm_groups:
            raise SpecError(
                f"norm_groups: {spec.norm_groups} does not divide the {channels} channels of {name}"
            )
        return plan.GroupNorm(name, channels, spec.norm_groups, spec.norm_eps, scale)
    return plan.BatchNorm(
        name, channels, spec.norm_eps, spec.norm_momentum, spec.norm_variance, scale
    )


def _act(spec: ResNetSpec, name: str) -> Layer:
    return plan.Activation(name, spec.activation)
