"""Which tensor of a foreign graph is which layer's output: by its name, its values, its place in
the graph, or its shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from resnet_parity.numerics.difference import farthest
from resnet_parity.numerics.structure import Matching
from shared_spec.plan.dataflow import Node
from shared_spec.weights.state import State

SAME_VALUES = {"float64": 1e-9, "float32": 1e-4}
"""Up to which error two tensors are taken for the same: two layers of a net are farther apart."""


def aligned(
    found: Sequence[Node],
    reference: State,
    tensors: Mapping[str, np.ndarray],
    tolerance: float,
    structure: Matching,
) -> State:
    """Arrays of `tensors`, which are in the order of computation, for layers and blocks.

    A layer gets the tensor that has its name; or else one that has its values; or else, unless a
    layer behind it was found by its values, so that the graph computes it in one with others, the
    one in its place of the graph. Where no place is known, it is the first in order that has its
    shape and that no other layer got.

    Args:
        found: layers and blocks, in the order of computation.
        reference: what each should give, channels last.
        tensors: the graph's own, with channels in any place.
        tolerance: up to which error two arrays have the same values.
        structure: the places of tensors in the graph; an empty one where it cannot be followed.

    Returns:
        By the names of layers and blocks, with the reference's order of axes. One in its place has
        another shape if no tensor there has the right one.
    """
    answer: State = {}
    taken: dict[str, str] = {}
    for part in found:
        wanted = reference[part.name]
        if part.name in tensors:
            answer[part.name] = turned(tensors[part.name], wanted)
            taken[part.name] = part.name
            continue
        for name, tensor in tensors.items():
            same = (x for x in forms(tensor, wanted.shape) if farthest(wanted, x) <= tolerance)
            if (given := next(same, None)) is not None:
                answer[part.name], taken[name] = given, part.name
                break
    fused = _before(found, set(answer))
    places = _in_place(reference, tensors, structure)
    for part in found:
        if part.name in answer or part.name in fused:
            continue
        if structure.arrays:
            if part.name in places:
                answer[part.name] = turned(tensors[places[part.name]], reference[part.name])
            continue
        if part.kind == "block":  # its last layer's tensor, or that of its sum
            continue
        for name, tensor in tensors.items():
            given = next(forms(tensor, reference[part.name].shape), None)
            if name not in taken and given is not None:
                answer[part.name], taken[name] = given, part.name
                break
    return answer


def _in_place(
    reference: State, tensors: Mapping[str, np.ndarray], structure: Matching
) -> dict[str, str]:
    """Layers to the tensors behind the same weights. Where there are fewer of these, the first
    layers are computed in one with the next; where there are more, the last layer is computed in
    steps.
    """
    found: dict[str, str] = {}
    for place, layers in structure.layers.items():
        names = [name for name in structure.tensors.get(place, ()) if name in tensors]
        if not names:
            continue
        shapes = list(dict.fromkeys(reference[name].shape for name in layers))
        of = {shape: [n for n in names if _fits(tensors[n], shape)] for shape in shapes}
        rest = [n for n in names if not any(n in given for given in of.values())]
        for shape, given in of.items():
            same = [name for name in layers if reference[name].shape == shape]
            if given and len(given) < len(same):
                found |= zip(same[-len(given) :], given, strict=True)
            elif given:
                found |= zip(same, [*given[: len(same) - 1], given[-1]], strict=True)
            elif rest := [n for n in rest if tensors[n].ndim == len(shape)]:
                found[same[-1]] = rest[0 if shape == shapes[0] else -1]
    return found


def _fits(tensor: np.ndarray, shape: tuple[int, ...]) -> bool:
    return next(forms(tensor, shape), None) is not None


def turned(tensor: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """A tensor in a shape, or at least with its channels last if that can be told. Where a map has
    as many pixels along an axis as channels, so that the shape does not tell, it is the nearer one.
    """
    given = list(forms(tensor, wanted.shape))
    if given:
        return given[0] if len(given) == 1 else min(given, key=lambda x: farthest(wanted, x))
    if tensor.ndim == wanted.ndim == 4 and tensor.shape[-1] != wanted.shape[-1] == tensor.shape[1]:
        return np.moveaxis(tensor, 1, -1)
    return tensor


def forms(tensor: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """A tensor in a shape with channels last: as it is, or with its channels moved there."""
    if tensor.shape == shape:
        yield tensor
    if tensor.ndim == 4:
        moved = np.moveaxis(tensor, 1, -1)
        if moved.shape == shape:
            yield moved
        for one in (tensor, moved):
            if len(shape) == 2 and one.shape == (shape[0], 1, 1, shape[1]):
                yield one.reshape(shape)


def _before(found: Sequence[Node], right: set[str]) -> set[str]:
    """Layers on whose outputs one that is right depends."""
    sources = {part.name: (*part.sources, *part.inside) for part in found}
    reached: set[str] = set()
    waiting = list(right)
    while waiting:
        for name in sources.get(waiting.pop(), ()):
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return reached
