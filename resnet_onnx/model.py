"""A residual network as an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from resnet_onnx.graph import Graph
from resnet_onnx.layers import build, chain
from shared_spec.export_formats import IMAGES
from shared_spec.plan.network import Block, Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.preprocessing import Preprocessing
from shared_spec.weights.state import State, numpy_dtype


def block(g: Graph, b: Block, x: str) -> str:
    """`output(branch(pre(x)) + shortcut)`."""
    h = chain(g, b.pre, x)
    y = chain(g, b.branch, h)
    if b.shortcut_from is not None:
        shortcut = chain(g, b.shortcut, x if b.shortcut_from == "input" else h)
        y = g.node("Add", y, shortcut, name=f"{b.name}/sum")
    g.places[b.name] = chain(g, b.output, y)
    return g.places[b.name]


def network(g: Graph, p: Plan, x: str) -> None:
    """`head(stages(stem(x)))`, and the junctions."""
    images, x = x, chain(g, p.stem, x)
    for b in p.blocks():
        x = block(g, b, x)
    chain(g, p.head, x)
    for junction in p.junctions:
        first, *rest = junction.layers
        entering = [g.places[p.end(name)] if name else images for name in junction.sources]
        x = build(g, first, entering if len(entering) > 1 else entering[0])
        chain(g, tuple(rest), x)


def normalised(g: Graph, prepare: Preprocessing, x: str) -> str:
    """Pixels of 8 bits, [N, H, W, C] in the order RGB, as the weights want them."""
    x = g.cast(x, "float64" if g.dtype == "float64" else "float32", "preprocessing/float")
    if prepare.channel_order == "bgr":
        x = g.node("Gather", x, g.whole(2, 1, 0), name="preprocessing/bgr", axis=-1)
    wide = g.dtype if g.dtype == "float64" else "float32"
    x = g.node("Div", x, g.number(255, dtype=wide), name="preprocessing/scaled")
    x = g.node("Sub", x, g.number(*prepare.mean, dtype=wide), name="preprocessing/centred")
    x = g.node("Div", x, g.number(*prepare.std, dtype=wide), name="preprocessing/normalised")
    return g.node("Transpose", x, name=IMAGES, perm=[0, 3, 1, 2])


class Variable:
    """An array of a model, in a place of its own."""

    def __init__(self, shape: tuple[int, ...], dtype: str, changed: Callable[[], None]) -> None:
        self.value = np.zeros(shape, numpy_dtype(dtype))
        self._changed = changed

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.value.shape)

    def set(self, array: np.ndarray) -> None:
        """Put another array in the place of this one."""
        self.value = array.astype(self.value.dtype)
        self._changed()


class ResNet:
    """A residual network for ONNX's runtimes: its plan and its weights, and no training mode.

    Attributes:
        sessions: what runs it, with the weights that it has.
    """

    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None

    def __init__(self, p: Plan, spec: ResNetSpec, dtype: str) -> None:
        self.plan, self.spec, self.dtype = p, spec, dtype
        self.sessions: dict[Any, Any] = {}
        self.variables = {
            q.name: Variable(q.shape, dtype, self.sessions.clear) for q in p.parameters()
        }

    @property
    def state(self) -> State:
        """Its arrays, by canonical name."""
        return {name: variable.value for name, variable in self.variables.items()}
