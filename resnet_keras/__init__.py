"""ResNets as native Keras 3 models, on its TensorFlow, JAX or PyTorch engine. The verbs are those
of `resnet_torch` and `resnet_flax`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np

from shared_spec.errors import FrameworkError, framework_missing

try:
    import keras
except ImportError:
    if find_spec("keras") is None:
        raise framework_missing("resnet_keras", "Keras 3", "keras") from None
    engine = os.environ.get("KERAS_BACKEND", "tensorflow")
    extra = {"jax": "keras,flax", "torch": "keras,torch"}.get(engine, engine)
    raise framework_missing(f"resnet_keras on the {engine} engine", engine, extra) from None

from resnet_keras.model import ResNet, deep_graph, output_layer, part_ends
from resnet_keras.training import Trainer
from resnet_keras.weights import WEIGHTS
from shared_spec.backend import Build, ModelVerbs, Outputs
from shared_spec.catalogue import list_models
from shared_spec.kernels import xla
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.state import numpy_dtype


class Verbs(ModelVerbs[ResNet]):
    """What the verbs do in Keras."""

    weights = WEIGHTS

    def _build(self, spec: ResNetSpec, build: Build) -> ResNet:
        return ResNet(
            spec,
            build.variables,
            trainable=not build.inference,
            seed=build.seed,
            inference=build.inference,
        )

    def _has_float64(self) -> bool:
        if keras.backend.backend() != "jax":
            return True
        import jax

        return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]

    def _compile(self, model: ResNet) -> Callable[[Any], Any]:
        if keras.backend.backend() == "torch":
            from shared_spec.kernels.torch_compile import frozen

            return frozen(lambda x: model(x, training=False), model.kind)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            forward: Callable[[Any], Any] = tf.function(lambda x: model(x, training=False))
            return forward
        trained, others = model.trainable_variables, model.non_trainable_variables
        run = xla.jit(lambda t, o, x: model.stateless_call(t, o, x, training=False)[0], model.kind)
        # Read at each call: Keras's own functions give the memory of variables away.
        return lambda images: run([v.value for v in trained], [v.value for v in others], images)

    def _outputs(self, model: ResNet, chunks: list[np.ndarray]) -> list[Any]:
        return [model.predict_on_batch(_input(model, chunk)) for chunk in chunks]

    def _recorded(self, model: ResNet, images: np.ndarray, names: list[str]) -> Outputs:
        ends = {name: model.get_layer(output_layer(model.plan, name)).output for name in names}
        with deep_graph(model.plan):
            inner = keras.Model(model.input, ends)
        with _without_gradients():
            outputs = inner(_input(model, images), training=False)
        return {name: WEIGHTS.copied(outputs[name]) for name in names}

    def _parts(self, model: ResNet, inputs: Mapping[str, np.ndarray]) -> Outputs:
        outputs = {}
        with _without_gradients():
            for name, array in inputs.items():
                part = keras.Function(*part_ends(model, name))
                x = keras.ops.convert_to_tensor(_input(model, array))
                outputs[name] = WEIGHTS.copied(part(x))
        return outputs

    def _sizes(self, model: ResNet) -> Iterator[int]:
        return (int(np.prod(v.shape)) for v in model.trainable_variables)


def _input(model: ResNet, array: np.ndarray) -> np.ndarray:
    return array.astype(numpy_dtype(model.kind), copy=False)


def _without_gradients() -> AbstractContextManager[Any]:
    """Keep Keras's PyTorch engine from recording a graph of every activation."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


_VERBS = Verbs()

create_model = _VERBS.create_model
compiled = _VERBS.compiled
predict = _VERBS.predict
transforms = _VERBS.transforms
preprocess = _VERBS.preprocess
classify = _VERBS.classify
save_pretrained = _VERBS.save_pretrained
push_to_hub = _VERBS.push_to_hub
activations = _VERBS.activations
run_parts = _VERBS.run_parts
parameter_count = _VERBS.parameter_count
export_weights = WEIGHTS.export_weights
load_weights = WEIGHTS.load_weights
save_weights = WEIGHTS.save_weights
read_checkpoint = WEIGHTS.read_checkpoint
dtype_name = WEIGHTS.dtype_name

# Every catalogue name is a function, such as `resnet50(num_classes=10)`.
__getattr__: Callable[[str], Callable[..., ResNet]] = _VERBS.named_model


def __dir__() -> list[str]:
    return [*globals(), *list_models()]


__all__ = [
    "FrameworkError",
    "ResNet",
    "Trainer",
    "activations",
    "classify",
    "compiled",
    "create_model",
    "dtype_name",
    "export_weights",
    "list_models",
    "load_weights",
    "parameter_count",
    "predict",
    "preprocess",
    "push_to_hub",
    "read_checkpoint",
    "run_parts",
    "save_pretrained",
    "save_weights",
    "transforms",
]
