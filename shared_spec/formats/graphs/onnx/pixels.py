"""Arithmetic on pixels at the beginning of a graph, as preprocessing."""

from __future__ import annotations

import numpy as np

from shared_spec.formats.graphs.keras_preprocessing import PixelArithmetic
from shared_spec.formats.graphs.onnx.graph import UnitGraph
from shared_spec.formats.graphs.onnx.units import Unit
from shared_spec.formats.graphs.walk import LayerError
from shared_spec.weights.preprocessing import Preprocessing

_STEPS = 64
"""Of preprocessing."""
_AFFINE = ("Add", "Sub", "Mul", "Div", "Gather")


def _affine(
    unit: Unit, x: np.ndarray, scale: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and addend of each channel after a unit, from those before it."""
    with np.errstate(all="ignore"):
        match unit.operator:
            case "Add":
                return scale, offset + x
            case "Sub":
                return (scale, offset - x) if unit.first else (-scale, x - offset)
            case "Mul":
                return scale * x, offset * x
        if not unit.first or not x.all():
            raise LayerError(f"{unit} divides by the pixels, or by 0")
        return scale / x, offset / x


def exact(found: Preprocessing, known: Preprocessing) -> Preprocessing:
    """What a file's record says, if its graph does that but for rounding."""
    same = found.channel_order == known.channel_order and np.allclose(
        [*found.mean, *found.std], [*known.mean, *known.std], rtol=1e-5, atol=1e-7
    )
    return known if same else found


def pixels_of(graph: UnitGraph, channels: int, whole: bool) -> PixelArithmetic:
    """What is done to images before the first other layer.

    Args:
        graph: all of it.
        channels: of images.
        whole: whether they are of whole numbers.

    Raises:
        LayerError: if it is no preprocessing.
    """
    order = tuple(range(channels))
    scale, offset = np.ones(channels), np.zeros(channels)
    nodes: list[object] = []
    at = 0
    while len(users := graph.users(at)) == 1:
        unit = graph.units[users[0]]
        if unit.numbers is None or unit.operator not in _AFFINE:
            break
        if len(nodes) == _STEPS:
            raise LayerError(f"{unit} is the last of more steps than any preprocessing has")
        numbers = unit.numbers.array().astype(np.float64)
        if unit.operator == "Gather":
            if sorted(numbers) != list(range(channels)):
                raise LayerError(f"{unit} leaves channels out, or takes them twice")
            places = numbers.astype(int)
            order = tuple(order[i] for i in places)
            scale, offset = scale[places], offset[places]
        else:
            if numbers.size not in (1, channels) or not np.isfinite(numbers).all():
                raise LayerError(f"{unit} computes with other numbers than one a channel")
            scale, offset = _affine(unit, numbers, scale, offset)
        nodes.append(unit)
        at = users[0]
    if whole and not nodes:
        raise LayerError("whole numbers enter it, and nothing is done to them")
    return PixelArithmetic(order, scale, offset, tuple(nodes), at)
