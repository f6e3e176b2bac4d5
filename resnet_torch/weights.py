"""Canonical weights to and from a PyTorch model and its checkpoint files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resnet_torch.model import ResNet
from shared_spec.api import WeightsLike, name_suffix, read_weights
from shared_spec.durable import durable
from shared_spec.errors import WeightsError
from shared_spec.plan import Parameter
from shared_spec.spec import ResNetSpec
from shared_spec.weights import (
    DTYPES,
    Checkpoint,
    Slot,
    State,
    check_native,
    check_weights,
    replaced,
    without_counters,
    write_safetensors,
)

SLOTS: dict[str, Slot] = {
    "conv_kernel": Slot("weight"),
    "conv1d_kernel": Slot("weight"),
    "dense_kernel": Slot("weight"),
    "bias": Slot("bias"),
    "norm_scale": Slot("weight"),
    "norm_bias": Slot("bias"),
    "norm_mean": Slot("running_mean"),
    "norm_var": Slot("running_var"),
    "norm_gate": Slot("v"),
    "norm_threshold": Slot("tau"),
    "branch_scale": Slot("gamma"),
}
FORMATS = (".safetensors", ".pth", ".pt")


def export_weights(model: ResNet) -> State:
    """The model's weights as numpy arrays under canonical names: a copy."""
    return {
        q.name: SLOTS[q.role].to_canonical(to_numpy(_native(model, q))).copy()
        for q in model.plan.parameters()
    }


def load_weights(model: ResNet, weights: WeightsLike) -> ResNet:
    """Load canonical weights, or a `.safetensors`, `.pth` or `.pt` file, strictly and in place.

    Raises:
        WeightsError: listing every mismatch; the model is then unchanged.
    """
    state = read_checkpoint(weights, model.spec).state
    check_weights(model.plan, state, dtype_name(model))
    natives = {q.name: _native(model, q) for q in model.plan.parameters()}
    check_native({name: tuple(t.shape) for name, t in natives.items()}, model.plan, SLOTS)
    with torch.no_grad():
        for q in model.plan.parameters():
            native = natives[q.name]
            native.copy_(from_numpy(SLOTS[q.role].to_native(state[q.name])))
    return model


def save_weights(
    model: ResNet, path: str | os.PathLike[str], checkpoint: Checkpoint | None = None
) -> None:
    """Write the model's weights durably, in the format of the suffix.

    `.safetensors` is the canonical file; `.pth` and `.pt` hold the plain state dict. `checkpoint`
    may carry preprocessing and labels for the canonical file.

    Raises:
        WeightsError: if the suffix is none of these.
    """
    suffix = name_suffix(Path(path))
    if suffix not in FORMATS:
        raise WeightsError(f"{path}: resnet_torch writes {', '.join(FORMATS)}")
    if suffix == ".safetensors":
        extra = checkpoint or Checkpoint({})
        write_safetensors(
            path,
            Checkpoint(export_weights(model), model.spec, extra.preprocessing, extra.labels),
        )
        return
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    with durable(path) as draft:
        torch.save(state, draft)


def read_checkpoint(weights: WeightsLike, spec: ResNetSpec | None = None) -> Checkpoint:
    """Canonical weights from a dict or a file that this backend reads."""
    native = {".pth": _read_pickled, ".pt": _read_pickled}
    return read_weights(weights, native, "resnet_torch", spec)


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


def _native(model: ResNet, q: Parameter) -> Tensor:
    try:
        tensor: Tensor = getattr(model.get_submodule(q.module), SLOTS[q.role].leaf)
    except AttributeError:
        raise replaced(q.module) from None
    return tensor


def _read_pickled(path: Path, spec: ResNetSpec | None) -> Checkpoint:
    """Read a `.pth`. Only tensors and plain containers are unpickled (`weights_only`)."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged pickle raises errors of every kind.
    except Exception as error:
        reason = type(error).__name__
        raise WeightsError(
            f"{path}: not a PyTorch file of plain tensors ({reason}); nothing else is unpickled"
        ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()
    ):
        raise WeightsError(f"{path}: holds no state dict (a mapping of names to tensors)")
    names = [_plain_name(k) for k in loaded]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise WeightsError(f"{path}: holds {twice} twice, under different prefixes")
    try:
        state = {name: to_numpy(v) for name, v in zip(names, loaded.values(), strict=True)}
    # Quantised, sparse and 8-bit float tensors have no numpy form.
    except Exception as error:
        raise WeightsError(f"{path}: holds a tensor that numpy cannot ({error})") from None
    return Checkpoint(without_counters(state))


def _plain_name(name: str) -> str:
    """Without the prefixes that DataParallel and `torch.compile` add."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name
