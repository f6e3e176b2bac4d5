"""Canonical weights to and from a PyTorch model and its checkpoint files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from resnet_torch.model import ResNet
from shared_spec.backend import WeightVerbs
from shared_spec.weights.layouts import TORCH
from shared_spec.weights.state import DTYPES


class Weights(WeightVerbs[ResNet]):
    """Parameters and buffers of `torch.nn` modules."""

    layouts = TORCH
    keeps_arrays = False

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


WEIGHTS = Weights()
