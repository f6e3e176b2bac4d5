"""Canonical weights to and from an NNX model and its checkpoint files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, serialization

from resnet_flax.model import ResNet, find
from shared_spec.api import WeightsLike, compile_plan, name_suffix, read_weights
from shared_spec.durable import CHECKPOINT_MARK, durable
from shared_spec.errors import FrameworkError, WeightsError
from shared_spec.plan import Parameter, Plan
from shared_spec.spec import ResNetSpec
from shared_spec.weights import (
    METADATA_KEY,
    Checkpoint,
    Slot,
    State,
    check_native,
    check_weights,
    replaced,
    write_safetensors,
)

SLOTS: dict[str, Slot] = {
    "conv_kernel": Slot("kernel", (2, 3, 1, 0)),
    "conv1d_kernel": Slot("kernel", (2, 1, 0)),
    "dense_kernel": Slot("kernel", (1, 0)),
    "bias": Slot("bias"),
    "norm_scale": Slot("scale"),
    "norm_bias": Slot("bias"),
    "norm_mean": Slot("mean"),
    "norm_var": Slot("var"),
    "norm_gate": Slot("v"),
    "norm_threshold": Slot("tau"),
    "branch_scale": Slot("gamma"),
}
FORMATS = (".safetensors", ".msgpack", "")


def export_weights(model: ResNet) -> State:
    """The model's weights as numpy arrays under canonical names: a copy."""
    return {
        q.name: SLOTS[q.role].to_canonical(np.array(_native(model, q)[...]))
        for q in model.plan.parameters()
    }


def load_weights(model: ResNet, weights: WeightsLike) -> ResNet:
    """Load canonical weights, or a `.safetensors` or `.msgpack` file or an orbax directory,
    strictly and in place.

    Raises:
        WeightsError: listing every mismatch; the model is then unchanged.
    """
    state = read_checkpoint(weights, model.spec).state
    check_weights(model.plan, state, dtype_name(model))
    natives = {q.name: _native(model, q) for q in model.plan.parameters()}
    check_native({name: v.get_value().shape for name, v in natives.items()}, model.plan, SLOTS)
    for q in model.plan.parameters():
        native = natives[q.name]
        array = SLOTS[q.role].to_native(state[q.name], own=True)
        native.set_value(jnp.asarray(array, native.get_value().dtype))
    return model


def save_weights(
    model: ResNet, path: str | os.PathLike[str], checkpoint: Checkpoint | None = None
) -> None:
    """Write the model's weights durably, in the format of the suffix.

    `.safetensors` is the canonical file. `.msgpack` is `flax.serialization`'s, and a path without
    a suffix an orbax directory; both hold the nested dict of `nnx.to_pure_dict`. `checkpoint` may
    carry preprocessing and labels.

    Raises:
        WeightsError: if the suffix is none of these.
    """
    suffix = name_suffix(Path(path))
    if suffix not in FORMATS:
        raise WeightsError(f"{path}: resnet_flax writes .safetensors, .msgpack and directories")
    extra = checkpoint or Checkpoint({})
    whole = Checkpoint(export_weights(model), model.spec, extra.preprocessing, extra.labels)
    if suffix == ".safetensors":
        write_safetensors(path, whole)
        return
    tree = nested(model.plan, whole.state)
    with durable(path) as draft:
        if suffix == ".msgpack":
            draft.write_bytes(serialization.msgpack_serialize(tree))
        else:
            _write_orbax(draft, tree, whole.metadata())


def read_checkpoint(weights: WeightsLike, spec: ResNetSpec | None = None) -> Checkpoint:
    """Canonical weights from a dict or a file that this backend reads.

    A `.msgpack` file does not tell its model: it needs the `spec`.
    """
    native = {".msgpack": _read_msgpack, "": _read_orbax}
    return read_weights(weights, native, "resnet_flax", spec)


def dtype_name(model: ResNet) -> str:
    """The dtype of the model's parameters, such as `"float32"`."""
    return str(_native(model, next(model.plan.parameters())).get_value().dtype)


def nested(p: Plan, state: State) -> dict[str, Any]:
    """Canonical weights as Flax's nested dict with Flax's leaf names and layouts."""
    tree: dict[str, Any] = {}
    for q in p.parameters():
        slot = SLOTS[q.role]
        *folders, leaf = [*q.module.split("."), slot.leaf]
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = np.ascontiguousarray(slot.to_native(state[q.name]))
    return tree


def from_nested(p: Plan, tree: object, where: str) -> State:
    """The inverse of `nested`; what the plan lacks or the tree lacks shows as a mismatch later."""
    flat = {".".join(path): value for path, value in _leaves(tree, (), where)}
    state: State = {}
    for q in p.parameters():
        slot = SLOTS[q.role]
        array = flat.pop(f"{q.module}.{slot.leaf}", None)
        if array is None:
            continue
        fits = slot.inverse is None or array.ndim == len(slot.inverse)
        state[q.name] = slot.to_canonical(array) if fits else array
    return state | flat


def _leaves(node: object, path: tuple[str, ...], where: str) -> Any:
    if not isinstance(node, dict):
        if not isinstance(node, np.ndarray | jax.Array):
            raise WeightsError(
                f"{where}: holds no nested dict of arrays at {'.'.join(path) or '/'}"
            )
        yield path, np.asarray(node)
        return
    for key, child in node.items():
        if len(path) > 32:
            raise WeightsError(f"{where}: nested deeper than any model")
        yield from _leaves(child, (*path, str(key)), where)


def _native(model: ResNet, q: Parameter) -> nnx.Variable[Any]:
    try:
        variable: nnx.Variable[Any] = getattr(find(model, q.module), SLOTS[q.role].leaf)
        variable.get_value()
    except AttributeError:
        raise replaced(q.module) from None
    return variable


def _need_spec(path: Path, spec: ResNetSpec | None) -> ResNetSpec:
    if spec is None:
        raise WeightsError(f"{path}: the file does not tell its model; name it (--model)")
    return spec


def _read_msgpack(path: Path, spec: ResNetSpec | None) -> Checkpoint:
    p = compile_plan(_need_spec(path, spec))
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    # msgpack and Flax's decoder raise many kinds, down to KeyError, on bytes that are not theirs.
    except Exception as error:
        raise WeightsError(f"{path}: not a Flax msgpack file ({error})") from None
    return Checkpoint(from_nested(p, tree, str(path)))


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError:
        raise FrameworkError(
            "Flax checkpoint directories need orbax-checkpoint, which is not installed; "
            "run: pip install orbax-checkpoint"
        ) from None
    return orbax.checkpoint


def _write_orbax(path: Path, tree: dict[str, Any], metadata: dict[str, Any]) -> None:
    with _orbax().StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree, custom_metadata={METADATA_KEY: json.dumps(metadata)})


def _read_orbax(path: Path, spec: ResNetSpec | None) -> Checkpoint:
    path = path.resolve()  # orbax takes absolute paths alone
    if not (path / CHECKPOINT_MARK).exists():
        raise WeightsError(f"{path}: not a readable orbax checkpoint (no {CHECKPOINT_MARK} in it)")
    try:
        with _orbax().StandardCheckpointer() as checkpointer:
            custom = checkpointer.metadata(path).custom_metadata or {}
            target = jax.tree.map(
                lambda leaf: np.empty(leaf.shape, leaf.dtype),
                dict(checkpointer.metadata(path).item_metadata),
            )
            tree = checkpointer.restore(path, target)
        text = custom.get(METADATA_KEY)
        metadata = None if text is None else json.loads(text)
    except FrameworkError:
        raise
    # Orbax and tensorstore raise errors of many kinds.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{path}: not a readable orbax checkpoint ({reason})") from None
    header = Checkpoint.from_metadata({}, metadata, str(path))
    found = _need_spec(path, header.spec or spec)
    state = from_nested(compile_plan(found), tree, str(path))
    return Checkpoint(state, found, header.preprocessing, header.labels)
