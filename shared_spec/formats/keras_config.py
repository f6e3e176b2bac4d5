"""A model of `resnet_keras` in the configuration that Keras saves: its layers, as of any functional
model, and beside them the spec, with a digest of what layers its spec alone makes, and what its
images and classes are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from shared_spec.errors import SpecError
from shared_spec.plan import (
    AttentionPool,
    FlattenMaps,
    GlobalPool,
)
from shared_spec.plan.layers import Dropout, Layer
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint

KERAS_CLASS = "resnet_keras>ResNet"
"""How Keras registers our model in a file that has the spec alone, as earlier versions wrote it."""
FUNCTIONAL_CLASS = "resnet_keras>Functional"
"""How it registers the model in a file that has the layers too."""

_TRAINING = {"name", "trainable", "seed", "momentum", "rate", "noise_shape", "block_size"}
"""Settings that change nothing in inference, as those of these endings do."""
_ENDINGS = ("_initializer", "_regularizer", "_constraint")
_MADE_WITH = "spec", "inference", "maps"
_PRECISIONS = {f"{kind}{name}" for name in ("float16", "bfloat16") for kind in ("", "mixed_")}
_PRECISIONS |= {"float32", "float64"}


def structure(config: Mapping[str, Any]) -> str:
    """SHA-256 of what a model of ours is made with, and of what its layers compute in inference,
    whatever their weights and their precision.

    Args:
        config: of the model, as `get_config` gives it or a file has it.

    Raises:
        KeyError, TypeError, AttributeError: if Keras writes no such configuration.
    """
    layers = [_computed(layer) for layer in config["layers"]]
    return _digest(layers, [config[key] for key in (*_MADE_WITH, "input_layers", "output_layers")])


def net_structure(config: Mapping[str, Any], names: Collection[str]) -> str | None:
    """As `structure`, of the layers with these names, which one tensor enters, whatever gives it;
    None if it is not one.
    """
    entries: set[tuple[Any, ...]] = set()

    def inner(call: Any) -> Any:
        if not isinstance(call, list | tuple):
            return {k: inner(v) for k, v in call.items()} if isinstance(call, Mapping) else call
        if len(call) == 3 and isinstance(call[0], str) and call[0] not in names:
            entries.add(tuple(call))
            return None
        return [inner(item) for item in call]

    layers = [_computed(x) for x in config["layers"] if x["config"]["name"] in names]
    layers = [[*layer[:-1], inner(layer[-1])] for layer in layers]
    found = _digest(layers, [config[key] for key in (*_MADE_WITH, "output_layers")])
    return found if len(entries) == 1 else None


def _digest(layers: list[list[Any]], rest: list[Any]) -> str:
    text = json.dumps([sorted(layers, key=lambda x: str(x[0])), rest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _computed(layer: Mapping[str, Any]) -> list[Any]:
    """Name, class, settings and calls of a layer, which `.keras` and `.h5` files have alike."""
    # A layer of ours that Keras reads as its own is registered by its plain name.
    kind = layer.get("registered_name") or layer["class_name"]
    config = layer["config"]
    kept = {} if kind == "InputLayer" else {k: _setting(k, config[k]) for k in config}
    settings = {
        key: value
        for key, value in kept.items()
        if key not in _TRAINING and not key.endswith(_ENDINGS) and (key, value) != ("dtype", None)
    }
    return [config["name"], kind, settings, _call(layer["inbound_nodes"])]


def _setting(key: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return None if key == "dtype" and value in _PRECISIONS else value
    inner = value.get("config")
    if key == "dtype" and isinstance(inner, Mapping) and inner.get("name") in _PRECISIONS:
        return None if value.get("class_name") == "DTypePolicy" else value
    return inner if value.get("class_name") == "function" else value


def _call(data: Any) -> Any:
    """What a layer is called with, each tensor by the layer that gives it."""
    if isinstance(data, list | tuple):
        return [_call(item) for item in data]
    if not isinstance(data, Mapping):
        return data
    if data.get("class_name") == "__keras_tensor__":
        return data["config"]["keras_history"]
    return {k: _call(v) for k, v in data.items() if v not in (None, False)}


def headless(head: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers of a head that work on maps, which is what Keras calls a net without its top."""
    kinds = GlobalPool | AttentionPool | FlattenMaps
    pool = next((i for i, layer in enumerate(head) if isinstance(layer, kinds)), len(head))
    return (*head[:pool], *(x for x in head[pool:] if isinstance(x, Dropout)))


def is_keras_model(model: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a model of ours that computes what its spec says: logits,
    pooled features or all of its maps.
    """
    config = model.get("config")
    if not has_own_spec(model) or not isinstance(config, Mapping):
        return False
    return "layers" not in config or not (config.get("maps") or own_activation(config))


def has_own_spec(model: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a model of ours whose layers are those of its spec, apart
    from an activation of the classifier's.
    """
    config = model.get("config")
    if not _is_of_our_class(model) or not isinstance(config, Mapping) or "spec" not in config:
        return False
    if "layers" not in config:
        return True
    try:
        return bool(structure(without_activation(config)) == config["structure"])
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return False


def is_ours_with_layers(model: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a model of ours, which lists its layers."""
    config = model.get("config")
    return _is_of_our_class(model) and isinstance(config, Mapping) and "layers" in config


def _is_of_our_class(model: Mapping[str, Any]) -> bool:
    kind: object = model.get("registered_name") or model.get("class_name")
    if kind in (KERAS_CLASS, FUNCTIONAL_CLASS):
        return True
    # Whole models in `.h5` files have the last part of the name alone.
    config = model.get("config")
    last = "Functional" if isinstance(config, Mapping) and "layers" in config else "ResNet"
    return "module" not in model and "inbound_nodes" not in model and bool(kind == last)


def extras_in(config: Mapping[str, Any], spec: ResNetSpec, where: str) -> Checkpoint:
    """The preprocessing and the labels in the configuration of a model of ours, and no arrays.

    Args:
        config: as a file has it; earlier files have neither.
        spec: of the net that is in the file.
        where: for messages.

    Raises:
        SpecError: if they are of another form, or not of the net's channels and classes.
    """
    told = {key: config.get(key) for key in ("preprocessing", "labels")}
    found = Checkpoint.from_metadata({}, {"version": 1, **told}, where)
    prepare, labels = found.preprocessing, found.labels
    if labels is not None and len(labels) != spec.num_classes:
        raise SpecError(f"{where}: has {len(labels)} labels for {spec.num_classes} classes")
    if prepare is not None and len(prepare.mean) != spec.in_channels:
        raise SpecError(
            f"{where}: its preprocessing gives {len(prepare.mean)} channels, and the net takes "
            f"{spec.in_channels}"
        )
    return found


def own_activation(config: Mapping[str, Any]) -> str | None:
    """The function that the classifier of a model that `has_own_spec` has in it."""
    for layer in config["layers"]:
        if layer["config"]["name"] == config.get("classifier"):
            found = layer["config"].get("activation")
            return None if found in (None, "linear") else str(found)
    return None


def without_activation(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of a model of ours, its classifier linear."""
    name = config.get("classifier")
    if name is None:
        return config
    layers = [
        {**layer, "config": {**layer["config"], "activation": "linear"}}
        if layer["config"]["name"] == name
        else layer
        for layer in config["layers"]
    ]
    return {**config, "layers": layers}
