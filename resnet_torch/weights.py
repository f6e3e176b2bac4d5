"""Canonical weights to and from a PyTorch model and its checkpoint files."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from resnet_torch.model import ResNet
from shared_spec.backend import read_weights
from shared_spec.formats.write import described, write_checkpoint
from shared_spec.plan.folding import require_trained
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.folding import weights_for
from shared_spec.weights.layouts import TORCH as LAYOUTS
from shared_spec.weights.state import DTYPES, State, WeightsLike, check_native, replaced


def export_weights(model: ResNet) -> State:
    """The model's weights as numpy arrays under canonical names: a copy."""
    require_trained(model.plan, "to export")
    return {
        q.name: LAYOUTS[q.role].to_canonical(to_numpy(native(model, q))).copy()
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
    natives = {q.name: native(model, q) for q in model.plan.parameters()}
    check_native({name: tuple(t.shape) for name, t in natives.items()}, model.plan, LAYOUTS)
    with torch.no_grad():
        for q in model.plan.parameters():
            natives[q.name].copy_(from_numpy(LAYOUTS[q.role].to_native(state[q.name])))
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
    if isinstance(model, ResNet):
        whole = described(export_weights(model), checkpoint, model.spec)
    else:
        whole = described(model, checkpoint)
    write_checkpoint(path, whole, format)


def read_checkpoint(weights: WeightsLike, spec: ResNetSpec | None = None) -> Checkpoint:
    """Canonical weights from a dict or a checkpoint of any kind but orbax."""
    return read_weights(weights, {}, spec)


def dtype_name(model: ResNet) -> str:
    """The dtype of the model's parameters, such as `"float32"`."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


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


def native(model: ResNet, q: Parameter) -> Tensor:
    """The model's own tensor of a parameter; a `WeightsError` if its layer was replaced."""
    try:
        tensor: Tensor = getattr(model.get_submodule(q.module), LAYOUTS[q.role].leaf)
    except AttributeError:
        raise replaced(q.module) from None
    return tensor
