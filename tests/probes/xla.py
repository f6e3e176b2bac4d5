"""What JAX's compiler makes of a net, and what it is told."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np

from shared_spec import ResNetSpec, resolve, xla


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


def told(resnet: Any, flags: list[str], xla_flags: str) -> dict[str, Any]:
    """On a processor of these flags: the compiler's options, whether a convolution goes to the
    library that they are about, and how many 1 x 1 convolutions of a net become products, compiled
    so and by `jax.jit` itself.
    """
    import jax

    net = resolve("resnet50", {"depths": [1, 1], "widths": [32, 32], "num_classes": 7})
    model = resnet.create_model(net, inference=True)
    images = np.zeros((2, 64, 64, 3), np.float32)
    kernel = np.zeros((3, 3, 32, 32), np.float32)
    maps = np.zeros((2, 16, 16, 32), np.float32)

    def convolve(x: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def call(x: Any) -> Any:
        return model(x) if resnet.__name__ == "resnet_flax" else model(x, training=False)

    def products(jit: Any) -> int:
        return str(jit(call).lower(images).as_text()).count("stablehlo.dot_general")

    xla._of_this_processor.cache_clear()
    with (
        mock.patch.object(xla, "processor_flags", return_value=frozenset(flags)),
        mock.patch.dict("os.environ", {"XLA_FLAGS": xla_flags}),
    ):
        found = {
            "options": xla.compiler_options(),
            "library": "__ynn_fusion" in xla.jit(convolve).lower(maps).compile().as_text(),
            "products": products(xla.jit),
            "usual": products(jax.jit),
        }
    xla._of_this_processor.cache_clear()
    return found
