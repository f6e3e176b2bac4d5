"""Canonical weights to and from a Keras model and its checkpoint files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.model import Form, ResNet, build
from shared_spec.errors import SpecError, WeightsError, WeightsWarning
from shared_spec.formats.detect import name_suffix
from shared_spec.formats.dialects.dialect import foreign_arrays
from shared_spec.formats.dialects.keras_applications import APPLICATIONS
from shared_spec.formats.keras_config import (
    net_structure,
    own_activation,
    structure,
    without_activation,
)
from shared_spec.formats.write import Save
from shared_spec.plan.layers import Parameter
from shared_spec.weight_verbs import WeightVerbs, remember
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.layouts import KERAS, keras_layer
from shared_spec.weights.lazy_array import entries_of
from shared_spec.weights.state import DTYPES


class Weights(WeightVerbs[ResNet]):
    """Variables of Keras layers."""

    layouts = KERAS

    def check_layers(self, model: ResNet) -> None:
        """As `WeightVerbs.check_layers`."""
        self.natives(model)  # says of a layer that it was replaced or quantised
        config = without_activation(model.get_config())
        if model.structure is not None:
            unchanged = structure(config) == model.structure
        else:  # what is in front of the net is not its spec's
            form = Form(keras.DTypePolicy(model.kind), maps=model.maps)
            made = build(model.spec, form)
            names = {layer.name for layer in made.layers} - {made.layers[0].name}
            unchanged = net_structure(config, names) == net_structure(made.get_config(), names)
        if not unchanged:
            raise WeightsError(
                "a layer of this model has other settings than in its spec, with which the weights "
                "would be saved; model.save keeps them, and convert reads what such a file computes"
            )

    def check_saved(self, model: ResNet) -> None:
        """As `WeightVerbs.check_saved`."""
        if model.structure is None:
            raise WeightsError(
                "layers in front of this net, of its input_tensor, are not in its spec; save it "
                "with model.save, or its export_weights as weights of the net alone"
            )
        if model.maps:
            raise WeightsError(
                "a model made with include_top=False and without pooling ends in maps, which its "
                "spec does not say; save it with model.save, or make it with features_only=True"
            )
        if (function := own_activation(model.get_config())) is not None:
            warnings.warn(
                f"the {function} behind the logits is left out: weights do not tell of it",
                WeightsWarning,
                stacklevel=3,
            )

    def dtype_name(self, model: ResNet) -> str:
        """The dtype of the model's parameters, such as `"float32"`.

        Examples:
            >>> dtype_name(create_model("resnet18", dtype="bfloat16"))
            'bfloat16'
        """
        return str(model.kind)

    def modules(self, model: ResNet) -> Callable[[str], Any]:
        """What finds the model's own layer at a dotted path of the plan."""
        layers = {layer.name: layer for layer in model.layers}
        return lambda path: layers[keras_layer(path)]

    def native(self, modules: Callable[[str], Any], q: Parameter) -> Any:
        """The model's own variable of a parameter.

        Raises:
            WeightsError: if its layer was replaced or quantised.
        """
        native = super().native(modules, q)
        if (kind := keras.backend.standardize_dtype(native.dtype)) not in DTYPES:
            raise WeightsError(
                f"{q.module} was quantised in this model: {q.name} is of {kind}, expected one of "
                f"{', '.join(DTYPES)}"
            )
        return native

    def copied(self, native: Any) -> np.ndarray:
        """A copy of what a variable or a tensor holds."""
        return np.array(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(native)))

    def assign(self, native: Any, array: np.ndarray) -> None:
        """Give a variable a value."""
        native.assign(array)

    def writers(self, model: ResNet | Mapping[str, np.ndarray]) -> Mapping[str, Save]:
        """Keras's own files, and those of keras.applications."""

        def save(draft: Path, whole: Checkpoint) -> None:
            native = model
            if not isinstance(native, ResNet):
                assert whole.spec is not None
                kind = next(iter(entries_of(whole.state).values())).dtype.name
                native = build(whole.spec, Form(keras.DTypePolicy(kind)))
                self.load_weights(native, whole.state)
            if name_suffix(draft) == ".keras":
                with _knowing(native, whole):
                    native.save(draft)
            else:
                native.save_weights(draft)

        return {"keras": save, "keras-applications": _save_applications}


@contextmanager
def _knowing(model: ResNet, checkpoint: Checkpoint) -> Iterator[None]:
    """The model with what a checkpoint tells of images and classes, for the length of a block."""
    kept = model.preprocessing, model.labels
    remember(model, checkpoint)
    try:
        yield
    finally:
        model.preprocessing, model.labels = kept


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
    dtype = next(iter(arrays.values())).dtype.name
    with configured(dtype_policy=dtype, image_data_format="channels_last"):
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
def configured(**settings: str) -> Iterator[None]:
    """Keras's configuration with these `settings`, for the length of a block."""
    kept = {name: getattr(keras.config, name)() for name in settings}
    try:
        for name, value in settings.items():
            getattr(keras.config, f"set_{name}")(value)
        yield
    finally:
        for name, value in kept.items():
            getattr(keras.config, f"set_{name}")(value)


WEIGHTS = Weights()
