"""keras.applications, the library's own v1, with weights of ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared_spec import Checkpoint, read_safetensors, write_safetensors
from tests.probes.keras_weights import assign


def canonical_name(layer: str) -> str:
    """`conv2_block1_0_conv` to `layer1.0.downsample.0`, and so on."""
    if layer in ("conv1_conv", "conv1_bn"):
        return {"conv1_conv": "conv1", "conv1_bn": "bn1"}[layer]
    if layer == "predictions":
        return "fc"
    stage, block, number, kind = layer.split("_")
    where = f"layer{int(stage[4:]) - 1}.{int(block[5:]) - 1}"
    if number == "0":
        return f"{where}.downsample.{0 if kind == 'conv' else 1}"
    return f"{where}.{kind}{number}"


def logits(resnet: Any, weights: str, images: str, output: str) -> list[str]:
    """Logits of keras.applications.ResNet50 on canonical weights; returns the names it used."""
    import keras

    state = dict(read_safetensors(weights).state)
    x = read_safetensors(images).state["images"].astype(np.float64)
    # The policy as well: it keeps the floatx of when it was first asked for.
    kept = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        model = keras.applications.ResNet50(
            weights=None, input_shape=x.shape[1:], classifier_activation=None
        )
    finally:
        keras.config.set_floatx(kept[0])
        keras.config.set_dtype_policy(kept[1])
    names = {layer.name: canonical_name(layer.name) for layer in model.layers if layer.variables}
    used = assign(model.layers, names, state)
    found = keras.ops.convert_to_numpy(model(x, training=False))
    write_safetensors(output, Checkpoint({"logits": found}))
    return used
