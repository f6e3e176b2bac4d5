"""Training with optax, as a recipe defines it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from resnet_flax.layers import find
from resnet_flax.model import ResNet
from resnet_flax.weights import WEIGHTS
from shared_spec.kernels import xla
from shared_spec.training.optimization import SGD, Optimization
from shared_spec.training.state import (
    LOSS_WEIGHTS,
    MOMENTS,
    UNCOUNTED,
    Placed,
    Progress,
    TrainingState,
    require_equal_parts,
)
from shared_spec.training.trainer import BaseTrainer, TrainerArrays

Arrays = dict[str, jax.Array]
"""Canonical name to an array in Flax's layout."""


class Trainer(BaseTrainer[ResNet]):
    """Trains a model, a batch at a time, with a compiled step over arrays that it keeps; the model
    itself gets them on demand.

    With several devices, on one host or (after `jax.distributed.initialize`) on many, each gets an
    equal part of every batch; the step is that of the whole batch, norms included. `images` and
    `labels` are then this process' part.

    Examples:
        >>> model = create_model("resnet20")
        >>> trainer = Trainer(model, optimization(learning_rate=0.1), steps=64_000)
        >>> loss = trainer.step(images, labels)
    """

    verbs = WEIGHTS

    def __init__(self, model: ResNet, optimization: Optimization, steps: int) -> None:
        super().__init__(model, optimization, steps)
        self._prepare()
        # XLA divides the step, and arrays do not carry in their types how they are spread.
        auto = (jax.sharding.AxisType.Auto,)
        self._mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=auto)
        # Copies: every step passes its memory on to the next.
        weights = self._everywhere(
            {name: jnp.array(v.get_value()) for name, v in WEIGHTS.natives(model).items()}
        )
        self._carry = self._fresh(weights)
        if optimization.ema_decay:
            self._carry["average"] = jax.tree.map(jnp.copy, weights)
        self._compiled = xla.jit(self._step, optimization.precision, donate_argnums=0)
        differentiate = jax.value_and_grad(self._loss, (0, 3), has_aux=True)
        self._gradients = xla.jit(differentiate, optimization.precision)

    def _settle(self) -> None:
        weights = self._arrays().weights
        for name, variable in WEIGHTS.natives(self._model).items():
            variable.set_value(jnp.array(weights[name]))

    def _place(self, images: np.ndarray, labels: np.ndarray) -> Placed:
        if self._mesh.size == 1:
            return Placed(*jax.device_put((images, labels)))
        require_equal_parts(labels, jax.local_device_count(), "device")
        whole: Any = jax.make_array_from_process_local_data
        return Placed(*(whole(self._spread("batch"), array) for array in (images, labels)))

    def _update(self, images: jax.Array, labels: jax.Array, rate: float) -> Progress:
        typed_rate = np.asarray(rate, self.optimization.dtype)
        self._carry, loss, correct = self._compiled(
            self._carry, self._random(), images, labels, typed_rate
        )
        return Progress(loss, correct)

    def _differentiate(
        self, images: np.ndarray, labels: np.ndarray
    ) -> tuple[jax.Array, Arrays, np.ndarray]:
        placed = self._place(images, labels)
        trained, others = self._carry["trained"], self._carry["others"]
        (loss, _), gradients = self._gradients(
            trained, others, self._random(), placed.images, placed.labels
        )
        return loss, gradients[0], local(gradients[1])

    def _arrays(self) -> TrainerArrays:
        moments = {
            key: getattr(self._carry["moments"], MOMENT_NAMES[key])
            for key in MOMENTS[self.optimization.optimizer.name]
        }
        weights = self._carry["trained"] | self._carry["others"]
        return TrainerArrays(weights, moments, self._carry.get("average"))

    def _restore(self, state: TrainingState) -> None:
        self._carry = self._fresh(self._natives(state.weights))
        moments = self._carry["moments"]
        fields: dict[str, Any] = {
            MOMENT_NAMES[k]: self._natives(arrays) for k, arrays in state.moments.items()
        }
        if "count" in moments._fields:
            fields["count"] = jnp.asarray(state.step, moments.count.dtype)
        self._carry["moments"] = self._everywhere(moments._replace(**fields))
        if state.average is not None:
            self._carry["average"] = self._natives(state.average)

    def _prepare(self) -> None:
        """Training mode, except for what is frozen, in a view: the model keeps its own."""
        view: Any = nnx.view(
            self._model,
            raise_if_not_found=False,
            use_running_average=False,
            deterministic=False,
            remat=self.optimization.remat or None,
        )
        for path in self.optimization.frozen_norms(self._model.plan):
            find(view, path).use_running_average = True
        # The recipe's precision, whatever the model's own; and the step is of the whole batch.
        narrow = self.optimization.precision == "bfloat16" or self._model.dtype is not None
        for _, module in nnx.iter_modules(view):
            if narrow and hasattr(module, "dtype"):
                module.dtype = jnp.dtype(self.optimization.precision)
            if isinstance(module, nnx.BatchNorm):
                module.axis_name = None
        places = {
            (*_path(q.module), self.verbs.layouts[q.role].leaf): n
            for n, q in self._parameters.items()
        }
        self._graph, state = nnx.split(view)
        leaves, self._structure = jax.tree.flatten_with_path(state)
        # Leaves that are no parameter are the keys and counts of dropout.
        self._leaves = [places.get(_parts(path), jax.tree_util.keystr(path)) for path, _ in leaves]
        self._keys = {
            name: leaf
            for name, (_, leaf) in zip(self._leaves, leaves, strict=True)
            if name not in self._parameters
        }

    def _random(self) -> Arrays:
        """What dropout draws from: each layer draws once a step, and so has drawn as often."""
        return {
            name: jnp.full_like(leaf, self.step_number) if "count" in name else leaf
            for name, leaf in self._keys.items()
        }

    def _loss(
        self, trained: Arrays, others: Arrays, keys: Arrays, x: jax.Array, y: jax.Array
    ) -> tuple[jax.Array, Any]:
        now = trained | others | keys
        model = nnx.merge(
            self._graph, jax.tree.unflatten(self._structure, [now[n] for n in self._leaves])
        )
        found = model(x)
        results = [z.astype(x.dtype) for z in (found if isinstance(found, list) else [found])]
        smoothing = self.optimization.label_smoothing
        losses = [
            w * cross_entropy(y, logits, smoothing)
            for w, logits in zip(LOSS_WEIGHTS, results, strict=False)
        ]
        loss = sum(losses[1:], losses[0])
        after = jax.tree.leaves(nnx.state(model))
        written = dict(zip(self._leaves, after, strict=True))
        return loss, ({name: written[name] for name in others}, results[0])

    def _step(
        self, carry: dict[str, Any], keys: Arrays, x: jax.Array, y: jax.Array, rate: jax.Array
    ) -> tuple[dict[str, Any], jax.Array, jax.Array]:
        optimization, trained = self.optimization, carry["trained"]
        differentiate = jax.value_and_grad(self._loss, has_aux=True)
        (loss, (others, logits)), updates = differentiate(trained, carry["others"], keys, x, y)
        if optimization.clip_norm is not None:
            updates, _ = optax.clip_by_global_norm(optimization.clip_norm).update(
                updates, optax.EmptyState()
            )
        if optimization.coupled:
            updates = self._decayed(updates, trained)
        updates, moments = self._moments().update(updates, carry["moments"], trained)
        if not optimization.coupled:
            updates = self._decayed(updates, trained)
        trained = {
            name: w - rate * self._updates[name].rate * updates[name] for name, w in trained.items()
        }
        after = {"trained": trained, "others": others, "moments": moments}
        if optimization.ema_decay:
            now, d = trained | others, optimization.ema_decay
            after["average"] = {n: d * a + (1 - d) * now[n] for n, a in carry["average"].items()}
        return after, loss, (logits.argmax(-1) == y).sum()

    def _fresh(self, weights: Arrays) -> dict[str, Any]:
        """What a step takes and gives, for weights with which nothing has been computed."""
        trained = {name: weights[name] for name in self._updates}
        others = {name: array for name, array in weights.items() if name not in trained}
        moments = self._everywhere(self._moments().init(trained))
        return {"trained": trained, "others": others, "moments": moments}

    def _moments(self) -> optax.GradientTransformation:
        optimizer = self.optimization.optimizer
        if isinstance(optimizer, SGD):
            return optax.trace(optimizer.momentum, optimizer.nesterov)
        return optax.scale_by_adam(optimizer.beta1, optimizer.beta2, optimizer.eps)

    def _decayed(self, updates: Arrays, weights: Arrays) -> Arrays:
        return {n: u + self._updates[n].decay * weights[n] for n, u in updates.items()}

    def _natives(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        natives: Arrays = {
            name: jnp.array(self._native(name, array), self.optimization.dtype)
            for name, array in arrays.items()
        }
        placed: Arrays = self._everywhere(natives)
        return placed

    def _everywhere(self, tree: Any) -> Any:
        """Arrays, on every device."""
        if self._mesh.size == 1:
            return tree
        return jax.device_put(tree, self._spread())

    def _spread(self, *axes: str) -> NamedSharding:
        spec: Any = PartitionSpec
        return NamedSharding(self._mesh, spec(*axes))


def cross_entropy(labels: jax.Array, logits: jax.Array, smoothing: float) -> jax.Array:
    """Mean over what counts of a batch, with the recipe's label smoothing."""
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    losses = optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot, smoothing))
    counted = labels != UNCOUNTED
    mean: jax.Array = jnp.where(counted, losses, 0).sum() / counted.sum()
    return mean


def local(array: jax.Array) -> np.ndarray:
    """The part of an array, spread over devices along its first axis, that this process has."""
    parts = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in parts])


MOMENT_NAMES = {"momentum": "trace", "first_moment": "mu", "second_moment": "nu"}
"""optax's names of what an optimizer keeps."""


def _path(module: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in module.split("."))


def _parts(path: Any) -> tuple[str | int, ...]:
    """A path of JAX's, without the value at its end."""
    keys = (getattr(entry, "key", None) for entry in path)
    return tuple(key for key in keys if key is not None)
