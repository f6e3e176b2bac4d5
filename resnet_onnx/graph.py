"""A graph of ONNX operators while it is put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from shared_spec.weights.state import numpy_dtype

CONSTANT = "constant/"
"""How the names of numbers begin that are no weights. The rest of the name are their exact values:
a file of float32 so still tells those that it rounds.
"""

TYPES: dict[str, int] = {
    "float64": TensorProto.DOUBLE,
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
}

HALVES = ("float16", "bfloat16")


class Graph:
    """Nodes in their order, each called as the tensor that it gives: the layer's name, and behind a
    slash what a layer has inside.

    Attributes:
        dtype: in which it computes.
        opset: the version of the operators.
        nodes: the nodes.
        constants: arrays that are no weights.
        places: which tensor each layer and block gives.
    """

    def __init__(self, dtype: str, opset: int) -> None:
        self.dtype, self.opset = dtype, opset
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.places: dict[str, str] = {}

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node; its one output, which has its name."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def number(self, *values: float, dtype: str | None = None) -> str:
        """Numbers of the graph's dtype, or of another: a scalar, or a vector of several."""
        kind = dtype or self.dtype
        exact = np.array(values[0] if len(values) == 1 else values, np.float64)
        ending = "" if kind == self.dtype else f"/{kind}"
        name = f"{CONSTANT}{'_'.join(map(repr, map(float, values)))}{ending}"
        self.constants[name] = exact.astype(numpy_dtype(kind))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        """An array that is no weight, by its name."""
        self.constants[name] = value
        return name

    def whole(self, *values: int) -> str:
        """A vector of integers, as shapes and axes are."""
        name = f"integers/{'_'.join(map(str, values))}"
        self.constants[name] = np.array(values, np.int64)
        return name

    def mean(self, x: str, axes: Sequence[int], name: str) -> str:
        """The mean over axes, which stay with the size 1."""
        if self.opset < 18:
            return self.node("ReduceMean", x, name=name, axes=list(axes), keepdims=1)
        return self.node("ReduceMean", x, self.whole(*axes), name=name, keepdims=1)

    def cast(self, x: str, dtype: str, name: str) -> str:
        """A tensor in another dtype."""
        return self.node("Cast", x, name=name, to=TYPES[dtype])

    def rename(self, old: str, new: str) -> None:
        """Give a tensor another name."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new
        self.places = {k: new if v == old else v for k, v in self.places.items()}
