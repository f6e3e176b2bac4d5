"""A model as a StableHLO program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from resnet_flax.model import ResNet, evaluating
from resnet_flax.weights import WEIGHTS
from shared_spec.errors import FrameworkError
from shared_spec.export_formats import Form, converting, outer_dtype
from shared_spec.plan.open_sizes import smallest
from shared_spec.weights.checkpoint import Checkpoint

PLATFORMS = ("cpu", "cuda", "tpu")
"""On which a program runs."""


def write_stablehlo(model: ResNet, path: Path, form: Form, known: Checkpoint) -> None:
    """Write a program for all platforms that `jax.export.deserialize` reads: images, or pixels, to
    logits or probabilities, of float32 where the model computes in less. Its weights are part of
    it, and it has no place for what else is known.

    Raises:
        FrameworkError: if `flatbuffers` is not installed, in which JAX writes.
        SpecError: if the net has no such program.
    """
    from jax import export

    if find_spec("flatbuffers") is None:
        raise FrameworkError("flatbuffers not installed; run: pip install flatbuffers")
    dtype = WEIGHTS.dtype_name(model)
    outer = jnp.dtype(outer_dtype(dtype))
    prepare = form.normalisation(known.preprocessing)
    graph, state = nnx.split(evaluating(model))

    def program(x: jax.Array) -> Any:
        if prepare is not None:
            x = x[..., ::-1] if prepare.channel_order == "bgr" else x
            mean, std = jnp.asarray(prepare.mean, outer), jnp.asarray(prepare.std, outer)
            x = (x.astype(outer) / 255 - mean) / std
        y = nnx.merge(graph, state)(x.astype(dtype))
        if form.head == "softmax":
            y = jax.nn.softmax(y)
        return jax.tree.map(lambda level: level.astype(outer), y)

    size = form.size or ("height", "width")
    axes = (form.batch or "batch", *size, model.spec.in_channels)
    least = [f"{side} >= {smallest(model.plan)}" for side in size if isinstance(side, str)]
    shape = export.symbolic_shape(", ".join(map(str, axes)), constraints=least)
    kind = jnp.uint8 if form.preprocessing else outer
    given = jax.ShapeDtypeStruct(shape, kind)  # type: ignore[no-untyped-call]
    with converting("StableHLO", form), _without_places():
        traced = export.export(jax.jit(program), platforms=PLATFORMS)(given)
    path.write_bytes(traced.serialize())


@contextmanager
def _without_places() -> Iterator[None]:
    """Keep what is traced from naming the files of its source, which are this machine's."""
    name = "jax_traceback_in_locations_limit"
    kept = getattr(jax.config, name)
    jax.config.update(name, 0)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        jax.config.update(name, kept)  # type: ignore[no-untyped-call]
