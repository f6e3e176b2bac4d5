"""A LiteRT file as a graph: every tensor that it computes, and the weights of its operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.numerics.structure import Call
from resnet_parity.worker.session import one_line
from shared_spec.errors import WeightsError
from shared_spec.export_formats import in_batches
from shared_spec.weights.lazy_array import LazyArray
from shared_spec.weights.state import State


class LiteGraph:
    """What a file computes from normalised images, without a delegate, which would fuse operators.

    Raises:
        WeightsError: if it is no such file, or takes something else.
    """

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        try:
            self._runner: Any = Interpreter(
                model_path=str(path),
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            self._runner.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise WeightsError(f"{path}: is no file that LiteRT runs ({one_line(error)})") from None
        entries = self._runner.get_input_details()
        if len(entries) != 1 or len(entries[0]["shape"]) != 4 or entries[0]["dtype"] != np.float32:
            told = [f"{x['dtype'].__name__} {x['shape'].tolist()}" for x in entries[:3]]
            raise WeightsError(
                f"{path}: takes {', '.join(told) or 'nothing'}; expected one input, normalised "
                f"images [N, H, W, C] of float32"
            )
        self._entry: int = int(entries[0]["index"])
        self.images = str(self._entry)
        """The tensor that enters; tensors are called by their numbers."""
        self.shape = [int(n) for n in entries[0]["shape"]]
        """Of the images."""
        self._operators: list[Any] = self._runner._get_ops_details()

    def calls(self) -> list[Call]:
        """Its operators. A mean before a product is a sum, the factor being in the weights."""
        computed = {i for x in self._operators for i in x["outputs"]} | {self._entry}
        found = []
        for operator in self._operators:
            inputs = [int(i) for i in operator["inputs"]]
            read = _READERS.get(operator["op_name"])
            given = [None if i < 0 or i in computed else self._constant(i) for i in inputs]
            own = {} if read is None else read(given)
            if "weight" in own and inputs[0] in self._sums:
                own["weight"] = _times(own["weight"], self._sums[inputs[0]])
            entering = tuple(str(i) for i in inputs if i in computed)
            found.append(Call(entering, tuple(str(i) for i in operator["outputs"]), own))
        return found

    @cached_property
    def _sums(self) -> dict[int, int]:
        """Sums over maps, and of how many pixels they are."""
        found = {}
        for operator in self._operators:
            if operator["op_name"] == "SUM":
                shape = self._runner.get_tensor(int(operator["inputs"][0])).shape
                found[int(operator["outputs"][0])] = math.prod(shape[1:3])
        return found

    def _constant(self, number: int) -> LazyArray | None:
        try:
            return LazyArray.of(self._runner.get_tensor(number))
        except ValueError:  # of a type, or place, that the library shows nobody
            return None

    def tensors_of(self, images: np.ndarray) -> tuple[State, list[np.ndarray]]:
        """Every tensor on images [N, H, W, C], by its number and in the order of computation; and
        its outputs, before a softmax. What has no images along its first axis is empty.
        """
        numbers = [int(i) for x in self._operators for i in x["outputs"]]
        ends = self._ends()
        size = self.shape[0]

        def run(chunk: np.ndarray) -> list[np.ndarray]:
            self._runner.set_tensor(self._entry, chunk.astype(np.float32))
            self._runner.invoke()
            found = [self._runner.get_tensor(i) for i in (*numbers, *ends)]
            return [x if x.shape[:1] == (size,) else np.zeros((size, 0)) for x in found]

        arrays = in_batches(run, images, size)
        whole = dict(zip(numbers, arrays, strict=False))
        # A sum is no layer's.
        layers = {str(i): x for i, x in whole.items() if i not in self._sums}
        return layers, arrays[len(numbers) :]

    def _ends(self) -> list[int]:
        """The outputs, in the order of their names if a signature has some."""
        if len(self._runner.get_signature_list()) == 1:
            named = self._runner.get_signature_runner().get_output_details()
            ends = [named[name] for name in sorted(named)]
        else:
            ends = self._runner.get_output_details()
        softmax = {
            int(x["outputs"][0]): int(x["inputs"][0])
            for x in self._operators
            if x["op_name"] == "SOFTMAX"
        }
        return [softmax.get(int(x["index"]), int(x["index"])) for x in ends]


Given = Sequence[LazyArray | None]


def _times(entry: LazyArray, factor: int) -> LazyArray:
    return LazyArray(entry.shape, entry.dtype, lambda: entry.read() * np.float32(factor))


def _weighted(axes: tuple[int, ...]) -> Callable[[Given], dict[str, LazyArray]]:
    """Reads a kernel and a bias behind the first operand."""

    def read(given: Given) -> dict[str, LazyArray]:
        weight = given[1] if len(given) > 1 else None
        if weight is None or len(weight.shape) != len(axes):
            return {}
        bias = given[2] if len(given) > 2 else None
        return {"weight": weight.permuted(axes)} | ({} if bias is None else {"bias": bias})

    return read


def _per_channel(leaf: str) -> Callable[[Given], dict[str, LazyArray]]:
    def read(given: Given) -> dict[str, LazyArray]:
        own = [x for x in given if x is not None and x.shape[-1:] != (1,)]
        if len(own) != 1 or any(n != 1 for n in own[0].shape[:-1]) or not own[0].shape:
            return {}
        return {leaf: own[0].reshaped(own[0].shape[-1:])}

    return read


_READERS: dict[str, Callable[[Given], dict[str, LazyArray]]] = {
    "CONV_2D": _weighted((0, 3, 1, 2)),
    "DEPTHWISE_CONV_2D": _weighted((3, 0, 1, 2)),
    "FULLY_CONNECTED": _weighted((0, 1)),
    "ADD": _per_channel("bias"),
    "MUL": _per_channel("weight"),
}
