"""Canonical weights to and from an NNX model and its checkpoint files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet_flax.layers import Chain, Options, Stateless, build, find
from resnet_flax.model import ResNet
from shared_spec import plan
from shared_spec.errors import ResNetError, WeightsError, framework_missing
from shared_spec.formats.containers.source import Source, shown
from shared_spec.formats.detect import CHECKPOINT_MARK, ORBAX, orbax_steps
from shared_spec.formats.dialects.canonical import FLAX_MODEL
from shared_spec.formats.dialects.dialect import Dialect, foreign_arrays
from shared_spec.formats.dialects.linen import LINEN
from shared_spec.formats.write import Save
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weight_verbs import WeightVerbs
from shared_spec.weights.checkpoint import METADATA_KEY, Checkpoint
from shared_spec.weights.layouts import FLAX
from shared_spec.weights.lazy_array import LazyArray, LazyArrays
from shared_spec.weights.state import check_settings, replaced


class Weights(WeightVerbs[ResNet]):
    """Variables of NNX modules."""

    layouts = FLAX

    def __init__(self) -> None:
        self.openers = {ORBAX: open_orbax}

    def check_layers(self, model: ResNet) -> None:
        """As `WeightVerbs.check_layers`."""
        _check_layers(model)

    def require_values(self, model: ResNet) -> None:
        """As `WeightVerbs.require_values`."""
        variables = jax.tree.leaves(nnx.state(model, nnx.Param))
        if any(isinstance(v, jax.ShapeDtypeStruct) for v in variables):
            raise WeightsError(
                "model: it has shapes and no values, as nnx.eval_shape makes it; load_weights "
                "gives it values"
            )

    def set_spec(self, model: ResNet, p: Plan, spec: ResNetSpec) -> None:
        """As `WeightVerbs.set_spec`."""
        model._plan, model._spec = p, spec

    def dtype_name(self, model: ResNet) -> str:
        """The dtype of the model's parameters, such as `"float32"`.

        Examples:
            >>> dtype_name(create_model("resnet18", dtype="bfloat16"))
            'bfloat16'
        """
        return str(self.native(self.modules(model), next(model.plan.parameters())).dtype)

    def modules(self, model: ResNet) -> Callable[[str], Any]:
        """What finds the model's own module at a dotted path of the plan."""
        return partial(find, model)

    def copied(self, native: nnx.Variable[Any] | jax.Array) -> np.ndarray:
        """A copy of what a variable or an array holds."""
        return np.array(native)

    def assign(self, native: nnx.Variable[Any], array: np.ndarray) -> None:
        """Give a variable a value, on the devices that it lies on."""
        now, array = native.get_value(), array.astype(native.dtype, copy=False)
        sharding = None if isinstance(now, jax.core.Tracer) else getattr(now, "sharding", None)
        if sharding is None:
            native.set_value(jnp.asarray(array))
        elif getattr(now, "committed", True):
            native.set_value(jax.device_put(array, sharding))
        else:  # nor is the new one bound to the device that it lies on
            with jax.default_device(*sharding.device_set):
                # jnp.asarray would compile a program for each shape. On CPUs, this takes the memory
                # that it is given, which is therefore a copy's.
                native.set_value(jax.device_put(np.array(array)))

    def writers(self, model: ResNet | Mapping[str, np.ndarray]) -> Mapping[str, Save]:
        """Directories of orbax: our own, and those of Flax's imagenet example."""
        return {"flax": _write_orbax, "linen": _write_linen}


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError:
        raise framework_missing("a Flax checkpoint directory", "orbax-checkpoint", "flax") from None
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


_APART = {"use_running_average", "momentum", "unbiased", "deterministic", "rate", "rng_collection"}
_APART |= {"axis_name", "axis_index_groups", "dtype", "precision", "preferred_element_type"}
"""Attributes of modules that change nothing in inference, or precision alone."""


def _check_layers(model: ResNet) -> None:
    """Hold the layers against the plan: no weights would tell of other settings.

    Raises:
        WeightsError: naming the first that was replaced or has another setting.
    """
    made: dict[plan.Layer, nnx.Module] = {}

    def fresh(record: plan.Layer) -> nnx.Module:
        return build(record, Options(jnp.float32, None, None, nnx.Rngs(0)))

    for layer in model.plan.layers():
        record = replace(layer, name="")
        if record not in made:
            made[record] = nnx.eval_shape(partial(fresh, record))
        try:
            found = find(model, layer.name)
        except (AttributeError, IndexError):
            raise replaced(layer.name) from None
        if type(found) is not type(made[record]):
            raise replaced(layer.name)
        if isinstance(found, Stateless) and replace(found.layer, name="") != record:
            raise replaced(layer.name)
        check_settings(layer.name, found, made[record], _APART)
    _check_chains(model)


def _check_chains(model: ResNet) -> None:
    """Raise a `WeightsError` if a stage or a chain runs something that the plan lacks."""
    names = [*(layer.name for layer in model.plan.layers()), *(b.name for b in model.plan.blocks())]
    children: dict[str, set[str]] = {}
    for name in names:
        while name:
            name, _, child = name.rpartition(".")
            children.setdefault(name, set()).add(child)
    for parent, expected in children.items():
        module = find(model, parent)
        if isinstance(module, Chain) and len(module) != len(expected):
            raise replaced(f"{parent}.{len(expected)}")


def open_orbax(path: Path) -> Source:
    """An orbax checkpoint: a tree of arrays, or several, each under the name of its item. Of those
    that a `CheckpointManager` keeps, the last is read, as it restores that one itself.

    Raises:
        WeightsError: if it is damaged, or holds something else.
    """
    path = path.resolve()  # orbax takes absolute paths alone
    notes: tuple[str, ...] = ()
    folder = path
    if not (path / CHECKPOINT_MARK).exists():
        *earlier, folder = orbax_steps(path)
        if earlier:
            notes = (f"read at the last of its {len(earlier) + 1} steps, {folder.name}",)
    try:
        with _orbax().PyTreeCheckpointer() as checkpointer:
            if (folder / _TREE).exists():
                tree, custom = _restored(checkpointer, folder)
            else:
                items = sorted(item for item in folder.iterdir() if (item / _TREE).exists())
                if not items:
                    raise WeightsError(f"{folder}: holds no tree of arrays")
                tree = {item.name: _restored(checkpointer, item)[0] for item in items}
                custom = {}
    except ResNetError:
        raise
    # Orbax and tensorstore raise errors of many kinds.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{folder}: not a readable orbax checkpoint ({reason})") from None
    arrays: dict[str, LazyArray] = {}
    for names, array in _leaves(tree, (), str(folder)):
        name = "/".join(names)
        if name in arrays:
            raise WeightsError(f"{folder}: holds {shown(name)} twice")
        arrays[name] = LazyArray.of(array)
    return Source(path, "flax", LazyArrays(arrays), custom, notes=notes)


_TREE = "_METADATA"
"""A file in each directory of orbax's that holds a tree."""


def _restored(checkpointer: Any, folder: Path) -> tuple[Any, Mapping[str, Any]]:
    """The tree in a directory, its arrays as numpy's, and what was saved to describe it."""
    found = checkpointer.metadata(folder)
    target = jax.tree.map(
        lambda leaf: np.empty(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else ...,
        found.item_metadata.tree,
    )
    # Or arrays would go to the devices that they were saved from.
    as_numpy = _orbax().RestoreArgs(restore_type=np.ndarray)
    tree = checkpointer.restore(
        folder, target, restore_args=jax.tree.map(lambda _: as_numpy, target)
    )
    return tree, found.custom_metadata or {}


def _leaves(node: object, names: tuple[str, ...], where: str) -> Iterator[Any]:
    if isinstance(node, list | tuple):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        if len(names) > 32:
            raise WeightsError(f"{where}: nested deeper than any model")
        for key, child in node.items():
            yield from _leaves(child, (*names, str(key)), where)
    elif isinstance(node, np.ndarray):
        yield names, node


WEIGHTS = Weights()
