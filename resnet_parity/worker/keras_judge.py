"""A Keras model as its own file describes it, run by Keras in float64, to judge a conversion."""

from __future__ import annotations

import importlib
import json
from typing import Any

import numpy as np

from resnet_parity.worker.contenders import import_peer
from resnet_parity.worker.reference_libraries import keras_dtype
from resnet_parity.worker.session import Session, Written, writing
from shared_spec.formats.canonical_file import read_safetensors
from shared_spec.formats.dialects.keras_hub import HUB_MODELS


@writing
def judge_keras(
    session: Session, source: str, images: str, logits: bool, library: str | None
) -> Written:
    """What the model in a `.keras` or `.h5` file makes of images, `float64/0`.

    Args:
        session: of an engine of Keras.
        source: the file, which Keras loads in its safe mode.
        images: a file of them, as they enter the model.
        logits: whether to leave out a softmax or sigmoid at its end.
        library: the package whose classes are in it beside Keras's own.
    """
    import keras

    versions, known = f"keras {keras.__version__}", {}
    if library == "keras_hub":
        import_peer("KerasHub")
        hub = importlib.import_module("keras_hub")
        versions += f" with keras_hub {hub.__version__}"
        # Whole `.h5` files do not say that their class is registered.
        known = {name: getattr(hub.models, name) for name in HUB_MODELS}
    elif library is not None:
        versions += f" with {library}"
    loaded = keras.saving.load_model(source, known, compile=False, safe_mode=True)
    config = json.loads(loaded.to_json())
    if logits:
        _without_probabilities(config)
    with keras_dtype("float64"):
        model = keras.models.model_from_json(json.dumps(_widened(config)))
    model.set_weights([np.asarray(w, np.float64) for w in loaded.get_weights()])
    batch = read_safetensors(images).state["images"].astype(np.float64)
    found = keras.ops.convert_to_numpy(model(batch, training=False))
    return {"versions": versions}, {"float64/0": np.asarray(found, np.float64)}


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
    layers = model["config"].get("layers")
    if layers is None:  # it has what it is made with
        model["config"]["activation"] = "linear"
        return
    last = layers[-1]
    if model["class_name"] != "Sequential":
        ends = model["config"]["output_layers"]
        name = ends[0] if isinstance(ends[0], str) else ends[0][0]
        last = next(layer for layer in layers if layer["config"]["name"] == name)
    if "layers" in last["config"] or "backbone" in last["config"]:
        _without_probabilities(last)
    elif last["class_name"] in ("Dense", "Activation"):
        last["config"]["activation"] = "linear"
    else:
        last["class_name"] = "Activation"
        kept = {k: last["config"][k] for k in ("name", "trainable", "dtype")}
        last["config"] = kept | {"activation": "linear"}
