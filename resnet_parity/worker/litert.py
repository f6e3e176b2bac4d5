"""The engine `litert`: nets of `resnet_keras`, converted and run by LiteRT's interpreter, in the
place of a backend package. Its verbs are those that a session asks for.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import resnet_keras
from resnet_keras.exporting import litert_program
from resnet_keras.model import ResNet, deep_graph, output_layer, part_ends
from shared_spec.backend import Outputs
from shared_spec.errors import FrameworkError

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def started(model: bytes) -> Run:
    """A model in an interpreter: arrays for its inputs, by name, to its outputs by name."""
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    interpreter = Interpreter(model_content=model, num_threads=threads)
    runner = interpreter.get_signature_runner()
    return lambda given: {name: np.array(y) for name, y in runner(**given).items()}


class Verbs(resnet_keras.Verbs):
    """What the verbs do in LiteRT. A model's weights are those that it had at its first run."""

    def __init__(self) -> None:
        super().__init__()
        self._started: weakref.WeakKeyDictionary[ResNet, dict[Any, Run]] = (
            weakref.WeakKeyDictionary()
        )

    def _variable_dtype(self, dtype: Any, native: Mapping[str, Any]) -> str:
        kind = super()._variable_dtype(dtype, native)
        if kind != "float32":
            raise FrameworkError(f"litert does not compute in {kind}; it does in float32")
        return kind

    def _compile(self, model: ResNet) -> Callable[[Any], Any]:
        def call(images: np.ndarray) -> Any:
            known = self._started.setdefault(model, {})
            if images.shape not in known:
                known[images.shape] = self._run(model, model, [images])
            found = known[images.shape]({"x0": images})
            results = [found[name] for name in sorted(found)]
            return results if model.plan.outputs else results[0]

        return call

    def _outputs(self, model: ResNet, chunks: list[np.ndarray]) -> list[Any]:
        call = self._compile(model)
        return [call(chunk.astype(np.float32)) for chunk in chunks]

    def _recorded(self, model: ResNet, images: np.ndarray, names: list[str]) -> Outputs:
        images = images.astype(np.float32)
        ends = [model.get_layer(output_layer(model.plan, name)).output for name in names]
        with deep_graph(model.plan):
            inner = keras.Model(model.input, ends)
        found = self._run(model, inner, [images])({"x0": images})
        return dict(zip(names, (found[key] for key in sorted(found)), strict=True))

    def _parts(self, model: ResNet, inputs: Mapping[str, np.ndarray]) -> Outputs:
        arrays = [x.astype(np.float32) for x in inputs.values()]
        parts = [keras.Function(*part_ends(model, name)) for name in inputs]

        def program(*given: Any) -> list[Any]:
            return [part(x) for part, x in zip(parts, given, strict=True)]

        found = self._run(model, program, arrays)({f"x{i}": x for i, x in enumerate(arrays)})
        return dict(zip(inputs, (found[key] for key in sorted(found)), strict=True))

    @staticmethod
    def _run(model: ResNet, called: Callable[..., Any], examples: Sequence[np.ndarray]) -> Run:
        """A function of a model's layers in an interpreter, for arrays like these: `x0`, ... to
        `y00000`, ...
        """

        def program(*given: Any) -> dict[str, Any]:
            y = called(*given)
            levels = y if isinstance(y, list | tuple) else [y]
            return {f"y{i:05}": level for i, level in enumerate(levels)}

        specs = [tf.TensorSpec(x.shape, x.dtype, name=f"x{i}") for i, x in enumerate(examples)]
        return started(litert_program(model, program, specs))


_VERBS = Verbs()

create_model = _VERBS.create_model
compiled = _VERBS.compiled
export = _VERBS.export
predict = _VERBS.predict
activations = _VERBS.activations
run_parts = _VERBS.run_parts
parameter_count = _VERBS.parameter_count
load_weights = resnet_keras.load_weights
read_checkpoint = resnet_keras.read_checkpoint
