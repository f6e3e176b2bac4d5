"""Hostile ONNX files: attacks by name, and small files that ask for a lot."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, ModelProto, TensorProto, helper

import resnet_onnx
from tests.hardening.attack.cases import Case, text
from tests.hardening.attack.samples import TINY, checkpoint

Change = Callable[[ModelProto], object]
"""Spoils a model that is sound."""
_FIRST = "conv1.weight"
_UNREADABLE = "not a readable ONNX file"
_OUTSIDE = "expected the name of a file beside it, and no link"
_LENGTH = "does not have the length of its shape"


@cache
def _sound() -> bytes:
    from shared_spec.atomic_write import workspace

    model = resnet_onnx.create_model(TINY, weights=checkpoint(TINY).state)
    with workspace() as folder:
        resnet_onnx.export(model, folder / "a.onnx")
        return (folder / "a.onnx").read_bytes()


def _model(change: Change) -> Callable[[Path], str]:
    """A maker of a small net's file, changed."""

    def make(folder: Path) -> str:
        model = ModelProto.FromString(_sound())
        change(model)
        (folder / "a.onnx").write_bytes(model.SerializeToString())
        return "a.onnx"

    return make


def _array(model: ModelProto, name: str = _FIRST) -> TensorProto:
    (found,) = (x for x in model.graph.initializer if x.name == name)
    return found


def _of_array(change: Callable[[TensorProto], object]) -> Callable[[Path], str]:
    return _model(lambda model: change(_array(model)))


def _shape(*dims: int) -> Callable[[Path], str]:
    def change(array: TensorProto) -> None:
        array.dims[:] = dims

    return _of_array(change)


def _external(location: str, **more: str) -> Change:
    def change(model: ModelProto) -> None:
        array = _array(model)
        array.ClearField("raw_data")
        array.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            array.external_data.add(key=key, value=value)

    return change


def _beside(prepare: Callable[[Path], object], location: str = "a.data", **more: str) -> Any:
    """A maker of a file whose first array lies in another, which `prepare` puts into the folder."""

    def make(folder: Path) -> str:
        prepare(folder)
        return _model(_external(location, **more))(folder)

    return make


def _sized(name: str, size: int) -> Callable[[Path], object]:
    def prepare(folder: Path) -> None:
        (folder / name).touch()
        os.truncate(folder / name, size)

    return prepare


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Change:
    """Puts a call in front of the others."""

    def change(model: ModelProto) -> None:
        node = helper.make_node(operator, inputs, [output], **attributes)
        model.graph.node.insert(0, node)

    return change


def _between(*nodes: onnx.NodeProto, last: str) -> Change:
    """Puts calls between the images and what takes them."""

    def change(model: ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = [last if name == "images" else name for name in node.input]
        rest = [*model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *rest])

    return change


def _computed(*steps: tuple[str, list[str], dict[str, Any]]) -> Change:
    """Adds to the images a number that calls in a row give, the last input of each being the one
    before.
    """
    nodes, last = [], ""
    for i, (operator, inputs, attributes) in enumerate(steps):
        given = [*inputs, last] if last else inputs
        nodes.append(helper.make_node(operator, given, [f"step{i}"], **attributes))
        last = f"step{i}"
    return _between(*nodes, helper.make_node("Add", ["images", last], ["more"]), last="more")


def _constant(dims: list[int], data: list[int], kind: int = TensorProto.INT64) -> dict[str, Any]:
    return {"value": helper.make_tensor("value", kind, dims, data)}


_INNER = helper.make_graph([], "inner", [], [])


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _written(graph: bytes, *more: bytes) -> Callable[[Path], str]:
    """A maker of a file of this graph, field by field, as libraries refuse to write it."""
    return text("a.onnx", b"\x08\x08" + _field(7, graph) + b"\x42\x02\x10\x11" + b"".join(more))


def _call(*fields: bytes) -> bytes:
    """A node that gives `x`."""
    return _field(1, _field(2, b"x") + _field(4, b"Concat") + b"".join(fields))


def _nested(depth: int) -> bytes:
    """A graph in an attribute of a node in a graph, so many times."""
    heads: list[bytes] = []
    size = 0
    for _ in range(depth):
        for number in (6, 5, 1):
            heads.append(_varint(number << 3 | 2) + _varint(size))
            size += len(heads[-1])
    return b"".join(reversed(heads))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def _raw(change: Callable[[bytes], bytes]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "a.onnx").write_bytes(change(_sound()))
        return "a.onnx"

    return make


def _twice(model: ModelProto) -> None:
    model.graph.initializer.add().CopyFrom(_array(model))


def _renamed(name: str) -> Change:
    def change(model: ModelProto) -> None:
        _array(model).name = name
        for node in model.graph.node:
            node.input[:] = [name if x == _FIRST else x for x in node.input]

    return change


def _itself(model: ModelProto) -> None:
    node = model.graph.node[0]
    node.input[0] = node.output[0]


def _circle(model: ModelProto) -> None:
    """The first call takes what the last but one gives."""
    model.graph.node[0].input[0] = model.graph.node[-2].output[0]


def _backwards(model: ModelProto) -> None:
    nodes = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])


def _no_text(data: bytes) -> bytes:
    """The name of the first array in bytes that are no text."""
    return data.replace(_FIRST.encode(), b"conv1.weigh\xff")


def _domain(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.attacker"
    model.opset_import.add(domain="com.attacker", version=1)


def _told(told: str) -> Change:
    def change(model: ModelProto) -> None:
        del model.metadata_props[:]
        model.metadata_props.add(key="resnet_parity", value=told)

    return change


def _attribute(**more: Any) -> Change:
    def change(model: ModelProto) -> None:
        model.graph.node[0].attribute.append(AttributeProto(**more))

    return change


def _attack(name: str, make: Callable[[Path], str], expect: str) -> Case:
    return Case(f"onnx: {name}", make, expect)


ATTACKS = [
    _attack("as it should be", _model(lambda model: None), ""),
    *(
        _attack(f"data in {what}", _model(_external(location, length="144")), _OUTSIDE)
        for what, location in (
            ("a stranger's file", "../canary"),
            ("an absolute path", "/etc/passwd"),
            ("a folder", "x/../../canary"),
            ("a path of Windows", "..\\canary"),
            ("a URL", "file:///etc/passwd"),
            ("a name with ANSI codes", "a\x1b[31m"),
            ("no file", ""),
        )
    ),
    _attack(
        "data in a link",
        _beside(lambda folder: (folder / "a.data").symlink_to("../canary")),
        _OUTSIDE,
    ),
    _attack("data in a pipe", _beside(lambda f: os.mkfifo(f / "a.data")), "there is no such file"),
    _attack("data in nothing", _beside(lambda f: None), "there is no such file"),
    _attack("data in the folder above", _model(_external("..")), "there is no such file"),
    _attack(
        "data beyond the file",
        _beside(_sized("a.data", 99), offset="90"),
        "a.data ends before the data of its arrays do",
    ),
    _attack("data at -1", _beside(_sized("a.data", 9999), offset="-1"), "is no place"),
    _attack("data at 10^30", _beside(_sized("a.data", 99), offset="1" + "0" * 30), "is no place"),
    _attack("more data than its shape", _beside(_sized("a.data", 9999), length="9999"), _LENGTH),
    _attack("a shape of 10^18", _shape(10**9, 10**9, 1, 1), _LENGTH),
    _attack("a shape that overflows", _shape(2**62, 4, 1, 1), _LENGTH),
    _attack("a negative length", _shape(-4, -3, 7, 7), "has no shape"),
    _attack("a shape of 0", _shape(0, 3, 7, 7), _LENGTH),
    _attack("strings", _of_array(lambda a: setattr(a, "data_type", 8)), "the data type 8"),
    _attack("strings in the place of numbers", _of_array(lambda a: a.string_data.append(b"x")), ""),
    _attack("8-bit floats", _of_array(lambda a: setattr(a, "data_type", 17)), "the data type 17"),
    _attack("a segment", _of_array(lambda a: setattr(a.segment, "end", 1)), "is a segment"),
    _attack("one array twice", _model(_twice), "two arrays of the name"),
    _attack("an array of no name", _model(_renamed("")), "two arrays of the name"),
    _attack("control characters in a name", _model(_renamed("a\x1b[31m\n")), "a.onnx"),
    _attack("a path as a name", _model(_renamed("../../canary")), ""),
    _attack("a name that is no text", _raw(_no_text), "no text|" + _UNREADABLE),
    _attack("a tensor twice", _model(_node("Relu", ["images"], "conv1")), "given already"),
    _attack("a weight that is computed", _model(_node("Relu", ["images"], _FIRST)), "given alread"),
    _attack("a call of itself", _model(_itself), "a.onnx"),
    _attack("a circle", _model(_circle), "a.onnx"),
    _attack("from the last to the first", _model(_backwards), "a.onnx"),
    _attack("an operator of one's own", _model(_domain), "ONNX's own operators"),
    _attack(
        "an operator that runs Python", _model(_node("PyOp", ["images"], "x")), "of no operator"
    ),
    _attack(
        "a function", _model(lambda m: m.functions.add(name="f", domain="")), "functions of its own"
    ),
    _attack(
        "a sparse array", _model(lambda m: m.graph.sparse_initializer.add()), "has sparse arrays"
    ),
    _attack("a branch", _model(_node("If", ["images"], "x", then_branch=_INNER)), "graph"),
    _attack("a loop", _model(_node("Loop", ["", "", "images"], "x", body=_INNER)), "graph"),
    _attack(
        "numbers of a constant in a file",
        _model(
            lambda m: m.graph.node.insert(
                0,
                helper.make_node(
                    "Constant",
                    [],
                    ["x"],
                    value=TensorProto(
                        dims=[1], data_type=1, data_location=TensorProto.EXTERNAL, name="x"
                    ),
                ),
            )
        ),
        "numbers in another file",
    ),
    _attack(
        "an attribute twice", _model(_attribute(name="group", type=2, i=1)), "twice, or from elsew"
    ),
    _attack(
        "an attribute from elsewhere",
        _model(_attribute(name="x", type=2, ref_attr_name="y")),
        "twice, or from elsewhere",
    ),
    _attack(
        "no operators' version", _model(lambda m: m.ClearField("opset_import")), "operators' versi"
    ),
    _attack(
        "two operators' versions", _model(lambda m: m.opset_import.add(version=17)), "operators' v"
    ),
    _attack(
        "the operators' version 2^40",
        _model(lambda m: setattr(m.opset_import[0], "version", 2**40)),
        "operators' version",
    ),
    _attack("two inputs", _model(lambda m: m.graph.input.add(name="more")), "has 2 inputs"),
    _attack("no outputs", _model(lambda m: m.graph.ClearField("output")), "and 0 outputs"),
    _attack("no graph", text("a.onnx", b"\x08\x08\x42\x02\x10\x11"), "holds no graph"),
    _attack("two graphs", _raw(lambda data: data + b"\x3a\x00"), "holds two graphs"),
    _attack("metadata of no version", _model(_told('{"version": 7}')), "not of version 1"),
    _attack("metadata that is no JSON", _model(_told("{" * 9)), "a.onnx"),
    _attack("metadata nested deep", _model(_told("[" * 100_000)), "a.onnx"),
    _attack(
        "metadata of another net",
        _model(_told('{"version": 1, "spec": {"depths": [10000000], "block": "basic"}}')),
        "depths",
    ),
    _attack("a group of Protocol Buffers", text("a.onnx", b"\x3b\x08\x01\x3c"), "no record of"),
    _attack("nothing but a text", text("a.onnx", "#!/bin/sh\ntouch owned\n"), _UNREADABLE),
]


_LARGE = [10**5, 10**5]


def _diamonds(count: int) -> Change:
    nodes = [
        helper.make_node("Add", [f"d{i}" if i else "images"] * 2, [f"d{i + 1}"])
        for i in range(count)
    ]
    return _between(*nodes, last=f"d{count}")


def _calls(count: int, operator: str = "Identity") -> Change:
    nodes = [
        helper.make_node(operator, [f"d{i}" if i else "images"], [f"d{i + 1}"])
        for i in range(count)
    ]
    return _between(*nodes, last=f"d{count}")


def _doubled(count: int) -> Change:
    """A row of numbers beside itself, so many times."""
    start = helper.make_node("Constant", [], ["d0"], **_constant([2], [1, 1]))
    nodes = [helper.make_node("Concat", [f"d{i}"] * 2, [f"d{i + 1}"], axis=0) for i in range(count)]
    last = helper.make_node("Reshape", ["images", f"d{count}"], ["more"])
    return _between(start, *nodes, last, last="more")


def _arrays(count: int) -> bytes:
    """So many arrays, of one float each."""
    float_ = b"\x08\x01\x10\x01" + _field(9, bytes(4))
    return b"".join(_field(5, float_ + _field(8, b"%06d" % i)) for i in range(count))


def _far(head: bytes, size: int) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "a.onnx").write_bytes(head)
        os.truncate(folder / "a.onnx", size)
        return "a.onnx"

    return make


def _floats(model: ModelProto) -> None:
    """An array of 28 MB in the record of its tensor."""
    array = _array(model)
    array.ClearField("raw_data")
    array.dims[:] = [7 * 10**6]
    array.float_data.extend([0.0] * (7 * 10**6))


def _promised(folder: Path) -> str:
    """Data of 32 GB beside it, all of them there and none on the disk."""
    _sized("a.data", 2**35)(folder)

    def change(model: ModelProto) -> None:
        _external("a.data")(model)
        _array(model).dims[:] = [2**33]

    return _model(change)(folder)


_GRAPH_OF_8_GB = b"\x08\x08\x3a" + _varint(2**33) + b"\x2a" + _varint(2**33 - 12) + b"\x4a"

_MANY = "too many fields"
_RECORD = "has a record of .* bytes, expected at most"
_EMPTY_INPUTS = b"\x0a\x00" * 4 * 10**6
_EMPTY_ATTRIBUTES = b"\x2a\x00" * 4 * 10**6
_INTEGERS = _field(5, _field(1, b"pads") + _field(8, b"\1" * 7 * 10**6) + b"\xa0\x01\x07")
_AXES = _field(1, b"\1" * 4 * 10**6)
_CONCAT = helper.make_node("Concat", ["images"] * 10**4, ["x"], axis=1)
_ZEROS = (("Constant", [], _constant([2], _LARGE)), ("ConstantOfShape", [], {}))

BOMBS = [
    _attack(
        "10^18 elements in a file beside it",
        _model(lambda m: (_external("a.onnx")(m), _array(m).dims.__setitem__(0, 10**16))),
        "a.onnx ends before the data",
    ),
    _attack("data of 32 GB beside it", _promised, "an array of 1 axes"),
    _attack("an array of 8 GB in it", _far(_GRAPH_OF_8_GB, 2**33 + 30), _UNREADABLE),
    _attack("a field of 2^63 bytes", text("a.onnx", b"\x3a" + _varint(2**63 - 1)), "ends before"),
    _attack("a number of 20 bytes", text("a.onnx", b"\x3a" + b"\xff" * 20), "no record of"),
    _attack("10 million fields", text("a.onnx", b"\x08\x00" * 10**7), _MANY),
    _attack("40 MB of an unknown field", _written(b"", _field(99, bytes(4 * 10**7))), "more than"),
    _attack("60,000 arrays", _written(_arrays(60_000)), "more nodes or arr"),
    _attack("30,000 arrays", _written(_arrays(30_000)), "has 0 inputs|" + _MANY),
    _attack("an array of 4 million axes", _written(_field(5, _AXES)), _RECORD),
    _attack("an array in 4 million places", _written(_field(5, b"\x6a\x00" * 4 * 10**6)), _MANY),
    _attack("a million calls of nothing", _written(b"\x0a\x00" * 10**6), "more nodes"),
    _attack("200,000 calls", _model(_calls(200_000)), "more nodes"),
    _attack("40,000 calls", _model(_calls(40_000)), ""),
    _attack("40,000 activations", _model(_calls(40_000, "Relu")), "more steps than any"),
    _attack("2^4000 paths to a tensor", _model(_diamonds(4000)), "more steps than any"),
    _attack("a call of 10,000 inputs", _model(_between(_CONCAT, last="x")), "a.onnx"),
    _attack("a call of 4 million inputs", _written(_call(_EMPTY_INPUTS)), _MANY),
    _attack("4 million attributes", _written(_call(_EMPTY_ATTRIBUTES)), _MANY),
    _attack("7 million integers", _written(_call(_INTEGERS)), _RECORD),
    _attack("4 million sizes of the images", _written(_field(11, _EMPTY_INPUTS)), _RECORD),
    _attack("4 million shapes", _written(b"\x6a\x00" * 4 * 10**6), _MANY),
    _attack("4 million entries of metadata", _written(b"", b"\x72\x00" * 4 * 10**6), _MANY),
    _attack("graphs 20,000 deep", _written(_nested(20_000)), _UNREADABLE),
    _attack("graphs 30 deep", _written(_nested(30)), "gives nothing"),
    _attack("a name of 7 MB", _model(_renamed("x" * 7 * 10**6)), _RECORD),
    _attack("a name of 200,000", _model(_renamed("x" * 200_000)), "expected at most 500"),
    _attack("an operator of 7 MB", _model(_node("x" * 7 * 10**6, ["images"], "y")), _RECORD),
    # A valid file may have as many.
    replace(_attack("numbers of 28 MB", _model(_floats), "an array of 1 axes"), memory=128),
    _attack("zeros of 10^10", _model(_computed(*_ZEROS)), "step1"),
    _attack("ones of 2^40, doubled", _model(_doubled(40)), "takes arrays of the file where it"),
    _attack("metadata of 30 MB", _model(_told('{"x": "' + "x" * 30 * 10**6)), _RECORD),
]


__all__ = ["ATTACKS", "BOMBS"]
