"""ResNets as native PyTorch modules. The verbs are those of `resnet_keras` and `resnet_flax`."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from shared_spec.errors import FrameworkError, framework_missing
from shared_spec.weights.preprocessing import Preprocessing

try:
    import torch
except ImportError:
    raise framework_missing("resnet_torch", "PyTorch (torch)", "torch") from None

from torch.overrides import TorchFunctionMode

from resnet_torch.exporting import write_pt2
from resnet_torch.model import ResNet
from resnet_torch.training import Trainer
from resnet_torch.weights import WEIGHTS, from_numpy, on_meta, to_numpy
from resnet_torch.wrappers import of_bare, of_planned
from shared_spec.backend import Build, ModelVerbs, Outputs
from shared_spec.catalogue import list_models
from shared_spec.export_formats import Form
from shared_spec.kernels.torch_compile import frozen
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import inference_form
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.state import State


class Verbs(ModelVerbs[ResNet]):
    """What the verbs do in PyTorch."""

    weights = WEIGHTS
    exporters = MappingProxyType({"pt2": write_pt2})

    def _build(self, spec: ResNetSpec, build: Build) -> ResNet:
        with _NoInit():
            net = ResNet(inference_form(compile_plan(spec), build.inference), spec)
            net.to(getattr(torch, build.variables))
        if build.inference:
            # Vector units take a pixel's channels at once. torch's stubs know no memory_format
            # alone.
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            net.eval().requires_grad_(False)
        return net

    def _variable_dtype(self, dtype: Any, native: Mapping[str, Any]) -> str:
        kind = torch.get_default_dtype() if dtype is None else dtype
        return str(kind).removeprefix("torch.") if isinstance(kind, torch.dtype) else kind

    def _fresh(self, model: ResNet, build: Build) -> ResNet:
        # In the device context "meta", arrays have no values.
        return model if on_meta(model) else super()._fresh(model, build)

    def _fill(self, model: ResNet, state: State) -> ResNet:
        if model.plan.trained is not None:
            return super()._fill(model, state)
        # Assigned, not copied. The missing keys are batch counters.
        device = next(model.parameters()).device
        tensors = {name: from_numpy(array).to(device) for name, array in state.items()}
        model.load_state_dict(tensors, strict=False, assign=True)
        return model

    def _compile(self, model: ResNet) -> Callable[[torch.Tensor], Any]:
        own = copy.deepcopy(model).eval().requires_grad_(False)
        return frozen(lambda images: own(images), dtype_name(own), fullgraph=True)

    def _outputs(self, model: ResNet, chunks: list[np.ndarray]) -> list[Any]:
        with _evaluating(model):
            return [_last(model(_input(model, chunk))) for chunk in chunks]

    def _recorded(self, model: ResNet, images: np.ndarray, names: list[str]) -> Outputs:
        outputs: Outputs = {}
        places = Counter(map(id, (m for _, m in model.named_modules(remove_duplicate=False))))
        for name in names:
            if places[id(model.get_submodule(name))] > 1:
                raise FrameworkError(
                    f"activations: {name} is one module with others in this model, which runs it "
                    f"in each of their places; hook it, or give each place its own"
                )

        def record(name: str, module: torch.nn.Module, args: object, output: torch.Tensor) -> None:
            # Copied at once: the activation after it may work in place.
            outputs[name] = _last(output).copy()

        with _evaluating(model), _hooked(model, {name: partial(record, name) for name in names}):
            model(_input(model, images))
        return outputs

    def _parts(self, model: ResNet, inputs: Mapping[str, np.ndarray]) -> Outputs:
        outputs = {}
        # A requested layer runs as itself, in blocks too, as it does in `activations`.
        with _evaluating(model), _hooked(model, dict.fromkeys(inputs, lambda *_: None)):
            like = next(model.parameters())
            for name, array in inputs.items():
                # A copy: an activation may work in place.
                x = from_numpy(array).to(like.device, like.dtype, copy=True)
                x = x.movedim(-1, 1) if x.ndim == 4 else x
                outputs[name] = _last(model.get_submodule(name)(x)).copy()
        return outputs

    def _onnx(self) -> Any:
        import resnet_onnx

        return resnet_onnx

    def _sizes(self, model: ResNet) -> Iterator[int]:
        return (p.numel() for p in model.parameters())


def _last(x: Any) -> Any:
    """A tensor, or each of a list, as numpy, channels last."""
    if isinstance(x, list):
        return [_last(level) for level in x]
    return to_numpy(x.movedim(1, -1) if x.ndim == 4 else x)


def _input(model: ResNet, images: np.ndarray) -> torch.Tensor:
    like = next(model.parameters())
    return from_numpy(images).permute(0, 3, 1, 2).to(like.device, like.dtype)


@contextmanager
def _hooked(model: ResNet, hooks: Mapping[str, Callable[..., None]]) -> Iterator[None]:
    """Forward hooks on the modules at dotted paths, for the length of a block."""
    with ExitStack() as handles:
        for name, hook in hooks.items():
            handles.enter_context(model.get_submodule(name).register_forward_hook(hook))
        yield


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


_VERBS = Verbs()

create_model = _VERBS.create_model
compiled = of_bare(_VERBS.compiled)
predict = of_planned(_VERBS.predict)
transforms = of_bare(_VERBS.transforms)
preprocess = of_bare(_VERBS.preprocess)
classify = of_planned(_VERBS.classify)
save_pretrained = of_bare(_VERBS.save_pretrained)
push_to_hub = of_bare(_VERBS.push_to_hub)
activations = of_bare(_VERBS.activations)
export = of_bare(_VERBS.export)
run_parts = of_bare(_VERBS.run_parts)
parameter_count = of_bare(_VERBS.parameter_count)
export_weights = of_bare(WEIGHTS.export_weights)
load_weights = of_bare(WEIGHTS.load_weights)
save_weights = of_bare(WEIGHTS.save_weights)
read_checkpoint = WEIGHTS.read_checkpoint
dtype_name = of_bare(WEIGHTS.dtype_name)

# Every catalogue name is a function, such as `resnet50(num_classes=10)`.
__getattr__: Callable[[str], Callable[..., ResNet]] = _VERBS.named_model


def __dir__() -> list[str]:
    return [*globals(), *list_models()]


__all__ = [
    "Form",
    "FrameworkError",
    "Preprocessing",
    "ResNet",
    "Trainer",
    "activations",
    "classify",
    "compiled",
    "create_model",
    "dtype_name",
    "export",
    "export_weights",
    "list_models",
    "load_weights",
    "parameter_count",
    "predict",
    "preprocess",
    "push_to_hub",
    "read_checkpoint",
    "run_parts",
    "save_pretrained",
    "save_weights",
    "transforms",
]
