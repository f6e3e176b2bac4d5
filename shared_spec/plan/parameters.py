"""Which arrays each layer owns: one rule a layer record."""

from __future__ import annotations

from functools import singledispatch

from shared_spec.plan import layers
from shared_spec.plan.layers import Parameter


@singledispatch
def parameters_of(layer: object) -> tuple[Parameter, ...]:
    """The arrays that `layer` owns, in PyTorch's order; most layers own none."""
    return ()


@parameters_of.register
def _(layer: layers.Conv) -> tuple[Parameter, ...]:
    k = layer.kernel_size
    shape = (layer.out_channels, layer.in_channels // layer.groups, k, k)
    kernel = Parameter(layer.name, "weight", "conv_kernel", shape)
    return (kernel, *_bias(layer.name, layer.out_channels, layer.bias))


@parameters_of.register
def _(layer: layers.Dense) -> tuple[Parameter, ...]:
    shape = (layer.out_features, layer.in_features)
    kernel = Parameter(layer.name, "weight", "dense_kernel", shape)
    return (kernel, *_bias(layer.name, layer.out_features, layer.bias))


@parameters_of.register
def _(layer: layers.BatchNorm) -> tuple[Parameter, ...]:
    shape = (layer.channels,)
    return (
        Parameter(layer.name, "weight", "norm_scale", shape, init=layer.scale_init),
        Parameter(layer.name, "bias", "norm_bias", shape),
        Parameter(layer.name, "running_mean", "norm_mean", shape),
        Parameter(layer.name, "running_var", "norm_var", shape),
    )


@parameters_of.register
def _(layer: layers.GroupNorm) -> tuple[Parameter, ...]:
    shape = (layer.channels,)
    return (
        Parameter(layer.name, "weight", "norm_scale", shape, init=layer.scale_init),
        Parameter(layer.name, "bias", "norm_bias", shape),
    )


@parameters_of.register
def _(layer: layers.EvoNorm) -> tuple[Parameter, ...]:
    shape = (layer.channels,)
    return (
        Parameter(layer.name, "weight", "norm_scale", shape),
        Parameter(layer.name, "bias", "norm_bias", shape),
        Parameter(layer.name, "v", "norm_gate", shape),
    )


@parameters_of.register
def _(layer: layers.FilterResponseNorm) -> tuple[Parameter, ...]:
    shape = (layer.channels,)
    return (
        Parameter(layer.name, "weight", "norm_scale", shape),
        Parameter(layer.name, "bias", "norm_bias", shape),
        Parameter(layer.name, "tau", "norm_threshold", shape),
    )


@parameters_of.register
def _(layer: layers.SqueezeExcite) -> tuple[Parameter, ...]:
    return tuple(q for conv in squeeze_convs(layer) for q in parameters_of(conv))


@parameters_of.register
def _(layer: layers.ChannelAttention) -> tuple[Parameter, ...]:
    shape = (1, 1, layer.kernel_size)
    return (Parameter(f"{layer.name}.conv", "weight", "conv1d_kernel", shape),)


@parameters_of.register
def _(layer: layers.LayerScale) -> tuple[Parameter, ...]:
    shape = (layer.channels,)
    return (Parameter(layer.name, "gamma", "branch_scale", shape, init=layer.init),)


def squeeze_convs(layer: layers.SqueezeExcite) -> tuple[layers.Conv, layers.Conv]:
    """The two convolutions inside a squeeze-and-excite layer."""
    return (
        layers.Conv(f"{layer.name}.fc1", layer.channels, layer.reduced, 1, bias=True),
        layers.Conv(f"{layer.name}.fc2", layer.reduced, layer.channels, 1, bias=True),
    )


def _bias(name: str, channels: int, present: bool) -> tuple[Parameter, ...]:
    return (Parameter(name, "bias", "bias", (channels,)),) if present else ()
