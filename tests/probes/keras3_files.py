"""keras.applications writing and loading files of Keras 3, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from shared_spec import Checkpoint, read_safetensors, write_safetensors


@contextmanager
def float64() -> Iterator[None]:
    """Let Keras build float64 layers."""
    import keras

    kept = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(kept)


def application(name: str, num_classes: int) -> Any:
    """The net of keras.applications, which ends in logits or in pooled features."""
    import keras

    kind = name.removeprefix("keras_").replace("resnet", "ResNet").replace("v2", "V2")
    top = {"classes": num_classes, "classifier_activation": None} if num_classes else {}
    with float64():
        return getattr(keras.applications, kind)(
            weights=None,
            include_top=bool(num_classes),
            input_shape=(64, 64, 3),
            pooling="avg",
            **top,
        )


def randomise(model: Any) -> None:
    """Norms, statistics and biases that are not 0 and 1."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        low, high = (0.5, 1.5) if variable.name in ("gamma", "moving_variance") else (-0.1, 0.1)
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(low, high, variable.shape))


def answer(model: Any, images: str, logits: str) -> None:
    """What the model makes of images, into a file."""
    import keras

    x = read_safetensors(images).state["images"]
    found = keras.ops.convert_to_numpy(model(x, training=False))
    write_safetensors(logits, Checkpoint({"logits": found}))


def write(resnet: Any, name: str, num_classes: int, file: str, images: str, logits: str) -> None:
    """Random weights in a file that Keras itself writes, and what it computes with them."""
    model = application(name, num_classes)
    randomise(model)
    answer(model, images, logits)
    if file.endswith(".keras"):
        model.save(file)
    else:
        model.save_weights(file)


def load(
    resnet: Any, name: str, num_classes: int, file: str, images: str, logits: str
) -> list[str]:
    """What Keras computes with a file of ours; returns the layers of it that have weights."""
    import keras

    if file.endswith(".keras"):
        model = keras.saving.load_model(file)
    else:
        model = application(name, num_classes)
        model.load_weights(file)
    answer(model, images, logits)
    return [layer.name for layer in model.layers if layer.weights]
