"""Canonical weights to and from a model for ONNX's runtimes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from resnet_onnx.model import ResNet, Variable
from shared_spec.weight_verbs import WeightVerbs
from shared_spec.weights.layouts import TORCH


class Weights(WeightVerbs[ResNet]):
    """Arrays, which have PyTorch's layouts in ONNX."""

    layouts = TORCH

    def check_layers(self, model: ResNet) -> None:
        """As `WeightVerbs.check_layers`; a model has no layers but those of its plan."""

    def dtype_name(self, model: ResNet) -> str:
        """The dtype of the model's weights, such as `"float32"`.

        Examples:
            >>> dtype_name(create_model("resnet18", dtype="float16"))
            'float16'
        """
        return model.dtype

    def modules(self, model: ResNet) -> Callable[[str], Any]:
        """As `WeightVerbs.modules`; a model has none."""
        found: dict[str, Any] = {}
        return found.__getitem__

    def natives(self, model: ResNet) -> dict[str, Variable]:
        """As `WeightVerbs.natives`."""
        return model.variables

    def copied(self, native: Variable) -> np.ndarray:
        """A copy of what a variable holds."""
        return native.value.copy()

    def assign(self, native: Variable, array: np.ndarray) -> None:
        """Give a variable a value."""
        native.set(array)


WEIGHTS = Weights()
