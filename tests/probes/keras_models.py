"""Keras models as people build them around a ResNet, saved with what they compute, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.applications import resnet as applications

from shared_spec import Checkpoint, write_safetensors

SIZE = 33


@contextmanager
def float64() -> Iterator[None]:
    """Let Keras build float64 models."""
    kept = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(kept[0])
        keras.config.set_dtype_policy(kept[1])


def with_weights(model: keras.Model, draw: np.random.Generator) -> keras.Model:
    """Random weights under which activations stay of one size; statistics too."""
    for w in model.weights:
        kind, shape = w.path.split("/")[-1], tuple(w.shape)
        if "seed" in kind or not np.issubdtype(np.dtype(w.dtype), np.floating):
            continue
        if len(shape) >= 2:
            w.assign(draw.normal(size=shape) * 1.2 / np.sqrt(np.prod(shape[:-1])))
        elif "var" in kind or kind == "gamma":
            w.assign(draw.random(shape) + 0.5)
        elif kind != "count":
            w.assign(draw.normal(size=shape) * 0.2)
    return model


def save(
    model: keras.Model, path: Path, draw: np.random.Generator, known: dict[str, Any] | None = None
) -> str:
    """Save a model, and beside it pixels `x` and what Keras makes of them with the file, `y`:
    logits, as reading a file leaves softmax and sigmoid out, and says so.

    `known` has the classes that Keras does not find by the file alone.
    """
    model.save(path)
    loaded = keras.saving.load_model(path, known, compile=False, safe_mode=True)
    last = loaded.layers[-1]
    while hasattr(last, "layers"):
        last = last.layers[-1]
    if isinstance(last, layers.Dense) and last.activation.__name__ in ("softmax", "sigmoid"):
        last.activation = keras.activations.linear
    x = draw.random((2, SIZE, SIZE, 3)) * 255
    y = loaded(x, training=False)
    y = [np.asarray(item) for item in y] if isinstance(y, list) else [np.asarray(y)]
    answers = f"{path}.answers.safetensors"
    write_safetensors(answers, Checkpoint({"x": x, "y": y[-1]}))
    return answers


def body(**options: Any) -> keras.Model:
    """A small ResNet as keras.applications builds it, without a head."""

    def stacks(x: Any) -> Any:
        x = applications.stack_residual_blocks_v1(x, 4, 1, stride1=1, name="conv2")
        return applications.stack_residual_blocks_v1(x, 8, 2, name="conv3")

    given = {"preact": False, "use_bias": True, "include_top": False, "weights": None}
    given |= {"input_shape": (SIZE, SIZE, 3), "name": "resnet", "weights_name": "resnet"}
    return applications.ResNet(stacks, **(given | options))


def sequential(*others: Any, before: tuple[Any, ...] = (), **options: Any) -> keras.Model:
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), *before, body(**options), *others])


def functional(build: Callable[[Any], Any]) -> keras.Model:
    images = keras.Input((SIZE, SIZE, 3))
    return keras.Model(images, build(images))


def _both_pools(images: Any) -> Any:
    x = body()(images)
    pools = layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)
    return layers.Dense(3)(layers.Concatenate()(pools))


def _learnt() -> keras.Model:
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).random((8, SIZE, SIZE, 3)) * 255)
    return sequential(layers.Dense(3), before=(layer,), pooling="avg")


def _twice_nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((SIZE, SIZE, 3)), body(pooling="max")], name="inner")
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), inner, layers.Dense(3)])


def _frozen(images: Any) -> Any:
    net = body(pooling="avg")
    net.trainable = False
    return layers.Dense(3)(layers.Dropout(0.2)(net(images, training=False)))


def _monte_carlo(images: Any) -> Any:
    x = layers.Dropout(0.5, name="always")(body(pooling="avg")(images), training=True)
    return layers.Dense(3)(x)


def _two_outputs(images: Any) -> Any:
    x = body(pooling="avg")(images)
    return [layers.Dense(3)(x), layers.Dense(4)(x)]


def _pooled(images: Any, **options: Any) -> Any:
    return layers.Dense(3, **options)(body(pooling="avg")(images))


def old_names(pool: Any = layers.GlobalAveragePooling2D, inner: str = "") -> keras.Model:
    """The net of keras.applications before Keras 2.3, with its names, whose blocks after the first
    are `b1`, `b2`, ... with `inner`.
    """

    def conv_norm(x: Any, name: str, filters: int, size: int = 1, stride: int = 1) -> Any:
        padding = "same" if size == 3 else "valid"
        x = layers.Conv2D(filters, size, stride, padding=padding, name=f"res{name}")(x)
        return layers.BatchNormalization(name=f"bn{name}")(x)

    x = images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 7, 2, name="conv1")(layers.ZeroPadding2D(3)(x))
    x = layers.Activation("relu")(layers.BatchNormalization(name="bn_conv1")(x))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1, name="pool1_pad")(x))
    for stage, (width, depth) in enumerate([(4, 1), (4, 3), (8, 1), (8, 2)], 2):
        for number in range(depth):
            block = f"b{number}" if inner and number else "abc"[number]
            stride, shortcut = 2 if stage > 2 and not number else 1, x
            name = f"{stage}{block}_branch"
            y = layers.ReLU()(conv_norm(x, f"{name}2a", width, 1, stride))
            y = conv_norm(
                layers.ReLU()(conv_norm(y, f"{name}2b", width, 3)), f"{name}2c", 4 * width
            )
            if not number:
                shortcut = conv_norm(x, f"{name}1", 4 * width, 1, stride)
            x = layers.Activation("relu")(layers.add([y, shortcut]))
    return keras.Model(images, layers.Dense(5, "softmax", name="fc5")(pool()(x)))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "a maximum pool": lambda: sequential(layers.GlobalMaxPooling2D()),
    "a new classifier": lambda: sequential(layers.Dense(3), pooling="avg"),
    "a softmax": lambda: sequential(layers.Dense(3, "softmax", name="end"), pooling="avg"),
    "rescaled inside": lambda: sequential(before=(layers.Rescaling(1 / 64, -1),), pooling="avg"),
    "augmented": lambda: sequential(
        layers.Dense(3, "softmax", name="end"),
        before=(layers.RandomFlip(name="flip"), layers.Rescaling(1 / 64, name="scale")),
        pooling="avg",
    ),
    "maps": sequential,
    "caffe": lambda: functional(lambda x: _pooled(applications.preprocess_input(x))),
    "divided": lambda: functional(lambda x: _pooled(x / 128.0 - 1)),
    "both pools": lambda: functional(_both_pools),
    "learnt normalization": _learnt,
    "twice nested": _twice_nested,
    "frozen": lambda: functional(_frozen),
    "old names": old_names,
    # What no spec says.
    "two dense layers": lambda: sequential(
        layers.Dense(8, "relu", name="hidden"), layers.Dense(3), pooling="avg"
    ),
    "an upsampling": lambda: sequential(
        before=(layers.UpSampling2D(name="twice"),), input_shape=(2 * SIZE, 2 * SIZE, 3)
    ),
    "another size": lambda: sequential(
        before=(layers.Resizing(64, 64, name="big"),), input_shape=(64, 64, 3)
    ),
    "negative": lambda: sequential(before=(layers.Rescaling(-1, name="less"),)),
    "a dropout that always acts": lambda: functional(_monte_carlo),
    "two outputs": lambda: functional(_two_outputs),
    "flattened maps": lambda: sequential(layers.Flatten(name="flat"), layers.Dense(3)),
}


def saved(resnet: Any, kind: str, path: str) -> str:
    """Save one of them; where its answers are."""
    with float64():
        model = with_weights(MODELS[kind](), np.random.default_rng(1))
        return save(model, Path(path), np.random.default_rng(2))


def old_weights(resnet: Any, style: str, path: str) -> str:
    """Weights alone under the names of keras.applications before Keras 2.3, as Keras 2 writes them,
    or with `b1` for the second block, or as Keras 1 wrote them; where the answers are.
    """
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with float64():
        model = with_weights(
            old_names(inner=style if style == "b1" else ""), np.random.default_rng(1)
        )
        answers = save(model, Path(path), np.random.default_rng(2))
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
        if style == "Keras 1":
            for layer in model.layers:
                _as_in_keras1(file[layer.name], layer.name)
    return answers


def _as_in_keras1(group: Any, layer: str) -> None:
    leaves = {
        "kernel": "W",
        "bias": "b",
        "moving_mean": "running_mean",
        "moving_variance": "running_std",
    }
    for name, array in dict(group.get(layer, {})).items():
        group[f"{layer}_{leaves.get(name, name)}:0"] = array[()]
    if layer in group:
        del group[layer]


_OPTIONS: list[dict[str, Any]] = [
    {},
    {"factor": 0.5},
    {"rate": 0.5},
    {"stddev": 0.1},
    {"factor": 4},
    {"height_factor": 0.2},
    {"height_factor": 0.2, "width_factor": 0.2},
]


def changes_in_inference(resnet: Any, kinds: list[str]) -> dict[str, str]:
    """The layers that do not give in inference what they take, and those that this Keras lacks."""
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32) * 100
    found = {}
    for kind in kinds:
        made = None
        for options in _OPTIONS:
            try:
                made = getattr(layers, kind)(**options)
                break
            except (TypeError, ValueError, AttributeError):
                continue
        if made is None:
            found[kind] = "not there" if not hasattr(layers, kind) else "not made"
        elif not np.array_equal(np.asarray(made(images, training=False)), images):
            found[kind] = "changes its input"
    return found


def small_configuration(resnet: Any) -> str:
    """Of a whole model."""
    return str(body().to_json())
