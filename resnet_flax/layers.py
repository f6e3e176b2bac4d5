"""One builder a layer record: plan record in, native `flax.nnx` module out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from shared_spec import plan
from shared_spec.errors import FrameworkError
from shared_spec.kernels.xla import products
from shared_spec.plan.parameters import squeeze_convs

ACTIVATIONS: dict[str, Any] = {
    "relu": nnx.relu,
    "relu6": nnx.relu6,
    "leaky_relu": partial(nnx.leaky_relu, negative_slope=plan.LEAKY_SLOPE),
    "elu": nnx.elu,
    "selu": nnx.selu,
    "silu": nnx.silu,
    "mish": jax.nn.mish,
    "gelu": partial(nnx.gelu, approximate=False),
    "gelu_tanh": partial(nnx.gelu, approximate=True),
    "hardswish": nnx.hard_swish,
}
# Weights are always loaded after building, so that none are drawn here.
ZEROS = nnx.initializers.zeros_init()


def build(layer: plan.Layer, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    """The native module of a layer record, with parameters of `dtype`."""
    if type(layer) not in BUILDERS:
        raise FrameworkError(f"resnet_flax has no layer for {type(layer).__name__}")
    return BUILDERS[type(layer)](layer, dtype, rngs)


def _conv(layer: plan.Conv, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    kind: Any = nnx.Conv
    if layer.standardize_eps is not None:
        kind = partial(StandardizedConv, layer.standardize_eps)
    pointwise = layer.kernel_size == layer.groups == 1 and layer.padding in (0, "same")
    conv: nnx.Module = kind(
        layer.in_channels,
        layer.out_channels,
        (layer.kernel_size, layer.kernel_size),
        strides=layer.stride,
        padding=padding(layer.padding),
        kernel_dilation=layer.dilation,
        feature_group_count=layer.groups,
        use_bias=layer.bias,
        param_dtype=dtype,
        kernel_init=ZEROS,
        conv_general_dilated=product if pointwise else lax.conv_general_dilated,
        rngs=rngs,
    )
    return conv


def _group_norm(layer: plan.GroupNorm, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.GroupNorm(
        layer.channels,
        num_groups=layer.groups,
        epsilon=layer.eps,
        param_dtype=dtype,
        use_fast_variance=False,
        rngs=rngs,
    )


def _channel_attention(layer: plan.ChannelAttention, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return ChannelAttention(layer.kernel_size, dtype, rngs)


def _drop_path(layer: plan.DropPath, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Dropout(layer.rate, broadcast_dims=(1, 2, 3), rngs=rngs)


def _dense(layer: plan.Dense, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Linear(
        layer.in_features,
        layer.out_features,
        use_bias=layer.bias,
        param_dtype=dtype,
        kernel_init=ZEROS,
        rngs=rngs,
    )


def product(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], *args: Any, **options: Any
) -> jax.Array:
    """`lax.conv_general_dilated` of a 1 x 1 kernel: where that is faster, as a matrix product."""
    if not products():
        return lax.conv_general_dilated(x, kernel, strides, *args, **options)
    rows, columns = strides
    return jnp.matmul(x[:, ::rows, ::columns], kernel[0, 0], precision=options.get("precision"))


def padding(amount: plan.Padding) -> Any:
    """Padding in Flax's form; its `SAME` is TensorFlow's rule."""
    return "SAME" if amount == "same" else ((amount, amount), (amount, amount))


class Statistic(nnx.BatchStat):
    """Takes new values in its own dtype: Flax computes them in float32 at least."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, jnp.asarray(value, self.get_value().dtype))


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
        self.mean = Statistic(jnp.zeros(layer.channels, dtype))
        self.var = Statistic(jnp.ones(layer.channels, dtype))
        self.unbiased = layer.variance == "unbiased"

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, **kwargs: Any) -> Any:
        """[N, H, W, C] to the same."""
        kept = self.momentum * self.var[...]
        before = self.var[...]
        y = super().__call__(x, use_running_average, **kwargs)
        after = self.var[...]
        if self.unbiased and after is not before:
            n = x.size // x.shape[-1]
            # A single number has no unbiased variance: its biased one, 0, is taken.
            self.var[...] = kept + (after - kept) * (n / max(n - 1, 1))
        return y


class StandardizedConv(nnx.Conv):
    """`nnx.Conv` whose filters are standardised, over their own weights, at each call."""

    def __init__(self, eps: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.eps = eps

    def __call__(self, x: jax.Array) -> Any:
        """[N, H, W, C] to [N, H', W', out]."""
        kernel = self.kernel[...]
        variance = kernel.var((0, 1, 2), keepdims=True)
        standard = (kernel - kernel.mean((0, 1, 2), keepdims=True)) * lax.rsqrt(variance + self.eps)
        amounts = self.padding if isinstance(self.padding, str) else list(self.padding)
        y = lax.conv_general_dilated(
            x,
            standard,
            (self.strides,) * 2 if isinstance(self.strides, int) else self.strides,
            amounts,
            rhs_dilation=(self.kernel_dilation,) * 2
            if isinstance(self.kernel_dilation, int)
            else self.kernel_dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.feature_group_count,
        )
        return y if self.bias is None else y + self.bias[...]


class SpaceToDepth(nnx.Module):
    """Blocks of 2 x 2 pixels as pixels of four times the channels."""

    def __init__(self, layer: plan.SpaceToDepth) -> None:
        self.layer = layer

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H', W', 4 C]."""
        around = [(*self.layer.around(n), 0) for n in x.shape[1:3]]
        # lax's pad crops where an amount is negative.
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])
        n, h, w, c = x.shape
        blocks = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
        return blocks.reshape(n, h // 2, w // 2, 4 * c)


class EvoNorm(nnx.Module):
    """EvoNorm-S0: a gated activation over the deviation of its group."""

    def __init__(self, layer: plan.EvoNorm, dtype: Any) -> None:
        self.groups, self.eps = layer.groups, layer.eps
        self.scale = nnx.Param(jnp.ones(layer.channels, dtype))
        self.bias = nnx.Param(jnp.zeros(layer.channels, dtype))
        self.v = nnx.Param(jnp.ones(layer.channels, dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        grouped = (*x.shape[:3], self.groups, -1)
        variance = x.reshape(grouped).var((1, 2, 4), keepdims=True)
        y = (x * nnx.sigmoid(x * self.v[...])).reshape(grouped) * lax.rsqrt(variance + self.eps)
        out: jax.Array = y.reshape(x.shape) * self.scale[...] + self.bias[...]
        return out


class FilterResponseNorm(nnx.Module):
    """Each map over its root mean square, then a learnt threshold."""

    def __init__(self, layer: plan.FilterResponseNorm, dtype: Any) -> None:
        self.eps = layer.eps
        self.scale = nnx.Param(jnp.ones(layer.channels, dtype))
        self.bias = nnx.Param(jnp.zeros(layer.channels, dtype))
        self.tau = nnx.Param(jnp.zeros(layer.channels, dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        x = x * lax.rsqrt(jnp.square(x).mean((1, 2), keepdims=True) + self.eps)
        return jnp.maximum(x * self.scale[...] + self.bias[...], self.tau[...])


class ZeroPad(nnx.Module):
    """Rows and columns of zeros on every side."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H + 2 amount, W + 2 amount, C]."""
        a = self.amount
        return jnp.pad(x, ((0, 0), (a, a), (a, a), (0, 0)))


class Flatten(nnx.Module):
    """[N, 1, 1, C] to [N, C]."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, 1, 1, C] to [N, C]."""
        return x.reshape(x.shape[0], -1)


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


class AvgPool(nnx.Module):
    """Mean, of padding too only if the plan says so."""

    def __init__(self, layer: plan.AvgPool) -> None:
        self.window = (layer.kernel_size, layer.kernel_size)
        self.strides = (layer.stride, layer.stride)
        self.padding = padding(layer.padding)
        self.count_padding = layer.count_padding

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H', W', C]."""
        y: jax.Array = nnx.avg_pool(
            x, self.window, self.strides, self.padding, count_include_pad=self.count_padding
        )
        # Flax divides by counts of JAX's default float, which is not always the input's.
        return y.astype(x.dtype)


class BlurPool(nnx.Module):
    """Binomial blur and subsampling for each channel, reflecting one pixel at the border."""

    def __init__(self, stride: int) -> None:
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), C]."""
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
        s = self.stride
        x = 0.25 * x[:, :-2:s] + 0.5 * x[:, 1:-1:s] + 0.25 * x[:, 2::s]
        return 0.25 * x[:, :, :-2:s] + 0.5 * x[:, :, 1:-1:s] + 0.25 * x[:, :, 2::s]


class SqueezeExcite(nnx.Module):
    """Scale channels by a gate computed from their means."""

    def __init__(self, layer: plan.SqueezeExcite, dtype: Any, rngs: nnx.Rngs) -> None:
        self.fc1, self.fc2 = (build(conv, dtype, rngs) for conv in squeeze_convs(layer))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        gate: jax.Array = nnx.sigmoid(self.fc2(nnx.relu(self.fc1(x.mean((1, 2), keepdims=True)))))
        return x * gate


class ChannelAttention(nnx.Module):
    """Scale channels by a gate computed from the means of their neighbours."""

    def __init__(self, kernel_size: int, dtype: Any, rngs: nnx.Rngs) -> None:
        p = kernel_size // 2
        self.conv = nnx.Conv(
            1,
            1,
            (kernel_size,),
            padding=((p, p),),
            use_bias=False,
            param_dtype=dtype,
            kernel_init=ZEROS,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        gate: jax.Array = nnx.sigmoid(self.conv(x.mean((1, 2))[:, :, None]))
        return x * gate[:, None, None, :, 0]


class LayerScale(nnx.Module):
    """Scale each channel by a learnt number."""

    def __init__(self, layer: plan.LayerScale, dtype: Any) -> None:
        self.gamma = nnx.Param(jnp.ones(layer.channels, dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        y: jax.Array = x * self.gamma[...]
        return y


class Identity(nnx.Module):
    """Nothing."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Any shape to the same."""
        return x


class ZeroPadShortcut(nnx.Module):
    """Subsample rows and columns, add channels of zeros (option A)."""

    def __init__(self, layer: plan.ZeroPadShortcut) -> None:
        self.stride, self.before, self.after = layer.stride, layer.before, layer.after

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), before + C + after]."""
        x = x[:, :: self.stride, :: self.stride, :]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (self.before, self.after)))


class GlobalPool(nnx.Module):
    """Mean and maximum over H and W, one of them or both."""

    def __init__(self, layer: plan.GlobalPool) -> None:
        self.keep_axes, self.kind = layer.keep_axes, layer.kind

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, C], or to [N, 1, 1, C]; 2 C channels for catavgmax."""
        if self.kind == "avg":
            return x.mean((1, 2), keepdims=self.keep_axes)
        maximum = x.max((1, 2), keepdims=self.keep_axes)
        if self.kind == "max":
            return maximum
        mean = x.mean((1, 2), keepdims=self.keep_axes)
        if self.kind == "avgmax":
            return (mean + maximum) / 2
        return jnp.concatenate((mean, maximum), -1)


class DropBlock(nnx.Dropout):
    """Drop squares of pixels, in training."""

    def __init__(self, layer: plan.DropBlock, rngs: nnx.Rngs) -> None:
        super().__init__(layer.rate, rngs=rngs)
        self.layer = layer

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        if self.deterministic:
            return x
        n, h, w, _ = x.shape
        kh, kw, gamma = self.layer.window(h, w)
        dropped = jax.random.bernoulli(self.rngs(), gamma, (n, h, w, 1)).astype(x.dtype)
        # An even square reaches one pixel further up and left than down and right.
        dropped = jnp.pad(
            dropped, ((0, 0), ((kh - 1) // 2, kh // 2), ((kw - 1) // 2, kw // 2), (0, 0))
        )
        kept = 1 - nnx.max_pool(dropped, (kh, kw))
        # The mean in float32: 16-bit floats cannot count the pixels of a batch.
        share = kept.mean(dtype=jnp.promote_types(x.dtype, jnp.float32))
        y: jax.Array = x * (kept / jnp.maximum(share, 1e-7)).astype(x.dtype)
        return y


BUILDERS: dict[type, Callable[[Any, Any, nnx.Rngs], nnx.Module]] = {
    plan.Conv: _conv,
    plan.BatchNorm: BatchNorm,
    plan.GroupNorm: _group_norm,
    plan.EvoNorm: lambda layer, dtype, rngs: EvoNorm(layer, dtype),
    plan.FilterResponseNorm: lambda layer, dtype, rngs: FilterResponseNorm(layer, dtype),
    plan.ZeroPad: lambda layer, dtype, rngs: ZeroPad(layer.amount),
    plan.SpaceToDepth: lambda layer, dtype, rngs: SpaceToDepth(layer),
    plan.Flatten: lambda layer, dtype, rngs: Flatten(),
    plan.Identity: lambda layer, dtype, rngs: Identity(),
    plan.AvgPool: lambda layer, dtype, rngs: AvgPool(layer),
    plan.BlurPool: lambda layer, dtype, rngs: BlurPool(layer.stride),
    plan.SqueezeExcite: SqueezeExcite,
    plan.ChannelAttention: _channel_attention,
    plan.LayerScale: lambda layer, dtype, rngs: LayerScale(layer, dtype),
    plan.Activation: lambda layer, dtype, rngs: Activation(layer.function),
    plan.MaxPool: lambda layer, dtype, rngs: MaxPool(layer),
    plan.ZeroPadShortcut: lambda layer, dtype, rngs: ZeroPadShortcut(layer),
    plan.GlobalPool: lambda layer, dtype, rngs: GlobalPool(layer),
    plan.Dropout: lambda layer, dtype, rngs: nnx.Dropout(layer.rate, rngs=rngs),
    plan.DropPath: _drop_path,
    plan.DropBlock: lambda layer, dtype, rngs: DropBlock(layer, rngs),
    plan.Dense: _dense,
}
"""The native module of each layer record, with parameters of a dtype."""
