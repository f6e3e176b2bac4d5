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

from resnet_flax.model import ResNet, find
from resnet_flax.weights import dtype_name, native
from shared_spec.errors import ImageError
from shared_spec.kernels import xla
from shared_spec.training.optimization import SGD, STATISTICS, Optimization
from shared_spec.training.state import (
    MOMENTS,
    Gradients,
    Placed,
    Progress,
    TrainingState,
    batch,
    check_trainable,
    restored,
)
from shared_spec.weights.layouts import FLAX as LAYOUTS
from shared_spec.weights.state import State

Arrays = dict[str, jax.Array]
"""Canonical name to an array in Flax's layout."""


class Trainer:
    """Trains a model, a batch at a time, with a compiled step over arrays that it keeps; the model
    itself gets them on demand.

    With several devices, on one host or (after `jax.distributed.initialize`) on many, each gets an
    equal part of every batch; the step is that of the whole batch, norms included. `images` and
    `labels` are then this process' part.

    Args:
        model: of the recipe's dtype; it goes into training mode.
        how: the optimizer, its schedule, and all that changes an update.
        steps: of the whole training, which the schedule needs.

    Raises:
        ResNetError: if the model has no classes, another dtype, or none of the parts named.
    """

    def __init__(self, model: ResNet, how: Optimization, steps: int) -> None:
        check_trainable(model.plan, model.spec, dtype_name(model), how)
        self._model, self.how, self.steps, self.step_number = model, how, steps, 0
        self._names = {q.name: q for q in model.plan.parameters()}
        self._updates = how.updates(model.plan)
        self._prepare()
        self._mesh = jax.make_mesh((jax.device_count(),), ("batch",))
        # Copies: every step passes its memory on to the next.
        now = self._everywhere(
            {n: jnp.array(native(model, q).get_value()) for n, q in self._names.items()}
        )
        trained = {name: now.pop(name) for name in self._updates}
        self._carry: dict[str, Any] = {
            "trained": trained,
            "others": now,
            "moments": self._everywhere(self._moments().init(trained)),
        }
        if how.ema_decay:
            self._carry["average"] = jax.tree.map(jnp.copy, trained | now)
        self._compiled = xla.jit(self._step, how.precision, donate_argnums=0)
        differentiate = jax.value_and_grad(self._loss, (0, 3), has_aux=True)
        self._gradients = xla.jit(differentiate, how.precision)

    @property
    def model(self) -> ResNet:
        """The model, brought up to date."""
        now = self._carry["trained"] | self._carry["others"]
        for name, q in self._names.items():
            native(self._model, q).set_value(jnp.array(now[name]))
        return self._model

    def place(self, images: np.ndarray, labels: np.ndarray | None) -> Placed:
        """A batch, checked, on its way to the device: images [N, H, W, C], normalised, and labels
        [N]. Placed before the last step's figures are read, it travels while that step computes.
        The arrays must not change before the step is over: they may be used as they are.

        Raises:
            ImageError: if it does not fit the net, or does not divide among the devices.
        """
        found = batch(images, labels, self._model.spec, self.how.dtype)
        if self._mesh.size == 1:
            return Placed(*jax.device_put(found))
        if len(found[1]) % jax.local_device_count():
            raise ImageError(
                f"a batch of {len(found[1])} images does not divide into "
                f"{jax.local_device_count()} equal parts, one for each device"
            )
        whole: Any = jax.make_array_from_process_local_data
        return Placed(*(whole(self._spread("batch"), array) for array in found))

    def step(self, images: np.ndarray | Placed, labels: np.ndarray | None = None) -> Progress:
        """Update the model by one batch, given as to `place` or placed already."""
        given = images if isinstance(images, Placed) else self.place(images, labels)
        x, y = given.images, given.labels
        rate = np.asarray(self.how.rate(self.step_number, self.steps), self.how.dtype)
        self._carry, loss, correct = self._compiled(self._carry, self._random(), x, y, rate)
        self.step_number += 1
        return Progress(loss, correct)

    def gradients(self, images: np.ndarray, labels: np.ndarray) -> Gradients:
        """What the next step would compute from a batch; nothing changes."""
        given = self.place(images, labels)
        x, y = given.images, given.labels
        trained, others = self._carry["trained"], self._carry["others"]
        (loss, _), found = self._gradients(trained, others, self._random(), x, y)
        return Gradients(float(loss), self._canonical(found[0]), local(found[1]))

    def state(self) -> State:
        """Where the training is, as arrays that every backend's trainer takes back."""
        moments = {
            key: self._canonical(getattr(self._carry["moments"], MOMENT_NAMES[key]))
            for key in MOMENTS[self.how.optimizer.name]
        }
        average = self._carry.get("average")
        weights = self._canonical(self._carry["trained"] | self._carry["others"])
        return TrainingState(
            self.step_number, weights, moments, average and self._canonical(average)
        ).flat()

    def load_state(self, state: Mapping[str, np.ndarray], where: str = "training state") -> None:
        """Go on from a state.

        Raises:
            WeightsError: if it is not one of this model and recipe; nothing has changed then.
        """
        found = restored(state, self._model.plan, self.how, where)
        weights = self._natives(found.weights)
        trained = {name: weights.pop(name) for name in self._updates}
        moments = self._moments().init(trained)
        fields: dict[str, Any] = {
            MOMENT_NAMES[k]: self._natives(arrays) for k, arrays in found.moments.items()
        }
        if "count" in moments._fields:
            fields["count"] = jnp.asarray(found.step, moments.count.dtype)
        moments = moments._replace(**fields)
        self._carry = {
            "trained": trained,
            "others": weights,
            "moments": self._everywhere(moments),
        }
        if found.average is not None:
            self._carry["average"] = self._natives(found.average)
        self.step_number = found.step

    def averaged(self) -> State:
        """Canonical weights to evaluate: their average if the recipe keeps one."""
        now = self._carry["trained"] | self._carry["others"]
        return self._canonical(self._carry.get("average", now))

    def statistics(self) -> State:
        """The norms' running means and variances."""
        others = self._carry["others"]
        return self._canonical(
            {n: others[n] for n, q in self._names.items() if q.role in STATISTICS}
        )

    def _prepare(self) -> None:
        """Training mode, except for what is frozen, in a view: the model keeps its own."""
        view: Any = nnx.view(
            self._model, raise_if_not_found=False, use_running_average=False, deterministic=False
        )
        for path in self.how.frozen_norms(self._model.plan):
            find(view, path).use_running_average = True
        if self.how.precision == "bfloat16":
            for _, module in nnx.iter_modules(view):
                if hasattr(module, "dtype"):
                    module.dtype = jnp.bfloat16
        places = {(*_path(q.module), LAYOUTS[q.role].leaf): n for n, q in self._names.items()}
        self._graph, state = nnx.split(view)
        leaves, self._structure = jax.tree.flatten_with_path(state)
        # Leaves that are no parameter are the keys and counts of dropout.
        self._leaves = [places.get(_parts(path), jax.tree_util.keystr(path)) for path, _ in leaves]
        self._keys = {
            name: leaf
            for name, (_, leaf) in zip(self._leaves, leaves, strict=True)
            if name not in self._names
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
        logits = model(x).astype(x.dtype)
        targets = optax.smooth_labels(
            jax.nn.one_hot(y, logits.shape[-1], dtype=x.dtype), self.how.label_smoothing
        )
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        after = jax.tree.leaves(nnx.state(model))
        written = dict(zip(self._leaves, after, strict=True))
        return loss, ({name: written[name] for name in others}, logits)

    def _step(
        self, carry: dict[str, Any], keys: Arrays, x: jax.Array, y: jax.Array, rate: jax.Array
    ) -> tuple[dict[str, Any], jax.Array, jax.Array]:
        how, trained = self.how, carry["trained"]
        differentiate = jax.value_and_grad(self._loss, has_aux=True)
        (loss, (others, logits)), updates = differentiate(trained, carry["others"], keys, x, y)
        if how.clip_norm is not None:
            updates, _ = optax.clip_by_global_norm(how.clip_norm).update(
                updates, optax.EmptyState()
            )
        if how.coupled:
            updates = self._decayed(updates, trained)
        updates, moments = self._moments().update(updates, carry["moments"], trained)
        if not how.coupled:
            updates = self._decayed(updates, trained)
        trained = {
            name: w - rate * self._updates[name].rate * updates[name] for name, w in trained.items()
        }
        after = {"trained": trained, "others": others, "moments": moments}
        if how.ema_decay:
            now, d = trained | others, how.ema_decay
            after["average"] = {n: d * a + (1 - d) * now[n] for n, a in carry["average"].items()}
        return after, loss, (logits.argmax(-1) == y).sum()

    def _moments(self) -> optax.GradientTransformation:
        optimizer = self.how.optimizer
        if isinstance(optimizer, SGD):
            return optax.trace(optimizer.momentum, optimizer.nesterov)
        return optax.scale_by_adam(optimizer.beta1, optimizer.beta2, optimizer.eps)

    def _decayed(self, updates: Arrays, weights: Arrays) -> Arrays:
        return {n: u + self._updates[n].decay * weights[n] for n, u in updates.items()}

    def _canonical(self, arrays: Mapping[str, jax.Array]) -> State:
        return {
            name: LAYOUTS[self._names[name].role].to_canonical(np.array(array))
            for name, array in arrays.items()
        }

    def _natives(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        found: Arrays = {
            name: jnp.array(LAYOUTS[self._names[name].role].to_native(array), self.how.dtype)
            for name, array in arrays.items()
        }
        placed: Arrays = self._everywhere(found)
        return placed

    def _everywhere(self, tree: Any) -> Any:
        """Arrays, on every device."""
        if self._mesh.size == 1:
            return tree
        return jax.device_put(tree, self._spread())

    def _spread(self, *axes: str) -> NamedSharding:
        spec: Any = PartitionSpec
        return NamedSharding(self._mesh, spec(*axes))


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
