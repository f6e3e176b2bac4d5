"""Canonical weights to and from a Keras model and its checkpoint files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.layers import layer_name
from resnet_keras.model import ResNet
from shared_spec.api import WeightsLike, name_suffix, read_weights, write_checkpoint
from shared_spec.layouts import KERAS as SLOTS
from shared_spec.plan import Parameter
from shared_spec.spec import ResNetSpec
from shared_spec.weights import (
    Checkpoint,
    State,
    check_native,
    check_weights,
    replaced,
)


def export_weights(model: ResNet) -> State:
    """The model's weights as numpy arrays under canonical names: a copy."""
    layers = _layers(model)
    return {
        q.name: SLOTS[q.role].to_canonical(
            np.array(keras.ops.convert_to_numpy(_native(layers, q).value))
        )
        for q in model.plan.parameters()
    }


def load_weights(model: ResNet, weights: WeightsLike) -> ResNet:
    """Load canonical weights, or a checkpoint of any kind but orbax, strictly and in place.

    Raises:
        WeightsError: listing every mismatch; the model is then unchanged.
    """
    found = read_checkpoint(weights, model.spec).state
    check_weights(model.plan, found, dtype_name(model), weights)
    state = dict(found)  # read whole before anything is assigned
    layers = _layers(model)
    natives = {q.name: _native(layers, q) for q in model.plan.parameters()}
    check_native({name: tuple(v.shape) for name, v in natives.items()}, model.plan, SLOTS)
    for q in model.plan.parameters():
        natives[q.name].assign(SLOTS[q.role].to_native(state[q.name], own=True))
    return model


def save_weights(
    model: ResNet,
    path: str | os.PathLike[str],
    checkpoint: Checkpoint | None = None,
    *,
    format: str | None = None,
) -> None:
    """Write the model's weights durably, in the format that the suffix or `format` asks for.

    Args:
        model: the model.
        path: `.safetensors` is the canonical file; `.pth`, `.keras`, `.weights.h5`, `.h5` and
            `.msgpack` are those of the frameworks and libraries, no suffix a directory.
        checkpoint: may carry preprocessing and labels.
        format: whose names, as in `resnet-parity convert --to`: `"huggingface"` for a directory of
            transformers, for example.

    Raises:
        ResNetError: if the format is unknown, has no such net, or needs another framework.
    """

    def save(draft: Path, whole: Checkpoint) -> None:
        if name_suffix(draft) == ".keras":
            model.save(draft)
        else:
            model.save_weights(draft)

    whole = replace(checkpoint or Checkpoint({}), state=export_weights(model), spec=model.spec)
    write_checkpoint(path, whole, format, {"keras": save})


def read_checkpoint(weights: WeightsLike, spec: ResNetSpec | None = None) -> Checkpoint:
    """Canonical weights from a dict or a checkpoint of any kind but orbax."""
    return read_weights(weights, {}, "resnet_keras", spec)


def dtype_name(model: ResNet) -> str:
    """The dtype of the model's parameters, such as `"float32"`."""
    return str(model.kind)


def _layers(model: ResNet) -> dict[str, Any]:
    return {layer.name: layer for layer in model.layers}


def _native(layers: dict[str, Any], q: Parameter) -> Any:
    try:
        return getattr(layers[layer_name(q.module)], SLOTS[q.role].leaf)
    except (KeyError, AttributeError):
        raise replaced(q.module) from None
