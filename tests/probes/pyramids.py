"""Some steps of gradient descent on the maps of a pyramid; run inside the engines' workers."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared_spec import Checkpoint, ResNetSpec, random_images, read_safetensors, write_safetensors

RATE, STEPS = 0.02, 3


def descend(
    resnet: Any, spec: dict[str, Any], weights: str, outputs: str, training: bool = True
) -> None:
    """Write what is left of weights after some steps that make the maps' mean squares smaller."""
    state = read_safetensors(weights).state
    model = resnet.create_model(ResNetSpec.parse(spec), weights=state, dtype="float64")
    images = random_images((2, 33, 48, 3)).astype(np.float64)
    step = {"resnet_torch": _torch, "resnet_keras": _keras, "resnet_flax": _flax}
    step[resnet.__name__](model, images, training)
    write_safetensors(outputs, Checkpoint(resnet.export_weights(model)))


def _torch(model: Any, images: np.ndarray, training: bool) -> None:
    import torch

    model.train(training)
    for _ in range(STEPS):
        maps = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        _in_torch([*model.parameters()], maps)


def _in_torch(tensors: list[Any], maps: Any) -> None:
    import torch

    loss = sum(x.square().mean() for x in maps)
    with torch.no_grad():
        for tensor, g in zip(tensors, torch.autograd.grad(loss, tensors), strict=True):
            tensor -= RATE * g


def _keras(model: Any, images: np.ndarray, training: bool) -> None:
    import keras

    kind = keras.backend.backend()
    variables = model.trainable_variables
    for _ in range(STEPS):
        if kind == "torch":
            maps = model(keras.ops.convert_to_tensor(images), training=training)
            _in_torch([v.value for v in variables], maps)
            continue
        if kind == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = sum(tf.reduce_mean(x * x) for x in model(images, training=training))
            gradients = tape.gradient(loss, [v.value for v in variables])
        else:
            import jax

            others = [v.value for v in model.non_trainable_variables]

            def loss_of(trained: Any, others: Any = others) -> Any:
                maps, others = model.stateless_call(trained, others, images, training=training)
                return sum((x * x).mean() for x in maps), others

            trained = [v.value for v in variables]
            gradients, others = jax.grad(loss_of, has_aux=True)(trained)
            for variable, value in zip(model.non_trainable_variables, others, strict=True):
                variable.assign(value)
        for variable, g in zip(variables, gradients, strict=True):
            variable.assign_sub(RATE * keras.ops.convert_to_tensor(g))


def _flax(model: Any, images: np.ndarray, training: bool) -> None:
    import jax
    from flax import nnx

    model.train() if training else model.eval()
    for _ in range(STEPS):
        gradients = nnx.grad(lambda net: sum((x * x).mean() for x in net(images)))(model)
        state = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(lambda x, g: x - RATE * g, state, gradients))
