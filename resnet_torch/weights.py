"""Canonical weights to and from a PyTorch model and its checkpoint files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, zip_longest

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from resnet_torch.layers import build
from resnet_torch.model import ResNet
from shared_spec import plan
from shared_spec.errors import WeightsError
from shared_spec.weight_verbs import WeightVerbs
from shared_spec.weights.layouts import TORCH
from shared_spec.weights.state import DTYPES, check_settings, replaced


class Weights(WeightVerbs[ResNet]):
    """Parameters and buffers of `torch.nn` modules."""

    layouts = TORCH
    keeps_arrays = False

    def check_layers(self, model: ResNet) -> None:
        """As `WeightVerbs.check_layers`."""
        _check_layers(model)

    def natives(self, model: ResNet) -> dict[str, Tensor]:
        """As `WeightVerbs.natives`.

        Raises:
            WeightsError: on the meta device too, whose tensors have no values.
        """
        self.require_values(model)
        return super().natives(model)

    def require_values(self, model: ResNet) -> None:
        """As `WeightVerbs.require_values`."""
        if on_meta(model):
            raise WeightsError(
                "model: it is on the meta device and has no values; model.to_empty(device='cpu') "
                "gives it memory, and load_weights values"
            )

    def dtype_name(self, model: ResNet) -> str:
        """The dtype of the model's parameters, such as `"float32"`.

        Examples:
            >>> dtype_name(create_model("resnet18", dtype="bfloat16"))
            'bfloat16'
        """
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
        for part, new in zip_longest(found, made[record]):
            if new is None and parametrize.is_parametrized(found[0]):
                break  # what computes the weights, which are saved as they are
            if part is None or new is None or not _runs_as(part, new):
                raise replaced(layer.name)
            check_settings(layer.name, part, new, _IN_TRAINING)
    _check_sequences(model)
    for block in model.plan.blocks():
        shortcut = getattr(model.get_submodule(block.name), "downsample", None)
        if shortcut is not None and not block.shortcut:
            raise replaced(f"{block.name}.downsample")


def _runs_as(part: nn.Module, new: nn.Module) -> bool:
    """Whether two modules have the same computation: batch norms may be of several processes."""
    if isinstance(part, _BatchNorm) and isinstance(new, _BatchNorm):
        return True
    kinds = type(part), type(new)
    return all(
        getattr(kinds[0], name, None) is getattr(kinds[1], name, None)
        for name in ("forward", "_conv_forward")
    )


def _check_sequences(model: ResNet) -> None:
    """Raise a `WeightsError` if a stage or a sequence runs something that the plan lacks: those
    inside of a layer have been looked at with it.
    """
    names = {layer.name for layer in model.plan.layers()}
    inner = {name.rpartition(".")[0] for name in names} | names
    inner |= {stage.name for stage in model.plan.stages}
    inner |= {block.name for block in model.plan.blocks()}
    inner |= {name.rpartition(".")[0] for name in inner}
    for path, module in model.named_modules():
        above = accumulate(path.split("."), "{}.{}".format)
        if isinstance(module, nn.Sequential) and names.isdisjoint(above):
            for child in module._modules:
                if f"{path}.{child}" not in inner:
                    raise replaced(f"{path}.{child}")


WEIGHTS = Weights()
