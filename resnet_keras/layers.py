"""One builder a layer record: plan record in, native Keras layers applied to a tensor out.

Keras 3.15 limits float64 to float32 in some operations of its JAX and PyTorch engines: its dtype
rules know no float64 there. Where a built-in layer would lose precision so, a subclass composes
the same function from operations that keep it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from zlib import crc32

import keras
import numpy as np
from keras import ops

from shared_spec import plan
from shared_spec.errors import FrameworkError
from shared_spec.kernels.xla import convolution, every, products, rectified, summed
from shared_spec.plan.parameters import placed, squeeze_convs
from shared_spec.plan.resampling import cubic, linear, nearest
from shared_spec.weights.layouts import keras_layer

PACKAGE = "resnet_keras"


def saved_as(kind: type) -> Callable[[type], type]:
    """Have files name a class of Keras's in the place of ours, which computes the same as fast or
    as exactly as it can: who reads them needs no import of this package.
    """

    def decorate(ours: Any) -> type:
        ours.__name__, ours.__module__ = kind.__name__, "keras.layers"
        # Pickles name the class too.
        ours._unpickle_model = kind._unpickle_model  # type: ignore[attr-defined]
        return ours  # type: ignore[no-any-return]

    return decorate


def layer_seed(name: str, seed: int = 0) -> int:
    """What a layer's dropout draws from, so that no two layers drop the same.

    A layer without a seed of its own would draw from torch's generator on the PyTorch engine, which
    also keeps seeds as signed numbers.
    """
    return crc32(f"{seed}/{name}".encode()) >> 1


Own = dict[str, Any]
"""dtype policy and name of a Keras layer, as its constructor takes them."""


def apply(layer: plan.Layer, x: Any, dtype: keras.DTypePolicy) -> Any:
    """The output of a layer record on the symbolic tensor `x`, or on several, with layers of a
    dtype policy.
    """
    if type(layer) not in BUILDERS:
        raise FrameworkError(f"resnet_keras has no layer for {type(layer).__name__}")
    return BUILDERS[type(layer)](layer, x, {"dtype": dtype, "name": keras_layer(layer.name)})


def _inner(own: Own, suffix: str) -> Own:
    """Of a layer within one that takes several of Keras's."""
    return own | {"name": f"{own['name']}_{suffix}"}


def _conv(layer: plan.Conv, x: Any, own: Own) -> Any:
    if layer.stride > 1 and layer.dilation > 1:
        # Keras has no such convolution. Where the stride divides all distances, pixels between its
        # multiples are never seen.
        x, layer = _every(layer, x, own)
    # At stride 1 the two rules are one, and what is not padded apart is not copied.
    same = layer.stride == 1 and layer.padding != 0 and 2 * layer.padding == layer.extent - 1
    padding = "same" if same or layer.padding == "same" else "valid"
    if padding == "valid" and layer.padding != 0:
        x = keras.layers.ZeroPadding2D(layer.padding, **_inner(own, "pad"))(x)
    kind: Any = Conv2D
    if layer.standardize_eps is not None:
        kind = partial(StandardizedConv2D, eps=layer.standardize_eps)
    if layer.scale is not None:
        kind = partial(ScaledConv2D, eps=layer.standardize_eps, scale=layer.scale)
    return kind(
        filters=layer.out_channels,
        kernel_size=layer.kernel_size,
        strides=layer.stride,
        padding=padding,
        dilation_rate=layer.dilation,
        groups=layer.groups,
        use_bias=layer.bias,
        # Weights are always loaded after building, so that none are drawn here.
        kernel_initializer="zeros",
        **own,
    )(x)


def _every(layer: plan.Conv, x: Any, own: Own) -> tuple[Any, plan.Conv]:
    """Every pixel that a convolution sees, and the convolution of stride 1 that sees them all."""
    stride, padding = layer.stride, layer.padding
    if padding == "same" or layer.dilation % stride or padding % stride:
        raise FrameworkError(
            f"{own['name']}: resnet_keras has no convolution of stride {stride} and dilation "
            f"{layer.dilation}"
        )
    x = MaxPooling2D(1, stride, **_inner(own, "every"))(x)
    dilation = layer.dilation // stride
    return x, replace(layer, stride=1, dilation=dilation, padding=padding // stride)


def _batch_norm(layer: plan.BatchNorm, x: Any, own: Own) -> Any:
    options = {"momentum": 1 - layer.momentum, "epsilon": layer.eps, **own}
    if layer.frozen:
        return FrozenBatchNormalization(**options)(x)
    if layer.variance == "unbiased":
        return BatchNormalization(unbiased=True, **options)(x)
    return BiasedBatchNormalization(**options)(x)


def _group_norm(layer: plan.GroupNorm, x: Any, own: Own) -> Any:
    return GroupNormalization(layer.groups, epsilon=layer.eps, **own)(x)


def _avg_pool(layer: plan.AvgPool, x: Any, own: Own) -> Any:
    padding = "same" if layer.padding == "same" else "valid"
    if layer.padding not in (0, "same"):
        if not layer.count_padding:
            raise FrameworkError("resnet_keras averages explicit padding only where it counts it")
        x = keras.layers.ZeroPadding2D(layer.padding, **_inner(own, "pad"))(x)
    if layer.padding == "same" and layer.count_padding:
        if layer.stride != 1:
            raise FrameworkError("resnet_keras counts the padding of an average at stride 1 only")
        before, after = (layer.kernel_size - 1) // 2, layer.kernel_size // 2
        amounts = ((before, after), (before, after))
        x = keras.layers.ZeroPadding2D(amounts, **_inner(own, "pad"))(x)
        padding = "valid"
    return keras.layers.AveragePooling2D(layer.kernel_size, layer.stride, padding, **own)(x)


def _squeeze_excite(layer: plan.SqueezeExcite, x: Any, own: Own) -> Any:
    gate = GlobalAveragePooling2D(keepdims=True, **_inner(own, "mean"))(x)
    functions = (ACTIVATIONS[layer.activation], "sigmoid")
    for conv, function, suffix in zip(
        squeeze_convs(layer), functions, ("act", "gate"), strict=True
    ):
        gate = apply(conv, gate, own["dtype"])
        gate = keras.layers.Activation(function, **_inner(own, suffix))(gate)
    return keras.layers.Multiply(**own)([x, gate])


def _channel_attention(layer: plan.ChannelAttention, x: Any, own: Own) -> Any:
    gate = GlobalAveragePooling2D(**_inner(own, "mean"))(x)
    gate = keras.layers.Reshape((layer.channels, 1), **_inner(own, "line"))(gate)
    gate = keras.layers.Conv1D(
        1,
        layer.kernel_size,
        padding="same",
        use_bias=False,
        kernel_initializer="zeros",
        **_inner(own, "conv"),
    )(gate)
    gate = keras.layers.Activation("sigmoid", **_inner(own, "gate"))(gate)
    gate = keras.layers.Reshape((1, 1, layer.channels), **_inner(own, "shape"))(gate)
    return keras.layers.Multiply(**own)([x, gate])


def _global_context(layer: plan.GlobalContext, x: Any, own: Own) -> Any:
    weigh, transform = _chains(layer, own)
    context = WeightedMean(**_inner(own, "context"))([x, weigh(x)])
    return keras.layers.Add(**own)([x, transform(context)])


def _attention_pool(layer: plan.AttentionPool, x: Any, own: Own) -> Any:
    tokens, query, key, value = _chains(layer, own)
    found = tokens(x)
    parts = [part(found) for part in (query, key, value)]
    return Attended(heads=layer.heads, **own)(parts)


def _chains(layer: plan.Layer, own: Own) -> list[Callable[[Any], Any]]:
    """The chains inside of a layer, as functions of a symbolic tensor."""

    def chain(before: str, layers: plan.Layers, x: Any) -> Any:
        for inner in layers:
            x = apply(placed(layer, before, inner), x, own["dtype"])
        return x

    return [partial(chain, before, layers) for before, layers in layer.chains()]


def _parts(x: Any, count: int, own: Own) -> list[Any]:
    """Equal parts of the channels, in their order."""
    width = x.shape[-1] // count
    return [
        Channels(first=i * width, count=width, **_inner(own, f"part{i}"))(x) for i in range(count)
    ]


def _selective_kernel(layer: plan.SelectiveKernel, x: Any, own: Own) -> Any:
    *paths, gate = _chains(layer, own)
    shares = _parts(x, len(paths), own) if layer.split else [x] * len(paths)
    found = [path(share) for path, share in zip(paths, shares, strict=True)]
    total = keras.layers.Add(**_inner(own, "sum"))(found)
    return WeightedSum(**own)([gate(total), *found])


def _hierarchical_split(layer: plan.HierarchicalSplit, x: Any, own: Own) -> Any:
    *paths, rest = _chains(layer, own)
    parts = _parts(x, layer.parts, own)
    found: list[Any] = []
    for i, (path, part) in enumerate(zip(paths, parts, strict=False)):
        if found and layer.cascade:
            part = keras.layers.Add(**_inner(own, f"sum{i}"))([part, found[-1]])
        found.append(path(part))
    found += [rest(part) for part in parts[len(found) :]]
    return keras.layers.Concatenate(**own)(found) if len(found) > 1 else found[0]


def _split_attention(layer: plan.SplitAttention, x: Any, own: Own) -> Any:
    branch, gate = _chains(layer, own)
    found = branch(x)
    if layer.radix == 1:
        weights = keras.layers.Activation("sigmoid", **_inner(own, "gate"))(gate(found))
        return keras.layers.Multiply(**own)([found, weights])
    parts = _parts(found, layer.radix, own)
    weights = gate(keras.layers.Add(**_inner(own, "sum"))(parts))
    return WeightedSum(groups=layer.groups, **own)([weights, *parts])


def _activation(layer: plan.Activation, x: Any, own: Own) -> Any:
    after_sum = isinstance(x._keras_history.operation, Add)
    kind = Activation if after_sum else keras.layers.Activation
    return kind(ACTIVATIONS[layer.function], **own)(x)


def _max_pool(layer: plan.MaxPool, x: Any, own: Own) -> Any:
    padding = "same" if layer.padding == "same" else "valid"
    if layer.padding != "same" and any(around := layer.around()):
        entered = x._keras_history.operation
        if getattr(entered, "activation", None) is keras.activations.relu:
            # Zeros win no maximum there, and Keras has a layer for them.
            x = keras.layers.ZeroPadding2D((around, around), **_inner(own, "pad"))(x)
        else:
            x = LowestPadding2D(padding=[*around], **_inner(own, "pad"))(x)
    return MaxPooling2D(layer.kernel_size, layer.stride, padding, **own)(x)


def _global_pool(layer: plan.GlobalPool, x: Any, own: Own) -> Any:
    keepdims = layer.keep_axes
    if layer.kind == "avg":
        return GlobalAveragePooling2D(keepdims=keepdims, **own)(x)
    if layer.kind == "max":
        return keras.layers.GlobalMaxPooling2D(keepdims=keepdims, **own)(x)
    both = [
        GlobalAveragePooling2D(keepdims=keepdims, **_inner(own, "mean"))(x),
        keras.layers.GlobalMaxPooling2D(keepdims=keepdims, **_inner(own, "max"))(x),
    ]
    merged = keras.layers.Average if layer.kind == "avgmax" else keras.layers.Concatenate
    return merged(**own)(both)


def _flatten_maps(layer: plan.FlattenMaps, x: Any, own: Own) -> Any:
    x = keras.layers.Permute((3, 1, 2), **_inner(own, "channels_first"))(x)
    # The size is said here: that of images may be open.
    count = layer.channels * layer.height * layer.width
    return keras.layers.Reshape((count,), **own)(x)


def _dropout(layer: plan.Dropout, x: Any, own: Own) -> Any:
    return keras.layers.Dropout(layer.rate, seed=layer_seed(own["name"]), **own)(x)


def _identity(layer: plan.Identity, x: Any, own: Own) -> Any:
    # It keeps its arguments in files as they are given, which have to be names there.
    return keras.layers.Identity(**own | {"dtype": own["dtype"].name})(x)


def _drop_path(layer: plan.DropPath, x: Any, own: Own) -> Any:
    shape = (None, 1, 1, 1)
    return keras.layers.Dropout(layer.rate, shape, layer_seed(own["name"]), **own)(x)


def _drop_block(layer: plan.DropBlock, x: Any, own: Own) -> Any:
    drop = partial(DropBlock, seed=layer_seed(own["name"]), **own)
    return drop(rate=layer.rate, block_size=layer.block_size, gamma_scale=layer.gamma_scale)(x)


def _dense(layer: plan.Dense, x: Any, own: Own) -> Any:
    options = {"use_bias": layer.bias, "kernel_initializer": "zeros"}
    # Keras quantises its own class alone.
    kind = Dense if own["dtype"].compute_dtype == "float64" else keras.layers.Dense
    return kind(layer.out_features, **options, **own)(x)


class _Configured:
    """Takes the arguments that `arguments` names, keeps them as attributes, and saves them."""

    arguments: tuple[str, ...]

    def __init__(self, **options: Any) -> None:
        if missing := [name for name in self.arguments if name not in options]:
            raise TypeError(f"{type(self).__name__} needs {', '.join(missing)}")
        given = {name: options.pop(name) for name in self.arguments}
        super().__init__(**options)
        for name, value in given.items():
            setattr(self, name, value)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return config | {name: getattr(self, name) for name in self.arguments}


def _of(kind: Any) -> Callable[[Any, Any, Own], Any]:
    """The builder of a layer whose arguments are fields of its record."""

    def build(layer: plan.Layer, x: Any, own: Own) -> Any:
        return kind(**{name: getattr(layer, name) for name in kind.arguments}, **own)(x)

    return build


class _PerChannel(_Configured, keras.layers.Layer):
    """Has weights of one number a channel: `initializers` says how they start."""

    arguments: tuple[str, ...] = ()
    initializers: tuple[tuple[str, str], ...]

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        for name, initializer in self.initializers:
            options = {"shape": (input_shape[-1],), "initializer": initializer, "name": name}
            setattr(self, name, self.add_weight(**options))


# Keras's own take their constants by way of float32 on TensorFlow.
@keras.saving.register_keras_serializable(PACKAGE)
def leaky_relu(x: Any) -> Any:
    """With the plan's slope: Keras's own is another one."""
    return ops.relu(x) - plan.LEAKY_SLOPE * ops.relu(-x)


@keras.saving.register_keras_serializable(PACKAGE)
def gelu(x: Any) -> Any:
    """The input times the normal distribution function of it."""
    return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))


@keras.saving.register_keras_serializable(PACKAGE)
def gelu_tanh(x: Any) -> Any:
    """GELU by its approximation with a hyperbolic tangent."""
    # (1 + tanh z) / 2 is the sigmoid of 2 z, and ops.tanh gives float32 on the JAX engine.
    return x * ops.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x))


ACTIVATIONS: dict[str, Any] = {
    "relu": "relu",
    "relu6": "relu6",
    "leaky_relu": leaky_relu,
    "elu": "elu",
    "selu": "selu",
    "silu": "silu",
    "mish": "mish",
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "hardswish": "hard_swish",
}


def moments(x: Any, axes: Any) -> tuple[Any, Any, int]:
    """Mean, biased variance, and the number of replicas over which TensorFlow has spread the batch:
    they are those of the whole batch, as they are on JAX in any case.
    """
    count = replicas()
    if count > 1:
        import tensorflow as tf

        # In two passes: E[x^2] - E[x]^2, Keras's way, cancels where the mean is large.
        mean = mean_over_replicas(tf.reduce_mean(x, axes))
        variance = mean_over_replicas(tf.reduce_mean((x - mean) ** 2, axes))
        return mean, variance, count
    return *ops.moments(x, axes=axes), 1


def mean_over_replicas(x: Any) -> Any:
    """Over those on which TensorFlow has spread the batch; `x` itself on the other engines."""
    if replicas() == 1:
        return x
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce("MEAN", x)


def replicas() -> int:
    """Over how many TensorFlow has spread the batch; 1 on the other engines."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return int(context.num_replicas_in_sync) if context else 1


def torch_batch_norm(x: Any, gamma: Any, beta: Any, eps: float) -> tuple[Any, Any, Any]:
    """PyTorch's own batch norm on [N, H, W, C], one kernel forwards and one backwards, with the
    batch's mean and biased variance.
    """
    from torch.nn import functional as F

    mean, variance = gamma.new_zeros(gamma.shape), gamma.new_zeros(gamma.shape)
    # With a momentum of 1, what it keeps is what it has seen.
    y = F.batch_norm(x.permute(0, 3, 1, 2), mean, variance, gamma, beta, True, 1.0, eps)
    n = x.numel() // x.shape[-1]
    return y.permute(0, 2, 3, 1), mean, variance * ((n - 1) / n)


def tensorflow_batch_norm(x: Any, gamma: Any, beta: Any, eps: float) -> tuple[Any, Any, Any]:
    """As `torch_batch_norm`, TensorFlow's, which has no float64."""
    import tensorflow as tf

    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=eps, is_training=True
    )
    n = tf.cast(tf.size(x, tf.int64) // tf.shape(x, tf.int64)[-1], variance.dtype)
    # Of a single number, no device says what the variance is: it is 0.
    return y, mean, tf.math.multiply_no_nan(variance, (n - 1) / n)


@saved_as(keras.layers.BatchNormalization)
class BiasedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of [N, H, W, C] or [N, C], in the layer's own precision (at
    least float32).
    """

    unbiased = False

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """[N, H, W, C] to the same."""
        kind = "float64" if self.compute_dtype == "float64" else "float32"
        x = ops.cast(inputs, kind)
        mean, variance = ops.cast(self.moving_mean, kind), ops.cast(self.moving_variance, kind)
        gamma, beta = ops.cast(self.gamma, kind), ops.cast(self.beta, kind)
        y = None
        if training and self.trainable:
            kept_mean, kept_variance = mean * self.momentum, variance * self.momentum
            count = 1
            fused = self._fused(x)
            if fused is not None:
                y, mean, variance = fused(x, gamma, beta, self.epsilon)
            else:
                mean, variance, count = moments(x, self._reduction_axes)
            new = 1 - self.momentum
            self.moving_mean.assign(kept_mean + mean * new)
            self.moving_variance.assign(kept_variance + self._estimate(x, variance, count) * new)
        if y is None:
            # Numbers are added as Python floats: on TensorFlow, ops.cast takes them by float32.
            y = (x - mean) * (gamma * ops.rsqrt(variance + self.epsilon)) + beta
        return ops.cast(y, self.compute_dtype)

    def _fused(self, x: Any) -> Callable[..., tuple[Any, Any, Any]] | None:
        """The engine's own kernel, where it has one for `x`."""
        if len(x.shape) == 2:
            return None
        backend = keras.backend.backend()
        if backend == "torch" and x.numel() > x.shape[-1]:
            return torch_batch_norm
        if backend == "tensorflow" and self.compute_dtype != "float64" and replicas() == 1:
            return tensorflow_batch_norm
        return None

    def _estimate(self, x: Any, variance: Any, count: int) -> Any:
        if not self.unbiased:
            return variance
        shape = ops.shape(x)
        n = ops.cast(math.prod(shape[:-1]) * count, variance.dtype)
        # A single number has no unbiased variance: its biased one, 0, is taken.
        return variance * (n / (n - 1 + ops.cast(ops.equal(n, 1), variance.dtype)))


@keras.saving.register_keras_serializable(PACKAGE)
class BatchNormalization(_Configured, BiasedBatchNormalization):
    """As Keras's, with PyTorch's rule for the running variance, which Keras's has not."""

    arguments = ("unbiased",)


@keras.saving.register_keras_serializable(PACKAGE)
class FrozenBatchNormalization(BiasedBatchNormalization):
    """Batch normalisation by numbers that never change, whatever is set as `trainable`."""

    def add_weight(self, *args: Any, **options: Any) -> Any:
        """A weight that does not train."""
        return super().add_weight(*args, **{**options, "trainable": False})

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """[N, H, W, C] or [N, C] to the same."""
        return super().call(inputs, False, mask)


@saved_as(keras.layers.GroupNormalization)
class GroupNormalization(keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` in the layer's own precision (at least float32)."""

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to the same."""
        kind = "float64" if self.compute_dtype == "float64" else "float32"
        shape = ops.shape(inputs)
        groups = (shape[0], shape[1] * shape[2], self.groups, shape[3] // self.groups)
        x = ops.reshape(ops.cast(inputs, kind), groups)
        mean, variance = ops.moments(x, axes=(1, 3), keepdims=True)
        x = ops.reshape((x - mean) * ops.rsqrt(variance + self.epsilon), shape)
        y = x * ops.cast(self.gamma, kind) + ops.cast(self.beta, kind)
        return ops.cast(y, self.compute_dtype)


@saved_as(keras.layers.Conv2D)
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` by the fastest route of its engine.

    On PyTorch, Keras copies [N, H, W, C] to [N, C, H, W] and back around every convolution, which
    takes as long as the convolution; here PyTorch sees the same memory as [N, C, H, W]. On JAX,
    a 1 x 1 convolution is a matrix product where that is faster.
    """

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to [N, H', W', filters]."""
        padding = self._torch_padding() if keras.backend.backend() == "torch" else None
        if padding is None:
            return super().call(inputs)
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias)
        kernel = ops.convert_to_tensor(self.effective_kernel())
        from shared_spec.kernels.torch_conv import conv2d

        native, kernel = inputs.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1)
        how = self.strides, padding, self.dilation_rate, self.groups
        y = conv2d(native, kernel, bias, *how).permute(0, 2, 3, 1)
        return y if self.activation is None else self.activation(y)

    @property
    def kernel(self) -> Any:
        """[H, W, in, out]; see `arrange_kernels`."""
        if keras.backend.backend() == "torch":
            import torch

            if torch.compiler.is_exporting():
                from shared_spec.kernels.torch_conv import for_export

                return for_export(lambda: ops.convert_to_tensor(super(Conv2D, self).kernel))
        return super().kernel

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """As `call`, without the bias."""
        pointwise = self.kernel_size == (1, 1) and self.groups == 1
        if pointwise and keras.backend.backend() == "jax" and products():
            kernel = ops.convert_to_tensor(kernel)
            return ops.matmul(every(inputs, *self.strides), kernel[0, 0])
        if self.groups > 1 and keras.backend.backend() == "jax":
            kernel = ops.convert_to_tensor(kernel)
            return convolution(
                ops.convert_to_tensor(inputs, kernel.dtype),
                kernel,
                self.strides,
                self.padding.upper(),
                rhs_dilation=self.dilation_rate,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        return super().convolution_op(inputs, kernel)

    def effective_kernel(self) -> Any:
        """What convolves, [H, W, in, out]."""
        return self.kernel

    def _torch_padding(self) -> tuple[int, int] | None:
        """Rows and columns on either side; None where the sides differ with the input."""
        if self.padding == "valid":
            return (0, 0)
        pairs = zip(self.kernel_size, self.dilation_rate, strict=True)
        rows, columns = ((k - 1) * d for k, d in pairs)
        if self.strides != (1, 1) or rows % 2 or columns % 2:
            return None
        return rows // 2, columns // 2


@saved_as(keras.layers.Add)
class Add(keras.layers.Add):
    """`keras.layers.Add` of two, which JAX's compiler keeps in one place."""

    def call(self, inputs: Any) -> Any:
        """Two of [N, H, W, C] to one."""
        if keras.backend.backend() == "jax":
            return summed(*inputs)
        return super().call(inputs)


@saved_as(keras.layers.Activation)
class Activation(keras.layers.Activation):
    """`keras.layers.Activation` of a block's sum, whose ReLU JAX's compiler keeps in one place."""

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to itself."""
        if keras.backend.backend() == "jax" and self.activation is keras.activations.relu:
            return rectified(inputs)
        return super().call(inputs)


def arrange_kernels(model: keras.Model) -> None:
    """On the PyTorch engine, lay the kernels out as its convolutions on [N, H, W, C] read them.

    Their shape stays; without this every call copies every kernel.
    """
    if keras.backend.backend() != "torch":
        return
    import torch

    for layer in model.layers:
        if isinstance(layer, Conv2D):
            tensor = layer.kernel.value
            native = tensor.data.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
            tensor.data = native.permute(2, 3, 1, 0)


def arrange_like(variable: Any, reference: Any) -> None:
    """On the PyTorch engine, lay a variable out as another of its shape: it adds and multiplies
    tensors of one layout several times as fast as of two.
    """
    if keras.backend.backend() == "torch":
        import torch

        tensor = variable.value
        tensor.data = torch.empty_like(reference.value).copy_(tensor.data)


@saved_as(keras.layers.MaxPooling2D)
class MaxPooling2D(keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D`, without Keras's copies on PyTorch; see `Conv2D`."""

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to [N, H', W', C]."""
        if keras.backend.backend() != "torch" or self.padding != "valid":
            return super().call(inputs)
        from torch.nn import functional as F

        y = F.max_pool2d(inputs.permute(0, 3, 1, 2), self.pool_size, self.strides)
        return y.permute(0, 2, 3, 1)


_ALL = slice(0, None, 1)


def _taken(x: Any, rows: slice = _ALL, columns: slice = _ALL) -> Any:
    """`x[:, rows, columns]`, in JAX of a size that it knows for a convolution's."""
    if keras.backend.backend() != "jax":
        return x[:, rows, columns]
    inner = x[:, rows.start : rows.stop, columns.start : columns.stop]
    return every(inner, rows.step, columns.step)


@keras.saving.register_keras_serializable(PACKAGE)
class SpaceToDepth(_Configured, keras.layers.Layer):
    """Blocks of 2 x 2 pixels as pixels of four times the channels."""

    arguments = ("kernel_size", "padding")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.record = plan.SpaceToDepth(self.name, self.kernel_size, self.padding)

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to [N, H', W', 4 C]."""
        n, h, w, c = ops.shape(inputs)
        (top, bottom), (left, right) = self.record.around(h), self.record.around(w)
        # As many as may be needed, and then as many as are: pad cannot take any away.
        most = self.record.padding + 1
        x = ops.pad(inputs, ((0, 0), (top, most), (left, most), (0, 0)))
        h, w = top + h + bottom, left + w + right
        x = ops.reshape(x[:, :h, :w], (n, h // 2, 2, w // 2, 2, c))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (n, h // 2, w // 2, 4 * c))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As `call`, an unknown height or width staying unknown."""
        n, h, w, c = input_shape
        sides = (None if s is None else (s + sum(self.record.around(s))) // 2 for s in (h, w))
        return (n, *sides, 4 * c)


@keras.saving.register_keras_serializable(PACKAGE)
class StandardizedConv2D(_Configured, Conv2D):
    """`keras.layers.Conv2D` whose filters are standardised over their own weights at each call."""

    arguments: tuple[str, ...] = ("eps",)

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """[N, H, W, C] to [N, H', W', filters], without the bias."""
        return super().convolution_op(inputs, self.effective_kernel())

    def effective_kernel(self) -> Any:
        """What convolves, [H, W, in, out]."""
        kernel = ops.convert_to_tensor(self.kernel)
        mean, variance = ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
        return (kernel - mean) * ops.rsqrt(variance + self.eps)


@keras.saving.register_keras_serializable(PACKAGE)
class ScaledConv2D(StandardizedConv2D):
    """`StandardizedConv2D` whose filters are then multiplied by a number and by a gain."""

    arguments = ("eps", "scale")

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        super().build(input_shape)
        options = {"shape": (1, 1, 1, self.filters), "initializer": "ones", "name": "gain"}
        self.gain = self.add_weight(**options)

    def save_own_variables(self, store: Any) -> None:
        """Keras's convolutions save kernel and bias alone."""
        super().save_own_variables(store)
        store[str(1 + self.use_bias)] = self.gain

    def load_own_variables(self, store: Any) -> None:
        """As `save_own_variables` keeps them."""
        super().load_own_variables(store)
        self.gain.assign(store[str(1 + self.use_bias)])

    def effective_kernel(self) -> Any:
        """What convolves, [H, W, in, out]."""
        return super().effective_kernel() * (ops.convert_to_tensor(self.gain) * self.scale)


@keras.saving.register_keras_serializable(PACKAGE)
class EvoNorm(_PerChannel):
    """EvoNorm-S0: a gated activation, or what enters, over the deviation of its group."""

    arguments = ("groups", "eps", "activates")
    initializers: tuple[tuple[str, str], ...] = (
        ("gamma", "ones"),
        ("beta", "zeros"),
        ("v", "ones"),
    )

    def __init__(self, activates: bool = True, **options: Any) -> None:  # none in earlier files
        super().__init__(activates=activates, **options)
        if not activates:
            self.initializers = self.initializers[:2]

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to the same."""
        shape = ops.shape(inputs)
        grouped = (shape[0], shape[1] * shape[2], self.groups, shape[3] // self.groups)
        _, variance = ops.moments(ops.reshape(inputs, grouped), axes=(1, 3), keepdims=True)
        gated = inputs * ops.sigmoid(inputs * self.v) if self.activates else inputs
        y = ops.reshape(gated, grouped)
        y = ops.reshape(y * ops.rsqrt(variance + self.eps), shape)
        return y * self.gamma + self.beta


@keras.saving.register_keras_serializable(PACKAGE)
class FilterResponseNorm(_PerChannel):
    """Each map over its root mean square, then a learnt threshold."""

    arguments = ("eps",)
    initializers = (("gamma", "ones"), ("beta", "zeros"), ("tau", "zeros"))

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to the same."""
        shape = ops.shape(inputs)
        count = ops.cast(shape[1] * shape[2], inputs.dtype)
        square = ops.sum(inputs * inputs, axis=(1, 2), keepdims=True) / count
        y = inputs * ops.rsqrt(square + self.eps) * self.gamma + self.beta
        # max(y, tau): ops.maximum gives float32 on the PyTorch engine.
        return ops.relu(y - self.tau) + self.tau


@keras.saving.register_keras_serializable(PACKAGE)
class LayerScale(_PerChannel):
    """Scale each channel by a learnt number."""

    initializers = (("gamma", "ones"),)

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to the same."""
        return inputs * self.gamma


@saved_as(keras.layers.Rescaling)
class Rescaling(keras.layers.Rescaling):
    """`keras.layers.Rescaling`, whose number no engine rounds to float32 on its way."""

    def call(self, inputs: Any) -> Any:
        """Of any shape to the same."""
        plain = isinstance(self.scale, int | float) and self.offset == 0
        if not plain or self.compute_dtype != "float64":
            return super().call(inputs)
        return ops.cast(inputs, "float64") * self.scale


@keras.saving.register_keras_serializable(PACKAGE)
class SkipGain(_Configured, keras.layers.Layer):
    """Multiply by a learnt number."""

    arguments = ()

    def build(self, input_shape: Any) -> None:
        """Make the weight."""
        self.gain = self.add_weight(shape=(), initializer="zeros", name="gain")

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to the same."""
        return inputs * self.gain


@keras.saving.register_keras_serializable(PACKAGE)
class Enlarge(_Configured, keras.layers.Layer):
    """The first of two maps, with the height and width of the second."""

    arguments = ("how",)

    def call(self, inputs: Any) -> Any:
        """[N, h, w, C] and [N, H, W, C'] to [N, H, W, C]."""
        x, like = inputs
        kind = "float64" if self.compute_dtype == "float64" else "float32"
        for axis in (1, 2):
            side, length = ops.shape(x)[axis], ops.shape(like)[axis]
            if self.how == "nearest":
                x = ops.take(x, nearest(ops, side, length), axis=axis)
                continue
            low, high, part, whole = linear(ops, side, length)
            a, b = (ops.take(x, places, axis=axis) for places in (low, high))
            share = ops.cast(part, kind) / ops.cast(whole, kind)
            x = a + (b - a) * ops.cast(ops.reshape(share, (-1, 1, 1)[: 4 - axis]), x.dtype)
        return x

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As `call`."""
        (n, *_, channels), (_, height, width, _) = input_shape
        return (n, height, width, channels)


@keras.saving.register_keras_serializable(PACKAGE)
class Channels(_Configured, keras.layers.Layer):
    """Some of the channels, one after another."""

    arguments = ("first", "count")

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to [N, H, W, count]."""
        return inputs[..., self.first : self.first + self.count]


@keras.saving.register_keras_serializable(PACKAGE)
class WeightedSum(keras.layers.Layer):
    """The sum of several maps, weighted for each channel by a softmax over the maps.

    The weights are by group of channels, then by map, then by channel of the group.
    """

    def __init__(self, groups: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.groups = groups

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "groups": self.groups}

    def call(self, inputs: Any) -> Any:
        """[N, 1, 1, maps * C] and maps [N, H, W, C] to one of these."""
        gate, *maps = inputs
        channels = maps[0].shape[-1]
        gate = ops.reshape(gate, (-1, self.groups, len(maps), channels // self.groups))
        weights = ops.softmax(gate, 2)
        weights = [ops.reshape(weights[:, :, i], (-1, 1, 1, channels)) for i in range(len(maps))]
        return sum(x * w for x, w in zip(maps[1:], weights[1:], strict=True)) + maps[0] * weights[0]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As `call`."""
        return input_shape[1]


@keras.saving.register_keras_serializable(PACKAGE)
class WeightedMean(_Configured, keras.layers.Layer):
    """The mean over rows and columns, weighted by a softmax over them."""

    arguments = ()

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] and weights' logits [N, H, W, 1] to [N, 1, 1, C]."""
        x, logits = inputs
        weights = ops.exp(logits - ops.max(logits, axis=(1, 2), keepdims=True))
        total = ops.sum(weights, axis=(1, 2), keepdims=True)
        return ops.sum(x * (weights / total), axis=(1, 2), keepdims=True)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As `call`."""
        n, *_, channels = input_shape[0]
        return (n, 1, 1, channels)


@keras.saving.register_keras_serializable(PACKAGE)
class Tokens(_Configured, keras.layers.Layer):
    """Mean and pixels of a map, each with its place's vector added."""

    arguments = ("side",)

    def build(self, input_shape: Any) -> None:
        """Make the table."""
        shape = (1 + self.side**2, input_shape[-1])
        self.pos_embed = self.add_weight(shape=shape, initializer="zeros", name="pos_embed")

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to [N, 1 + H * W, C]."""
        n, h, w, c = ops.shape(inputs)
        pixels = ops.reshape(inputs, (n, h * w, c))
        mean = ops.sum(pixels, axis=1, keepdims=True) / ops.cast(h * w, inputs.dtype)
        return ops.concatenate([mean, pixels], 1) + self._table(h, w)

    def _table(self, height: Any, width: Any) -> Any:
        """The table for a map of a size, which TensorFlow may know only when it computes."""
        table = ops.convert_to_tensor(self.pos_embed)
        known = isinstance(height, int) and isinstance(width, int)
        if known and height == width == self.side:
            return table
        rows, columns = (
            ops.cast(cubic(np if isinstance(n, int) else ops, self.side, n), table.dtype)
            for n in (height, width)
        )
        pixels = ops.reshape(table[1:], (self.side, self.side, -1))
        # Sums of products: ops.einsum gives float32 on the PyTorch engine.
        pixels = ops.sum(rows[:, :, None, None] * pixels, axis=1)
        pixels = ops.sum(columns[:, :, None] * pixels[:, None], axis=2)
        return ops.concatenate([table[:1], ops.reshape(pixels, (height * width, -1))], 0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As `call`, an unknown number of tokens staying unknown."""
        n, h, w, c = input_shape
        return (n, None if h is None or w is None else 1 + h * w, c)


@keras.saving.register_keras_serializable(PACKAGE)
class Attended(_Configured, keras.layers.Layer):
    """What the first of several tokens attends to, by heads."""

    arguments = ("heads",)

    def call(self, inputs: Any) -> Any:
        """Queries, keys and values [N, L, C] to [N, C]."""
        shape = ops.shape(inputs[0])
        heads = (shape[0], shape[1], self.heads, shape[2] // self.heads)
        query, key, value = (ops.reshape(x, heads) for x in inputs)
        # Sums of products: ops.matmul gives float32 on the PyTorch engine.
        logits = ops.sum(query[:, :1] * key, axis=3, keepdims=True) * heads[3] ** -0.5
        weights = ops.exp(logits - ops.max(logits, axis=1, keepdims=True))
        weights = weights / ops.sum(weights, axis=1, keepdims=True)
        return ops.reshape(ops.sum(weights * value, axis=1), (shape[0], shape[2]))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As `call`."""
        n, _, channels = input_shape[0]
        return (n, channels)


@keras.saving.register_keras_serializable(PACKAGE)
class PReLU(_PerChannel):
    """A learnt slope for each channel where the input is negative."""

    initializers = (("alpha", "zeros"),)

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to the same."""
        return ops.relu(inputs) - self.alpha * ops.relu(-inputs)


@keras.saving.register_keras_serializable(PACKAGE)
class BlurPool(_Configured, keras.layers.Layer):
    """Binomial blur and subsampling for each channel, reflecting one pixel at the border."""

    arguments = ("stride",)

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), C]."""
        x = ops.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
        s = self.stride
        taps = slice(0, -2, s), slice(1, -1, s), slice(2, None, s)
        first, middle, last = (_taken(x, rows=tap) for tap in taps)
        x = 0.25 * first + 0.5 * middle + 0.25 * last
        first, middle, last = (_taken(x, columns=tap) for tap in taps)
        return 0.25 * first + 0.5 * middle + 0.25 * last


@keras.saving.register_keras_serializable(PACKAGE)
class LowestPadding2D(_Configured, keras.layers.Layer):
    """Pad rows and columns with minus infinity, so that padding never wins a maximum."""

    arguments = ("padding",)

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to more rows and columns, as many before and after as `padding` says."""
        # Of files of earlier versions, one number for both.
        p = (self.padding,) * 2 if isinstance(self.padding, int) else tuple(self.padding)
        return ops.pad(inputs, ((0, 0), p, p, (0, 0)), constant_values=-float("inf"))


@keras.saving.register_keras_serializable(PACKAGE)
class DropBlock(_Configured, keras.layers.Layer):
    """Drop squares of pixels, in training."""

    arguments = ("rate", "block_size", "gamma_scale", "seed")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """[N, H, W, C] to the same."""
        if not training:
            return inputs
        n, h, w, _ = ops.shape(inputs)
        if not isinstance(h, int) or not isinstance(w, int):
            raise FrameworkError(
                "drop_block_rate: training needs images whose height and width are known when the "
                "step is traced"
            )
        layer = plan.DropBlock("", self.rate, self.block_size, self.gamma_scale)
        kh, kw, gamma = layer.window(h, w)
        drawn = keras.random.uniform((n, h, w, 1), dtype="float32", seed=self.seed_generator)
        dropped = ops.cast(drawn < gamma, "float32")
        # An even square reaches one pixel further up and left than down and right.
        dropped = ops.pad(
            dropped, ((0, 0), ((kh - 1) // 2, kh // 2), ((kw - 1) // 2, kw // 2), (0, 0))
        )
        kept = 1 - ops.max_pool(dropped, (kh, kw), 1)
        share = ops.mean(kept)
        return inputs * ops.cast(kept / ops.maximum(share, 1e-7), inputs.dtype)


@keras.saving.register_keras_serializable(PACKAGE)
class ZeroPadShortcut(_Configured, keras.layers.Layer):
    """Subsample rows and columns, add channels of zeros (option A)."""

    arguments = ("stride", "before", "after")

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), before + C + after]."""
        x = _taken(inputs, *[slice(0, None, self.stride)] * 2)
        return ops.pad(x, ((0, 0), (0, 0), (0, 0), (self.before, self.after)))


@saved_as(keras.layers.GlobalAveragePooling2D)
class GlobalAveragePooling2D(keras.layers.GlobalAveragePooling2D):
    """`keras.layers.GlobalAveragePooling2D` in the layer's own precision."""

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] to [N, C]."""
        shape = ops.shape(inputs)
        count = ops.cast(shape[1] * shape[2], inputs.dtype)
        return ops.sum(inputs, axis=(1, 2), keepdims=self.keepdims) / count


@saved_as(keras.layers.Dense)
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` in the layer's own precision."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """[N, in] to [N, units]; [N, L, in] to [N, L, units]."""
        if self.compute_dtype != "float64":
            return super().call(inputs, training=training)
        # ops.matmul gives float32 on the PyTorch engine; a 1x1 convolution keeps float64.
        line = inputs if len(inputs.shape) == 3 else inputs[:, None]
        y = ops.conv(line[:, None], self.kernel[None, None])[:, 0]
        y = y if len(inputs.shape) == 3 else y[:, 0]
        y = y if self.bias is None else y + self.bias
        return y if self.activation is None else self.activation(y)


BUILDERS: dict[type, Callable[[Any, Any, Own], Any]] = {
    plan.Conv: _conv,
    plan.BatchNorm: _batch_norm,
    plan.GroupNorm: _group_norm,
    plan.EvoNorm: _of(EvoNorm),
    plan.FilterResponseNorm: _of(FilterResponseNorm),
    plan.ZeroPad: lambda layer, x, own: keras.layers.ZeroPadding2D(layer.amount, **own)(x),
    plan.SpaceToDepth: _of(SpaceToDepth),
    plan.Flatten: lambda layer, x, own: keras.layers.Flatten(**own)(x),
    plan.FlattenMaps: _flatten_maps,
    plan.Identity: _identity,
    plan.AvgPool: _avg_pool,
    plan.BlurPool: _of(BlurPool),
    plan.SqueezeExcite: _squeeze_excite,
    plan.ChannelAttention: _channel_attention,
    plan.Tokens: _of(Tokens),
    plan.AttentionPool: _attention_pool,
    plan.GlobalContext: _global_context,
    plan.SelectiveKernel: _selective_kernel,
    plan.HierarchicalSplit: _hierarchical_split,
    plan.SplitAttention: _split_attention,
    plan.LayerScale: _of(LayerScale),
    plan.Scale: lambda layer, x, own: Rescaling(layer.value, **own)(x),
    plan.SkipGain: lambda layer, x, own: SkipGain(**own)(x),
    plan.PReLU: _of(PReLU),
    plan.Activation: _activation,
    plan.MaxPool: _max_pool,
    plan.ZeroPadShortcut: _of(ZeroPadShortcut),
    plan.GlobalPool: _global_pool,
    plan.Dropout: _dropout,
    plan.DropPath: _drop_path,
    plan.DropBlock: _drop_block,
    plan.Dense: _dense,
    plan.Sum: lambda layer, x, own: Add(**own)(x),
    plan.Enlarge: _of(Enlarge),
    plan.Concat: lambda layer, x, own: keras.layers.Concatenate(**own)(x),
}
"""What each layer record gives on a tensor, with Keras layers of a name and dtype."""

STAND_INS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Conv2D,
        BiasedBatchNormalization,
        GroupNormalization,
        Add,
        MaxPooling2D,
        GlobalAveragePooling2D,
        Rescaling,
        Dense,
    )
}
"""What takes the place of Keras's layers when one of our models is loaded."""

# Files of earlier versions have the layers under our name.
keras.saving.get_custom_objects().update(
    {f"{PACKAGE}>{x}": STAND_INS[x] for x in STAND_INS if x != "BatchNormalization"}
)
