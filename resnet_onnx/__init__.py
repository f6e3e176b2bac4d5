"""ResNets as ONNX models. The verbs are those of `resnet_torch`, `resnet_keras`, `resnet_flax`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared_spec.errors import FrameworkError, framework_missing
from shared_spec.weights.preprocessing import Preprocessing

try:
    import onnx  # noqa: F401
except ImportError:
    raise framework_missing("resnet_onnx", "ONNX (onnx)", "onnx") from None

from resnet_onnx.calibration import limits_on
from resnet_onnx.file import in_memory, piece, skeleton, weights_of
from resnet_onnx.file import write as write_onnx
from resnet_onnx.model import ResNet
from resnet_onnx.openvino_ir import write_ir
from resnet_onnx.quantization import Limits
from resnet_onnx.runtimes import Run, runtime, started
from resnet_onnx.weights import WEIGHTS
from shared_spec.backend import Build, ModelVerbs, Outputs
from shared_spec.catalogue import list_models
from shared_spec.export_formats import IMAGES, Form
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import inference_form
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.folding import weight_entries
from shared_spec.weights.lazy_array import LazyArray, LazyArrays, entries_of
from shared_spec.weights.state import numpy_dtype


class Verbs(ModelVerbs[ResNet]):
    """What the verbs do with ONNX's runtimes."""

    weights = WEIGHTS

    def _build(self, spec: ResNetSpec, build: Build) -> ResNet:
        return ResNet(inference_form(compile_plan(spec), build.inference), spec, build.variables)

    def _compile(self, model: ResNet) -> Callable[[Any], Any]:
        run = _session(model, ())

        def call(images: np.ndarray) -> Any:
            found = run({IMAGES: images})
            return found if model.plan.outputs else found[0]

        return call

    def _outputs(self, model: ResNet, chunks: list[np.ndarray]) -> list[Any]:
        call = self._compile(model)
        return [_last(call(_first(model, chunk))) for chunk in chunks]

    def _recorded(self, model: ResNet, images: np.ndarray, names: list[str]) -> Outputs:
        found = _session(model, tuple(names))({IMAGES: _first(model, images)})
        return {name: _last(x) for name, x in zip(names, found, strict=True)}

    def _parts(self, model: ResNet, inputs: Mapping[str, np.ndarray]) -> Outputs:
        entries, outputs = entries_of(model.state), {}
        for name, x in inputs.items():
            bare, layers = piece(model.plan, name, model.dtype, x.ndim)
            whole = in_memory(bare, weights_of(layers, entries, model.dtype))
            run = started(whole, model.dtype)
            given = np.moveaxis(x, -1, 1).astype(numpy_dtype(model.dtype))
            outputs[name] = _last(run({"given": np.ascontiguousarray(given)})[0])
        return outputs

    def _onnx(self) -> Any:
        return sys.modules[__name__]

    def _sizes(self, model: ResNet) -> Iterator[int]:
        return (q.size for q in model.plan.parameters() if q.trainable)


def _session(model: ResNet, names: tuple[str, ...]) -> Run:
    """What runs a model, giving its results, or the outputs of layers and blocks."""
    key = runtime(), names
    if key not in model.sessions:
        bare = skeleton(model.plan, model.dtype, Form(), outputs=names)
        weights = weights_of(model.plan.layers(), entries_of(model.state), model.dtype)
        model.sessions[key] = started(in_memory(bare, weights), model.dtype)
    run: Run = model.sessions[key]
    return run


def _last(x: Any) -> Any:
    """An array, or each of a list, with its channels last."""
    if isinstance(x, list):
        return [_last(level) for level in x]
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def _first(model: ResNet, images: np.ndarray) -> np.ndarray:
    kind = np.float64 if model.dtype == "float64" else np.float32
    return np.ascontiguousarray(np.moveaxis(images, -1, 1).astype(kind))


def write_file(
    path: str | os.PathLike[str],
    p: Plan,
    entries: Mapping[str, LazyArray],
    dtype: str,
    form: Form,
    known: Checkpoint,
    limits: Limits | None = None,
) -> None:
    """Write a plan with its weights to an ONNX file, or, with the suffix `.xml`, to OpenVINO's.

    Raises:
        ResNetError: as `resnet_onnx.file.write`, whose arguments these are, or
            `resnet_onnx.openvino_ir.write_ir`.
    """
    if Path(path).suffix == ".xml":
        write_ir(path, p, entries, dtype, form, known)
    else:
        write_onnx(path, p, entries, dtype, form, known, limits)


def write_quantized(
    path: str | os.PathLike[str],
    p: Plan,
    state: Mapping[str, LazyArray],
    form: Form,
    known: Checkpoint,
    images: np.ndarray,
) -> None:
    """Write a plan with its weights to an ONNX file of int8.

    Args:
        path: the file.
        p: the plan, as it trains.
        state: its weights, of float32, by canonical name.
        form: what the graph takes and gives.
        known: spec, preprocessing and labels, which go into the file too.
        images: normalised, [N, H, W, C]; the magnitudes of tensors on them are the limits.

    Raises:
        ResNetError: as `resnet_onnx.file.write`, or if a tensor is not finite, or no runtime
            is installed.
    """
    folded = inference_form(p, True)
    entries = weight_entries(folded, LazyArrays(state), "float32")
    limits = limits_on(folded, entries, images)
    write_onnx(path, folded, entries, "float32", form, known, limits)


_VERBS = Verbs()

create_model = _VERBS.create_model
compiled = _VERBS.compiled
export = _VERBS.export
predict = _VERBS.predict
transforms = _VERBS.transforms
preprocess = _VERBS.preprocess
classify = _VERBS.classify
save_pretrained = _VERBS.save_pretrained
push_to_hub = _VERBS.push_to_hub
activations = _VERBS.activations
run_parts = _VERBS.run_parts
parameter_count = _VERBS.parameter_count
export_weights = WEIGHTS.export_weights
load_weights = WEIGHTS.load_weights
save_weights = WEIGHTS.save_weights
read_checkpoint = WEIGHTS.read_checkpoint
dtype_name = WEIGHTS.dtype_name

# Every catalogue name is a function, such as `resnet50(num_classes=10)`.
__getattr__: Callable[[str], Callable[..., ResNet]] = _VERBS.named_model


def __dir__() -> list[str]:
    return [*globals(), *list_models()]


__all__ = [
    "Form",
    "FrameworkError",
    "Preprocessing",
    "ResNet",
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
    "write_file",
    "write_quantized",
]
