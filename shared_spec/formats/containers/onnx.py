"""`.onnx`: a graph of operators with its arrays. The library parses the graph, one node at a time;
the data of arrays are passed over, and each is read on demand from the file, or from one beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from shared_spec.errors import WeightsError, framework_missing
from shared_spec.formats.containers.safetensors import read_at
from shared_spec.formats.containers.source import ARRAYS, Source, reading, shown
from shared_spec.weights.checkpoint import METADATA_KEY
from shared_spec.weights.lazy_array import LazyArray, LazyArrays

GRAPH = "graph"
"""Of a source's metadata: its `OnnxGraph`."""
OLDEST = 9
"""Version of the operators: before it a batch norm could be over something else than channels."""
_NODES = 50_000
"""ResNet-1202 has 6,000, and as many constants again."""
_LIMIT = 32 * 2**20
"""Bytes of a file that are no data of arrays."""
_FIELD = 128
"""Bytes that a field counts at least: to go through a million of them takes seconds."""
_RECORD = 2**18
"""Bytes of a record at most that is not an array's: of one that is all small fields, the library
makes objects of a hundred times as many.
"""
_TOLD = 2**22
"""Bytes at most of what a model tells of itself."""
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    16: np.dtype(ml_dtypes.bfloat16),
}
"""By the numbers that `TensorProto.DataType` gives them."""
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
"""Fields of onnx.proto whose data may be large."""
_GRAPH_NODE, _GRAPH_INFORMATION = 1, (10, 13, 14, 16)
_MODEL_INFORMATION = (6, 20)
"""Text and shapes that say nothing of what is computed, and how a model was trained."""
_TENSOR_NUMBERS = (4, 5, 10)
"""Floats, small integers, doubles: what arrays have that are not raw."""
_CONSTANT = (5, 5, _TENSOR_RAW_DATA)
"""From a node to the data of its array: its attribute, the tensor in that, the data."""
_OPERATORS = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxNode:
    """One call of an operator."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    """Tensors by name; empty where an optional one is left out."""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    """Numbers, text, tuples of them, and arrays."""

    def __str__(self) -> str:
        return f"node {shown(self.name or self.outputs[0])} ({shown(self.operator)[1:-1]})"


@dataclass(frozen=True)
class OnnxGraph:
    """What a model computes, its arrays apart."""

    nodes: tuple[OnnxNode, ...]
    input: str
    shape: tuple[int | None, ...]
    """Of the input; None where any size is taken."""
    dtype: np.dtype[Any]
    """Of the input."""
    outputs: tuple[str, ...]
    opset: int


def open_onnx(path: Path) -> Source:
    """Its graph, with names, shapes and dtypes of its arrays; each of these is read on demand.

    Raises:
        WeightsError: if the file is damaged, or no graph of plain operators from one input.
        FrameworkError: if onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise framework_missing("the reader of .onnx files", "ONNX (onnx)", "onnx") from None
    with reading(path, "ONNX file"):
        with path.open("rb") as file:
            small, calls, data = _without_data(file, path.stat().st_size)
        model = onnx.ModelProto.FromString(small)
        graph = model.graph
        _check(path, model, onnx.defs.onnx_opset_version())
        entries: dict[str, LazyArray] = {}
        for tensor, place in zip(graph.initializer, data, strict=True):
            if _text(tensor.name) in entries or not tensor.name:
                raise ValueError(f"holds two arrays of the name {shown(tensor.name)}")
            entries[tensor.name] = _entry(path, tensor, place)
        (version,) = (x.version for x in model.opset_import if x.domain in _OPERATORS)
        nodes = tuple(node_of(path, onnx.NodeProto.FromString(x), version) for x in calls)
        given = [value for value in graph.input if value.name not in entries]
        if len(given) != 1 or not graph.output:
            raise WeightsError(
                f"{path}: its graph has {len(given)} inputs and {len(graph.output)} outputs, "
                f"expected one of each"
            )
        _check_names(nodes, {*entries, given[0].name})
        kind = given[0].type.tensor_type
        if kind.elem_type not in _DTYPES:
            raise WeightsError(f"{path}: its input is of a type that no model here takes")
        shape = tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
        told = OnnxGraph(
            nodes,
            _text(given[0].name),
            shape,
            _DTYPES[kind.elem_type],
            tuple(_text(value.name) for value in graph.output),
            version,
        )
        ours = [_text(x.value) for x in model.metadata_props if x.key == METADATA_KEY]
    metadata: dict[str, Any] = {GRAPH: told} | ({METADATA_KEY: ours[0]} if ours else {})
    return Source(path, "onnx", LazyArrays(entries), metadata)


def _text(found: Any) -> str:
    """A name. The library gives bytes where a file has no text."""
    if not isinstance(found, str):
        raise ValueError("holds a name that is no text")
    return found


def _check(path: Path, model: Any, newest: int) -> None:
    """Raise a `WeightsError` for a model that is more than operators and arrays."""
    graph = model.graph
    versions = _versions(model)
    if len(versions) != 1 or not OLDEST <= versions[0] <= newest:
        raise WeightsError(
            f"{path}: is of the operators' version {shown(str(versions))[1:-1]}, expected one from "
            f"{OLDEST} to {newest}"
        )
    if len(model.functions):
        raise WeightsError(f"{path}: has functions of its own, which are not followed")
    if len(graph.sparse_initializer):
        raise WeightsError(f"{path}: has sparse arrays, which no model here has")


def _versions(model: Any) -> list[int]:
    """Of ONNX's own operators, as a model tells them."""
    return [x.version for x in model.opset_import if x.domain in _OPERATORS]


def _check_names(nodes: Iterable[OnnxNode], given: set[str]) -> None:
    """Raise a `ValueError` if a tensor is given twice: runtimes then do as they like."""
    for node in nodes:
        for name in filter(None, node.outputs):
            if name in given:
                raise ValueError(f"{node} gives {shown(name)}, which is given already")
            given.add(name)


@dataclass(frozen=True)
class _Operator:
    """What ONNX says of an operator."""

    inputs: tuple[int, float]
    """How many there are, at least and at most."""
    outputs: float
    attributes: Mapping[str, int]
    """Their types, by name."""
    required: frozenset[str]


@lru_cache(256)
def _operator(name: str, version: int) -> _Operator | None:
    import onnx

    try:
        found = onnx.defs.get_schema(name, version, "")
    except onnx.defs.SchemaError:
        return None
    if found.deprecated:
        return None
    attributes = {key: int(a.type.value) for key, a in found.attributes.items()}
    return _Operator(
        (found.min_input, found.max_input),
        found.max_output,
        attributes,
        frozenset(key for key, a in found.attributes.items() if a.required),
    )


def _check_node(path: Path, node: OnnxNode, types: Mapping[str, int], version: int) -> None:
    """Raise a `WeightsError` for a node that its operator does not allow. Runtimes do not run it,
    so that there is nothing which it computes.
    """
    told = _operator(node.operator, version)
    if told is None:
        raise WeightsError(f"{path}: {node} is of no operator that version {version} has")
    least, most = told.inputs
    if not least <= len(node.inputs) <= most or not all(node.inputs[:least]):
        raise WeightsError(f"{path}: {node} has {len(node.inputs)} inputs, which it does not take")
    if len(node.outputs) > told.outputs or not node.outputs[0]:
        raise WeightsError(f"{path}: {node} has outputs that it does not give")
    for name, kind in types.items():
        if told.attributes.get(name) != kind:
            raise WeightsError(
                f"{path}: {node} has {shown(name)}, which its operator does not have in version "
                f"{version}, or not of that type"
            )
    for name in sorted(told.required - types.keys()):
        raise WeightsError(f"{path}: {node} does not say its {name}")


def node_of(path: Path, node: Any, version: int) -> OnnxNode:
    """What a `NodeProto` says.

    Raises:
        WeightsError: beginning with `path`, if it is none that an operator of ONNX allows.
    """
    kind = _text(node.op_type)
    inputs, outputs = (tuple(map(_text, names)) for names in (node.input, node.output))
    found = OnnxNode(_text(node.name), kind, inputs, outputs, {})
    if not found.outputs:
        raise ValueError(f"{shown(kind)} gives nothing")
    if _text(node.domain) not in _OPERATORS:
        raise WeightsError(
            f"{path}: {found} is of the domain {shown(node.domain)}, expected ONNX's own operators"
        )
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        if _text(attribute.name) in attributes or attribute.ref_attr_name:
            raise ValueError(f"{found} has {shown(attribute.name)} twice, or from elsewhere")
        attributes[attribute.name] = _value(path, found, attribute)
    _check_node(path, found, {a.name: int(a.type) for a in node.attribute}, version)
    return OnnxNode(found.name, kind, found.inputs, found.outputs, attributes)


def _value(path: Path, node: OnnxNode, attribute: Any) -> Any:
    """What an attribute is, by the type that it states."""
    match attribute.type:
        case 1:
            return float(attribute.f)
        case 2:
            return int(attribute.i)
        case 3:
            return attribute.s.decode("utf-8")
        case 4:
            if attribute.t.data_location == attribute.t.EXTERNAL:
                raise WeightsError(f"{path}: {node} has numbers in another file")
            entry = _entry(path, attribute.t, None)
            if entry.problem:
                raise WeightsError(f"{path}: {node} has an array that {entry.problem}")
            return entry.array()
        case 6:
            return tuple(map(float, attribute.floats))
        case 7:
            return tuple(map(int, attribute.ints))
        case 8:
            return tuple(text.decode("utf-8") for text in attribute.strings)
    raise WeightsError(
        f"{path}: {node} has {shown(attribute.name)}, a graph or another thing that no ResNet has"
    )


_Place = tuple[int, int]
"""Where in a file the data of an array are: the first byte, and how many."""


def _entry(path: Path, tensor: Any, place: _Place | None) -> LazyArray:
    """An array, whose data are at a place in the file, in another, or in its own record."""
    if tensor.data_type not in _DTYPES:
        return LazyArray.refused(f"is of the data type {tensor.data_type}, which no model has")
    dtype, shape = _DTYPES[tensor.data_type], tuple(map(int, tensor.dims))
    if any(n < 0 for n in shape) or len(shape) > 8 or tensor.HasField("segment"):
        raise ValueError(f"{shown(tensor.name)} has no shape, or is a segment")
    size = math.prod(shape) * dtype.itemsize
    if tensor.data_location == tensor.EXTERNAL:
        beside, start, length = _beside(path, tensor)
        if length not in (None, size):
            raise ValueError(f"{shown(tensor.name)} does not have the length of its shape")
        if start + size > beside.stat().st_size:
            raise WeightsError(f"{path}: {beside.name} ends before the data of its arrays do")
        return LazyArray(shape, dtype, partial(read_at, beside, start, shape, dtype))
    if place is not None:
        if place[1] != size:
            raise ValueError(f"{shown(tensor.name)} does not have the length of its shape")
        return LazyArray(shape, dtype, partial(read_at, path, place[0], shape, dtype))
    return LazyArray.of(_inside(tensor, shape, dtype))


def _inside(tensor: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array in the record of a tensor."""
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, dtype).reshape(shape)
    if dtype == np.float32:
        return np.array(tensor.float_data, dtype).reshape(shape)
    if dtype == np.float64:
        return np.array(tensor.double_data, dtype).reshape(shape)
    if dtype == np.int64:
        return np.array(tensor.int64_data, dtype).reshape(shape)
    whole = np.array(tensor.int32_data, np.int32)
    if dtype.itemsize == 2:  # halves are kept by their bits
        return whole.astype(np.uint16).view(dtype).reshape(shape)
    return whole.astype(dtype).reshape(shape)


def _beside(path: Path, tensor: Any) -> tuple[Path, int, int | None]:
    """The file beside this one that holds an array, where in it, and of how many bytes.

    Raises:
        WeightsError: if it would lie elsewhere, or is a link.
    """
    told = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
    name = told.get("location", "")
    plain = bool(name) and name.isprintable() and Path(name).name == name and "\\" not in name
    beside = path.parent / (name if plain else "_")
    if not plain or beside.is_symlink():
        raise WeightsError(
            f"{path}: {shown(tensor.name)} is in {shown(name)}; expected the name of a file beside "
            f"it, and no link"
        )
    if not beside.is_file():
        raise WeightsError(
            f"{path}: {shown(tensor.name)} is in {shown(name)}, and there is no such file beside it"
        )
    start, length = told.get("offset", "0"), told.get("length")
    for text in (start, length or "0"):
        if not (text.isascii() and text.isdigit() and len(text) < 18):
            raise ValueError(f"{shown(tensor.name)} is at {shown(text)}, which is no place")
    return beside, int(start), None if length is None else int(length)


def _without_data(file: IO[bytes], size: int) -> tuple[bytes, list[bytes], list[_Place | None]]:
    """A model without its nodes and the data of its arrays; the nodes; and where the data are, both
    in their order.
    """
    budget = [_LIMIT]
    model, nodes, places = bytearray(), list[bytes](), list[_Place | None]()
    graphs = 0
    for field in _fields(file, size, _MODEL_GRAPH, budget):
        if field.number != _MODEL_GRAPH:
            if field.number not in _MODEL_INFORMATION:
                model += _copied(file, field, _TOLD)
            continue
        graphs += 1
        if graphs > 1:
            raise ValueError("holds two graphs")
        inside = bytearray()
        for part in _fields(file, field.end, _GRAPH_INITIALIZER, budget):
            if part.number == _GRAPH_INITIALIZER:
                tensor, place = _array(file, part.end, budget)
                inside += _field(_GRAPH_INITIALIZER, tensor)
                places.append(place)
            elif part.number == _GRAPH_NODE:
                large = part.length > _RECORD and _holds_an_array(file, part)
                nodes.append(_copied(file, part, _LIMIT if large else _RECORD, head=False))
            elif part.number not in _GRAPH_INFORMATION:
                inside += _copied(file, part)
            if len(places) > ARRAYS or len(nodes) > _NODES:
                raise ValueError("holds more nodes or arrays than any model")
        model += _field(_MODEL_GRAPH, inside)
    if not graphs:
        raise ValueError("holds no graph")
    return bytes(model), nodes, places


def _array(file: IO[bytes], end: int, budget: list[int]) -> tuple[bytes, _Place | None]:
    """The record of an array from where the file is to `end`, without its raw data; where these
    are.
    """
    record, place = bytearray(), None
    for field in _fields(file, end, _TENSOR_RAW_DATA, budget):
        if field.number != _TENSOR_RAW_DATA:
            record += _copied(file, field, _LIMIT if field.number in _TENSOR_NUMBERS else _RECORD)
        elif place is not None:
            raise ValueError("holds an array with two data")
        else:
            place = field.begin, field.length
    return bytes(record), place


def _holds_an_array(file: IO[bytes], node: _Field) -> bool:
    """Whether what makes a node large is the raw data of a constant."""
    for wanted in _CONSTANT:
        file.seek(node.begin)
        for field in _fields(file, node.end, 0, [_LIMIT]):
            if field.number == wanted and node.length - field.length <= _RECORD:
                node = field
                break
        else:
            return False
    return True


@dataclass(frozen=True)
class _Field:
    """Of a record."""

    number: int
    head: bytes
    """What stands before its data; empty for the one that may be large."""
    begin: int
    length: int

    @property
    def end(self) -> int:
        """Where in the file its data end."""
        return self.begin + self.length


def _fields(file: IO[bytes], end: int, large: int, budget: list[int]) -> Iterator[_Field]:
    """The fields of a record from where the file is to `end`, of which those of the number `large`
    are not counted against the budget of bytes.
    """
    while (at := file.tell()) < end:
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            length = _varint(file)
        elif wire == 0:
            _varint(file)
            length = 0
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("is no record of Protocol Buffers")
        begin = file.tell()
        if begin + length > end:
            raise ValueError("ends before its records do")
        head = b""
        if (number, wire) != (large, 2):
            file.seek(at)
            head = file.read(begin - at)
        budget[0] -= max(len(head) + (length if head else 0), _FIELD)
        if budget[0] < 0:
            raise ValueError(
                f"has more than {_LIMIT:,} bytes, or too many fields, beside the data of its arrays"
            )
        yield _Field(number, head, begin, length)
        file.seek(begin + length)


def _copied(file: IO[bytes], field: _Field, most: int = _RECORD, head: bool = True) -> bytes:
    """A field as it is, or its data alone."""
    if field.length > most:
        raise ValueError(f"has a record of {field.length:,} bytes, expected at most {most:,}")
    file.seek(field.begin)
    data = file.read(field.length)
    return field.head + data if head else data


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("is no record of Protocol Buffers")


def _field(number: int, data: bytes | bytearray) -> bytes:
    """A record with the number of its field before it."""
    head, length = bytearray((number << 3 | 2,)), len(data)
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes((*head, length)) + bytes(data)
