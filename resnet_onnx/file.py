"""ONNX files: a graph with its weights, written one array at a time."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    TensorProto,
    ValueInfoProto,
    defs,
    helper,
    numpy_helper,
    shape_inference,
)

from resnet_onnx.graph import HALVES, TYPES, Graph
from resnet_onnx.layers import build
from resnet_onnx.model import block, network, normalised
from resnet_onnx.quantization import Limits, quantize, quantized_weights, stored
from shared_spec import plan
from shared_spec.atomic_write import durable, early
from shared_spec.errors import SpecError
from shared_spec.export_formats import ANY_SIZE, IMAGES, PIXELS, Form, outer_dtype
from shared_spec.plan.layers import Layer, Parameter
from shared_spec.plan.network import Block, Plan
from shared_spec.plan.parameters import leaves, parameters_of
from shared_spec.plan.summary import block_rows, layer_rows
from shared_spec.weights.checkpoint import METADATA_KEY, Checkpoint
from shared_spec.weights.lazy_array import LazyArray, read_ahead
from shared_spec.weights.preprocessing import Preprocessing

OLDEST, USUAL = 17, 17
"""Versions of the operators: the oldest that is written, and the one that is unless another is
asked for."""
_FIRST = {"bfloat16": 22, "int8": 19}
"""The first versions whose convolutions are of bfloat16 too, and whose integers ONNX's own
reference computes."""
INLINE = 2**31 - 2**24
"""Bytes of weights that one file may have: Protocol Buffers end at 2 GiB."""
_SIDE = 224
"""Of images of any size, to count channels with."""


def version(form: Form, dtype: str) -> int:
    """Of the operators, for a graph of `dtype`.

    Raises:
        SpecError: if there is none, or the one that was asked for has no such convolutions.
    """
    newest, first = defs.onnx_opset_version(), _FIRST.get(dtype, USUAL)
    if form.opset is not None and not OLDEST <= form.opset <= newest:
        raise SpecError(f"opset: {form.opset} is not one of {OLDEST} to {newest}")
    if form.opset is not None and form.opset < first:
        raise SpecError(f"opset: {form.opset} has no {dtype}; give {first} or more")
    return form.opset or first


def skeleton(
    p: Plan,
    dtype: str,
    form: Form = ANY_SIZE,
    prepare: Preprocessing | None = None,
    outputs: Sequence[str] = (),
    limits: Limits | None = None,
) -> ModelProto:
    """A model without its weights: the names of these are the canonical ones. It gives the plan's
    results, or else `outputs`: those of layers and blocks, or tensors. With `limits`, the float
    graph is quantised.

    Raises:
        ResNetError: if the net has no such form.
    """
    opset, outside = version(form, dtype if limits is None else "int8"), outer_dtype(dtype)
    g = _begun(p, dtype, opset, form.normalisation(prepare))
    sides: tuple[int | str, ...] = form.size or ("height", "width")
    if form.preprocessing:
        given = _tensor(PIXELS, "uint8", form, (*sides, p.in_channels))
    else:
        given = _tensor(IMAGES, outside, form, (p.in_channels, *sides))
    if outputs:
        results = [
            helper.make_tensor_value_info(
                g.node("Identity", g.places.get(name, name), name=f"{name}/output"),
                TYPES[dtype],
                None,
            )
            for name in outputs
        ]
    else:
        results = [_tensor(name, outside, form, x) for name, x in _finish(g, p, form, dtype)]
    arrays = [(q.name, dtype, q.shape) for q in p.parameters()]
    if limits is not None:
        quantize(g, p, limits)
        arrays = [(x.name, x.dtype, x.shape) for *_, parts in stored(p) for x in parts]
    model = _model(g, given, results)
    # Of weights, inference needs no values.
    kinds = [TensorProto(name=n, data_type=TYPES[kind], dims=shape) for n, kind, shape in arrays]
    count = len(model.graph.initializer)
    model.graph.initializer.extend(kinds)
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    model.graph.value_info.extend(sorted(inferred.graph.value_info, key=lambda info: info.name))
    del model.graph.initializer[count:]
    return model


def graph_of(
    p: Plan, dtype: str, form: Form, prepare: Preprocessing | None
) -> tuple[Graph, list[str]]:
    """What `write` makes of a plan, its arrays and shapes apart: the graph, and its outputs.

    Raises:
        ResNetError: if the net has no such form.
    """
    g = _begun(p, dtype, version(form, dtype), form.normalisation(prepare))
    return g, [name for name, _ in _finish(g, p, form, dtype)]


def _begun(p: Plan, dtype: str, opset: int, steps: Preprocessing | None) -> Graph:
    """The nodes of a net, with those before it that normalise pixels."""
    g = Graph(dtype, opset)
    if steps is not None:
        normalised(g, steps, PIXELS)
    network(g, p, g.cast(IMAGES, dtype, f"{IMAGES}/{dtype}") if dtype in HALVES else IMAGES)
    return g


def piece(p: Plan, name: str, dtype: str, rank: int) -> tuple[ModelProto, list[Layer]]:
    """A model of one layer or block, without its weights, and its layers. It takes `given`,
    [N, C, H, W] or [N, C], and gives `found`.
    """
    g = Graph(dtype, version(ANY_SIZE, dtype))
    parts: Iterable[Block | Layer] = (*p.layers(), *p.blocks())
    part = next(x for x in parts if x.name == name)
    if isinstance(part, Block):
        g.rename(block(g, part, "given"), "found")
        layers = [*part.layers()]
    else:
        g.rename(build(g, part, "given"), "found")
        layers = [part]
    if not g.nodes:
        g.node("Identity", "given", name="found")
    kind, shape = TYPES[dtype], [None] * rank
    ends = [helper.make_tensor_value_info(end, kind, shape) for end in ("given", "found")]
    return _model(g, ends[0], ends[1:]), layers


def _model(g: Graph, given: ValueInfoProto, results: list[ValueInfoProto]) -> ModelProto:
    constants = [numpy_helper.from_array(a, name) for name, a in sorted(g.constants.items())]
    version = helper.make_opsetid("", g.opset)
    return helper.make_model(
        helper.make_graph(g.nodes, "resnet", [given], results, constants),
        opset_imports=[version],
        ir_version=helper.find_min_ir_version_for([version]),
        producer_name="resnet-parity",
    )


def _tensor(name: str, dtype: str, form: Form, shape: tuple[int | str, ...]) -> ValueInfoProto:
    kind = TensorProto.UINT8 if dtype == "uint8" else TYPES[dtype]
    return helper.make_tensor_value_info(name, kind, [form.batch or "batch", *shape])


def _finish(
    g: Graph, p: Plan, form: Form, dtype: str
) -> Iterator[tuple[str, tuple[int | str, ...]]]:
    """The outputs, and the shape of one image's."""
    size = form.size or (_SIDE, _SIDE)
    shapes = {row.name: row.shape for row in (*layer_rows(p, size), *block_rows(p, size))}
    form.check(p)
    for name, place in p.results().items():
        x = g.places[place]
        if form.head == "softmax":
            x, name = g.node("Softmax", x, name=f"{place}/softmax", axis=-1), "probabilities"
        if dtype in HALVES:
            x = g.cast(x, "float32", f"{place}/float32")
        g.rename(x, name)
        *side, channels = shapes[place]
        if side and form.size is None:
            yield name, (channels, f"{name}_height", f"{name}_width")
        else:
            yield name, (channels, *side)


def write(
    path: str | os.PathLike[str],
    p: Plan,
    entries: Mapping[str, LazyArray],
    dtype: str,
    form: Form,
    known: Checkpoint,
    limits: Limits | None = None,
) -> None:
    """Write a net with its weights durably. Two writings of the same are equal, byte by byte.

    Where the weights are more than one file of Protocol Buffers can hold, they go into another
    beside it.

    Args:
        path: the file.
        p: the plan.
        entries: its weights, of `dtype`, by canonical name.
        dtype: of weights and computation.
        form: what the graph takes and gives.
        known: spec, preprocessing and labels, which go into the file too.
        limits: with them the net, of float32, is quantised: see `resnet_onnx.quantization`.

    Raises:
        ResNetError: if the net has no such form, or the file cannot be written.
    """
    model = skeleton(p, dtype, form, known.preprocessing, limits=limits)
    told = form.told(known, dtype if limits is None else "int8")
    helper.set_model_props(model, {METADATA_KEY: told})
    if limits is None:
        weights = weights_of(p.layers(), entries, dtype)
    else:
        weights = [Weight(n, x) for n, x in quantized_weights(p, entries, limits).items()]
    target = Path(path).resolve()
    with durable(target) as draft:
        if sum(weight.entry.nbytes for weight in weights) <= INLINE:
            beside = None
            with draft.open("wb") as file:
                save(file, model, weights)
        else:
            beside = _save_beside(target, draft, model, weights)
    _remove_others(target, beside)


@dataclass(frozen=True)
class Weight:
    """An array that goes into a file."""

    name: str
    entry: LazyArray

    def record(self) -> TensorProto:
        """Its name, dtype and shape."""
        kind = TYPES[self.entry.dtype.name]
        return TensorProto(name=self.name, data_type=kind, dims=list(self.entry.shape))


def weights_of(
    layers: Iterable[Layer], entries: Mapping[str, LazyArray], dtype: str
) -> list[Weight]:
    """The arrays of layers as a graph has them.

    ONNX keeps a norm's epsilon as float32. In float64, what that rounds off goes into the variance,
    so that their sum is the spec's.
    """
    found = []
    for layer in (leaf for one in layers for leaf in leaves(one)):
        for q in parameters_of(layer):
            rest = _rest(layer, q, dtype)
            found.append(Weight(q.name, _shifted(entries[q.name], rest)))
    return found


def arrays_of(
    layers: Iterable[Layer], entries: Mapping[str, LazyArray], dtype: str
) -> dict[str, LazyArray]:
    """The arrays of layers from those that `weights_of` puts into a graph."""
    return {
        q.name: _shifted(entries[q.name], -_rest(layer, q, dtype))
        for one in layers
        for layer in leaves(one)
        for q in parameters_of(layer)
    }


def _rest(layer: Layer, q: Parameter, dtype: str) -> float:
    """What goes into an array of a graph beside the plan's."""
    if isinstance(layer, plan.BatchNorm) and (q.role, dtype) == ("norm_var", "float64"):
        return layer.eps - float(np.float32(layer.eps))
    return 0.0


def _shifted(entry: LazyArray, amount: float) -> LazyArray:
    """An array, to which `amount` is added when it is read."""
    if not amount:
        return entry

    def read() -> np.ndarray:
        shifted: np.ndarray = entry.read() + amount
        return shifted

    return replace(entry, read=read)


def in_memory(model: ModelProto, weights: Iterable[Weight]) -> ModelProto:
    """A model with the weights that it lacks."""
    whole = ModelProto()
    whole.CopyFrom(model)
    for weight in weights:
        record = weight.record()
        record.raw_data = _bytes(weight.entry.array()).tobytes()
        whole.graph.initializer.append(record)
    return whole


def save(file: BinaryIO, model: ModelProto, weights: Sequence[Weight]) -> None:
    """Write a model, with weights that it lacks, one at a time.

    The record of the weights in a file is that of Protocol Buffers: a tag, a length, and so many
    bytes.
    """
    around, graph = ModelProto(), model.graph.SerializeToString(deterministic=True)
    around.CopyFrom(model)
    around.ClearField("graph")
    heads = []
    for weight in weights:
        data = _RAW_DATA + _varint(weight.entry.nbytes)
        record = weight.record().SerializeToString(deterministic=True) + data
        heads.append(_INITIALIZER + _varint(len(record) + weight.entry.nbytes) + record)
    inside = len(graph) + sum(map(len, heads)) + sum(weight.entry.nbytes for weight in weights)
    file.write(around.SerializeToString(deterministic=True))
    file.write(_GRAPH + _varint(inside) + graph)
    with early(file.fileno()) as written:
        for head, array in zip(heads, read_ahead(x.entry for x in weights), strict=True):
            file.write(head)
            file.write(_bytes(array))
            written(file.tell())


def _field(number: int) -> bytes:
    """The tag of a field whose value has a length."""
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


_GRAPH = _field(ModelProto.DESCRIPTOR.fields_by_name["graph"].number)
_INITIALIZER = _field(GraphProto.DESCRIPTOR.fields_by_name["initializer"].number)
_RAW_DATA = _field(TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number)


def _bytes(array: np.ndarray) -> memoryview:
    little: Any = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return memoryview(little.reshape(-1).view(np.uint8))


def _save_beside(path: Path, draft: Path, model: ModelProto, weights: Sequence[Weight]) -> Path:
    """Write a model to `draft`, and its weights to a file beside `path`, which has their digest in
    its name: a model that is there already keeps its own until the new one is in its place.
    """
    sha = hashlib.sha256()
    for array in read_ahead(weight.entry for weight in weights):
        sha.update(_bytes(array))
    beside = path.with_name(f"{path.name}.{sha.hexdigest()[:12]}.data")
    offset = 0
    for weight in weights:
        record = weight.record()
        where = {"location": beside.name, "offset": offset, "length": weight.entry.nbytes}
        record.data_location = TensorProto.EXTERNAL
        for key, value in where.items():
            record.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(record)
        offset += weight.entry.nbytes
    with durable(beside) as scratch, scratch.open("wb") as file, early(file.fileno()) as written:
        for array in read_ahead(weight.entry for weight in weights):
            file.write(_bytes(array))
            written(file.tell())
    draft.write_bytes(model.SerializeToString(deterministic=True))
    return beside


def _remove_others(path: Path, kept: Path | None) -> None:
    """Remove what models that were at `path` before had beside them."""
    pattern = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{12}}\.data")
    for other in path.parent.iterdir():
        if pattern.fullmatch(other.name) and other != kept:
            other.unlink(missing_ok=True)
