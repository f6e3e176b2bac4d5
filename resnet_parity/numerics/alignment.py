"""Which tensor of a foreign graph is which layer's output: by its name, its values, its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from resnet_parity.numerics.difference import farthest
from shared_spec.plan.dataflow import Node
from shared_spec.weights.state import State

SAME_VALUES = {"float64": 1e-9, "float32": 1e-4}
"""Up to which error two tensors are taken for the same: two layers of a net are farther apart."""


def aligned(
    found: Sequence[Node], reference: State, tensors: Mapping[str, np.ndarray], tolerance: float
) -> State:
    """Arrays of `tensors`, which are in the order of computation, for layers and blocks.

    A layer gets the tensor that has its name; or else one that has its values; or else, unless a
    layer behind it was found by its values, so that the graph computes it in one with others, the
    first in order that has its shape and that no other layer got.

    Args:
        found: layers and blocks, in the order of computation.
        reference: what each should give, channels last.
        tensors: the graph's own, with channels in any place.
        tolerance: up to which error two arrays have the same values.

    Returns:
        By the names of layers and blocks, with the reference's order of axes.
    """
    answer: State = {}
    taken: dict[str, str] = {}
    for part in found:
        wanted = reference[part.name]
        if part.name in tensors:
            given = next(forms(tensors[part.name], wanted.shape), None)
            if given is not None:
                answer[part.name], taken[part.name] = given, part.name
            continue
        for name, tensor in tensors.items():
            same = (x for x in forms(tensor, wanted.shape) if farthest(wanted, x) <= tolerance)
            if (given := next(same, None)) is not None:
                answer[part.name], taken[name] = given, part.name
                break
    right = {part.name for part in found if part.name in answer}
    fused = _before(found, right)
    for part in found:
        if part.name in answer or part.name in fused:
            continue
        if part.kind == "block":  # its last layer's tensor, or that of its sum
            continue
        for name, tensor in tensors.items():
            given = next(forms(tensor, reference[part.name].shape), None)
            if name not in taken and given is not None:
                answer[part.name], taken[name] = given, part.name
                break
    return answer


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
