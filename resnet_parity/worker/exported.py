"""Files that were exported, run by what they are for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.numerics.alignment import SAME_VALUES, aligned, turned
from resnet_parity.numerics.structure import Matching, matched, onnx_calls, weights_in
from resnet_parity.worker.lite_graph import LiteGraph
from resnet_parity.worker.session import Session, Written, writing
from resnet_parity.worker.user_model import not_seen
from shared_spec.errors import ResNetError, WeightsError
from shared_spec.export_formats import IMAGES, PIXELS, TOLD, in_batches
from shared_spec.formats.canonical_file import read_safetensors
from shared_spec.formats.containers.onnx import GRAPH, OnnxGraph, open_onnx
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.dataflow import nodes
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec


@writing
def run_exported(session: Session, source: str, dtypes: list[str], images: str) -> Written:
    """What a file makes of images, `<dtype>/<output>`. In the file `images` are also the `pixels`
    that they were, for one that normalises by itself.
    """
    path = Path(source)
    run = _RUN.get("" if path.is_dir() else path.suffix)
    if run is None:
        raise ResNetError(f"{source}: not a file that was exported")
    given = read_safetensors(images).state
    found: dict[str, np.ndarray] = {}
    for dtype in dtypes:
        outputs = run(path, dtype, dict(given))
        found |= {f"{dtype}/{i:05}": np.ascontiguousarray(x) for i, x in enumerate(outputs)}
    return {}, found


Arrays = Mapping[str, np.ndarray]


def calibrate(session: Session, source: str, images: str) -> dict[str, float]:
    """The largest magnitude of each output of an ONNX file on a file of `images`."""
    import onnx

    from resnet_onnx.calibration import largest

    return largest(onnx.load(source), read_safetensors(images).state["images"])


@writing
def trace_file(
    session: Session,
    source: str,
    spec: dict[str, Any],
    weights: str,
    dtype: str,
    images: str,
    reference: str,
) -> Written:
    """As the operation `trace_model`, of a file that was exported: `output/<name>` of layers and
    blocks that one of its tensors stands for, and `result/<name>`.
    """
    p, path = compile_plan(ResNetSpec.parse(spec)), Path(source)
    batch = read_safetensors(images).state["images"]
    known = read_safetensors(reference).state
    found = nodes(p)
    wanted = {part.name: known[f"output/{part.name}"] for part in found}
    if path.suffix == ".tflite":
        graph = LiteGraph(path)
        structure = matched(p, graph.images, graph.calls())
        tensors, ends = graph.tensors_of(batch)
    else:
        from resnet_onnx.runtimes import tensors_of

        structure = _structure(p, path)
        tensors, ends = tensors_of(path, dtype, batch)
    layers = aligned(found, wanted, tensors, SAME_VALUES[dtype], structure)
    arrays = {f"output/{name}": np.ascontiguousarray(x) for name, x in layers.items()}
    if len(ends) == len(p.results()):
        for (key, name), end in zip(p.results().items(), ends, strict=True):
            arrays[f"result/{key}"] = np.ascontiguousarray(turned(end, wanted[name]))
    unseen = [part.name for part in found if part.name not in layers]
    notes = not_seen(unseen, len(found), "tensor of their own in the file")
    return {"broken": {}, "notes": notes}, arrays


def _structure(p: Plan, path: Path) -> Matching:
    """Of an ONNX file; an empty one if its graph has more than plain operators."""
    try:
        source = open_onnx(path)
    except WeightsError:
        return Matching()
    graph: OnnxGraph = source.metadata[GRAPH]
    return matched(p, graph.input, onnx_calls(graph, source.tensors))


@writing
def lite_graph(session: Session, source: str, spec: dict[str, Any]) -> Written:
    """The shape that a LiteRT file takes; and those of a net's weights that its constants are."""
    p, graph = compile_plan(ResNetSpec.parse(spec)), LiteGraph(Path(source))
    found, absent = weights_in(p, matched(p, graph.images, graph.calls()).arrays)
    return {"shape": graph.shape, "absent": absent}, found


def _onnx(path: Path, dtype: str, given: Arrays) -> list[np.ndarray]:
    from resnet_onnx.runtimes import run_file

    return run_file(path, dtype, given)


def _openvino(path: Path, dtype: str, given: Arrays) -> list[np.ndarray]:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    entry = compiled.inputs[0]
    name, batch = entry.get_any_name(), entry.partial_shape[0]
    array = _first(given[name].astype(entry.element_type.to_dtype()), name)

    def run(chunk: np.ndarray) -> list[np.ndarray]:
        found = compiled({name: chunk})
        return [np.array(found[port]) for port in compiled.outputs]

    return _last(in_batches(run, array, batch.get_length() if batch.is_static else None))


def _torch(path: Path, dtype: str, given: Arrays) -> list[np.ndarray]:
    import torch

    extra = {TOLD: ""}
    module = torch.export.load(path, extra_files=extra).module()
    form = json.loads(extra[TOLD])["graph"]
    name = PIXELS if form["preprocessing"] else IMAGES
    kind = np.float64 if dtype == "float64" else np.float32
    array = given[name] if name == PIXELS else given[name].astype(kind)

    def run(chunk: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            y = module(torch.from_numpy(chunk))
        return [level.numpy() for level in (y if isinstance(y, list) else [y])]

    return _last(in_batches(run, _first(array, name), form["batch"]))


def _jax(path: Path, dtype: str, given: Arrays) -> list[np.ndarray]:
    import jax
    from jax import export

    program = export.deserialize(bytearray(path.read_bytes()))
    (entry,) = program.in_avals
    array = given[PIXELS if entry.dtype == np.uint8 else IMAGES].astype(entry.dtype)

    def run(chunk: np.ndarray) -> list[np.ndarray]:
        y = program.call(chunk)  # type: ignore[no-untyped-call]
        return [np.asarray(level) for level in jax.tree.leaves(y)]

    return in_batches(run, array, entry.shape[0] if isinstance(entry.shape[0], int) else None)


def _tensorflow(path: Path, dtype: str, given: Arrays) -> list[np.ndarray]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    ((name, entry),) = signature.structured_input_signature[1].items()
    array = given[name].astype(entry.dtype.as_numpy_dtype)

    def run(chunk: np.ndarray) -> list[np.ndarray]:
        found = signature(**{name: tf.constant(chunk)})
        return [found[key].numpy() for key in sorted(found)]

    return in_batches(run, array, entry.shape[0])


def _litert(path: Path, dtype: str, given: Arrays) -> list[np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()
    ((name, entry),) = runner.get_input_details().items()

    def run(chunk: np.ndarray) -> list[np.ndarray]:
        found = runner(**{name: chunk})
        return [np.array(found[key]) for key in sorted(found)]

    return in_batches(run, given[name].astype(entry["dtype"]), int(entry["shape"][0]))


def _first(array: np.ndarray, name: str) -> np.ndarray:
    """Images with their channels first; pixels as they are."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1) if name == IMAGES else array)


def _last(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [np.moveaxis(x, 1, -1) for x in arrays]


_RUN: dict[str, Callable[[Path, str, Arrays], list[np.ndarray]]] = {
    ".onnx": _onnx,
    ".xml": _openvino,
    ".pt2": _torch,
    ".stablehlo": _jax,
    ".tflite": _litert,
    "": _tensorflow,
}
"""What runs each, by its suffix; a folder has none. Names of several outputs (`features0`, ...)
sort in their order, as there are at most five.
"""
