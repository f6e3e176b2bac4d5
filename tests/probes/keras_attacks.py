"""Keras models that differ from a ResNet in what neither names nor shapes show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.probes.keras_models import SIZE, body, float64, save, sequential, with_weights


@keras.saving.register_keras_serializable("attack")
class Conv2D(layers.Conv2D):
    """Not what its name says."""

    def call(self, inputs: Any) -> Any:
        """Twice the convolution."""
        return 2 * super().call(inputs)


@keras.saving.register_keras_serializable("attack")
class ReLU(layers.ReLU):
    """Not what its name says."""

    def call(self, inputs: Any) -> Any:
        """The opposite half."""
        return ops.relu(-inputs)


@keras.saving.register_keras_serializable("attack")
def relu(x: Any) -> Any:
    """Not what its name says."""
    return ops.relu(-x)


def net(
    conv: Any = layers.Conv2D,
    norm: Any = layers.BatchNormalization,
    act: Any = lambda x: layers.Activation("relu")(x),
    join: Any = lambda a, b: layers.Add()([a, b]),
    head: Any = lambda x: layers.Dense(3, name="end")(layers.GlobalAveragePooling2D()(x)),
    last: Any = lambda x: x,
) -> keras.Model:
    """Two basic blocks, something of which is another."""
    x = images = keras.Input((SIZE, SIZE, 3))
    x = act(norm(name="bn")(conv(8, 3, padding="same", name="conv")(x)))
    for block in range(2):
        y = act(norm(name=f"bn{block}a")(conv(8, 3, padding="same", name=f"conv{block}a")(x)))
        y = norm(name=f"bn{block}b")(conv(8, 3, padding="same", name=f"conv{block}b")(y))
        x = act(join(y, x))
    return keras.Model(images, head(last(x)))


def _shared() -> keras.Model:
    made: dict[str, Any] = {}

    def once(kind: Any) -> Callable[..., Any]:
        def make(*args: Any, name: str, **options: Any) -> Any:
            return made.setdefault(name[:-2], kind(*args, name=name, **options))

        return make

    return net(once(layers.Conv2D), once(layers.BatchNormalization))


def _inner_output() -> keras.Model:
    whole = body()
    return keras.Model(whole.input, whole.get_layer("conv3_block1_out").output)


def _twice() -> keras.Model:
    inner = body(pooling="avg")
    x = keras.Input((SIZE, SIZE, 3))
    return keras.Model(x, layers.Add()([inner(x), inner(layers.RandomFlip()(x))]))


def _pools(axis: int, keepdims: bool) -> Callable[[Any], Any]:
    def head(x: Any) -> Any:
        kinds = layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D
        pools = [kind(keepdims=keepdims)(x) for kind in kinds]
        return layers.Dense(3)(layers.Concatenate(axis=axis, name="both")(pools))

    return head


def _with(kind: Any, **more: Any) -> Callable[..., Any]:
    return lambda *args, **options: kind(*args, **(options | more))


def _pooled(*behind: Any) -> Callable[[Any], Any]:
    def head(x: Any) -> Any:
        x = layers.GlobalAveragePooling2D()(x)
        for layer in behind:
            x = layer(x)
        return x

    return head


def _grouped_classifier(x: Any) -> Any:
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return layers.Conv2D(4, 1, groups=2, name="end")(pooled)


MODELS: dict[str, Callable[[], keras.Model]] = {
    "as it is": net,
    "layers used twice": _shared,
    "an inner output": _inner_output,
    "regularised": lambda: net(_with(layers.Conv2D, kernel_regularizer="l2")),
    "constrained": lambda: net(_with(layers.Conv2D, kernel_constraint="max_norm")),
    "activity": lambda: net(last=lambda x: layers.ActivityRegularization(l2=0.1)(x)),
    "frozen norms": lambda: net(norm=_with(layers.BatchNormalization, trainable=False)),
    "linear end": lambda: net(
        head=_pooled(layers.Dense(3), layers.Activation("linear", name="cast"))
    ),
    "pools side by side": lambda: net(head=_pools(-1, keepdims=True)),
    "another sum": lambda: net(join=lambda a, b: a + b),
    "pools above one another": lambda: net(head=_pools(1, keepdims=True)),
    "a net used twice": _twice,
    "a sum of three": lambda: net(join=lambda a, b: layers.Add()([a, b, b])),
    "a product": lambda: net(join=lambda a, b: layers.Multiply()([a, b])),
    "a mean": lambda: net(join=lambda a, b: layers.Average()([a, b])),
    "a maximum": lambda: net(join=lambda a, b: layers.Maximum()([a, b])),
    "a difference": lambda: net(join=lambda a, b: layers.Subtract()([a, b])),
    "another class of one name": lambda: net(Conv2D),
    "a function of one name": lambda: net(act=lambda x: layers.Activation(relu)(x)),
    "a layer as activation": lambda: net(act=lambda x: layers.Activation(ReLU())(x)),
    "norms over rows": lambda: net(norm=_with(layers.BatchNormalization, axis=1)),
    "norms without scale": lambda: net(norm=_with(layers.BatchNormalization, scale=False)),
    "dilated": lambda: net(_with(layers.Conv2D, dilation_rate=2)),
    "grouped": lambda: net(
        lambda n, *a, **k: layers.Conv2D(n, *a, groups=1 if k["name"] == "conv" else 2, **k)
    ),
    "by depth": lambda: net(
        lambda n, *a, **k: (layers.Conv2D if k["name"] == "conv" else layers.SeparableConv2D)(
            n, *a, **k
        )
    ),
    "activated convolutions": lambda: net(_with(layers.Conv2D, activation="relu")),
    "a spectral norm": lambda: net(
        head=_pooled(layers.SpectralNormalization(layers.Dense(3), name="end"))
    ),
    "over time": lambda: net(
        head=lambda x: layers.Flatten()(layers.TimeDistributed(layers.Conv1D(2, 1))(x))
    ),
    "recurrent": lambda: net(head=lambda x: layers.GRU(3)(layers.Reshape((-1, 8))(x))),
    "reshaped": lambda: net(
        head=lambda x: layers.Dense(3)(layers.Reshape((2, 4))(layers.GlobalAveragePooling2D()(x)))
    ),
    "permuted": lambda: net(last=lambda x: layers.Permute((2, 1, 3))(x)),
    "a grouped classifier": lambda: net(head=_grouped_classifier),
    "a dense layer on maps": lambda: net(
        head=lambda x: layers.GlobalMaxPooling2D()(layers.Dense(3)(x))
    ),
    "a norm behind the pool": lambda: net(
        head=_pooled(layers.BatchNormalization(), layers.Dense(3))
    ),
    "a norm in training": lambda: net(
        last=lambda x: layers.BatchNormalization(name="live")(x, training=True)
    ),
    "an inverted normalization": lambda: sequential(
        before=(layers.Normalization(mean=[1.0, 2, 3], variance=[4.0, 5, 6], invert=True),),
        pooling="avg",
    ),
    "scaled inside": lambda: net(last=lambda x: layers.Rescaling(0.5)(x)),
    "multiplied inside": lambda: net(last=lambda x: x * 0.5),
    "quantised": net,
}


def saved(resnet: Any, kind: str, path: str) -> str:
    """Save one of them; where its answers are."""
    with float64():
        model = with_weights(MODELS[kind](), np.random.default_rng(1))
        if kind == "quantised":
            model.quantize("int8")
        return save(model, Path(path), np.random.default_rng(2))
