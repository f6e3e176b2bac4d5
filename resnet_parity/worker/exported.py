"""Files that were exported, run by what they are for, and those of LiteRT as graphs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.numerics.alignment import SAME_VALUES, aligned, turned
from resnet_parity.numerics.structure import Call, Matching, matched, onnx_calls, weights_in
from resnet_parity.worker.session import Session, Written, one_line, writing
from resnet_parity.worker.user_model import not_seen
from shared_spec.errors import ResNetError, WeightsError
from shared_spec.export_formats import IMAGES, PIXELS, TOLD, in_batches
from shared_spec.formats.canonical_file import read_safetensors
from shared_spec.formats.containers.onnx import GRAPH, OnnxGraph, open_onnx
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.dataflow import nodes
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.lazy_array import LazyArray
from shared_spec.weights.state import State


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
        return [found[key].numpy() for key in _ordered(found)]

    return in_batches(run, array, entry.shape[0])


def _litert(path: Path, dtype: str, given: Arrays) -> list[np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()
    ((name, entry),) = runner.get_input_details().items()

    def run(chunk: np.ndarray) -> list[np.ndarray]:
        found = runner(**{name: chunk})
        return [np.array(found[key]) for key in _ordered(found)]

    return in_batches(run, given[name].astype(entry["dtype"]), int(entry["shape"][0]))


def _ordered(names: Iterable[str]) -> list[str]:
    """Names of a signature's results, in the order in which models return these: signatures keep
    none. `aux` comes last, and maps of features are numbered.
    """
    return sorted(names, key=lambda name: (name == "aux", name))


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


# LiteRT files as graphs: every tensor that one computes, and the weights of its operators.


class LiteGraph:
    """What a file computes from normalised images, without a delegate, which would fuse operators.

    Raises:
        WeightsError: if it is no such file, or takes something else.
    """

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        try:
            self._runner: Any = Interpreter(
                model_path=str(path),
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            self._runner.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise WeightsError(f"{path}: is no file that LiteRT runs ({one_line(error)})") from None
        entries = self._runner.get_input_details()
        if len(entries) != 1 or len(entries[0]["shape"]) != 4 or entries[0]["dtype"] != np.float32:
            told = [f"{x['dtype'].__name__} {x['shape'].tolist()}" for x in entries[:3]]
            raise WeightsError(
                f"{path}: takes {', '.join(told) or 'nothing'}; expected one input, normalised "
                f"images [N, H, W, C] of float32"
            )
        self._entry: int = int(entries[0]["index"])
        self.images = str(self._entry)
        """The tensor that enters; tensors are called by their numbers."""
        self.shape = [int(n) for n in entries[0]["shape"]]
        """Of the images."""
        self._operators: list[Any] = self._runner._get_ops_details()

    def calls(self) -> list[Call]:
        """Its operators. A mean before a product is a sum, the factor being in the weights."""
        computed = {i for x in self._operators for i in x["outputs"]} | {self._entry}
        found = []
        for operator in self._operators:
            inputs = [int(i) for i in operator["inputs"]]
            read = _READERS.get(operator["op_name"])
            given = [None if i < 0 or i in computed else self._constant(i) for i in inputs]
            own = {} if read is None else read(given)
            if "weight" in own and inputs[0] in self._sums:
                own["weight"] = _times(own["weight"], self._sums[inputs[0]])
            entering = tuple(str(i) for i in inputs if i in computed)
            found.append(Call(entering, tuple(str(i) for i in operator["outputs"]), own))
        return found

    @cached_property
    def _sums(self) -> dict[int, int]:
        """Sums over maps, and of how many pixels they are."""
        found = {}
        for operator in self._operators:
            if operator["op_name"] == "SUM":
                shape = self._runner.get_tensor(int(operator["inputs"][0])).shape
                found[int(operator["outputs"][0])] = math.prod(shape[1:3])
        return found

    def _constant(self, number: int) -> LazyArray | None:
        try:
            return LazyArray.of(self._runner.get_tensor(number))
        except ValueError:  # of a type, or place, that the library shows nobody
            return None

    def tensors_of(self, images: np.ndarray) -> tuple[State, list[np.ndarray]]:
        """Every tensor on images [N, H, W, C], by its number and in the order of computation; and
        its outputs, before a softmax. What has no images along its first axis is empty.
        """
        numbers = [int(i) for x in self._operators for i in x["outputs"]]
        ends = self._ends()
        size = self.shape[0]

        def run(chunk: np.ndarray) -> list[np.ndarray]:
            self._runner.set_tensor(self._entry, chunk.astype(np.float32))
            self._runner.invoke()
            found = [self._runner.get_tensor(i) for i in (*numbers, *ends)]
            return [x if x.shape[:1] == (size,) else np.zeros((size, 0)) for x in found]

        arrays = in_batches(run, images, size)
        whole = dict(zip(numbers, arrays, strict=False))
        # A sum is no layer's.
        layers = {str(i): x for i, x in whole.items() if i not in self._sums}
        return layers, arrays[len(numbers) :]

    def _ends(self) -> list[int]:
        """The outputs, in the order of their names if a signature has some."""
        if len(self._runner.get_signature_list()) == 1:
            named = self._runner.get_signature_runner().get_output_details()
            ends = [named[name] for name in _ordered(named)]
        else:
            ends = self._runner.get_output_details()
        softmax = {
            int(x["outputs"][0]): int(x["inputs"][0])
            for x in self._operators
            if x["op_name"] == "SOFTMAX"
        }
        return [softmax.get(int(x["index"]), int(x["index"])) for x in ends]


Given = Sequence[LazyArray | None]


def _times(entry: LazyArray, factor: int) -> LazyArray:
    return LazyArray(entry.shape, entry.dtype, lambda: entry.read() * np.float32(factor))


def _weighted(axes: tuple[int, ...]) -> Callable[[Given], dict[str, LazyArray]]:
    """Reads a kernel and a bias behind the first operand."""

    def read(given: Given) -> dict[str, LazyArray]:
        weight = given[1] if len(given) > 1 else None
        if weight is None or len(weight.shape) != len(axes):
            return {}
        bias = given[2] if len(given) > 2 else None
        return {"weight": weight.permuted(axes)} | ({} if bias is None else {"bias": bias})

    return read


def _per_channel(leaf: str) -> Callable[[Given], dict[str, LazyArray]]:
    def read(given: Given) -> dict[str, LazyArray]:
        own = [x for x in given if x is not None and x.shape[-1:] != (1,)]
        if len(own) != 1 or any(n != 1 for n in own[0].shape[:-1]) or not own[0].shape:
            return {}
        return {leaf: own[0].reshaped(own[0].shape[-1:])}

    return read


_READERS: dict[str, Callable[[Given], dict[str, LazyArray]]] = {
    "CONV_2D": _weighted((0, 3, 1, 2)),
    "DEPTHWISE_CONV_2D": _weighted((3, 0, 1, 2)),
    "FULLY_CONNECTED": _weighted((0, 1)),
    "ADD": _per_channel("bias"),
    "MUL": _per_channel("weight"),
}
