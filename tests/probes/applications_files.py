"""keras.applications writing and loading its own weights files."""

from __future__ import annotations

from typing import Any

import numpy as np

from resnet_parity.worker.reference_libraries import KEYS
from shared_spec import Checkpoint, compile_plan, read_safetensors, resolve, write_safetensors
from shared_spec.formats.dialects.keras_applications import layer_name


def _model(name: str, num_classes: int = 7) -> Any:
    import keras

    kind = name.removeprefix("keras_").replace("resnet", "ResNet").replace("v2", "V2")
    top = {"classes": num_classes, "classifier_activation": None} if num_classes else {}
    return getattr(keras.applications, kind)(
        weights=None, include_top=bool(num_classes), input_shape=(64, 64, 3), **top
    )


def write(resnet: Any, name: str, file: str, images: str, logits: str, whole: bool) -> None:
    """Random weights and statistics in a file that Keras itself writes, and their logits."""
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    model = _model(name)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        low, high = (0.5, 1.5) if variable.name in ("gamma", "moving_variance") else (-0.1, 0.1)
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(low, high, variable.shape))
    x = read_safetensors(images).state["images"]
    found = keras.ops.convert_to_numpy(model(x, training=False))
    write_safetensors(logits, Checkpoint({"logits": found}))
    with h5py.File(file, "w") as handle:
        save = legacy_h5_format.save_weights_to_hdf5_group
        save(handle.create_group("model_weights") if whole else handle, model)


def load(resnet: Any, name: str, file: str, weights: str, num_classes: int) -> int:
    """How many of the canonical weights a file of ours puts where they belong."""
    model = _model(name, num_classes)
    model.load_weights(file)
    spec = resolve(name, {"num_classes": num_classes})
    state = read_safetensors(weights).state
    layers = {layer.name: layer for layer in model.layers}
    count = 0
    for q in compile_plan(spec).parameters():
        layer = layers.pop(layer_name(q.module, spec), None) or model.get_layer(
            layer_name(q.module, spec)
        )
        (variable,) = (v for v in layer.variables if KEYS[v.name] == q.name.rpartition(".")[2])
        array = state[q.name]
        order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim]
        expected = array.transpose(order)
        dense = np.asarray(variable.value).ndim == 2
        expected = expected[0, 0] if dense and expected.ndim == 4 else expected
        np.testing.assert_array_equal(np.asarray(variable.value), expected)
        count += 1
    assert not any(layer.variables for layer in layers.values())
    return count


def prepare(resnet: Any, name: str, pixels: str, output: str) -> None:
    """What keras.applications' own preprocessing makes of pixels."""
    import keras

    kind = keras.applications.resnet_v2 if name.endswith("v2") else keras.applications.resnet
    x = kind.preprocess_input(read_safetensors(pixels).state["x"].copy())
    write_safetensors(output, Checkpoint({"x": np.asarray(x, np.float32)}))
