"""Operators that change the axes of tensors, take a part of them, or say how long they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from shared_spec import plan
from shared_spec.formats.containers.onnx import OnnxNode
from shared_spec.formats.graphs.onnx.constants import UNKNOWN, Constant, integers, shape_of
from shared_spec.formats.graphs.onnx.functions import standardised
from shared_spec.formats.graphs.onnx.units import PART, Builder, Item, Unit, Units, Value
from shared_spec.formats.graphs.walk import LayerError

_FAR = 2**31 - 1
"""Behind the last row of any map."""


def _reshape(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x, shape = given[0], integers(node, "shape", given, 1) or []
    if not isinstance(x, Value) or (x.pooled and x.unit != PART):
        return _pixel(r, node, given)
    term = r.term(x)
    match term:
        case ("of", _) | ("gated", ("of", _), _):
            if (groups := _groups(r, x, shape)) is not None:
                return replace(x, unit=PART, axes="", term=("groups", term, groups, len(shape)))
        case (("variance" | "mean") as kind, ("groups", _, g, rank) as t, _):
            if len(shape) == rank and _batch(r, shape[0]) and shape[1:] == [g] + [1] * (rank - 2):
                return replace(x, term=(kind, t, True))
        case ("ratio", top, ("variance", ("groups", ("of", u), g, _) as t, True), eps):
            if not _is_map(r, x, shape):
                raise LayerError(f"{node} makes something else than a map of groups")
            axes, channels, name = "NCHW", x.channels or 0, node.outputs[0]
            if top == ("centred", t):
                unit = Unit(node, (u,), plan.GroupNorm(name, channels, g, eps))
                return r.add(x, unit, axes=axes)
            if top[0] == "groups" and top[1][:2] == ("gated", ("of", u)) and top[2:] == t[2:]:
                layer = plan.EvoNorm(name, channels, g, eps)
                return r.add(x, Unit(node, (u,), layer, {"v": top[1][2]}), axes=axes)
    if (found := standardised(term)) is not None and found[0][0] == "kernel":
        (_, kernel, axis), eps = found
        fits = len(shape) == 4 and shape[0] == kernel.shape[axis] and min(shape) > 0
        if fits and math.prod(shape) == math.prod(kernel.shape):
            t = ("kernel", kernel.reshaped(tuple(shape)), 0)
            return replace(x, term=("ratio", ("centred", t), ("variance", t, True), eps))
    raise LayerError(f"{node} changes the axes of a map")


def _batch(r: Units, length: int) -> bool:
    """Whether a number in a shape stands for the images."""
    return length in (-1, 0, UNKNOWN, r.graph.shape[0])


def _groups(r: Units, x: Value, shape: Sequence[int]) -> int | None:
    """How many groups a shape puts the channels of a map into, all else of an image behind them."""
    if len(shape) not in (3, 5) or not _batch(r, shape[0]) or list(shape).count(-1) > 1:
        return None
    groups, channels = shape[1], x.channels or 0
    if groups < 1 or channels % groups:
        return None
    if len(shape) == 5:
        whole = [shape[0], channels, *shape[3:]]
        return groups if shape[2] == channels // groups and _is_map(r, x, whole) else None
    every = None if x.size is None else channels // groups * math.prod(x.size)
    return groups if shape[2] in (-1, every) else None


def _is_map(r: Units, x: Value, shape: Sequence[int]) -> bool:
    """Whether a shape is that of a map."""
    if len(shape) != 4 or not _batch(r, shape[0]) or list(shape).count(-1) > 1:
        return False
    sides = x.size or (UNKNOWN - 2, UNKNOWN - 3)
    return shape[1] in (-1, x.channels) and all(
        n in (-1, side) for n, side in zip(shape[2:], sides, strict=True)
    )


def _pixel(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """A pixel with other axes of length 1."""
    x = given[0]
    if not isinstance(x, Value) or not x.pooled:
        raise LayerError(f"{node} changes the axes of a map")
    ones = ["1" if axis in "HW1" else axis for axis in x.axes]
    if node.operator == "Flatten":
        fits, ones = node.attributes.get("axis", 1) == 1 and ones[0] == "N", ["N", "C"]
    elif node.operator == "Reshape":
        shape = integers(node, "shape", given, 1) or []
        fits = len(shape) in (2, 3, 4) and _batch(r, shape[0]) and ones[0] == "N"
        rest = [ones[i] if n == 0 and i < len(ones) else n for i, n in enumerate(shape) if i]
        ones = ["N", *("C" if n in ("C", -1, x.channels) else "1" for n in rest)]
        fits = (
            fits and ones.count("C") == 1 and all(n in ("C", "1", 1, -1, x.channels) for n in rest)
        )
        fits = fits and [*shape].count(-1) < 2
    else:
        axes = integers(node, "axes", given, 1) or []
        rank = len(ones) + (len(axes) if node.operator == "Unsqueeze" else 0)
        places = sorted({a % rank for a in axes if -rank <= a < rank})
        fits = len(places) == len(axes) > 0 and rank <= 4
        if node.operator == "Unsqueeze":
            for place in places:
                ones.insert(place, "1")
        else:
            fits = fits and all(ones[i] == "1" for i in places)
            ones = [axis for i, axis in enumerate(ones) if i not in places]
    if not fits:
        raise LayerError(f"{node} makes something else than a vector of each image")
    known = {"N1C1": "N1C1", "NC11": "NCHW", "N11C": "NHWC"}
    return replace(x, axes=known.get("".join(ones), "".join(ones)), term=None)


def _expand(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """A pixel for all of a map, or of an axis that it has already."""
    x, shape = given[0], integers(node, "shape", given, 1) or []
    if isinstance(x, Value) and x.unit == PART and x.term is not None:
        match x.term:
            case ("variance", ("groups", _, g, rank), True):
                if (
                    len(shape) == rank
                    and _batch(r, shape[0])
                    and shape[1:] == [g] + [1] * (rank - 2)
                ):
                    return x
            case (_, ("power", _, True), _) if _is_map(r, x, shape):
                return x
    elif isinstance(x, Value) and x.pooled and x.axes == "NCHW" and len(shape) == 4:
        sides = tuple(shape[2:])
        whole = sides == (UNKNOWN - 2, UNKNOWN - 3) or min(sides) > 0
        if (_batch(r, shape[0]) or shape[0] == 1) and shape[1] in (1, x.channels) and whole:
            size = (sides[0], sides[1]) if min(sides) > 0 else None
            return replace(x, spread=True, size=size)
    raise LayerError(f"{node} spreads something else than one pixel over a map")


def _slice(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """Every other row and column."""
    x = given[0]
    keys = ("starts", "ends", "axes", "steps")
    told = [integers(node, key, given, i) for i, key in enumerate(keys, start=1)]
    starts, ends = told[0] or [], told[1] or []
    axes, steps = told[2] or [*range(len(starts))], told[3] or [1] * len(starts)
    if not isinstance(x, Value) or not len(starts) == len(ends) == len(axes) == len(steps):
        raise LayerError(f"{node} takes part of something else than a map")
    source, letters, paces, size = x.unit, x.axes, {"H": 1, "W": 1}, x.size
    if x.unit == PART:
        match x.term:
            case ("every", source, letters, rows, columns):
                paces = {"H": rows, "W": columns}
            case _:
                raise LayerError(f"{node} takes part of something else than a map")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        letter = letters[axis] if -len(letters) <= axis < len(letters) else ""
        side = None if x.size is None or letter not in "HW" else x.size["HW".index(letter)]
        side = x.channels if letter == "C" else side
        whole = start == 0 and (end >= _FAR or (side is not None and end >= side)) and step >= 1
        if not letter or not whole or (step > 1 and letter not in "HW"):
            raise LayerError(f"{node} leaves out other things than rows and columns at equal steps")
        if step > 1:
            paces[letter] *= step
        if size is not None and letter in "HW":
            h, w = (-(-n // step) if letter == a else n for n, a in zip(size, "HW", strict=True))
            size = (h, w)
    rows, columns = paces["H"], paces["W"]
    term = ("every", source, letters, rows, columns)
    if rows != columns:
        return replace(x, unit=PART, axes="", size=size, term=term)
    if rows == 1:
        return x
    unit = Unit(node, (source,), plan.MaxPool(node.outputs[0], 1, rows))
    return r.add(x, unit, axes=letters, size=size, term=term)


def _transpose(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x = given[0]
    assert isinstance(x, Value)
    order = node.attributes.get("perm", tuple(range(len(x.axes)))[::-1])
    if sorted(order) != list(range(len(x.axes))) or x.axes[order[0]] != "N":
        raise LayerError(f"{node} changes the axis of images")
    return replace(x, axes="".join(x.axes[i] for i in order), term=None)


def _shape(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Constant:
    x = given[0]
    assert isinstance(x, Value)
    known = {"N": r.graph.shape[0], "C": x.channels}
    known |= dict(zip("HW", x.size or (None, None), strict=True))
    if x.unit == PART and (node.attributes.get("start", 0), node.attributes.get("end")) == (0, 1):
        return shape_of(node, [known["N"] or UNKNOWN])
    if x.unit == PART or "1" in x.axes:
        raise LayerError(f"{node} gives the shape of part of a norm")
    return shape_of(node, [known[a] or UNKNOWN - "NCHW".index(a) for a in x.axes])


def _gather(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """The channels of an image in another order."""
    x, places = given[0], given[1]
    if not isinstance(x, Value) or not isinstance(places, Constant):
        raise LayerError(f"{node} takes places that depend on the image")
    axis = node.attributes.get("axis", 0)
    one = x.pooled and -len(x.axes) <= axis < len(x.axes) and x.axes[axis] not in "NC"
    if one and places.entry.shape == () and places.whole(node) == [0]:
        rest = [*x.axes]
        del rest[axis]
        return replace(x, axes="".join(rest), term=None)
    if not -4 <= axis < len(x.axes) or x.axes[axis] != "C" or len(places.entry.shape) != 1:
        raise LayerError(f"{node} takes other parts than channels")
    return r.add(x, Unit(node, (x.unit,), numbers=places.entry))


AXES: dict[str, Builder] = {
    **dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze"), _pixel),
    "Reshape": _reshape,
    "Expand": _expand,
    "Slice": _slice,
    "Transpose": _transpose,
    "Shape": _shape,
    "Gather": _gather,
}
"""Their builders."""
