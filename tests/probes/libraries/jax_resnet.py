"""The nets of the package jax-resnet, with random variables."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.peers import fetched
from tests.probes.libraries.linen import initialized, logits_of


def model_of(name: str, options: dict[str, Any], block: dict[str, Any]) -> Any:
    """The package's net `name`, with some options of it and of its blocks."""
    package = fetched("jax_resnet")
    made = getattr(package, name)
    if block:
        kind = made.keywords["block_cls"]
        options = options | {"block_cls": partial(kind, **block)}
    return made(**options)


def save(
    resnet: Any,
    name: str,
    options: dict[str, Any],
    block: dict[str, Any],
    channels: int,
    folder: str,
    images: str,
    output: str,
) -> None:
    """Its variables as `a.msgpack` and `a`, and its logits."""
    import orbax.checkpoint
    from flax import serialization

    model = model_of(name, options, block)
    variables = initialized(model, channels)
    logits_of(model, variables, images, output)
    at = Path(folder).resolve()
    (at / "a.msgpack").write_bytes(serialization.to_bytes(variables))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(at / "a", variables)


def restore(
    resnet: Any,
    name: str,
    options: dict[str, Any],
    channels: int,
    source: str,
    images: str,
    output: str,
) -> None:
    """Its logits with what is restored strictly from a `.msgpack` file."""
    from flax import serialization

    model = model_of(name, options, {})
    variables = serialization.from_bytes(initialized(model, channels), Path(source).read_bytes())
    logits_of(model, variables, images, output)


def shapes(resnet: Any, name: str) -> dict[str, list[int]]:
    """Shape of each variable of the net that the package calls `name`, with 1000 classes."""
    import jax
    from flax.traverse_util import flatten_dict

    model = model_of(name, {"n_classes": 1000}, {})
    image = np.zeros((1, 64, 64, 3), np.float32)
    tree = flatten_dict(jax.eval_shape(lambda: model.init(jax.random.key(0), image)), sep="/")
    return {path: list(leaf.shape) for path, leaf in tree.items()}


def names(resnet: Any) -> list[str]:
    """The nets that the package defines."""
    found = vars(fetched("jax_resnet.resnet")).items()
    return sorted(
        n for n, made in found if isinstance(made, partial) and "stage_sizes" in made.keywords
    )
