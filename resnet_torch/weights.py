"""Canonical weights to and from a PyTorch model and its checkpoint files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from resnet_torch.layers import build
from resnet_torch.model import ResNet
from shared_spec import plan
from shared_spec.errors import WeightsError
from shared_spec.plan.parameters import parameters_of
from shared_spec.weight_verbs import WeightVerbs
from shared_spec.weights.layouts import TORCH
from shared_spec.weights.state import DTYPES, State, check_settings, replaced


class Weights(WeightVerbs[ResNet]):
    """Parameters and buffers of `torch.nn` modules."""

    layouts = TORCH
    keeps_arrays = False

    def export_weights(self, model: ResNet) -> State:
        """As `WeightVerbs.export_weights`, of a model that may be compiled, parallel or averaged.

        Raises:
            WeightsError: if a layer was replaced by one that its plan lacks, or has other settings.
        """
        _check_layers(model)
        return super().export_weights(model)

    def natives(self, model: ResNet) -> dict[str, Tensor]:
        """As `WeightVerbs.natives`.

        Raises:
            WeightsError: on the meta device too, whose tensors have no values.
        """
        if on_meta(model):
            raise WeightsError(
                "model: it is on the meta device and has no values; model.to_empty(device='cpu') "
                "gives it memory"
            )
        return super().natives(model)

    def dtype_name(self, model: ResNet) -> str:
        """The dtype of the model's parameters, such as `"float32"`."""
        return str(next(model.parameters()).dtype).removeprefix("torch.")

    def modules(self, model: ResNet) -> Callable[[str], torch.nn.Module]:
        """What finds the model's own module at a dotted path of the plan."""
        return model.get_submodule

    def copied(self, native: Tensor) -> np.ndarray:
        """A copy of what a tensor holds."""
        return to_numpy(native).copy()

    @torch.no_grad()
    def assign(self, native: Tensor, array: np.ndarray) -> None:
        """Give a tensor a value."""
        native.copy_(from_numpy(array))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor on any device as numpy, bfloat16 included."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(DTYPES["bfloat16"])
    return tensor.numpy()


def from_numpy(array: np.ndarray) -> Tensor:
    """A numpy array as a tensor, bfloat16 included; shares memory where it can."""
    array = np.require(array, requirements=["C", "W"])
    if array.dtype == DTYPES["bfloat16"]:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


_IN_TRAINING = frozenset({"training", "momentum", "inplace", "p", "rate"})
"""Attributes of modules that change nothing in inference."""


def on_meta(model: ResNet) -> bool:
    """Whether the model has shapes alone."""
    return next(model.parameters()).is_meta


def _check_layers(model: ResNet) -> None:
    """Hold the layers against the plan: no weights would tell of other settings, or of another
    layer without parameters.

    Raises:
        WeightsError: naming the first that was replaced or has another setting.
    """
    made: dict[plan.Layer, list[nn.Module]] = {}
    for layer in model.plan.layers():
        record = replace(layer, name="")
        if record not in made:
            with torch.device("meta"):
                made[record] = [*build(record).modules()]
        try:
            found = [*model.get_submodule(layer.name).modules()]
        except AttributeError:
            raise replaced(layer.name) from None
        fresh = made[record]
        if not any(parameters_of(layer)) and [*map(type, found)] != [*map(type, fresh)]:
            raise replaced(layer.name)
        for part, new in zip(found, fresh, strict=False):
            check_settings(layer.name, part, new, _IN_TRAINING)
    for block in model.plan.blocks():
        shortcut = getattr(model.get_submodule(block.name), "downsample", None)
        if shortcut is not None and not block.shortcut:
            raise replaced(f"{block.name}.downsample")


WEIGHTS = Weights()
