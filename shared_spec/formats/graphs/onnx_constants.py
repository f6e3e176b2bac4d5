"""What of an ONNX graph does not depend on its input: arrays in another form, and small numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shared_spec.formats.containers.onnx import OnnxNode
from shared_spec.formats.graphs.walk import LayerError
from shared_spec.weights.lazy_array import LazyArray

_FORMS = 64
"""Nodes that put one array into another form; each waits for the one before when it is read."""
_SMALL = 2**16
"""Elements of what is computed here, and not only put into another form."""
UNKNOWN = -(2**40)
"""What stands in a shape for the size of an axis that is not known, less the axis."""


@dataclass(frozen=True)
class Constant:
    """An array that the input does not change."""

    entry: LazyArray
    computed: bool = False
    """Whether the graph makes it of something else than one array."""
    forms: int = 0
    """How many nodes have put it into another form."""

    def numbers(self, node: OnnxNode) -> np.ndarray:
        """It, for shapes, axes and the like.

        Raises:
            LayerError: if it is larger than those are.
        """
        if math.prod(self.entry.shape) > _SMALL or self.entry.problem:
            raise LayerError(f"{node} takes an array of the file where it takes numbers")
        return self.entry.array()

    def whole(self, node: OnnxNode) -> list[int]:
        """It, as integers."""
        return [int(n) for n in self.numbers(node).ravel()]


def integers(node: OnnxNode, key: str, given: Sequence[Any], place: int) -> list[int] | None:
    """What older versions of the operators have as an attribute, and newer ones as an input.

    Raises:
        LayerError: if it depends on the image.
    """
    if key in node.attributes:
        return list(node.attributes[key])
    if len(given) <= place or given[place] is None:
        return None
    if not isinstance(given[place], Constant):
        raise LayerError(f"{node} has {key} that depend on the image")
    found: Constant = given[place]
    if key != "shape" and unknown(found.numbers(node)):
        raise LayerError(f"{node} has {key} that depend on the size of an image")
    return found.whole(node)


def unknown(numbers: np.ndarray) -> bool:
    """Whether the size of an axis that is not known is among them."""
    whole = numbers.dtype.kind == "i"
    return whole and bool(((numbers > UNKNOWN - 4) & (numbers <= UNKNOWN)).any())


def folded(node: OnnxNode, given: Sequence[Constant | None]) -> Constant:
    """What a node makes of constants.

    Raises:
        LayerError: if that is not known here.
    """
    formed = _formed(node, given)
    if formed is not None:
        if formed.forms > _FORMS:
            raise LayerError(f"{node} is one of more than {_FORMS} that turn an array round")
        return formed
    compute = _COMPUTED.get(node.operator)
    if compute is None:
        raise LayerError(f"{node} computes with arrays of the file, which no ResNet here does")
    if sum(math.prod(c.entry.shape) for c in given if c is not None) > _SMALL:
        raise LayerError(f"{node} takes arrays of the file where it takes numbers")
    arrays = [None if c is None else c.numbers(node) for c in given]
    carried = len(arrays) if node.operator in ("Concat", "Where") else _carries(node)
    if any(a is not None and unknown(a) for a in arrays[carried:]):
        raise LayerError(f"{node} computes with the size of an image, which may be any")
    try:
        found = np.asarray(compute(node.attributes, *arrays))
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise LayerError(f"{node} is not one that ONNX has ({type(error).__name__})") from None
    return Constant(LazyArray.of(found), computed=True)


def _carries(node: OnnxNode) -> bool:
    """Whether what comes first may be a size that is not known, since it stays what it is."""
    whole = node.operator == "Cast" and node.attributes.get("to") == 7
    return whole or node.operator in ("Equal", "Gather", "Slice")


def _formed(node: OnnxNode, given: Sequence[Constant | None]) -> Constant | None:
    """An array of any size in another form, read on demand as before."""
    first = given[0] if given else None
    if node.operator == "Constant":
        return _constant(node)
    if first is None:
        return None
    entry = first.entry
    if node.operator == "Identity":
        return first
    if node.operator == "Shape":
        return shape_of(node, entry.shape)
    if node.operator == "Transpose":
        order = tuple(node.attributes.get("perm", range(len(entry.shape))[::-1]))
        if sorted(order) != list(range(len(entry.shape))):
            raise LayerError(f"{node} has another order than one of axes")
        return replace(first, entry=entry.permuted(order), forms=first.forms + 1)
    shape = list(entry.shape)
    if node.operator == "Unsqueeze":
        axes = integers(node, "axes", given, 1) or []
        rank = len(shape) + len(axes)
        for axis in sorted(a % rank for a in axes) if rank else []:
            shape.insert(axis, 1)
    elif node.operator == "Squeeze":
        axes = integers(node, "axes", given, 1) or [i for i, n in enumerate(shape) if n == 1]
        dropped = {a % max(len(shape), 1) for a in axes}
        shape = [n for i, n in enumerate(shape) if i not in dropped]
    elif node.operator == "Reshape":
        wanted = integers(node, "shape", given, 1) or []
        shape = [shape[i] if n == 0 and i < len(shape) else n for i, n in enumerate(wanted)]
        if -1 in shape:
            rest = math.prod(n for n in shape if n != -1)
            shape[shape.index(-1)] = math.prod(entry.shape) // max(rest, 1)
    else:
        return None
    if len(shape) > 8 or any(n < 0 for n in shape) or math.prod(shape) != math.prod(entry.shape):
        raise LayerError(f"{node} does not fit the array that it takes")
    return replace(first, entry=entry.reshaped(tuple(shape)), forms=first.forms + 1)


def _constant(node: OnnxNode) -> Constant:
    for key, value in node.attributes.items():
        if key == "value" and isinstance(value, np.ndarray):
            return Constant(LazyArray.of(value))
        if key in ("value_int", "value_ints"):
            return Constant(LazyArray.of(np.array(value, np.int64)))
        if key in ("value_float", "value_floats"):
            return Constant(LazyArray.of(np.array(value, np.float32)))
    raise LayerError(f"{node} is no array of numbers")


def _limited(shape: Iterable[int]) -> tuple[int, ...]:
    shape = tuple(map(int, shape))
    if len(shape) > 8 or any(not 0 <= n <= _SMALL for n in shape) or math.prod(shape) > _SMALL:
        raise ValueError("a large array")
    return shape


def _filled(a: Mapping[str, Any], shape: np.ndarray) -> np.ndarray:
    value = a.get("value", np.zeros(1, np.float32))
    found: np.ndarray = np.full(_limited(shape), value.ravel()[0], value.dtype)
    return found


def _expanded(a: Mapping[str, Any], x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, _limited(np.broadcast_shapes(x.shape, _limited(shape)))).copy()


def _cast(a: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    return x.astype({1: np.float32, 6: np.int32, 7: np.int64, 11: np.float64}[a["to"]])


def _gathered(a: Mapping[str, Any], x: np.ndarray, at: np.ndarray) -> np.ndarray:
    axis = range(x.ndim)[a.get("axis", 0)]
    _limited((*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]))
    found: np.ndarray = np.take(x, at, axis)
    return found


def _slice(
    a: Mapping[str, Any],
    x: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> np.ndarray:
    where = [slice(None)] * x.ndim
    places = range(len(starts)) if axes is None else axes
    paces = [1] * len(starts) if steps is None else steps
    for axis, start, end, step in zip(places, starts, ends, paces, strict=True):
        stop = None if step < 0 and end < -x.shape[axis] else int(end)
        # Python takes nothing backwards from before the first one; ONNX takes the first.
        begin = max(int(start), -x.shape[axis]) if step < 0 else int(start)
        where[int(axis)] = slice(begin, stop, int(step))
    return x[tuple(where)]


def shape_of(node: OnnxNode, shape: Sequence[int]) -> Constant:
    """What `Shape` gives."""
    start, end = node.attributes.get("start", 0), node.attributes.get("end", len(shape))
    return Constant(LazyArray.of(np.array(list(shape)[start:end], np.int64)), computed=True)


def _equal(a: Mapping[str, Any], x: np.ndarray, y: np.ndarray) -> Any:
    if unknown(x) and (y >= 0).any():
        raise ValueError("a size that may be any")
    _limited(np.broadcast_shapes(x.shape, y.shape))
    return x == y


def _where(a: Mapping[str, Any], *arrays: np.ndarray) -> np.ndarray:
    _limited(np.broadcast_shapes(*(x.shape for x in arrays)))
    return np.where(*arrays)


def _whole(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Arithmetic on sizes and places; that on weights is no graph's that was made for inference."""

    def build(a: Mapping[str, Any], x: np.ndarray, y: np.ndarray) -> Any:
        if x.dtype.kind != "i" or y.dtype.kind != "i":
            raise TypeError("no whole numbers")
        _limited(np.broadcast_shapes(x.shape, y.shape))
        with np.errstate(all="ignore"):
            return compute(x, y)

    return build


_COMPUTED: dict[str, Callable[..., Any]] = {
    "Cast": _cast,
    "CastLike": lambda a, x, like: x.astype(like.dtype),
    "Concat": lambda a, *xs: np.concatenate(xs, a["axis"]),
    "ConstantOfShape": _filled,
    "Equal": _equal,
    "Expand": _expanded,
    "Gather": _gathered,
    "Slice": _slice,
    "Where": _where,
    "Add": _whole(np.add),
    "Sub": _whole(np.subtract),
    "Mul": _whole(np.multiply),
    "Div": _whole(lambda x, y: np.trunc(x / y).astype(x.dtype)),
}
