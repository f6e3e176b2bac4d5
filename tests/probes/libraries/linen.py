"""Checkpoints of Flax's imagenet example: written as it writes them, and restored as it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shared_spec import Checkpoint, read_safetensors, write_safetensors
from tests.peers import fetched


def model_of(options: dict[str, Any]) -> Any:
    models = fetched("flax_imagenet.models")
    block = getattr(models, options["block_cls"])
    return models.ResNet(**options | {"block_cls": block}, dtype=np.float64)


def initialized(model: Any, channels: int, **call: Any) -> Any:
    """The model's variables, all of them random; `call` is what its call takes beside images."""
    import jax

    rng = np.random.default_rng(5)
    image = np.zeros((1, 64, 64, channels))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, **call))

    def filled(path: Any, leaf: Any) -> Any:
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        fan_in = max(int(np.prod(leaf.shape[:-1])), 1)
        return rng.standard_normal(leaf.shape) * (2 / fan_in) ** 0.5

    return jax.tree_util.tree_map_with_path(filled, shapes)


def logits_of(model: Any, variables: Any, images: str, output: str, **call: Any) -> None:
    import jax

    apply = jax.jit(lambda x: model.apply(variables, x, **call))
    batches = read_safetensors(images).state
    found = {key: np.asarray(apply(x.astype(np.float64))) for key, x in batches.items()}
    write_safetensors(output, Checkpoint(found))


def save(
    resnet: Any, options: dict[str, Any], channels: int, folder: str, images: str, output: str
) -> None:
    """Its variables as `variables.msgpack` and `variables`; a training state as `state.msgpack` and
    as the example saves it.
    """
    import optax
    import orbax.checkpoint
    from flax import serialization
    from flax.training import checkpoints, train_state

    class TrainState(train_state.TrainState):
        batch_stats: Any
        dynamic_scale: Any

    model = model_of(options)
    variables = initialized(model, channels, train=False)
    logits_of(model, variables, images, output, train=False)
    state = TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optax.sgd(0.1, momentum=0.9, nesterov=True),
        batch_stats=variables["batch_stats"],
        dynamic_scale=None,
    )
    at = Path(folder).resolve()
    (at / "variables.msgpack").write_bytes(serialization.to_bytes(variables))
    (at / "state.msgpack").write_bytes(serialization.to_bytes(state))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(at / "variables", variables)
    checkpoints.save_checkpoint_multiprocess(at / "workdir", state, 7)


def restore(
    resnet: Any,
    options: dict[str, Any],
    channels: int,
    source: str,
    images: str,
    output: str,
) -> None:
    """Logits of the example with what is restored strictly from a file or a directory."""
    import jax
    import orbax.checkpoint
    from flax import serialization

    model = model_of(options)
    empty = initialized(model, channels, train=False)
    path = Path(source).resolve()
    if path.is_file():
        variables = serialization.from_bytes(empty, path.read_bytes())
    else:
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            variables = checkpointer.restore(path, empty)
    match = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), empty, variables)
    assert all(jax.tree.leaves(match))
    logits_of(model, variables, images, output, train=False)
