"""ResNets as native Keras 3 models, on its TensorFlow, JAX or PyTorch engine. The verbs are those
of `resnet_torch` and `resnet_flax`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

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
from resnet_keras.weights import (
    dtype_name,
    export_weights,
    load_weights,
    read_checkpoint,
    save_weights,
)
from shared_spec.backend import (
    activation_names,
    as_images,
    batches,
    concatenate_outputs,
    entry_points,
    resolve_both,
)
from shared_spec.catalogue import list_models
from shared_spec.catalogue.resolve import ModelLike
from shared_spec.kernels import xla
from shared_spec.plan.folding import Inference
from shared_spec.weights.adapt import read_adapted
from shared_spec.weights.initialize import initial_weights
from shared_spec.weights.state import WeightsLike, cast_weights, numpy_dtype


def create_model(
    model: ModelLike,
    *,
    weights: WeightsLike | None = None,
    seed: int = 0,
    dtype: str = "float32",
    inference: Inference | bool = False,
    **overrides: Any,
) -> ResNet:
    """Build a functional `keras.Model`.

    Args:
        model: a catalogue name, a `ResNetSpec`, or the path of a YAML, TOML or JSON spec file.
        weights: None for fresh weights; a dict of canonical arrays; the path of a checkpoint;
            or `"hf-hub:owner/name"`. They have to fit, except where an override of `in_channels`,
            `num_classes` or `features_only` changes the net: see `shared_spec.weights.adapt`.
        seed: of the fresh weights, which are bit-identical in every framework.
        dtype: of parameters and computation: float64 (on the JAX engine with `jax_enable_x64`),
            float32, float16 or bfloat16.
        inference: True for the form that is fastest in inference, in evaluation mode and with its
            batch norms folded into the convolutions; an `Inference` chooses among such forms.
            It computes the same logits except for rounding, and can neither be trained nor saved.
        **overrides: any field of the spec, such as `num_classes=10, in_channels=1`.

    Raises:
        ResNetError: with one sentence, if the name, spec, dtype or weights are not valid.
    """
    specs = resolve_both(model, overrides)
    spec = specs[0]
    numpy_dtype(dtype)
    if dtype == "float64" and not _has_float64():
        raise FrameworkError(
            "dtype: float64 on Keras's JAX engine needs "
            "jax.config.update('jax_enable_x64', True) before JAX is used"
        )
    net = ResNet(spec, dtype, trainable=not inference, seed=seed, inference=inference)
    if weights is None:
        trained = net.plan.trained or net.plan
        return load_weights(net, cast_weights(initial_weights(trained, seed), dtype))
    return load_weights(net, read_adapted(read_checkpoint, weights, specs, overrides, seed))


def compiled(model: ResNet) -> Callable[[Any], Any]:
    """The model in evaluation mode as a function, compiled as is fastest on the device at hand: for
    many calls with weights that no longer change (what it gives after they do is not defined). The
    first call of a new size compiles, which takes up to a minute on CPUs on the PyTorch engine.

    Returns:
        A function that takes and gives what `model` does, as the engine's own tensors:
        [N, H, W, C] to [N, num_classes].
    """
    return _COMPILED[keras.backend.backend()](model)


def _compiled_tensorflow(model: ResNet) -> Callable[[Any], Any]:
    import tensorflow as tf

    forward: Callable[[Any], Any] = tf.function(lambda x: model(x, training=False))
    return forward


def _compiled_jax(model: ResNet) -> Callable[[Any], Any]:
    trained, others = model.trainable_variables, model.non_trainable_variables
    run = xla.jit(
        lambda t, o, x: model.stateless_call(t, o, x, training=False)[0], dtype_name(model)
    )
    # Read at each call: Keras's own functions give the memory of variables away.
    return lambda images: run([v.value for v in trained], [v.value for v in others], images)


def _compiled_torch(model: ResNet) -> Callable[[Any], Any]:
    from shared_spec.kernels.torch_compile import frozen

    return frozen(lambda x: model(x, training=False), dtype_name(model))


_COMPILED: dict[str, Callable[[ResNet], Callable[[Any], Any]]] = {
    "tensorflow": _compiled_tensorflow,
    "jax": _compiled_jax,
    "torch": _compiled_torch,
}


def predict(model: ResNet, images: np.ndarray, *, batch_size: int = 64) -> Any:
    """Logits in evaluation mode, through the model's compiled `predict_on_batch`.

    Args:
        model: the model.
        images: [N, H, W, C], already normalised.
        batch_size: images computed at a time.

    Returns:
        [N, num_classes] of the model's dtype, or [N, features] if it has no classes; a list of
        [N, H, W, C] for a features-only model.
    """
    parts = batches(images, model.plan, batch_size)
    dtype = numpy_dtype(dtype_name(model))
    return concatenate_outputs(
        [model.predict_on_batch(part.astype(dtype, copy=False)) for part in parts]
    )


def activations(
    model: ResNet, images: np.ndarray, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Outputs of the named layers and blocks (all blocks if None), in evaluation mode.

    Returns:
        Canonical name to array, channels last: [N, H, W, C], or [N, C] after the global pool.
    """
    images = as_images(images, model.plan).astype(numpy_dtype(dtype_name(model)), copy=False)
    wanted = activation_names(model.plan, names)
    outputs = {name: model.get_layer(output_layer(model.plan, name)).output for name in wanted}
    with deep_graph(model.plan):
        inner = keras.Model(model.input, outputs)
    with _without_gradients():
        found = inner(images, training=False)
    return {name: np.array(keras.ops.convert_to_numpy(found[name])) for name in wanted}


def _without_gradients() -> AbstractContextManager[Any]:
    """Keep Keras's PyTorch engine from recording a graph of every activation."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def run_parts(model: ResNet, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of layers and blocks, each on its own input and apart from the rest, in evaluation
    mode: the name to the input, and in the answer to the output, all channels last.
    """
    dtype = numpy_dtype(dtype_name(model))
    found = {}
    with _without_gradients():
        for name in activation_names(model.plan, inputs):
            part = keras.Function(*part_ends(model, name))
            x = keras.ops.convert_to_tensor(inputs[name].astype(dtype, copy=False))
            found[name] = np.array(keras.ops.convert_to_numpy(part(x)))
    return found


def parameter_count(model: ResNet) -> int:
    """Number of trainable scalars in the native model."""
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def _has_float64() -> bool:
    if keras.backend.backend() != "jax":
        return True
    import jax

    return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]


globals().update(entry_points(create_model))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., ResNet]:
        """Every catalogue name is a function, such as `resnet50(num_classes=10)`."""


__all__ = [
    "FrameworkError",
    "ResNet",
    "Trainer",
    "activations",
    "compiled",
    "create_model",
    "dtype_name",
    "export_weights",
    "list_models",
    "load_weights",
    "parameter_count",
    "predict",
    "read_checkpoint",
    "run_parts",
    "save_weights",
]
