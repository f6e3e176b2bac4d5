"""Operators that change the axes of tensors, take a part of them, or say how long they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from shared_spec import plan
from shared_spec.formats.containers.onnx import OnnxNode
from shared_spec.formats.graphs.onnx.constants import Constant, integers, shape_of
from shared_spec.formats.graphs.onnx.functions import Term, place_of_groups, standardised, tap
from shared_spec.formats.graphs.onnx.sizes import Length, Size
from shared_spec.formats.graphs.onnx.units import PART, Builder, Item, Unit, Units, Value
from shared_spec.formats.graphs.walk import LayerError

_FAR = 10**9
"""Behind the last row of any map."""


def _reshape(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    x, shape = given[0], integers(node, "shape", given, 1) or []
    if not isinstance(x, Value) or (x.pooled and x.unit != PART):
        return _pixel(r, node, given)
    term = r.term(x)
    match term:
        case ("of", _, axes) | ("gated", ("of", _, axes), _):
            if (groups := _groups(r, x, axes, shape)) is not None:
                return replace(x, unit=PART, axes="", term=("groups", term, groups, len(shape)))
        case ("total", (kind, ("of", u, axes), True, *more), count):
            turned = {1: "NCHW", 3: "NHWC"}.get(_place_of_channels(r, x, shape))
            if turned is not None:
                return replace(x, term=("total", (kind, ("of", u, turned), True, *more), count))
        case (("variance" | "mean") as kind, ("groups", _, g, rank) as t, _):
            if _is_one_a_group(r, shape, g, rank):
                return replace(x, term=(kind, t, True))
        case ("ratio", top, ("variance", ("groups", ("of", u, axes), g, _) as t, True), eps):
            if not _is_map(r, x, axes, shape):
                raise LayerError(f"{node} makes something else than a map of groups")
            channels, name = x.channels or 0, node.outputs[0]
            if top == ("centred", t):
                unit = Unit(node, (u,), plan.GroupNorm(name, channels, g, eps))
                return r.add(x, unit, axes=axes)
            if top[0] == "groups" and top[1][:2] == ("gated", t[1]) and top[2:] == t[2:]:
                layer = plan.EvoNorm(name, channels, g, eps)
                return r.add(x, Unit(node, (u,), layer, {"v": top[1][2]}), axes=axes)
    if (found := standardised(term)) is not None and found[0][0] == "kernel":
        (_, kernel, axis), eps = found
        fits = len(shape) == 4 and shape[0] == kernel.shape[axis]
        fits = fits and all(isinstance(n, int) and n > 0 for n in shape)
        if fits and math.prod(shape) == math.prod(kernel.shape):
            t = ("kernel", kernel.reshaped(tuple(shape)), 0)
            return replace(x, term=("ratio", ("centred", t), ("variance", t, True), eps))
    raise LayerError(f"{node} changes the axes of a map")


def _batch(r: Units, length: Length) -> bool:
    """Whether a number in a shape stands for the images."""
    return length in (-1, 0, r.images)


def _place_of_channels(r: Units, x: Value, shape: Sequence[Length]) -> int:
    """Where they are in the shape of one pixel; 0 if it is none."""
    places = [i for i, n in enumerate(shape) if i and n != 1]
    fits = len(shape) == 4 and _batch(r, shape[0]) and len(places) == 1
    return places[0] if fits and shape[places[0]] == x.channels else 0


def _is_one_a_group(r: Units, shape: Sequence[Length], groups: int, rank: int) -> bool:
    """Whether a shape is that of a number for each group."""
    expected: list[Length] = [1] * rank
    expected[place_of_groups(rank)] = groups
    return len(shape) == rank and _batch(r, shape[0]) and list(shape[1:]) == expected[1:]


def _groups(r: Units, x: Value, axes: str, shape: Sequence[Length]) -> int | None:
    """How many groups a shape puts the channels of a map into, all else of an image behind them."""
    if (
        len(shape) not in ((3, 5) if axes == "NCHW" else (4,))
        or not _batch(r, shape[0])
        or list(shape).count(-1) > 1
    ):
        return None
    groups, channels = shape[place_of_groups(len(shape))], x.channels or 0
    if isinstance(groups, Size) or groups < 1 or channels % groups:
        return None
    if len(shape) == 5:
        whole = [shape[0], channels, *shape[3:]]
        return groups if shape[2] == channels // groups and _is_map(r, x, axes, whole) else None
    if len(shape) == 4:
        pixels = x.size[0] * x.size[1]
        rest = list(zip(shape[1::2], (pixels, channels // groups), strict=True))
        return groups if all(n in (-1, told) for n, told in rest) else None
    every = channels // groups * x.size[0] * x.size[1]
    return groups if shape[2] in (-1, every) else None


def _is_map(r: Units, x: Value, axes: str, shape: Sequence[Length]) -> bool:
    """Whether a shape is that of a map whose axes these are."""
    if len(shape) != 4 or not _batch(r, shape[0]) or list(shape).count(-1) > 1:
        return False
    lengths = r.lengths(x)
    return all(n in (-1, lengths[axis]) for n, axis in zip(shape[1:], axes[1:], strict=True))


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
                if _is_one_a_group(r, shape, g, rank):
                    return x
            case (_, ("power", ("of", _, axes), True), _) if _is_map(r, x, axes, shape):
                return x
    elif isinstance(x, Value) and x.pooled and x.axes == "NCHW" and len(shape) == 4:
        sides = (shape[2], shape[3])
        whole = all(isinstance(n, Size) or n > 0 for n in sides)
        if (_batch(r, shape[0]) or shape[0] == 1) and shape[1] in (1, x.channels) and whole:
            return replace(x, spread=True, size=sides)
    raise LayerError(f"{node} spreads something else than one pixel over a map")


def _tap(r: Units, x: Value, told: Sequence[tuple[Length, Length, int, int]]) -> Term | None:
    """One of three neighbours along an axis, of which a blur is a sum."""
    match x.term:
        case ("blurred", ("mirror", _, letters), done, _):
            base: Term = x.term
        case _ if x.reflected:
            base, letters, done = ("mirror", x.unit, x.axes), x.axes, ""
        case _:
            return None
    found: Term | None = None
    for start, end, axis, step in told:
        letter = letters[axis] if -len(letters) <= axis < len(letters) else ""
        if start == 0 and step == 1 and isinstance(end, int) and end >= _FAR:
            continue
        last = isinstance(end, int) and (end >= _FAR if start == 2 else end == start - 2)
        if found or letter not in ("H", "W") or letter == done or start not in (0, 1, 2):
            return None
        if not last or step < 1:
            return None
        found = tap(base, letter, step, start)
    return found


def _slice(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Value:
    """Every other row and column."""
    x = given[0]
    keys = ("starts", "ends", "axes", "steps")
    told = [integers(node, key, given, i) for i, key in enumerate(keys, start=1)]
    starts, ends = told[0] or [], told[1] or []
    axes, steps = told[2] or [*range(len(starts))], told[3] or [1] * len(starts)
    if not isinstance(x, Value) or not len(starts) == len(ends) == len(axes) == len(steps):
        raise LayerError(f"{node} takes part of something else than a map")
    if x.reflected or (x.term is not None and x.term[0] == "blurred"):
        if (term := _tap(r, x, list(zip(starts, ends, axes, steps, strict=True)))) is None:
            raise LayerError(f"{node} comes after pixels that are reflected, and is no blur")
        return replace(x, unit=PART, axes="", reflected=False, term=term)
    source, letters, paces, size = x.unit, x.axes, {"H": 1, "W": 1}, x.size
    if x.unit == PART:
        match x.term:
            case ("every", source, letters, rows, columns):
                paces = {"H": rows, "W": columns}
            case _:
                raise LayerError(f"{node} takes part of something else than a map")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        letter = letters[axis] if -len(letters) <= axis < len(letters) else ""
        side = r.lengths(x).get(letter)
        counted = isinstance(end, int) and (end >= _FAR or (isinstance(side, int) and end >= side))
        whole = start == 0 and (counted or end == side) and step >= 1
        if not letter or not whole or (step > 1 and letter not in ("H", "W")):
            raise LayerError(f"{node} leaves out other things than rows and columns at equal steps")
        if step > 1:
            paces[letter] *= step
        if letter in ("H", "W"):
            h, w = (
                (n - 1) // step + 1 if letter == a else n for n, a in zip(size, "HW", strict=True)
            )
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
    match x.term:
        case ("gated", ("of", u, axes), array) if sorted(order) == [0, 1, 2, 3]:
            turned = "".join(axes[i] for i in order)
            if turned in ("NCHW", "NHWC"):
                return replace(x, term=("gated", ("of", u, turned), array))
    if sorted(order) != list(range(len(x.axes))) or x.axes[order[0]] != "N":
        raise LayerError(f"{node} changes the axis of images")
    return replace(x, axes="".join(x.axes[i] for i in order), term=None)


def _shape(r: Units, node: OnnxNode, given: Sequence[Item | None]) -> Constant:
    x = given[0]
    assert isinstance(x, Value)
    known = r.lengths(x)
    if x.unit == PART and (node.attributes.get("start", 0), node.attributes.get("end")) == (0, 1):
        return shape_of(node, [known["N"]])
    if x.unit == PART:
        raise LayerError(f"{node} gives the shape of part of a norm")
    return shape_of(node, [known[a] for a in x.axes])


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
