"""ResNets as native PyTorch modules. The verbs are those of `resnet_keras` and `resnet_flax`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from shared_spec.errors import FrameworkError, framework_missing

try:
    import torch
except ImportError:
    raise framework_missing("resnet_torch", "PyTorch (torch)", "torch") from None

from torch.overrides import TorchFunctionMode

from resnet_torch.model import ResNet
from resnet_torch.training import Trainer
from resnet_torch.weights import (
    dtype_name,
    export_weights,
    from_numpy,
    load_weights,
    read_checkpoint,
    save_weights,
    to_numpy,
)
from shared_spec.backend import (
    activation_names,
    as_images,
    batches,
    concatenate_outputs,
    entry_points,
    resolve_both,
)
from shared_spec.catalogue import list_models
from shared_spec.catalogue.resolve import ModelLike
from shared_spec.kernels.torch_compile import frozen
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import Inference, inference_form
from shared_spec.weights.adapt import read_adapted
from shared_spec.weights.initialize import initial_weights
from shared_spec.weights.state import WeightsLike, cast_weights, numpy_dtype


def create_model(
    model: ModelLike,
    *,
    weights: WeightsLike | None = None,
    seed: int = 0,
    dtype: str = "float32",
    inference: Inference | bool = False,
    **overrides: Any,
) -> ResNet:
    """Build a model in training mode, as `torch.nn` modules start.

    Args:
        model: a catalogue name, a `ResNetSpec`, or the path of a YAML, TOML or JSON spec file.
        weights: None for fresh weights; a dict of canonical arrays; the path of a checkpoint;
            or `"hf-hub:owner/name"`. They have to fit, except where an override of `in_channels`,
            `num_classes` or `features_only` changes the net: see `shared_spec.weights.adapt`.
        seed: of the fresh weights, which are bit-identical in every framework.
        dtype: of parameters and computation: float64, float32, float16 or bfloat16.
        inference: True for the form that is fastest in inference, in evaluation mode and with its
            batch norms folded into the convolutions; an `Inference` chooses among such forms.
            It computes the same logits except for rounding, and can neither be trained nor saved.
        **overrides: any field of the spec, such as `num_classes=10, in_channels=1`.

    Raises:
        ResNetError: with one sentence, if the name, spec, dtype or weights are not valid.
    """
    specs = resolve_both(model, overrides)
    spec = specs[0]
    trained = compile_plan(spec)
    p = inference_form(trained, inference)
    numpy_dtype(dtype)
    with _NoInit():
        net = ResNet(p, spec).to(getattr(torch, dtype))
    if inference:
        # Vector units take a pixel's channels at once. torch's stubs know no memory_format alone.
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.eval().requires_grad_(False)
    if weights is not None:
        return load_weights(net, read_adapted(read_checkpoint, weights, specs, overrides, seed))
    state = cast_weights(initial_weights(trained, seed), dtype)
    if inference:
        return load_weights(net, state)
    # Assigned, not copied: the arrays are nobody else's. The missing keys are batch counters.
    tensors = {name: from_numpy(array) for name, array in state.items()}
    net.load_state_dict(tensors, strict=False, assign=True)
    return net


def compiled(model: ResNet) -> Callable[[torch.Tensor], Any]:
    """The model in evaluation mode as a function, compiled as is fastest on the device at hand: for
    many calls with weights that no longer change (what it gives after they do is not defined). The
    first call of a new size compiles, which takes up to a minute on CPUs.

    Returns:
        A function that takes and gives what `model` does: [N, C, H, W] to [N, num_classes].
    """
    own = copy.deepcopy(getattr(model, "_orig_mod", model)).eval().requires_grad_(False)
    return frozen(lambda images: own(images), dtype_name(own), fullgraph=True)


def predict(model: ResNet, images: np.ndarray, *, batch_size: int = 64) -> Any:
    """Logits in evaluation mode.

    Args:
        model: the model; the mode of its modules is left as it was.
        images: [N, H, W, C], already normalised.
        batch_size: images computed at a time.

    Returns:
        [N, num_classes] of the model's dtype, or [N, features] if it has no classes; a list of
        [N, H, W, C] for a features-only model.
    """
    parts = batches(images, model.plan, batch_size)
    with _evaluating(model):
        found = [model(_input(model, part)) for part in parts]
    return concatenate_outputs(found, _last)


def activations(
    model: ResNet, images: np.ndarray, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Outputs of the named layers and blocks (all blocks if None), in evaluation mode.

    Returns:
        Canonical name to array, channels last: [N, H, W, C], or [N, C] after the global pool.
    """
    images = as_images(images, model.plan)
    # torch.compile leaves hooks out of what it has compiled.
    model = getattr(model, "_orig_mod", model)
    found: dict[str, np.ndarray] = {}

    def record(name: str) -> Any:
        def hook(module: torch.nn.Module, args: object, output: torch.Tensor) -> None:
            # Copied at once: the activation after it may work in place.
            found[name] = _last(output).copy()

        return hook

    wanted = {name: record(name) for name in activation_names(model.plan, names)}
    with _evaluating(model), _hooked(model, wanted):
        model(_input(model, images))
    return found


def run_parts(model: ResNet, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of layers and blocks, each on its own input and apart from the rest, in evaluation
    mode: the name to the input, and in the answer to the output, all channels last.
    """
    found = {}
    wanted = activation_names(model.plan, inputs)
    # A requested layer runs as itself, in blocks too, as it does in `activations`.
    with _evaluating(model), _hooked(model, dict.fromkeys(wanted, lambda *_: None)):
        like = next(model.parameters())
        for name in wanted:
            # A copy: an activation may work in place.
            x = from_numpy(inputs[name]).to(like.device, like.dtype, copy=True)
            x = x.movedim(-1, 1) if x.ndim == 4 else x
            found[name] = _last(model.get_submodule(name)(x)).copy()
    return found


def parameter_count(model: ResNet) -> int:
    """Number of trainable scalars in the native model."""
    return sum(p.numel() for p in model.parameters())


def _last(x: torch.Tensor) -> np.ndarray:
    """As numpy, channels last."""
    return to_numpy(x.movedim(1, -1) if x.ndim == 4 else x)


def _input(model: ResNet, images: np.ndarray) -> torch.Tensor:
    like = next(model.parameters())
    return from_numpy(images).permute(0, 3, 1, 2).to(like.device, like.dtype)


@contextmanager
def _hooked(model: ResNet, hooks: Mapping[str, Callable[..., None]]) -> Iterator[None]:
    """Forward hooks on the modules at dotted paths, for the length of a block."""
    handles = [model.get_submodule(n).register_forward_hook(hook) for n, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: ResNet) -> Iterator[None]:
    """Evaluation mode for the length of a block; every module's own mode comes back after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


class _NoInit(TorchFunctionMode):
    """Leaves parameters uninitialised: `torch.nn.init` would draw values only to be replaced."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


globals().update(entry_points(create_model))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., ResNet]:
        """Every catalogue name is a function, such as `resnet50(num_classes=10)`."""


__all__ = [
    "FrameworkError",
    "ResNet",
    "Trainer",
    "activations",
    "compiled",
    "create_model",
    "dtype_name",
    "export_weights",
    "list_models",
    "load_weights",
    "parameter_count",
    "predict",
    "read_checkpoint",
    "run_parts",
    "save_weights",
]
