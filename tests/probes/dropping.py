"""Layers that drop, alone and in training mode."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared_spec import Checkpoint, ResNetSpec, plan, random_images, write_safetensors


def layer(
    resnet: Any, kind: str, fields: dict[str, Any], shape: list[int], training: bool, output: str
) -> None:
    """What one layer makes of ones of `shape` [N, H, W, C]."""
    record = getattr(plan, kind)("layer", **fields)
    images = np.ones(shape, np.float32)
    write_safetensors(
        output, Checkpoint({"y": _BACKENDS[resnet.__name__](record, images, training)})
    )


def _torch(record: Any, images: np.ndarray, training: bool) -> np.ndarray:
    import torch

    from resnet_torch.layers import build

    torch.manual_seed(7)
    module = build(record).train(training)
    y = module(torch.from_numpy(images).permute(0, 3, 1, 2))
    return y.permute(0, 2, 3, 1).contiguous().numpy()


def _keras(record: Any, images: np.ndarray, training: bool) -> np.ndarray:
    import keras

    from resnet_keras.layers import apply

    keras.utils.set_random_seed(7)
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, apply(record, inputs, "float32"))
    return np.array(keras.ops.convert_to_numpy(model(images, training=training)))


def _flax(record: Any, images: np.ndarray, training: bool) -> np.ndarray:
    import jax.numpy as jnp
    from flax import nnx

    from resnet_flax.layers import Options, build

    module = build(record, Options(jnp.float32, None, None, nnx.Rngs(7)))
    module.set_attributes(deterministic=not training)
    return np.array(module(jnp.asarray(images)))


_BACKENDS = {"resnet_torch": _torch, "resnet_keras": _keras, "resnet_flax": _flax}


def training_pass(resnet: Any, spec: dict[str, Any], seed: int) -> list[list[float]]:
    """The first images' logits in two passes in training mode over a fresh model."""
    model = resnet.create_model(ResNetSpec.parse(spec), seed=seed)
    images = random_images((4, 32, 32, 3))
    if resnet.__name__ == "resnet_torch":
        import torch

        torch.manual_seed(seed)
        x = torch.from_numpy(images).permute(0, 3, 1, 2)
        return [model(x)[0].tolist() for _ in range(2)]
    if resnet.__name__ == "resnet_keras":
        import keras

        passes = [model(images, training=True) for _ in range(2)]
        return [keras.ops.convert_to_numpy(y)[0].tolist() for y in passes]
    from flax import nnx

    step = nnx.jit(lambda m, x: m(x))
    return [np.asarray(step(model, images))[0].tolist() for _ in range(2)]


def seeds_of_a_loaded_model(resnet: Any, spec: dict[str, Any], file: str) -> list[list[list[int]]]:
    """What a Keras model's dropouts draw from: as it is made, from a file, and cloned."""
    import keras

    model = resnet.create_model(ResNetSpec.parse(spec), seed=3)
    model.save(file)
    every = (model, keras.saving.load_model(file), keras.models.clone_model(model))
    return [
        [
            np.asarray(keras.ops.convert_to_numpy(layer.seed_generator.state)).tolist()
            for layer in m.layers
            if hasattr(layer, "seed_generator")
        ]
        for m in every
    ]
