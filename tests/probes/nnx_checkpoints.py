"""Checkpoints of NNX's own states, written by orbax in the ways that Flax's guide shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

from shared_spec import ResNetSpec, compile_plan, digest, random_weights


def _standard(path: Path, tree: Any) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def _pytree(path: Path, tree: Any) -> None:
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def _managed(path: Path, *steps: Any, options: Any = None) -> None:
    """The states of steps 8, 9, 10, ...: by their names, 10 comes first."""
    with ocp.CheckpointManager(path, options=options) as manager:
        for number, step in enumerate(steps, 8):
            manager.save(number, args=step)
        manager.wait_until_finished()


class Around(nnx.Module):
    """A user's model with a net of ours inside."""

    def __init__(self, net: Any) -> None:
        self.backbone = net
        self.neck = nnx.Linear(4, 3, rngs=nnx.Rngs(0))


def saved(resnet: Any, folder: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Save a net in every way, and give the digest of its weights."""

    def made(seed: int) -> Any:
        net = ResNetSpec.parse(spec)
        return resnet.create_model(net, weights=random_weights(compile_plan(net), seed))

    at = Path(folder).resolve()
    model, other = made(3), made(4)
    trained = nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param)
    trained.update(model, nnx.state(other, nnx.Param))
    state, old = nnx.state(model), nnx.state(other)
    _, params, rest = nnx.split(model, nnx.Param, ...)
    _, _, statistics, rngs = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    optimizer = nnx.state(trained)
    pure = nnx.to_pure_dict(state)
    save, composite = ocp.args.StandardSave, ocp.args.Composite
    forms: dict[str, Callable[[Path], None]] = {
        "state": lambda path: _standard(path, state),
        "pure": lambda path: _standard(path, pure),
        "pytree": lambda path: _pytree(path, state),
        "list": lambda path: _standard(path, [params, rest]),
        "parts": lambda path: _standard(
            path, {"params": params, "batch_stats": statistics, "rngs": rngs}
        ),
        "training": lambda path: _pytree(
            path, {"model": state, "optimizer": optimizer, "step": 3, "note": "text"}
        ),
        "moments": lambda path: _standard(
            path, {"params": params, "rest": rest, "adam": optimizer["opt_state"]}
        ),
        "training in pure dicts": lambda path: _standard(
            path, {"model": pure, "opt": nnx.to_pure_dict(optimizer), "step": np.int32(3)}
        ),
        "inside": lambda path: _standard(path, {"model": nnx.state(Around(model))}),
        "managed": lambda path: _managed(path, save(old), save(old), save(state)),
        "named steps": lambda path: _managed(
            path, save(state), options=ocp.CheckpointManagerOptions(step_prefix="ckpt")
        ),
        "composite": lambda path: _managed(
            path,
            composite(
                net=save(state), optimizer=save(optimizer), facts=ocp.args.JsonSave({"a": 1})
            ),
        ),
        "two": lambda path: _standard(path, {"model": old, "ema": state}),
        "averaged parameters": lambda path: _standard(
            path, {"ema_params": params, "params": nnx.state(other, nnx.Param), "rest": rest}
        ),
    }
    for name, write in forms.items():
        write(at / name)
    # What orbax itself restores is the state.
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(at / "state", nnx.state(made(4)))
    nnx.update(other, restored)
    expected = resnet.export_weights(model)
    assert digest(resnet.export_weights(other)) == digest(expected)
    return {"digest": digest(expected), "forms": list(forms)}


def read(resnet: Any, path: str, spec: dict[str, Any], part: str | None) -> list[Any]:
    found = resnet.read_checkpoint(path, ResNetSpec.parse(spec), part=part)
    return [digest(found.state), list(found.notes)]


def loaded(resnet: Any, path: str, spec: dict[str, Any]) -> str:
    """The digest of a model that got the tree which orbax restores without a target."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(Path(path).resolve())
    model = resnet.create_model(ResNetSpec.parse(spec))
    return digest(resnet.export_weights(resnet.load_weights(model, tree)))
