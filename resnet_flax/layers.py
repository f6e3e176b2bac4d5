"""One builder a layer record: plan record in, native `flax.nnx` module out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax import lax

from shared_spec import plan
from shared_spec.errors import FrameworkError
from shared_spec.kernels.xla import averaged, convolution, every, products, rectified, summed
from shared_spec.plan.parameters import squeeze_convs
from shared_spec.plan.resampling import linear, nearest, table_weights

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


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> Any:
    """Weights are always loaded after building, so that none are drawn here. Outside of programs,
    XLA would compile one for each shape.
    """
    if isinstance(key, jax.core.Tracer):
        return jnp.zeros(shape, dtype)
    return jax.device_put(np.zeros(shape, dtype))


@dataclass(frozen=True)
class Options:
    """What the layers of a model have in common, under NNX's names."""

    param_dtype: Any
    dtype: Any
    """Of computation; None for what input and parameters promote to."""
    axis_name: Any
    """The axis over which batch norms take their statistics."""
    rngs: nnx.Rngs


def build(layer: plan.Layer, options: Options) -> nnx.Module:
    """The native module of a layer record."""
    if type(layer) in FUNCTIONS:
        return Stateless(layer)
    if type(layer) not in BUILDERS:
        raise FrameworkError(f"resnet_flax has no layer for {type(layer).__name__}")
    return BUILDERS[type(layer)](layer, options)


class Chain(nnx.List):
    """Modules one after another."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Run all of them."""
        for module in self:
            x = module(x)
        return x


class Named(nnx.Module):
    """Modules with names, one after another in the order in which they were placed."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()

    def __call__(self, x: jax.Array) -> jax.Array:
        """Run all of them."""
        return chain(self, self._names, x)


def chain(module: nnx.Module, names: Iterable[str], x: jax.Array) -> jax.Array:
    """Run the children of `module` called `names` one after another.

    They are looked up on every call, so that a replaced child (`model.fc = ...`) takes effect.
    """
    for name in names:
        x = getattr(module, name)(x)
    return x


def attach(
    parent: nnx.Module,
    prefix: str,
    layers: plan.Layers,
    options: Options,
    after_sum: bool = False,
) -> tuple[str, ...]:
    """Build `layers` under `parent`, at their names without `prefix`. What enters them may be the
    sum of a block.

    Returns:
        The children of `parent` to run, in order; a dotted name becomes a `Chain` of
        numbered modules or a `Named` one.
    """
    modules = [build(layer, options) for layer in layers]
    if after_sum and modules and isinstance(modules[0], Stateless):
        modules[0].after_sum = True
    names = (layer.name.removeprefix(prefix + ".") for layer in layers)
    return tuple(dict.fromkeys(map(partial(place, parent), names, modules)))


def place(parent: nnx.Module, path: str, module: nnx.Module) -> str:
    """Put `module` at the dotted `path` below `parent`; return the first name of the path."""
    first, _, rest = path.partition(".")
    if not rest:
        _adopt(parent, first, module)
        return first
    if not _has(parent, first):
        _adopt(parent, first, Chain() if rest.partition(".")[0].isdigit() else Named())
    place(find(parent, first), rest, module)
    return first


def _has(parent: nnx.Module, name: str) -> bool:
    return int(name) < len(parent) if isinstance(parent, Chain) else hasattr(parent, name)


def _adopt(parent: nnx.Module, name: str, module: nnx.Module) -> None:
    if isinstance(parent, Chain):
        parent.append(module)
        return
    setattr(parent, name, module)
    if isinstance(parent, Named):
        parent._names = (*parent._names, name)


def find(model: nnx.Module, path: str) -> Any:
    """The module at a dotted path of the plan; `model` itself at an empty one."""
    module: Any = model
    for part in filter(None, path.split(".")):
        module = module[int(part)] if isinstance(module, Chain) else getattr(module, part)
    return module


def _conv(layer: plan.Conv, options: Options) -> nnx.Module:
    if layer.scale is not None:
        return ScaledConv(layer, options)
    pointwise = layer.kernel_size == layer.groups == 1 and layer.padding in (0, "same")
    route: Any = product if pointwise else convolution
    promote: Any = promote_dtype
    if layer.standardize_eps is not None:
        route, promote = convolution, Standardized(layer.standardize_eps)
    conv: nnx.Module = nnx.Conv(
        layer.in_channels,
        layer.out_channels,
        (layer.kernel_size, layer.kernel_size),
        strides=layer.stride,
        padding=padding(layer.padding),
        kernel_dilation=layer.dilation,
        feature_group_count=layer.groups,
        use_bias=layer.bias,
        dtype=options.dtype,
        param_dtype=options.param_dtype,
        kernel_init=zeros,
        conv_general_dilated=route,
        promote_dtype=promote,
        rngs=options.rngs,
    )
    return conv


def _group_norm(layer: plan.GroupNorm, options: Options) -> nnx.Module:
    return nnx.GroupNorm(
        layer.channels,
        num_groups=layer.groups,
        epsilon=layer.eps,
        dtype=options.dtype,
        param_dtype=options.param_dtype,
        use_fast_variance=False,
        rngs=options.rngs,
    )


def _dense(layer: plan.Dense, options: Options) -> nnx.Module:
    return nnx.Linear(
        layer.in_features,
        layer.out_features,
        use_bias=layer.bias,
        dtype=options.dtype,
        param_dtype=options.param_dtype,
        kernel_init=zeros,
        rngs=options.rngs,
    )


def product(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], *args: Any, **options: Any
) -> jax.Array:
    """`lax.conv_general_dilated` of a 1 x 1 kernel: where that is faster, as a matrix product."""
    if not products():
        return lax.conv_general_dilated(x, kernel, strides, *args, **options)
    return jnp.matmul(every(x, *strides), kernel[0, 0], precision=options.get("precision"))


@dataclass(frozen=True)
class Standardized:
    """`promote_dtype` of convolutions whose filters are standardised, over their own weights and in
    their own dtype. Two of one `eps` are equal, so that models of one kind are compiled once.
    """

    eps: float

    def __call__(self, arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
        """Input, kernel [h, w, C / groups, out], bias and what else there is, in one dtype."""
        x, kernel, *rest = arrays
        variance = kernel.var((0, 1, 2), keepdims=True)
        standard = (kernel - kernel.mean((0, 1, 2), keepdims=True)) * lax.rsqrt(variance + self.eps)
        return promote_dtype((x, standard, *rest), dtype=dtype, inexact=inexact)


class ScaledConv(nnx.Module):
    """A convolution whose filters are standardised, then multiplied by a number and by a gain."""

    def __init__(self, layer: plan.Conv, options: Options) -> None:
        k, kind = layer.kernel_size, options.param_dtype
        self.layer, self.dtype = layer, options.dtype
        shape = (k, k, layer.in_channels // layer.groups, layer.out_channels)
        self.kernel = nnx.Param(jnp.zeros(shape, kind))
        self.bias = nnx.Param(jnp.zeros(layer.out_channels, kind)) if layer.bias else None
        self.gain = nnx.Param(jnp.ones((1, 1, 1, layer.out_channels), kind))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H', W', C']."""
        layer = self.layer
        assert layer.standardize_eps is not None
        assert layer.scale is not None
        bias = None if self.bias is None else self.bias[...]
        standard = Standardized(layer.standardize_eps)
        x, kernel, bias, gain = standard(
            (x, self.kernel[...], bias, self.gain[...]), dtype=self.dtype
        )
        y: jax.Array = convolution(
            x,
            kernel * (gain * layer.scale),
            (layer.stride, layer.stride),
            padding(layer.padding),
            rhs_dilation=(layer.dilation, layer.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=layer.groups,
        )
        return y if bias is None else y + bias


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

    def __init__(self, layer: plan.BatchNorm, options: Options) -> None:
        super().__init__(
            layer.channels,
            momentum=1 - layer.momentum,
            epsilon=layer.eps,
            dtype=options.dtype,
            param_dtype=options.param_dtype,
            axis_name=options.axis_name,
            # E[x^2] - E[x]^2 cancels where the mean is large.
            use_fast_variance=False,
            rngs=options.rngs,
        )
        # Where nothing is wider than they are, statistics are Flax's own.
        widest = jnp.promote_types(options.param_dtype, jax.dtypes.canonicalize_dtype("float64"))
        kind = nnx.BatchStat if widest == options.param_dtype else Statistic
        self.mean = kind(jnp.zeros(layer.channels, options.param_dtype))
        self.var = kind(jnp.ones(layer.channels, options.param_dtype))
        self.unbiased = layer.variance == "unbiased"

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, **kwargs: Any) -> Any:
        """[N, H, W, C] to the same."""
        kept = self.momentum * self.var[...]
        before = self.var[...]
        y = super().__call__(x, use_running_average, **kwargs)
        after = self.var[...]
        if self.unbiased and after is not before:
            n = x.size // x.shape[-1]
            if self.axis_name is not None:
                n = lax.psum(n, self.axis_name, axis_index_groups=self.axis_index_groups)  # type: ignore[no-untyped-call]
            # A single number has no unbiased variance: its biased one, 0, is taken.
            self.var[...] = kept + (after - kept) * (n / max(n - 1, 1))
        return y


class FrozenBatchNorm(BatchNorm):
    """Batch normalisation by numbers that never change, none of which is an `nnx.Param`."""

    def __init__(self, layer: plan.BatchNorm, options: Options) -> None:
        super().__init__(layer, options)
        self.scale = nnx.BatchStat(jnp.ones(layer.channels, options.param_dtype))
        self.bias = nnx.BatchStat(jnp.zeros(layer.channels, options.param_dtype))

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, **kwargs: Any) -> Any:
        """[N, H, W, C] or [N, C] to the same."""
        return super().__call__(x, True, **kwargs)


class EvoNorm(nnx.Module):
    """EvoNorm-S0: a gated activation over the deviation of its group."""

    def __init__(self, layer: plan.EvoNorm, options: Options) -> None:
        self.groups, self.eps, self.dtype = layer.groups, layer.eps, options.dtype
        self.scale = nnx.Param(jnp.ones(layer.channels, options.param_dtype))
        self.bias = nnx.Param(jnp.zeros(layer.channels, options.param_dtype))
        gate = jnp.ones(layer.channels, options.param_dtype) if layer.activates else None
        self.v = None if gate is None else nnx.Param(gate)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        v = None if self.v is None else self.v[...]
        x, scale, bias, v = promote_dtype((x, self.scale[...], self.bias[...], v), dtype=self.dtype)
        grouped = (*x.shape[:3], self.groups, -1)
        variance = x.reshape(grouped).var((1, 2, 4), keepdims=True)
        gated = x if v is None else x * nnx.sigmoid(x * v)
        y = gated.reshape(grouped) * lax.rsqrt(variance + self.eps)
        out: jax.Array = y.reshape(x.shape) * scale + bias
        return out


class FilterResponseNorm(nnx.Module):
    """Each map over its root mean square, then a learnt threshold."""

    def __init__(self, layer: plan.FilterResponseNorm, options: Options) -> None:
        self.eps, self.dtype = layer.eps, options.dtype
        self.scale = nnx.Param(jnp.ones(layer.channels, options.param_dtype))
        self.bias = nnx.Param(jnp.zeros(layer.channels, options.param_dtype))
        self.tau = nnx.Param(jnp.zeros(layer.channels, options.param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        x, scale, bias, tau = promote_dtype(
            (x, self.scale[...], self.bias[...], self.tau[...]), dtype=self.dtype
        )
        x = x * lax.rsqrt(jnp.square(x).mean((1, 2), keepdims=True) + self.eps)
        return jnp.maximum(x * scale + bias, tau)


class SqueezeExcite(nnx.Module):
    """Scale channels by a gate computed from their means."""

    def __init__(self, layer: plan.SqueezeExcite, options: Options) -> None:
        self.fc1, self.fc2 = (build(conv, options) for conv in squeeze_convs(layer))
        self.activation = layer.activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        inner = ACTIVATIONS[self.activation](self.fc1(x.mean((1, 2), keepdims=True)))
        gate: jax.Array = nnx.sigmoid(self.fc2(inner))
        return x * gate


class ChannelAttention(nnx.Module):
    """Scale channels by a gate computed from the means of their neighbours."""

    def __init__(self, layer: plan.ChannelAttention, options: Options) -> None:
        p = layer.kernel_size // 2
        self.conv = nnx.Conv(
            1,
            1,
            (layer.kernel_size,),
            padding=((p, p),),
            use_bias=False,
            dtype=options.dtype,
            param_dtype=options.param_dtype,
            kernel_init=zeros,
            rngs=options.rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        gate: jax.Array = nnx.sigmoid(self.conv(x.mean((1, 2))[:, :, None]))
        return x * gate[:, None, None, :, 0]


class _Composite(nnx.Module):
    """A layer made of chains of others, which are its children under their names inside of it."""

    def __init__(self, layer: plan.Layer, options: Options) -> None:
        self.layer = layer
        paths: list[tuple[str, ...]] = []
        for before, layers in layer.chains():
            named = tuple(replace(x, name=before + x.name) for x in layers)
            attach(self, "", named, options)
            paths.append(tuple(x.name for x in named))
        self._paths = tuple(paths)

    def _chain(self, number: int, x: jax.Array) -> jax.Array:
        """Run a chain of the layer's."""
        for path in self._paths[number]:
            x = find(self, path)(x)
        return x


class GlobalContext(_Composite):
    """Add to channels what follows from their means, in which each pixel has its weight."""

    layer: plan.GlobalContext

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        context = (x * nnx.softmax(self._chain(0, x), (1, 2))).sum((1, 2), keepdims=True)
        return x + self._chain(1, context)


class SelectiveKernel(_Composite):
    """Sum paths, each weighted by what the gate makes of the plain sum."""

    layer: plan.SelectiveKernel

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H', W', C']."""
        count = len(self.layer.paths)
        shares = jnp.split(x, count, -1) if self.layer.split else [x] * count
        found = jnp.stack([self._chain(i, share) for i, share in enumerate(shares)], 3)
        gate = self._chain(count, found.sum(3))
        weights = nnx.softmax(gate.reshape(gate.shape[0], 1, 1, count, -1), 3)
        y: jax.Array = (found * weights).sum(3)
        return y


class HierarchicalSplit(_Composite):
    """Parts of the channels through one path after another."""

    layer: plan.HierarchicalSplit

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H', W', C]."""
        parts = jnp.split(x, self.layer.parts, -1)
        found: list[jax.Array] = []
        for i in range(len(self.layer.paths)):
            entering = parts[i] + found[-1] if found and self.layer.cascade else parts[i]
            found.append(self._chain(i, entering))
        if len(parts) > len(found):
            found.append(self._chain(len(found), parts[-1]))
        return jnp.concatenate(found, -1)


class SplitAttention(_Composite):
    """Sum parts of the channels, each weighted by what the gate makes of the plain sum."""

    layer: plan.SplitAttention

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H', W', C']."""
        radix, groups = self.layer.radix, self.layer.groups
        found = self._chain(0, x)
        found = jnp.stack(jnp.split(found, radix, -1), 3)
        gate = self._chain(1, found.sum(3))
        if radix == 1:
            return jnp.multiply(found[:, :, :, 0], nnx.sigmoid(gate))
        weights = nnx.softmax(gate.reshape(gate.shape[0], groups, radix, -1), 2).swapaxes(1, 2)
        y: jax.Array = (found * weights.reshape(gate.shape[0], 1, 1, radix, -1)).sum(3)
        return y


class Tokens(nnx.Module):
    """Mean and pixels of a map, each with its place's vector added."""

    def __init__(self, layer: plan.Tokens, options: Options) -> None:
        self.side, self.dtype = layer.side, options.dtype
        shape = (1 + layer.side**2, layer.channels)
        self.pos_embed = nnx.Param(jnp.zeros(shape, options.param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, 1 + H * W, C]."""
        n, h, w, c = x.shape
        if not isinstance(h, int) or not isinstance(w, int):
            raise FrameworkError(
                "head_pool: 'attention' needs images whose height and width are known when the "
                "model is traced"
            )
        x, table = promote_dtype((x, self.pos_embed[...]), dtype=self.dtype)
        if (h, w) != (self.side, self.side):
            table = jnp.asarray(table_weights(self.side, h, w), table.dtype) @ table
        pixels = x.reshape(n, h * w, c)
        tokens = jnp.concatenate((pixels.mean(1, keepdims=True), pixels), 1)
        y: jax.Array = tokens + table
        return y


class AttentionPool(_Composite):
    """What the mean of the pixels attends to among it and them."""

    layer: plan.AttentionPool

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, C']."""
        tokens = self._chain(0, x)
        heads = (*tokens.shape[:2], self.layer.heads, -1)
        query = self._chain(1, tokens[:, 0]).reshape(heads[0], *heads[2:])
        key, value = (self._chain(i, tokens).reshape(heads) for i in (2, 3))
        logits = jnp.einsum("nhc,nthc->nht", query, key) * query.shape[-1] ** -0.5
        y: jax.Array = jnp.einsum("nht,nthc->nhc", nnx.softmax(logits), value)
        return y.reshape(heads[0], -1)


class LayerScale(nnx.Module):
    """Scale each channel by a learnt number."""

    def __init__(self, layer: plan.LayerScale, options: Options) -> None:
        self.dtype = options.dtype
        self.gamma = nnx.Param(jnp.ones(layer.channels, options.param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        x, gamma = promote_dtype((x, self.gamma[...]), dtype=self.dtype)
        y: jax.Array = x * gamma
        return y


class SkipGain(nnx.Module):
    """Multiply by a learnt number."""

    def __init__(self, layer: plan.SkipGain, options: Options) -> None:
        self.dtype = options.dtype
        self.gain = nnx.Param(jnp.zeros((), options.param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        x, gain = promote_dtype((x, self.gain[...]), dtype=self.dtype)
        y: jax.Array = x * gain
        return y


class PReLU(nnx.Module):
    """A learnt slope for each channel where the input is negative."""

    def __init__(self, layer: plan.PReLU, options: Options) -> None:
        self.dtype = options.dtype
        self.negative_slope = nnx.Param(jnp.zeros(layer.channels, options.param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same."""
        x, slope = promote_dtype((x, self.negative_slope[...]), dtype=self.dtype)
        return jnp.where(x >= 0, x, slope * x)


class DropBlock(nnx.Dropout):
    """Drop squares of pixels, in training."""

    def __init__(self, layer: plan.DropBlock, options: Options) -> None:
        super().__init__(layer.rate, rngs=options.rngs)
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


class Stateless(nnx.Module):
    """A layer without variables. It holds its record: static attributes have to be hashable.

    Attributes:
        after_sum: whether a block's sum enters it, whose ReLU XLA is to compute apart.
    """

    after_sum = False

    def __init__(self, layer: plan.Layer) -> None:
        self.layer = layer

    def __call__(self, x: Any) -> jax.Array:
        """What its function gives."""
        layer = self.layer
        rectifies = isinstance(layer, plan.Activation) and layer.function == "relu"
        y: jax.Array
        y = rectified(x) if self.after_sum and rectifies else FUNCTIONS[type(layer)](layer, x)
        return y


def _zero_pad(layer: plan.ZeroPad, x: jax.Array) -> jax.Array:
    """[N, H, W, C] to [N, H + 2 amount, W + 2 amount, C]."""
    around = (layer.amount, layer.amount)
    return jnp.pad(x, ((0, 0), around, around, (0, 0)))


def _space_to_depth(layer: plan.SpaceToDepth, x: jax.Array) -> jax.Array:
    """[N, H, W, C] to [N, H', W', 4 C]."""
    around = [(*layer.around(n), 0) for n in x.shape[1:3]]
    # lax's pad crops where an amount is negative.
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    n, h, w, c = x.shape
    blocks = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(n, h // 2, w // 2, 4 * c)


def _max_pool(layer: plan.MaxPool, x: jax.Array) -> jax.Array:
    """[N, H, W, C] to [N, H', W', C]; padded with minus infinity."""
    window, strides = (layer.kernel_size,) * 2, (layer.stride,) * 2
    around: Any = "SAME" if layer.padding == "same" else (layer.around(),) * 2
    y: jax.Array = nnx.max_pool(x, window, strides, around)
    return y


def _avg_pool(layer: plan.AvgPool, x: jax.Array) -> jax.Array:
    """[N, H, W, C] to [N, H', W', C]: the mean, of padding too only if the plan says so."""
    window, strides = (layer.kernel_size,) * 2, (layer.stride,) * 2
    around = padding(layer.padding)
    if around == "SAME" and layer.kernel_size == 2:
        # The same windows (at even sizes, none reaches the padding), and no question of whether a
        # size is even, which has no answer while it is a symbol.
        around = ((0, 1), (0, 1))
    y: jax.Array = nnx.avg_pool(x, window, strides, around, count_include_pad=layer.count_padding)
    # Flax divides by counts of JAX's default float, which is not always the input's.
    return y.astype(x.dtype)


def _blur_pool(layer: plan.BlurPool, x: jax.Array) -> jax.Array:
    """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), C]."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    for axis in (1, 2):
        size = x.shape[axis] - 2
        taps = [lax.slice_in_dim(x, i, i + size, layer.stride, axis) for i in range(3)]
        x = 0.25 * taps[0] + 0.5 * taps[1] + 0.25 * taps[2]
    return x


def _zero_pad_shortcut(layer: plan.ZeroPadShortcut, x: jax.Array) -> jax.Array:
    """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), before + C + after]."""
    x = every(x, layer.stride, layer.stride)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (layer.before, layer.after)))


def _global_pool(layer: plan.GlobalPool, x: jax.Array) -> jax.Array:
    """[N, H, W, C] to [N, C], or to [N, 1, 1, C]; 2 C channels for catavgmax."""
    if layer.kind == "max":
        return x.max((1, 2), keepdims=layer.keep_axes)
    mean: jax.Array = averaged(x, layer.keep_axes)
    if layer.kind == "avg":
        return mean
    maximum = x.max((1, 2), keepdims=layer.keep_axes)
    if layer.kind == "avgmax":
        return (mean + maximum) / 2
    return jnp.concatenate((mean, maximum), -1)


def _enlarge(layer: plan.Enlarge, xs: list[jax.Array]) -> jax.Array:
    """[N, h, w, C] and [N, H, W, C'] to [N, H, W, C]."""
    x, like = xs
    for axis in (1, 2):
        side, length = x.shape[axis], like.shape[axis]
        if layer.how == "nearest":
            x = jnp.take(x, nearest(jnp, side, length), axis)
            continue
        low, high, part, whole = linear(jnp, side, length)
        a, b = (jnp.take(x, places, axis) for places in (low, high))
        share = part.astype(jnp.promote_types(x.dtype, "float32")) / whole
        x = a + (b - a) * jnp.expand_dims(share, (1, 2) if axis == 1 else (1,)).astype(x.dtype)
    return x


FUNCTIONS: dict[type, Callable[[Any, Any], jax.Array]] = {
    plan.ZeroPad: _zero_pad,
    plan.SpaceToDepth: _space_to_depth,
    plan.Flatten: lambda layer, x: x.reshape(x.shape[0], -1),
    plan.FlattenMaps: lambda layer, x: x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1),
    plan.Identity: lambda layer, x: x,
    plan.AvgPool: _avg_pool,
    plan.BlurPool: _blur_pool,
    plan.Scale: lambda layer, x: x * layer.value,
    plan.Activation: lambda layer, x: ACTIVATIONS[layer.function](x),
    plan.MaxPool: _max_pool,
    plan.ZeroPadShortcut: _zero_pad_shortcut,
    plan.GlobalPool: _global_pool,
    plan.Sum: lambda layer, xs: summed(*xs),
    plan.Enlarge: _enlarge,
    plan.Concat: lambda layer, xs: jnp.concatenate(xs, -1),
}
"""What each layer record without variables computes: plain functions, as Flax's own pools are."""

BUILDERS: dict[type, Callable[[Any, Options], nnx.Module]] = {
    plan.Conv: _conv,
    plan.BatchNorm: lambda layer, options: (FrozenBatchNorm if layer.frozen else BatchNorm)(
        layer, options
    ),
    plan.GroupNorm: _group_norm,
    plan.EvoNorm: EvoNorm,
    plan.FilterResponseNorm: FilterResponseNorm,
    plan.SqueezeExcite: SqueezeExcite,
    plan.ChannelAttention: ChannelAttention,
    plan.Tokens: Tokens,
    plan.AttentionPool: AttentionPool,
    plan.GlobalContext: GlobalContext,
    plan.SelectiveKernel: SelectiveKernel,
    plan.HierarchicalSplit: HierarchicalSplit,
    plan.SplitAttention: SplitAttention,
    plan.LayerScale: LayerScale,
    plan.SkipGain: SkipGain,
    plan.PReLU: PReLU,
    plan.Dropout: lambda layer, options: nnx.Dropout(layer.rate, rngs=options.rngs),
    plan.DropPath: lambda layer, options: nnx.Dropout(
        layer.rate, broadcast_dims=(1, 2, 3), rngs=options.rngs
    ),
    plan.DropBlock: DropBlock,
    plan.Dense: _dense,
}
"""The native module of each other record."""
