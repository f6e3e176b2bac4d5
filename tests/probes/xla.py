"""What JAX's compiler makes of a net, and what it is told."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np

from shared_spec import ResNetSpec, resolve
from shared_spec.kernels import xla


def program(resnet: Any, spec: dict[str, Any]) -> dict[str, int]:
    """Characters of the compiled program: of the logits, and of their gradient by the images; and
    how many ReLUs are calls of their own.
    """
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
    lowered = {
        name: jax.jit(function).lower(images)
        for name, function in (("logits", call), ("gradient", gradient))
    }
    sizes = {name: len(found.compile().as_text()) for name, found in lowered.items()}
    return {**sizes, "relus": lowered["logits"].as_text().count("call @_relu")}


def not_numbers(resnet: Any, spec: dict[str, Any], size: int) -> dict[str, list[bool]]:
    """Which images give a logit that is not a number, of a pair whose first has such a pixel."""
    import jax
    from flax import nnx

    model = resnet.create_model(ResNetSpec.parse(spec), seed=0)
    model.eval()
    images = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)
    images[0, size // 2, size // 2, 1] = np.nan
    x = jax.numpy.asarray(images)
    found = {
        "predict": resnet.predict(model, images),
        "compiled": resnet.compiled(model)(x),
        "jit": nnx.jit(lambda model, x: model(x))(model, x),
        "eager": model(x),
    }
    return {how: np.isnan(np.asarray(y)).any(1).tolist() for how, y in found.items()}


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
            x, kernel.astype(x.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def library(dtype: str) -> bool:
        program = xla.jit(convolve, dtype).lower(maps.astype(dtype)).compile().as_text()
        return "__ynn_fusion" in program

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
            "library": {d: library(d) for d in ("float32", "float64")},
            "products": products(lambda f: xla.jit(f, "float32")),
            "usual": products(jax.jit),
            # A part of another program has no options of its own.
            "part": products(lambda f: jax.jit(lambda x: xla.jit(f, "float32")(x))),
        }
    xla._of_this_processor.cache_clear()
    return found
