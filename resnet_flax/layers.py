"""One builder a layer record: plan record in, native `flax.nnx` module out."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from shared_spec import plan
from shared_spec.errors import FrameworkError

ACTIVATIONS = {"relu": nnx.relu}
# Weights are always loaded after building, so that none are drawn here.
ZEROS = nnx.initializers.zeros_init()


@singledispatch
def build(layer: object, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    """The native module of a layer record, with parameters of `dtype`."""
    raise FrameworkError(f"resnet_flax has no layer for {type(layer).__name__}")


@build.register
def _(layer: plan.Conv, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Conv(
        layer.in_channels,
        layer.out_channels,
        (layer.kernel_size, layer.kernel_size),
        strides=layer.stride,
        padding=padding(layer.padding),
        feature_group_count=layer.groups,
        use_bias=layer.bias,
        param_dtype=dtype,
        kernel_init=ZEROS,
        rngs=rngs,
    )


@build.register
def _(layer: plan.BatchNorm, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return BatchNorm(layer, dtype, rngs)


@build.register
def _(layer: plan.Activation, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return Activation(layer.function)


@build.register
def _(layer: plan.MaxPool, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return MaxPool(layer)


@build.register
def _(layer: plan.ZeroPadShortcut, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return ZeroPadShortcut(layer)


@build.register
def _(layer: plan.GlobalPool, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return GlobalPool()


@build.register
def _(layer: plan.Dense, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Linear(
        layer.in_features,
        layer.out_features,
        use_bias=layer.bias,
        param_dtype=dtype,
        kernel_init=ZEROS,
        rngs=rngs,
    )


def padding(amount: plan.Padding) -> Any:
    """Padding in Flax's form; its `SAME` is TensorFlow's rule."""
    return "SAME" if amount == "same" else ((amount, amount), (amount, amount))


class BatchNorm(nnx.BatchNorm):
    """`nnx.BatchNorm` with the plan's rule for the running variance, and statistics of the
    parameters' dtype (Flax's own are always float32).
    """

    def __init__(self, layer: plan.BatchNorm, dtype: Any, rngs: nnx.Rngs) -> None:
        super().__init__(
            layer.channels,
            momentum=1 - layer.momentum,
            epsilon=layer.eps,
            param_dtype=dtype,
            # E[x^2] - E[x]^2 cancels where the mean is large.
            use_fast_variance=False,
            rngs=rngs,
        )
        self.mean = nnx.BatchStat(jnp.zeros(layer.channels, dtype))
        self.var = nnx.BatchStat(jnp.ones(layer.channels, dtype))
        self.unbiased = layer.variance == "unbiased"

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, **kwargs: Any) -> Any:
        """[N, H, W, C] to the same."""
        kept = self.momentum * self.var[...]
        before = self.var[...]
        y = super().__call__(x, use_running_average, **kwargs)
        after = self.var[...]
        if self.unbiased and after is not before:
            n = x.size // x.shape[-1]
            self.var[...] = kept + (after - kept) * (n / (n - 1))
        return y


class Activation(nnx.Module):
    """An elementwise function, held by name: static attributes have to be hashable."""

    def __init__(self, function: str) -> None:
        self.function = function

    def __call__(self, x: jax.Array) -> jax.Array:
        """Any shape to the same."""
        y: jax.Array = ACTIVATIONS[self.function](x)
        return y


class MaxPool(nnx.Module):
    """Maximum, padded with minus infinity."""

    def __init__(self, layer: plan.MaxPool) -> None:
        self.window = (layer.kernel_size, layer.kernel_size)
        self.strides = (layer.stride, layer.stride)
        self.padding = padding(layer.padding)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H', W', C]."""
        y: jax.Array = nnx.max_pool(x, self.window, self.strides, self.padding)
        return y


class ZeroPadShortcut(nnx.Module):
    """Subsample rows and columns, add channels of zeros (option A)."""

    def __init__(self, layer: plan.ZeroPadShortcut) -> None:
        self.stride, self.before, self.after = layer.stride, layer.before, layer.after

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), before + C + after]."""
        x = x[:, :: self.stride, :: self.stride, :]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (self.before, self.after)))


class GlobalPool(nnx.Module):
    """Mean over H and W."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, C]."""
        return x.mean((1, 2))
