"""Which arrays each layer owns: one rule a layer record."""

from __future__ import annotations

from dataclasses import replace

from shared_spec.plan import layers
from shared_spec.plan.layers import Parameter


def parameters_of(layer: layers.Layer) -> tuple[Parameter, ...]:
    """The arrays that `layer` owns, in PyTorch's order; most layers own none."""
    name = layer.name
    match layer:
        case layers.Conv(kernel_size=k):
            shape = (layer.out_channels, layer.in_channels // layer.groups, k, k)
            kernel = Parameter(name, "weight", "conv_kernel", shape, start=layer.start)
            gain = Parameter(name, "gain", "conv_gain", (shape[0], 1, 1, 1), layer.gain_init)
            gains = () if layer.scale is None else (gain,)
            return (kernel, *_bias(name, layer.out_channels, layer.bias), *gains)
        case layers.Dense():
            matrix = (layer.out_features, layer.in_features)
            kernel = Parameter(name, "weight", "dense_kernel", matrix, start=layer.start)
            return (kernel, *_bias(name, layer.out_features, layer.bias))
        case layers.BatchNorm(channels=c, scale_init=init):
            mean = Parameter(name, "running_mean", "norm_mean", (c,))
            var = Parameter(name, "running_var", "norm_var", (c,))
            owned = (*_affine(name, c, init), mean, var)
            return tuple(replace(q, frozen=True) for q in owned) if layer.frozen else owned
        case layers.GroupNorm(channels=c, scale_init=init):
            return _affine(name, c, init)
        case layers.EvoNorm(channels=c):
            gate = (Parameter(name, "v", "norm_gate", (c,)),) if layer.activates else ()
            return (*_affine(name, c), *gate)
        case layers.FilterResponseNorm(channels=c):
            return (*_affine(name, c), Parameter(name, "tau", "norm_threshold", (c,)))
        case layers.SqueezeExcite():
            return tuple(q for conv in squeeze_convs(layer) for q in parameters_of(conv))
        case layers.ChannelAttention(kernel_size=k):
            return (Parameter(f"{name}.conv", "weight", "conv1d_kernel", (1, 1, k)),)
        case layers.Tokens(channels=c, side=side):
            return (Parameter(name, "pos_embed", "positions", (1 + side * side, c)),)
        case layers.SkipGain():
            return (Parameter(name, "gain", "skip_gain", (), init=0.0),)
        case layers.PReLU(channels=c):
            return (Parameter(name, "weight", "prelu_slope", (c,)),)
        case layers.LayerScale(channels=c, init=init):
            return (Parameter(name, "gamma", "branch_scale", (c,), init=init),)
    return tuple(q for inner in inside(layer) for q in parameters_of(inner))


def inside(layer: layers.Layer) -> layers.Layers:
    """The layers that a layer is made of, under their own names in the model; most have none."""
    chains = layer.chains()
    return tuple(placed(layer, before, inner) for before, chain in chains for inner in chain)


def leaves(layer: layers.Layer) -> layers.Layers:
    """A layer, or those that it is made of."""
    return inside(layer) or (layer,)


def placed(layer: layers.Layer, before: str, inner: layers.Layer) -> layers.Layer:
    """A layer inside of another under its name in the model."""
    return replace(inner, name=f"{layer.name}.{before}{inner.name}")


def squeeze_convs(layer: layers.SqueezeExcite) -> tuple[layers.Conv, layers.Conv]:
    """The two convolutions inside a squeeze-and-excite layer."""
    return (
        layers.Conv(f"{layer.name}.fc1", layer.channels, layer.reduced, 1, bias=True),
        layers.Conv(f"{layer.name}.fc2", layer.reduced, layer.channels, 1, bias=True),
    )


def _bias(name: str, channels: int, present: bool) -> tuple[Parameter, ...]:
    return (Parameter(name, "bias", "bias", (channels,)),) if present else ()


def _affine(name: str, channels: int, init: float | None = None) -> tuple[Parameter, ...]:
    scale = Parameter(name, "weight", "norm_scale", (channels,), init=init)
    return (scale, Parameter(name, "bias", "norm_bias", (channels,)))
