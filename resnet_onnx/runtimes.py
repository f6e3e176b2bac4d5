"""Programs that run ONNX models, and what they need for it."""

from __future__ import annotations

import importlib.util
import io
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from resnet_onnx.graph import CONSTANT
from shared_spec.errors import FrameworkError
from shared_spec.export_formats import IMAGES, in_batches

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
    start, dtypes = RUNTIMES[name]
    if dtype not in dtypes:
        raise FrameworkError(f"{name} does not compute in {dtype}; it does in {', '.join(dtypes)}")
    return start(model)


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

    evaluator = ReferenceEvaluator(model, new_ops=[Erf])
    return lambda feeds: list(evaluator.run(None, dict(feeds)))


def _openvino(model: ModelProto) -> Run:
    import openvino

    core = openvino.Core()
    read = core.read_model(io.BytesIO(model.SerializeToString()))
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        found = compiled(dict(feeds))
        return [np.array(found[port]) for port in compiled.outputs]

    return run


RUNTIMES: dict[str, tuple[Callable[[ModelProto], Run], tuple[str, ...]]] = {
    "onnxruntime": (_onnxruntime, ("float32", "float16")),
    # What is wider or narrower it would compute in float32, and not say so.
    "openvino": (_openvino, ("float32", "float16", "bfloat16")),
    "onnx:reference": (_reference, ("float64", "float32", "float16", "bfloat16")),
}
"""What starts each, and in which dtypes it runs nets."""


def run_file(path: Path, dtype: str, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What the model in a file gives, channels last, for the input that it takes of `images` and
    `pixels`, [N, H, W, C]; in float64, a model of narrower floats is widened.

    Raises:
        FrameworkError: if the runtime does not compute in `dtype`.
    """
    model = onnx.load(path)
    given_as = model.graph.output[0].type.tensor_type.elem_type
    if dtype == "float64" and given_as != TensorProto.DOUBLE:
        model = widened(model)
    (entry,) = model.graph.input
    array = given[entry.name]
    if entry.name == IMAGES:
        kind = helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
        array = np.ascontiguousarray(np.moveaxis(array, -1, 1).astype(kind))
    run = started(model, dtype)
    size = entry.type.tensor_type.shape.dim[0].dim_value or len(array)
    outputs = in_batches(lambda chunk: run({entry.name: chunk}), array, size)
    return [np.moveaxis(x, 1, -1) for x in outputs]


def widened(model: ModelProto) -> ModelProto:
    """A model of narrower floats in float64: weights as they are, and numbers as they were before
    they were rounded to go into the file.

    The name of a number in a file of ours has its exact value, and an attribute is taken for the
    shortest decimal that rounds to it: ONNX keeps attributes as float32, whatever the model.
    """
    wide = ModelProto()
    wide.CopyFrom(model)
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
    for tensor in wide.graph.initializer:
        if tensor.data_type in floats:
            array = _exact(tensor.name, numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    variances = {tensor.name: tensor for tensor in wide.graph.initializer}
    for node in wide.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in floats:
                attribute.i = TensorProto.DOUBLE
            if node.op_type == "BatchNormalization" and attribute.name == "epsilon":
                tensor = variances[node.input[4]]
                rest = float(str(np.float32(attribute.f))) - float(np.float32(attribute.f))
                array = numpy_helper.to_array(tensor) + rest
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type in floats:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del wide.graph.value_info[:]
    return wide


def _exact(name: str, array: np.ndarray) -> np.ndarray:
    """What an array of a file was before it was rounded, if its name says so."""
    if name.startswith(CONSTANT):
        text = name.removeprefix(CONSTANT).partition("/")[0]
        exact = np.array([float(x) for x in text.split("_")]).reshape(array.shape)
        if np.array_equal(exact.astype(array.dtype), array):
            return exact
    return array.astype(np.float64)
