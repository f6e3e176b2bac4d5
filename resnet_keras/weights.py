"""Canonical weights to and from a Keras model and its checkpoint files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.model import ResNet
from shared_spec.backend import read_weights
from shared_spec.errors import SpecError
from shared_spec.formats.detect import name_suffix
from shared_spec.formats.dialects.dialect import foreign_arrays
from shared_spec.formats.dialects.keras_applications import APPLICATIONS
from shared_spec.formats.write import described, write_checkpoint
from shared_spec.plan.folding import require_trained
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.folding import weights_for
from shared_spec.weights.layouts import KERAS as LAYOUTS
from shared_spec.weights.layouts import keras_layer
from shared_spec.weights.lazy_array import entries_of
from shared_spec.weights.state import State, WeightsLike, check_native, replaced


def export_weights(model: ResNet) -> State:
    """The model's weights as numpy arrays under canonical names: a copy."""
    require_trained(model.plan, "to export")
    layers = layers_by_name(model)
    return {
        q.name: LAYOUTS[q.role].to_canonical(
            np.array(keras.ops.convert_to_numpy(native(layers, q).value))
        )
        for q in model.plan.parameters()
    }


def load_weights(model: ResNet, weights: WeightsLike) -> ResNet:
    """Load canonical weights, or a checkpoint of any kind but orbax, strictly and in place.

    Raises:
        WeightsError: listing every mismatch; the model is then unchanged.
    """
    found = read_checkpoint(weights, model.spec).state
    # Read whole before anything is assigned.
    state = weights_for(model.plan, found, dtype_name(model), weights)
    layers = layers_by_name(model)
    natives = {q.name: native(layers, q) for q in model.plan.parameters()}
    check_native({name: tuple(v.shape) for name, v in natives.items()}, model.plan, LAYOUTS)
    for q in model.plan.parameters():
        natives[q.name].assign(LAYOUTS[q.role].to_native(state[q.name], own=True))
    return model


def save_weights(
    model: ResNet | Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    checkpoint: Checkpoint | None = None,
    *,
    format: str | None = None,
) -> None:
    """Write a model's weights durably, in the format that the suffix or `format` asks for.

    Args:
        model: the model, or its canonical weights.
        path: `.safetensors` is the canonical file; `.pth`, `.keras`, `.weights.h5`, `.h5` and
            `.msgpack` are those of the frameworks and libraries, no suffix a directory.
        checkpoint: may carry preprocessing and labels, and the spec for weights without a model;
            without one, their net is looked for in the catalogue.
        format: whose names, as in `resnet-parity convert --to`: `"huggingface"` for a directory of
            transformers, for example.

    Raises:
        ResNetError: if the format is unknown, has no such net, or needs another framework.
    """

    def save(draft: Path, whole: Checkpoint) -> None:
        native = model
        if not isinstance(native, ResNet):
            assert whole.spec is not None
            kind = next(iter(entries_of(whole.state).values())).dtype.name
            native = load_weights(ResNet(whole.spec, kind), whole.state)
        if name_suffix(draft) == ".keras":
            native.save(draft)
        else:
            native.save_weights(draft)

    if isinstance(model, ResNet):
        whole = described(export_weights(model), checkpoint, model.spec)
    else:
        whole = described(model, checkpoint)
    native = {"keras": save, "keras-applications": _save_applications}
    write_checkpoint(path, whole, format, native)


_APPLICATIONS = {(3, 4, 6, 3): "ResNet50", (3, 4, 23, 3): "ResNet101", (3, 8, 36, 3): "ResNet152"}


def _save_applications(path: Path, whole: Checkpoint) -> None:
    """A `.keras` file of the net that keras.applications builds, for images of any size, which ends
    in logits or, without classes, in pooled features.

    Raises:
        SpecError: if it builds none so deep.
    """
    spec = whole.spec
    assert spec is not None
    if spec.depths not in _APPLICATIONS:
        known = ", ".join(str(list(depths)) for depths in _APPLICATIONS)
        raise SpecError(
            f"keras.applications builds no ResNet of depths {list(spec.depths)}; it has {known}"
        )
    name = _APPLICATIONS[spec.depths] + ("V2" if spec.pre_activation else "")
    arrays = foreign_arrays(APPLICATIONS, whole.state, spec)
    with _defaults(next(iter(arrays.values())).dtype.name):
        model = getattr(keras.applications, name)(
            include_top=False,
            weights=None,
            input_shape=(None, None, spec.in_channels),
            pooling="avg",
        )
        if spec.num_classes:
            logits = keras.layers.Dense(spec.num_classes, name="predictions")(model.output)
            model = keras.Model(model.input, logits, name=model.name)
    for key, array in arrays.items():
        layer, _, number = key.partition("/")
        model.get_layer(layer).weights[int(number)].assign(array.read())
    model.save(path)


@contextmanager
def _defaults(dtype: str) -> Iterator[None]:
    """Let Keras build layers of `dtype` for channels last, whatever its configuration says."""
    kept = keras.config.dtype_policy(), keras.config.image_data_format()
    keras.config.set_dtype_policy(dtype)
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(kept[0])
        keras.config.set_image_data_format(kept[1])


def read_checkpoint(weights: WeightsLike, spec: ResNetSpec | None = None) -> Checkpoint:
    """Canonical weights from a dict or a checkpoint of any kind but orbax."""
    return read_weights(weights, {}, spec)


def dtype_name(model: ResNet) -> str:
    """The dtype of the model's parameters, such as `"float32"`."""
    return str(model.kind)


def layers_by_name(model: ResNet) -> dict[str, Any]:
    """The model's layers."""
    return {layer.name: layer for layer in model.layers}


def native(layers: dict[str, Any], q: Parameter) -> Any:
    """The model's own variable of a parameter; a `WeightsError` if its layer was replaced."""
    try:
        return getattr(layers[keras_layer(q.module)], LAYOUTS[q.role].leaf)
    except (KeyError, AttributeError):
        raise replaced(q.module) from None
