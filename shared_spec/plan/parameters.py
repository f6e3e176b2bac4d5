"""Which arrays each layer owns: one rule a layer record."""

from __future__ import annotations

from functools import singledispatch

from shared_spec import plan
from shared_spec.plan.network import Parameter


@singledispatch
def parameters_of(layer: object) -> tuple[Parameter, ...]:
    """The arrays that `layer` owns, in PyTorch's order; most layers own none."""
    return ()


@parameters_of.register
def _(layer: plan.Conv) -> tuple[Parameter, ...]:
    k = layer.kernel_size
    shape = (layer.out_channels, layer.in_channels // layer.groups, k, k)
    kernel = Parameter(layer.name, "weight", "conv_kernel", shape)
    return (kernel, *_bias(layer.name, layer.out_channels, layer.bias))


@parameters_of.register
def _(layer: plan.Dense) -> tuple[Parameter, ...]:
    shape = (layer.out_features, layer.in_features)
    kernel = Parameter(layer.name, "weight", "dense_kernel", shape)
    return (kernel, *_bias(layer.name, layer.out_features, layer.bias))


@parameters_of.register
def _(layer: plan.BatchNorm) -> tuple[Parameter, ...]:
    shape = (layer.channels,)
    return (
        Parameter(layer.name, "weight", "norm_scale", shape, init=layer.scale_init),
        Parameter(layer.name, "bias", "norm_bias", shape),
        Parameter(layer.name, "running_mean", "norm_mean", shape),
        Parameter(layer.name, "running_var", "norm_var", shape),
    )


@parameters_of.register
def _(layer: plan.GroupNorm) -> tuple[Parameter, ...]:
    shape = (layer.channels,)
    return (
        Parameter(layer.name, "weight", "norm_scale", shape, init=layer.scale_init),
        Parameter(layer.name, "bias", "norm_bias", shape),
    )


@parameters_of.register
def _(layer: plan.EvoNorm) -> tuple[Parameter, ...]:
    shape = (layer.channels,)
    return (
        Parameter(layer.name, "weight", "norm_scale", shape),
        Parameter(layer.name, "bias", "norm_bias", shape),
        Parameter(layer.name, "v", "norm_gate", shape),
    )


@parameters_of.register
def _(layer: plan.FilterResponseNorm) -> tuple[Parameter, ...]:
    shape = (layer.channels,)
    return (
        Parameter(layer.name, "weight", "norm_scale", shape),
        Parameter(layer.name, "bias", "norm_bias", shape),
        Parameter(layer.name, "tau", "norm_threshold", shape),
    )


@parameters_of.register
def _(layer: plan.SqueezeExcite) -> tuple[Parameter, ...]:
    return tuple(q for conv in squeeze_convs(layer) for q in parameters_of(conv))


@parameters_of.register
def _(layer: plan.ChannelAttention) -> tuple[Parameter, ...]:
    shape = (1, 1, layer.kernel_size)
    return (Parameter(f"{layer.name}.conv", "weight", "conv1d_kernel", shape),)


@parameters_of.register
def _(layer: plan.LayerScale) -> tuple[Parameter, ...]:
    shape = (layer.channels,)
    return (Parameter(layer.name, "gamma", "branch_scale", shape, init=layer.init),)


def squeeze_convs(layer: plan.SqueezeExcite) -> tuple[plan.Conv, plan.Conv]:
    """The two convolutions inside a squeeze-and-excite layer."""
    return (
        plan.Conv(f"{layer.name}.fc1", layer.channels, layer.reduced, 1, bias=True),
        plan.Conv(f"{layer.name}.fc2", layer.reduced, layer.channels, 1, bias=True),
    )


def _bias(name: str, channels: int, present: bool) -> tuple[Parameter, ...]:
    return (Parameter(name, "bias", "bias", (channels,)),) if present else ()
