"""Programs that run ONNX models, and what they need for it."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from resnet_onnx.graph import CONSTANT
from shared_spec.errors import FrameworkError
from shared_spec.export_formats import IMAGES, in_batches
from shared_spec.weights.state import State

VARIABLE = "RESNET_ONNX_RUNTIME"
"""Of the environment: which runtime computes."""

Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]
"""Arrays for the inputs, by name, to the outputs in their order."""


def runtime() -> str:
    """The name of the runtime that computes: that in the environment, or the first installed.

    Raises:
        FrameworkError: if there is none.
    """
    named = os.environ.get(VARIABLE)
    if named is not None and named not in RUNTIMES:
        raise FrameworkError(f"{VARIABLE}: {named!r} is not one of {', '.join(RUNTIMES)}")
    if named is not None:
        return named
    for name in RUNTIMES:
        if importlib.util.find_spec(name.partition(":")[0]) is not None:
            return name
    raise FrameworkError("no ONNX runtime is installed; run: pip install 'resnet-parity[onnx]'")


def started(model: ModelProto, dtype: str, name: str | None = None) -> Run:
    """A model that computes in `dtype`, in a runtime.

    Raises:
        FrameworkError: if the runtime does not compute in it.
    """
    name = name or runtime()
    require_dtype(name, dtype)
    return RUNTIMES[name][0](model)


def runs(name: str, dtype: str) -> bool:
    """Whether a runtime computes in a dtype."""
    return dtype in RUNTIMES[name][1]


def require_dtype(name: str, dtype: str) -> None:
    """Raise a `FrameworkError` unless a runtime computes in a dtype."""
    if not runs(name, dtype):
        able = ", ".join(RUNTIMES[name][1])
        raise FrameworkError(f"{name} does not compute in {dtype}; it does in {able}")


def _onnxruntime(model: ModelProto) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    threads = os.environ.get("OMP_NUM_THREADS")
    options.intra_op_num_threads = int(threads) if threads else 0
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda feeds: session.run(None, dict(feeds))


def _reference(model: ModelProto) -> Run:
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class Erf(OpRun):  # type: ignore[misc]
        """The library's own gives float32, whatever it is given."""

        op_domain = ""

        def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
            values = np.fromiter(map(math.erf, x.ravel()), np.float64, x.size)
            return (values.reshape(x.shape).astype(x.dtype),)

    class BatchNormalization(OpRun):  # type: ignore[misc]
        """Before version 14, the library's own takes the batch into the statistics."""

        op_domain = ""

        def _run(
            self,
            x: np.ndarray,
            *arrays: np.ndarray,
            epsilon: float = 1e-5,
            **rest: Any,
        ) -> tuple[np.ndarray]:
            shape = (-1, *(1,) * (x.ndim - 2))
            scale, bias, mean, variance = (array.reshape(shape) for array in arrays)
            y = scale * (x - mean) / np.sqrt(variance + epsilon) + bias
            return (y.astype(x.dtype),)

    version = next(x.version for x in model.opset_import if not x.domain)
    own = [Erf, BatchNormalization] if version < 14 else [Erf]
    evaluator = ReferenceEvaluator(model, new_ops=own)
    return lambda feeds: list(evaluator.run(None, dict(feeds)))


def _openvino(model: ModelProto) -> Run:
    # Reading a model would tell its maker so, in a process forked from this one.
    blocked: Any = None
    sys.modules.setdefault("openvino_telemetry", blocked)
    import openvino

    core = openvino.Core()
    read = core.read_model(io.BytesIO(model.SerializeToString()))
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        found = compiled(dict(feeds))
        return [np.array(found[port]) for port in compiled.outputs]

    return run


RUNTIMES: dict[str, tuple[Callable[[ModelProto], Run], tuple[str, ...]]] = {
    "onnxruntime": (_onnxruntime, ("float32", "float16", "int8")),
    # What is wider or narrower it would compute in float32, and not say so.
    "openvino": (_openvino, ("float32", "float16", "bfloat16", "int8")),
    "onnx:reference": (_reference, ("float64", "float32", "float16", "bfloat16", "int8")),
}
"""What starts each, and in which dtypes it runs nets."""


def run_file(path: Path, dtype: str, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What the model in a file of ours gives, channels last, for the input that it takes of
    `images` and `pixels`, [N, H, W, C]; in float64, a model of narrower floats is widened.

    Raises:
        FrameworkError: if the runtime does not compute in `dtype`.
    """
    model = _opened(path, dtype)
    name = model.graph.input[0].name
    array = given[name]
    if name == IMAGES:
        array = np.moveaxis(array, -1, 1)
    return [np.moveaxis(x, 1, -1) for x in run_model(model, dtype, array)]


def run_model(
    model: ModelProto, dtype: str, array: np.ndarray, name: str | None = None
) -> list[np.ndarray]:
    """What a model of one input gives for images of any number, in the order of axes and as many
    at a time as it takes.

    Args:
        model: the model.
        dtype: in which it computes.
        array: for its input.
        name: of the runtime; as `runtime` says if there is none.

    Raises:
        FrameworkError: if the runtime does not compute in `dtype`.
    """
    own = {tensor.name for tensor in model.graph.initializer}
    (entry,) = (value for value in model.graph.input if value.name not in own)
    kind = helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
    array = np.ascontiguousarray(array.astype(kind))
    run = started(model, dtype, name)
    size = entry.type.tensor_type.shape.dim[0].dim_value
    return in_batches(lambda chunk: run({entry.name: chunk}), array, size)


def tensors_of(path: Path, dtype: str, images: np.ndarray) -> tuple[State, list[np.ndarray]]:
    """Every tensor that the model in a file computes on images [N, H, W, C], by its name there and
    in the order of computation; and its outputs, before a softmax. What has no images along its
    first axis is empty.

    Raises:
        FrameworkError: if the runtime does not compute in `dtype`, or the model does not take one
            array of images.
    """
    model = _opened(path, dtype)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in constants]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise FrameworkError(f"{path}: expected a model of one input, images")
    (entry,), ends = inputs, [output.name for output in model.graph.output]
    names = dict.fromkeys(name for node in model.graph.node for name in node.output if name)
    added = [helper.make_empty_tensor_value_info(name) for name in names if name not in ends]
    model.graph.output.extend(added)
    dims = entry.type.tensor_type.shape.dim
    last = dims[3].dim_value == images.shape[-1] and dims[1].dim_value != images.shape[-1]
    array = images if last else np.moveaxis(images, -1, 1)
    kind = helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
    run, size = started(model, dtype), dims[0].dim_value or len(images)

    def each(chunk: np.ndarray) -> list[np.ndarray]:
        found = run({entry.name: chunk})
        return [x if np.shape(x)[:1] == (size,) else np.zeros((size, 0)) for x in found]

    found = in_batches(each, np.ascontiguousarray(array.astype(kind)), size)
    outputs = dict(zip((output.name for output in model.graph.output), found, strict=True))
    softmax = {x.output[0]: x.input[0] for x in model.graph.node if x.op_type == "Softmax"}
    return {name: outputs[name] for name in names}, [outputs[softmax.get(x, x)] for x in ends]


def _opened(path: Path, dtype: str) -> ModelProto:
    model = onnx.load(path)
    # In files of float64, the variances have what is rounded off the epsilons already.
    wide = model.graph.output[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    return widened(model) if dtype == "float64" and not wide else model


def widened(model: ModelProto, ours: bool = True) -> ModelProto:
    """A model of narrower floats in float64: weights as they are, and numbers as they were before
    they were rounded to go into the file.

    An attribute for eps is taken for the shortest decimal that rounds to it: ONNX keeps attributes
    as float32, whatever the model.

    Args:
        model: the model, which stays as it is.
        ours: whether it was written here: the name of a number then has its exact value.
    """
    wide = ModelProto()
    wide.CopyFrom(model)
    # Of ours in float64, the variances have what rounding takes from an eps.
    exact = {x.name for x in wide.graph.initializer if ours and x.data_type == TensorProto.DOUBLE}
    for tensor in wide.graph.initializer:
        _widen(tensor, ours)
    variances = {tensor.name: tensor for tensor in wide.graph.initializer}
    for number, node in enumerate(wide.graph.node):
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = TensorProto.DOUBLE
            if attribute.HasField("t"):
                _widen(attribute.t, ours=False)
            if (
                node.op_type == "BatchNormalization"
                and attribute.name == "epsilon"
                and node.input[4] in variances
                and node.input[4] not in exact
            ):
                rest = float(str(np.float32(attribute.f))) - float(np.float32(attribute.f))
                array = numpy_helper.to_array(variances[node.input[4]]) + rest
                # Of its own: several norms may have one variance.
                name = f"{node.input[4]}/{number}"
                wide.graph.initializer.append(numpy_helper.from_array(array, name))
                node.input[4] = name
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del wide.graph.value_info[:]
    return wide


_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _widen(tensor: TensorProto, ours: bool) -> None:
    if tensor.data_type in _FLOATS:
        array = numpy_helper.to_array(tensor)
        wide = _exact(tensor.name, array) if ours else array.astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _exact(name: str, array: np.ndarray) -> np.ndarray:
    """What an array of a file was before it was rounded, if its name says so."""
    if name.startswith(CONSTANT):
        text = name.removeprefix(CONSTANT).partition("/")[0]
        exact = np.array([float(x) for x in text.split("_")]).reshape(array.shape)
        if np.array_equal(exact.astype(array.dtype), array):
            return exact
    return array.astype(np.float64)
