"""What JAX's compiler makes of a net."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared_spec import ResNetSpec


def program(resnet: Any, spec: dict[str, Any]) -> dict[str, int]:
    """Characters of the compiled program: of the logits, and of their gradient by the images."""
    import jax

    model = resnet.create_model(ResNetSpec.parse(spec), seed=0)
    call = model
    if resnet.__name__ == "resnet_flax":
        model.eval()
    else:

        def call(x: Any) -> Any:
            return model(x, training=False)

    images = np.zeros((2, 32, 32, 3), np.float32)
    gradient = jax.grad(lambda x: call(x).sum())
    return {
        name: len(jax.jit(function).lower(images).compile().as_text())
        for name, function in (("logits", call), ("gradient", gradient))
    }
