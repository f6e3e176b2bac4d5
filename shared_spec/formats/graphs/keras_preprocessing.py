"""Arithmetic on pixels at the beginning of a Keras model, as preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from shared_spec.formats.graphs.keras_layers import is_training_only
from shared_spec.formats.graphs.keras_model import Graph, Node
from shared_spec.formats.graphs.walk import LayerError, Tensor
from shared_spec.weights.lazy_array import LazyArray
from shared_spec.weights.preprocessing import Preprocessing

_WHITE = 255.0
"""Of the pixels that such a model takes, as Keras's utilities load them."""
_EPSILON = 1e-7
"""Keras's smallest deviation to divide by."""
_ORDERS: dict[tuple[int, ...], Literal["rgb", "bgr"]] = {
    (0, 1, 2): "rgb",
    (2, 1, 0): "bgr",
    (0,): "rgb",
}


@dataclass(frozen=True)
class PixelArithmetic:
    """Channel c of what enters the net is `scale[c] * pixels[order[c]] + offset[c]`."""

    order: tuple[int, ...]
    scale: np.ndarray
    offset: np.ndarray
    nodes: tuple[object, ...]
    """What does it, for messages; none: pixels enter as they are."""
    end: Tensor
    """What enters the net."""

    def preprocessing(self, image_size: int) -> Preprocessing | None:
        """The same on pixels from 0 to 1; None if nothing is done to them.

        Raises:
            LayerError: if no preprocessing says that.
        """
        if not self.nodes:
            return None
        if self.order not in _ORDERS or not (self.scale > 0).all():
            raise LayerError(
                f"{self.nodes[-1]} leaves pixels whose channels are out of order, or not scaled by "
                f"more than 0, which preprocessing cannot express"
            )
        std = 1 / (_WHITE * self.scale)
        return Preprocessing(
            image_size=image_size,
            mean=tuple(float(x) for x in 0 - self.offset * std),
            std=tuple(float(x) for x in std),
            channel_order=_ORDERS[self.order],
        )


def arithmetic_of(graph: Graph, channels: int, arrays: Mapping[str, LazyArray]) -> PixelArithmetic:
    """What a model does to pixels before its first other layer.

    Args:
        graph: of the model.
        channels: of an image.
        arrays: of the file, `<layer>/<number>` or `<layer>/<leaf>`, for what a layer has learnt.

    Raises:
        LayerError: naming a layer whose arithmetic is not that of single channels.
    """
    order = tuple(range(channels))
    scale, offset = np.ones(channels), np.zeros(channels)
    nodes: list[Node] = []
    at = 0
    while True:
        users = graph.consumers.get(at, ())
        if users and all(graph.nodes[n].kind == "GetItem" for n in users):
            stacked, picked = _stacked(graph, users)
            order = tuple(order[i] for i in picked)
            scale, offset = scale[list(picked)], offset[list(picked)]
            nodes += [*(graph.nodes[n] for n in users), graph.nodes[stacked]]
            at = stacked
            continue
        node = graph.nodes[users[0]] if len(users) == 1 else None
        step = None if node is None else _affine(node, graph, channels, arrays)
        if node is None or step is None:
            return PixelArithmetic(order, scale, offset, tuple(nodes), at)
        scale, offset = scale * step[0], offset * step[0] + step[1]
        if not is_training_only(node):
            nodes.append(node)
        at = users[0]


def _affine(
    node: Node, graph: Graph, channels: int, arrays: Mapping[str, LazyArray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Factor and addend of a layer by channel; None if it does something else."""
    one, nothing = np.ones(channels), np.zeros(channels)
    if is_training_only(node) and node.kind != "Dropout":
        return one, nothing
    if node.kind == "Rescaling":
        return _by_channel(node, node.config["scale"], channels), _by_channel(
            node, node.config.get("offset", 0.0), channels
        )
    if node.kind == "Normalization":
        return _normalization(node, channels, arrays)
    if node.kind in ("Resizing", "CenterCrop"):
        size = [node.config.get("height"), node.config.get("width")]
        if list(graph.image_shape[:2]) != size:
            raise LayerError(f"{node} changes the size of images, which no ResNet here does")
        return one, nothing
    if node.kind in _OPERATIONS and len(node.sources) == 1:
        first = node.arguments[:1] == (None,)
        constants = [x for x in node.arguments if x is not None]
        if len(constants) == len(node.arguments) - 1 == 1:
            return _OPERATIONS[node.kind](_by_channel(node, constants[0], channels), first, node)
    return None


def _divide(x: np.ndarray, first: bool, node: Node) -> tuple[np.ndarray, np.ndarray]:
    if not first:
        raise LayerError(f"{node} divides by the pixels")
    return 1 / x, np.zeros_like(x)


_Affine = tuple[np.ndarray, np.ndarray]
_OPERATIONS: dict[str, Callable[[np.ndarray, bool, Node], _Affine]] = {
    "Add": lambda x, first, node: (np.ones_like(x), x),
    "Subtract": lambda x, first, node: (np.ones_like(x), -x) if first else (-np.ones_like(x), x),
    "Multiply": lambda x, first, node: (x, np.zeros_like(x)),
    "TrueDivide": _divide,
    "Divide": _divide,
}


def _normalization(
    node: Node, channels: int, arrays: Mapping[str, LazyArray]
) -> tuple[np.ndarray, np.ndarray]:
    axis = node.config.get("axis")
    if node.config.get("invert") or axis not in (-1, 3, [-1], [3]):
        raise LayerError(f"{node} is inverted, or not over the channels")
    found = []
    for leaf, number in (("mean", 0), ("variance", 1)):
        given: Any = node.config.get(leaf)
        if given is None:
            name = "/".join(node.path)
            kept = arrays.get(f"{name}/{number}", arrays.get(f"{name}/{leaf}"))
            if kept is None:
                raise LayerError(f"{node} has no {leaf}, in its configuration or among the arrays")
            given = kept.read()
        found.append(_by_channel(node, given, channels))
    deviation = np.maximum(np.sqrt(found[1]), _EPSILON)
    return 1 / deviation, -found[0] / deviation


def _by_channel(node: Node, value: Any, channels: int) -> np.ndarray:
    """Numbers for each channel, from one or as many; axes of one element do not count."""
    if isinstance(value, Mapping) and value.get("class_name") in ("__tensor__", "__numpy__"):
        value = value["config"]["value"]
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise LayerError(f"{node} computes with what are no numbers") from None
    if numbers.size not in (1, channels) or (numbers.size > 1 and numbers.shape[-1] != channels):
        raise LayerError(f"{node} has {numbers.size} numbers for {channels} channels")
    if not np.isfinite(numbers).all():
        raise LayerError(f"{node} computes with numbers that are not finite")
    return np.broadcast_to(numbers.reshape(-1), (channels,)).copy()


def _stacked(graph: Graph, users: Sequence[Tensor]) -> tuple[Tensor, tuple[int, ...]]:
    """What puts single channels together again, and which ones in their order."""
    picks: dict[Tensor, int] = {}
    for number in users:
        node = graph.nodes[number]
        where = node.arguments[1] if len(node.arguments) == 2 else None
        last = where[-1] if isinstance(where, list) and len(where) == 2 else None
        whole = isinstance(where, list) and where[:1] == [
            {"class_name": "__ellipsis__", "config": {}}
        ]
        if type(last) is not int or not whole:
            raise LayerError(f"{node} takes other parts of the images than single channels")
        picks[number] = last
    ends = {graph.consumers.get(number, ()) for number in users}
    if len(ends) != 1 or len(next(iter(ends))) != 1:
        raise LayerError(
            f"{graph.nodes[users[0]]} takes a channel that is not put back among the others"
        )
    ((end,),) = ends
    node = graph.nodes[end]
    if node.kind != "Stack" or node.config.get("axis") not in (-1, 3):
        raise LayerError(f"{node} does not stack single channels into images")
    return end, tuple(picks[source] for source in node.sources)
