"""Operators that compute with each number of a tensor by itself, or with those of two tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from shared_spec import plan
from shared_spec.formats.containers.onnx import OnnxNode
from shared_spec.formats.graphs.onnx.constants import Constant, unknown
from shared_spec.formats.graphs.onnx.functions import FUNCTIONS, Function
from shared_spec.formats.graphs.onnx.units import Builder, Item, Unit, Units, Value, map_of
from shared_spec.formats.graphs.walk import LayerError

_FLOATS = (1, 10, 11, 16)
"""Types, by number, in which a model may compute."""


def idle(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """What gives in inference what it takes."""
    x = given[0]
    assert isinstance(x, Value)
    training = given[2] if len(given) > 2 else None
    acts = isinstance(training, Value) or (training is not None and training.numbers(node).any())
    if node.operator == "Dropout" and acts:
        raise LayerError(f"{node} is in training")
    if node.operator == "Cast" and node.attributes.get("to") not in _FLOATS:
        raise LayerError(f"{node} makes whole numbers of a tensor")
    return replace(x, whole=x.whole and node.operator != "Cast")


def _cast_like(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Constant:
    """A number of the type of a tensor, in which the model computes."""
    if len(given) != 2 or not isinstance(given[0], Constant):
        raise LayerError(f"{node} takes a tensor, expected a number")
    if unknown(given[0].numbers(node)):
        raise LayerError(f"{node} makes a number of the size of an image, which may be any")
    return replace(given[0], computed=True)


def _softmax(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x = map_of(node, given, "NC")
    if node.attributes.get("axis", -1 if r.graph.opset >= 13 else 1) not in (-1, 1):
        raise LayerError(f"{node} is not over the classes")
    return r.add(x, Unit(node, (x.unit,), plan.Activation(node.outputs[0], "softmax")))


def arithmetic(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """Of two tensors, or of one with a number, or with one a channel."""
    if len(given) != 2:  # Min and Max take any number
        raise LayerError(f"{node} takes {len(given)} inputs, expected two")
    function, a, b = FUNCTIONS[node.operator](node.attributes), given[0], given[1]
    if isinstance(a, Value) and isinstance(b, Value):
        if a.axes != b.axes:
            raise LayerError(f"{node} joins tensors of different axes")
        pooled = a.pooled and b.pooled
        larger, smaller = (b, a) if a.pooled and not b.pooled else (a, b)
        if smaller.spread and (larger.spread or larger.size != smaller.size):
            raise LayerError(f"{node} takes one pixel for a map of another size")
        unit = Unit(node, (a.unit, b.unit), function=function)
        return r.add(larger, unit, pooled=pooled)
    x, constant = (a, b) if isinstance(a, Value) else (b, a)
    assert isinstance(x, Value)
    assert isinstance(constant, Constant)
    shape = constant.entry.shape
    if constant.entry.dtype.kind == "O":
        raise LayerError(f"{node} computes with the size of an image, which may be any")
    if constant.entry.problem or len(shape) > len(x.axes):
        raise LayerError(f"{node} computes with an array of other axes than its tensor")
    aligned = (1,) * (len(x.axes) - len(shape)) + shape
    lengths = dict(zip(x.axes, aligned, strict=True))
    if any(n != 1 for axis, n in lengths.items() if axis != "C"):
        raise LayerError(f"{node} computes with other numbers than one a channel")
    numbers = constant.entry.reshaped((lengths["C"],))
    scalar: Function | None = None
    if lengths["C"] == 1:
        number = numbers.array().astype(np.float64)
        scalar = _with_number(function, number, isinstance(a, Value))
    first = isinstance(a, Value)
    unit = Unit(node, (x.unit,), None, {}, scalar, numbers, first, constant.scale)
    scaled = node.operator == "Mul" and scalar is None and r.term(x) == ("of", x.unit, x.axes)
    return r.add(x, unit, term=("scaled", ("of", x.unit, x.axes), numbers) if scaled else None)


def _with_number(function: Function, number: np.ndarray, second: bool) -> Function:
    return lambda x: function(x, number) if second else function(number, x)


def _elementwise(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """A function of each number by itself."""
    x = given[0]
    if not isinstance(x, Value):
        raise LayerError(f"{node} takes no tensor")
    told: dict[str, Any] = dict(node.attributes)
    if node.operator in ("Clip", "PRelu"):
        for key, item in zip(("min", "max"), given[1:], strict=False):
            if isinstance(item, Value) or (item is not None and math.prod(item.entry.shape) != 1):
                raise LayerError(f"{node} has more than one limit, or slope")
            if item is not None:
                told[key] = float(item.numbers(node).ravel()[0])
    unit = Unit(node, (x.unit,), function=FUNCTIONS[node.operator](told))
    return r.add(x, unit)


def _concat(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    values = [x for x in given if isinstance(x, Value)]
    axis = node.attributes.get("axis", 0)
    pair = len(values) == len(given) == 2 and values[0].axes == values[1].axes
    if not pair or not all(x.pooled for x in values) or not -4 <= axis < len(values[0].axes):
        raise LayerError(f"{node} puts together other things than two pools of a map")
    if values[0].axes[axis] != "C":
        raise LayerError(f"{node} does not put channels behind one another")
    channels = [x.channels or 0 for x in values]
    unit = Unit(node, tuple(x.unit for x in values))
    return r.add(values[0], unit, channels=sum(channels))


PAIRS = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max")
"""Operators that take two tensors, or a tensor and a constant."""
IDLE = ("Identity", "Dropout", "Cast")
"""Operators that give what they take."""
ARITHMETIC: dict[str, Builder] = {
    "CastLike": _cast_like,
    "Softmax": _softmax,
    "Concat": _concat,
    **dict.fromkeys(IDLE, idle),
    **dict.fromkeys(PAIRS, arithmetic),
    **{kind: _elementwise for kind in FUNCTIONS if kind not in PAIRS},
}
"""Builders of operators."""
