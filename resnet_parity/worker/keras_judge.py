"""A Keras model as its own file describes it, run by Keras in float64, to judge a conversion."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from resnet_parity.worker.reference_libraries import keras_dtype
from resnet_parity.worker.session import Session, Written, writing
from shared_spec.formats.canonical_file import read_safetensors


@writing
def judge_keras(session: Session, source: str, images: str, logits: bool) -> Written:
    """What the model in a `.keras` or `.h5` file makes of images, `float64/0`.

    Args:
        session: of an engine of Keras.
        source: the file, which Keras loads in its safe mode.
        images: a file of them, as they enter the model.
        logits: whether to leave out a softmax or sigmoid at its end.
    """
    import keras

    loaded = keras.saving.load_model(source, compile=False, safe_mode=True)
    config = json.loads(loaded.to_json())
    if logits:
        _without_probabilities(config)
    with keras_dtype("float64"):
        model = keras.models.model_from_json(json.dumps(_widened(config)))
    model.set_weights([np.asarray(w, np.float64) for w in loaded.get_weights()])
    batch = read_safetensors(images).state["images"].astype(np.float64)
    found = keras.ops.convert_to_numpy(model(batch, training=False))
    return {"keras": keras.__version__}, {"float64/0": np.asarray(found, np.float64)}


def _widened(config: Any) -> Any:
    """The configuration of a model that computes in float64 throughout."""
    if isinstance(config, list):
        return [_widened(item) for item in config]
    if not isinstance(config, dict) or config.get("class_name") in (
        "__tensor__",
        "__keras_tensor__",
    ):
        return config
    return {k: "float64" if k == "dtype" else _widened(v) for k, v in config.items()}


def _without_probabilities(model: dict[str, Any]) -> None:
    """Make the last layer of a model linear."""
    layers = model["config"]["layers"]
    last = layers[-1]
    if model["class_name"] != "Sequential":
        ends = model["config"]["output_layers"]
        name = ends[0] if isinstance(ends[0], str) else ends[0][0]
        last = next(layer for layer in layers if layer["config"]["name"] == name)
    if "layers" in last["config"]:
        _without_probabilities(last)
    elif last["class_name"] in ("Dense", "Activation"):
        last["config"]["activation"] = "linear"
    else:
        last["class_name"] = "Activation"
        kept = {k: last["config"][k] for k in ("name", "trainable", "dtype")}
        last["config"] = kept | {"activation": "linear"}
