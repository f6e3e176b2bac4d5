"""What stands in the place of a block's 3x3 convolution: layers that are made of chains."""

from __future__ import annotations

from shared_spec import plan
from shared_spec.plan.compiler.pieces import (
    activation,
    convolution,
    divisible,
    drop_block,
    norm_layer,
)
from shared_spec.plan.compiler.shortcuts import has_shortcut_layers
from shared_spec.plan.compiler.sites import Site
from shared_spec.plan.layers import Layers
from shared_spec.spec.resnet_spec import ResNetSpec


def composite_layers(spec: ResNetSpec, name: str, shape: tuple[int, int], site: Site) -> Layers:
    """What stands in the place of the first 3x3 convolution, its norm and its activation."""
    parent = name.rpartition(".")[0]
    if spec.convolution == "selective":
        return (_selective_kernel(spec, name, shape, site),)
    if spec.convolution == "hierarchical":
        split = _hierarchical_split(spec, name, site)
        return (split, *drop_block(spec, f"{parent}.drop_block", site))
    attention = _split_attention(spec, name, shape, site)
    if spec.stride_pool == "none" or site.stride == 1:
        return (attention,)
    pool = plan.AvgPool(f"{parent}.avd_{spec.stride_pool}", 3, site.stride, 1, count_padding=True)
    return (pool, attention) if spec.stride_pool == "first" else (attention, pool)


def _selective_kernel(
    spec: ResNetSpec, name: str, shape: tuple[int, int], site: Site
) -> plan.SelectiveKernel:
    """Paths with kernels of 3 and 5 pixels, the second being one of 3 that dilates."""
    inputs, channels = shape
    paths = tuple(
        (
            convolution(
                spec,
                "conv",
                (inputs // 2 if spec.split_input else inputs, channels),
                3,
                site.stride,
                groups=spec.groups,
                dilation=times * site.first_dilation,
            ),
            norm_layer(spec, "bn", channels),
            *drop_block(spec, "drop", site),
            activation(spec, "act", channels),
        )
        for times in (1, 2)
    )
    reduced = divisible(channels * spec.se_ratio, spec.se_divisor)
    gate = (
        plan.GlobalPool("pool", keep_axes=True),
        plan.Conv("fc_reduce", channels, reduced, 1),
        norm_layer(spec, "bn", reduced),
        plan.Activation("act", "relu"),
        plan.Conv("fc_select", reduced, 2 * channels, 1),
    )
    return plan.SelectiveKernel(name, inputs, paths, gate, spec.split_input)


def _hierarchical_split(spec: ResNetSpec, name: str, site: Site) -> plan.HierarchicalSplit:
    """A block that changes its shape takes its parts one by one, and averages the last."""
    width = site.widths[1] // spec.scale
    changes = site.stride > 1 or has_shortcut_layers(spec, site)
    shape, groups, dilation = (width, width), spec.groups, site.first_dilation
    path = (
        convolution(spec, "conv", shape, 3, site.stride, groups=groups, dilation=dilation),
        norm_layer(spec, "bn", width),
        activation(spec, "act", width),
    )
    count = max(1, spec.scale - 1)
    pool = plan.AvgPool("pool", 3, site.stride, 1, count_padding=True)
    rest = (pool,) if changes and spec.scale > 1 else ()
    paths = (path,) * count
    return plan.HierarchicalSplit(name, site.widths[1], paths, rest, spec.scale, not changes)


def _split_attention(
    spec: ResNetSpec, name: str, shape: tuple[int, int], site: Site
) -> plan.SplitAttention:
    channels, parts = shape[1], shape[1] * spec.radix
    groups, dilation = spec.groups * spec.radix, site.first_dilation
    stride = site.stride if spec.stride_pool == "none" else 1
    branch = (
        convolution(spec, "conv", (shape[0], parts), 3, stride, groups=groups, dilation=dilation),
        norm_layer(spec, "bn0", parts),
        *drop_block(spec, "drop", site),
        plan.Activation("act0", "relu"),
    )
    reduced = divisible(shape[0] * spec.radix * spec.se_ratio, spec.se_divisor, least=32)
    gate = (
        plan.GlobalPool("pool", keep_axes=True),
        plan.Conv("fc1", channels, reduced, 1, groups=spec.groups, bias=True),
        norm_layer(spec, "bn1", reduced),
        plan.Activation("act1", "relu"),
        plan.Conv("fc2", reduced, parts, 1, groups=spec.groups, bias=True),
    )
    return plan.SplitAttention(name, channels, branch, gate, spec.radix, spec.groups)
