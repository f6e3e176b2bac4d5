"""Canonical weights to and from an NNX model and its checkpoint files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet_flax.model import ResNet, find
from shared_spec.backend import read_weights
from shared_spec.errors import FrameworkError, WeightsError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.detect import ORBAX
from shared_spec.formats.dialects.canonical import FLAX_MODEL
from shared_spec.formats.dialects.dialect import Dialect, foreign_arrays
from shared_spec.formats.dialects.linen import LINEN
from shared_spec.formats.write import described, write_checkpoint
from shared_spec.plan.folding import require_trained
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import METADATA_KEY, Checkpoint
from shared_spec.weights.folding import weights_for
from shared_spec.weights.layouts import FLAX as LAYOUTS
from shared_spec.weights.lazy_array import LazyArray, LazyArrays
from shared_spec.weights.state import State, WeightsLike, check_native, replaced


def export_weights(model: ResNet) -> State:
    """The model's weights as numpy arrays under canonical names: a copy."""
    require_trained(model.plan, "to export")
    return {
        q.name: LAYOUTS[q.role].to_canonical(np.array(native(model, q)[...]))
        for q in model.plan.parameters()
    }


def load_weights(model: ResNet, weights: WeightsLike) -> ResNet:
    """Load canonical weights, or a checkpoint of any kind, strictly and in place.

    Raises:
        WeightsError: listing every mismatch; the model is then unchanged.
    """
    found = read_checkpoint(weights, model.spec).state
    # Read whole before anything is assigned.
    state = weights_for(model.plan, found, dtype_name(model), weights)
    natives = {q.name: native(model, q) for q in model.plan.parameters()}
    check_native({name: v.get_value().shape for name, v in natives.items()}, model.plan, LAYOUTS)
    for q in model.plan.parameters():
        variable = natives[q.name]
        array = LAYOUTS[q.role].to_native(state[q.name], own=True)
        variable.set_value(jnp.asarray(array, variable.get_value().dtype))
    return model


def save_weights(
    model: ResNet | Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    checkpoint: Checkpoint | None = None,
    *,
    format: str | None = None,
) -> None:
    """Write a model's weights durably, in the format that the suffix or `format` asks for.

    Args:
        model: the model, or its canonical weights.
        path: `.safetensors` is the canonical file; `.pth`, `.keras`, `.weights.h5`, `.h5` and
            `.msgpack` are those of the frameworks and libraries, no suffix a directory.
        checkpoint: may carry preprocessing and labels, and the spec for weights without a model;
            without one, their net is looked for in the catalogue.
        format: whose names, as in `resnet-parity convert --to`: `"huggingface"` for a directory of
            transformers, for example.

    Raises:
        ResNetError: if the format is unknown, has no such net, or needs another framework.
    """
    if isinstance(model, ResNet):
        whole = described(export_weights(model), checkpoint, model.spec)
    else:
        whole = described(model, checkpoint)
    write_checkpoint(path, whole, format, {"flax": _write_orbax, "linen": _write_linen})


def read_checkpoint(weights: WeightsLike, spec: ResNetSpec | None = None) -> Checkpoint:
    """Canonical weights from a dict or a checkpoint of any kind."""
    return read_weights(weights, {ORBAX: open_orbax}, spec)


def dtype_name(model: ResNet) -> str:
    """The dtype of the model's parameters, such as `"float32"`."""
    return str(native(model, next(model.plan.parameters())).get_value().dtype)


def native(model: ResNet, q: Parameter) -> nnx.Variable[Any]:
    """The model's own variable of a parameter; a `WeightsError` if its layer was replaced."""
    try:
        variable: nnx.Variable[Any] = getattr(find(model, q.module), LAYOUTS[q.role].leaf)
        variable.get_value()
    except AttributeError:
        raise replaced(q.module) from None
    return variable


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError:
        raise FrameworkError(
            "Flax checkpoint directories need orbax-checkpoint, which is not installed; "
            "run: pip install orbax-checkpoint"
        ) from None
    return orbax.checkpoint


def _write_orbax(path: Path, checkpoint: Checkpoint) -> None:
    """The nested dict of `nnx.to_pure_dict`, with spec, preprocessing and labels beside it."""
    custom = {METADATA_KEY: json.dumps(checkpoint.metadata())}
    with _orbax().StandardCheckpointer() as checkpointer:
        checkpointer.save(path, _tree(FLAX_MODEL, checkpoint), custom_metadata=custom)


def _write_linen(path: Path, checkpoint: Checkpoint) -> None:
    """The variables of Flax's imagenet example, as it would save them."""
    with _orbax().StandardCheckpointer() as checkpointer:
        checkpointer.save(path, _tree(LINEN, checkpoint))


def _tree(dialect: Dialect, checkpoint: Checkpoint) -> dict[str, Any]:
    """Nested dicts of arrays, under the names of `dialect`."""
    assert checkpoint.spec is not None
    tree: dict[str, Any] = {}
    for name, array in foreign_arrays(dialect, checkpoint.state, checkpoint.spec).items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = np.ascontiguousarray(array.read())
    return tree


def open_orbax(path: Path) -> Source:
    """An orbax checkpoint of a nested dict of arrays.

    Raises:
        WeightsError: if it is damaged, or holds something else.
    """
    path = path.resolve()  # orbax takes absolute paths alone
    try:
        with _orbax().StandardCheckpointer() as checkpointer:
            custom = checkpointer.metadata(path).custom_metadata or {}
            target = jax.tree.map(
                lambda leaf: np.empty(leaf.shape, leaf.dtype),
                dict(checkpointer.metadata(path).item_metadata),
            )
            tree = checkpointer.restore(path, target)
    except FrameworkError:
        raise
    # Orbax and tensorstore raise errors of many kinds.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{path}: not a readable orbax checkpoint ({reason})") from None
    arrays = {"/".join(names): LazyArray.of(a) for names, a in _leaves(tree, (), str(path))}
    return Source(path, "flax", LazyArrays(arrays), custom)


def _leaves(node: object, names: tuple[str, ...], where: str) -> Iterator[Any]:
    if isinstance(node, dict):
        if len(names) > 32:
            raise WeightsError(f"{where}: nested deeper than any model")
        for key, child in node.items():
            yield from _leaves(child, (*names, str(key)), where)
    elif isinstance(node, np.ndarray | jax.Array):
        yield names, np.asarray(node)
