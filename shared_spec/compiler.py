"""Spec to plan: the one place that knows the topology of residual networks.

Names follow torchvision: `conv1`, `bn1`, `layer1.0.conv2`, `layer1.0.downsample.0`, `fc`. Layers
without parameters have timm's names (`act1`, `maxpool`, `global_pool`).
"""

from __future__ import annotations

from functools import lru_cache

from shared_spec import plan
from shared_spec.plan import Block, Layer, Layers, Padding, Plan, Stage
from shared_spec.spec import EXPANSION, ResNetSpec


@lru_cache(maxsize=64)
def compile_plan(spec: ResNetSpec) -> Plan:
    """Resolve every number that follows from `spec`.

    Returns:
        A frozen, hashable `Plan`; equal specs give equal plans.
    """
    stages = []
    channels = spec.stem_width
    for index in range(len(spec.depths)):
        stage = _stage(spec, index, channels)
        stages.append(stage)
        channels = spec.widths[index] * EXPANSION[spec.block]
    head: Layers = (
        plan.GlobalPool("global_pool"),
        plan.Dense("fc", channels, spec.num_classes),
    )
    return Plan(spec.in_channels, _stem(spec), tuple(stages), head)


def _stem(spec: ResNetSpec) -> Layers:
    kernel_size = {"conv7x7": 7, "conv3x3": 3}[spec.stem]
    layers: list[Layer] = [
        _conv(spec, "conv1", spec.in_channels, spec.stem_width, kernel_size, spec.stem_stride),
        _norm(spec, "bn1", spec.stem_width),
        _act(spec, "act1"),
    ]
    if spec.stem_pool == "max":
        layers.append(plan.MaxPool("maxpool", 3, 2, _padding(spec, 3)))
    return tuple(layers)


def _stage(spec: ResNetSpec, index: int, in_channels: int) -> Stage:
    name = f"layer{index + 1}"
    out_channels = spec.widths[index] * EXPANSION[spec.block]
    blocks = []
    for number in range(spec.depths[index]):
        stride = spec.strides[index] if number == 0 else 1
        channels = in_channels if number == 0 else out_channels
        blocks.append(_block(spec, f"{name}.{number}", channels, spec.widths[index], stride))
    return Stage(name, tuple(blocks))


def _block(spec: ResNetSpec, name: str, in_channels: int, planes: int, stride: int) -> Block:
    branch = {"basic": _basic, "bottleneck": _bottleneck}[spec.block]
    out_channels = planes * EXPANSION[spec.block]
    layers = branch(spec, name, in_channels, planes, stride)
    return Block(
        name=name,
        pre=(),
        branch=layers,
        shortcut=_shortcut(spec, name, in_channels, out_channels, stride),
        shortcut_from=None if spec.shortcut == "none" else "input",
        output=(_act(spec, f"{name}.act{sum(isinstance(x, plan.Conv) for x in layers)}"),),
    )


def _basic(spec: ResNetSpec, name: str, in_channels: int, planes: int, stride: int) -> Layers:
    return (
        _conv(spec, f"{name}.conv1", in_channels, planes, 3, stride),
        _norm(spec, f"{name}.bn1", planes),
        _act(spec, f"{name}.act1"),
        _conv(spec, f"{name}.conv2", planes, planes, 3),
        _norm(spec, f"{name}.bn2", planes, last=True),
    )


def _bottleneck(spec: ResNetSpec, name: str, in_channels: int, planes: int, stride: int) -> Layers:
    width = planes * spec.base_width // 64 * spec.groups
    out_channels = planes * EXPANSION["bottleneck"]
    first, second = (1, stride) if spec.stride_on == "3x3" else (stride, 1)
    return (
        _conv(spec, f"{name}.conv1", in_channels, width, 1, first),
        _norm(spec, f"{name}.bn1", width),
        _act(spec, f"{name}.act1"),
        _conv(spec, f"{name}.conv2", width, width, 3, second, groups=spec.groups),
        _norm(spec, f"{name}.bn2", width),
        _act(spec, f"{name}.act2"),
        _conv(spec, f"{name}.conv3", width, out_channels, 1),
        _norm(spec, f"{name}.bn3", out_channels, last=True),
    )


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
    layers: list[Layer] = [
        _conv(spec, f"{name}.downsample.0", in_channels, out_channels, 1, stride)
    ]
    if spec.shortcut_norm:
        layers.append(_norm(spec, f"{name}.downsample.1", out_channels))
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
    return plan.BatchNorm(
        name,
        channels,
        spec.norm_eps,
        spec.norm_momentum,
        spec.norm_variance,
        scale_init=0.0 if last and spec.zero_init_last else 1.0,
    )


def _act(spec: ResNetSpec, name: str) -> Layer:
    return plan.Activation(name, spec.activation)
