"""Training with `keras.optimizers`, on Keras's three engines, as a recipe defines it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from resnet_keras.layers import PACKAGE, arrange_like, mean_over_replicas, replicas
from resnet_keras.model import ResNet, drawing_layers
from resnet_keras.weights import WEIGHTS, configured
from shared_spec.kernels import xla
from shared_spec.training.optimization import SGD, STATISTICS, Optimization, Update
from shared_spec.training.optimization import optimization as checked
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
from shared_spec.weights.state import State


@keras.saving.register_keras_serializable(PACKAGE)
class RecipeOptimizer(keras.optimizers.Optimizer):
    """The update rules of a recipe, for `Trainer` or for `compile` and `fit`. Schedule, clipping
    and the average of weights are the trainer's.

    Args:
        optimization: the recipe's part, or its fields.
        updates: rate and decay of each variable, by its path; 1 and the recipe's if left out.
        learning_rate: at first; the recipe's if left out.
        name: of the optimizer.
    """

    def __init__(
        self,
        optimization: Optimization | dict[str, Any],
        updates: Mapping[str, Any] | None = None,
        learning_rate: Any = None,
        name: str = "recipe",
    ) -> None:
        if not isinstance(optimization, Optimization):
            optimization = checked(**optimization)
        # The dtype of the variables that Keras makes without asking.
        with configured(floatx=optimization.dtype):
            super().__init__(
                optimization.learning_rate if learning_rate is None else learning_rate, name=name
            )
        self.optimization = optimization
        self.updates = {
            path: u if isinstance(u, Update) else Update(*u) for path, u in (updates or {}).items()
        }

    @classmethod
    def of(
        cls, model: ResNet, optimization: Optimization, learning_rate: Any = None
    ) -> RecipeOptimizer:
        """For a model, with the decay and the rate that the recipe has for each of its parameters.
        `learning_rate` may be one of Keras's schedules.
        """
        natives = WEIGHTS.natives(model)
        updates = {natives[name].path: u for name, u in optimization.updates(model.plan).items()}
        return cls(optimization, updates, learning_rate)

    def build(self, variables: Any) -> None:
        """Make what the optimizer keeps of each variable."""
        if self.built:
            return
        super().build(variables)
        keys = MOMENTS[self.optimization.optimizer.name]
        self.moments = {key: self.add_optimizer_variables(variables, key) for key in keys}
        for kept in self.moments.values():
            for moment, variable in zip(kept, variables, strict=True):
                arrange_like(moment, variable)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable."""
        optimization, index = self.optimization, self._get_variable_index(variable)
        # TensorFlow's engine gives its own variable here, which has no path.
        path = self._trainable_variables[index].path
        update = self.updates.get(path, Update(1.0, optimization.weight_decay))
        w = ops.convert_to_tensor(variable)
        g = gradient + update.decay * w if optimization.coupled and update.decay else gradient
        rate = ops.cast(learning_rate, w.dtype) * update.rate
        change = self._change(g, [moments[index] for moments in self.moments.values()])
        if update.decay and not optimization.coupled:
            change = change + update.decay * w
        self.assign(variable, w - rate * change)

    def _change(self, g: Any, moments: list[Any]) -> Any:
        """What is taken off the weights, before the learning rate."""
        optimizer = self.optimization.optimizer
        if isinstance(optimizer, SGD):
            velocity = optimizer.momentum * ops.convert_to_tensor(moments[0]) + g
            self.assign(moments[0], velocity)
            return g + optimizer.momentum * velocity if optimizer.nesterov else velocity
        first, second = (ops.convert_to_tensor(m) for m in moments)
        first = optimizer.beta1 * first + (1 - optimizer.beta1) * g
        second = optimizer.beta2 * second + (1 - optimizer.beta2) * g * g
        self.assign(moments[0], first)
        self.assign(moments[1], second)
        step = ops.cast(self.iterations, g.dtype) + 1
        root = ops.sqrt(second / _missing(optimizer.beta2, step)) + optimizer.eps
        return first / _missing(optimizer.beta1, step) / root

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> RecipeOptimizer:
        """From what `get_config` gave; earlier files call the recipe's part `how`."""
        renamed = {"optimization" if key == "how" else key: v for key, v in config.items()}
        optimizer: RecipeOptimizer = super().from_config(renamed, custom_objects)
        return optimizer

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        base = super().get_config()
        return {
            "optimization": self.optimization.model_dump(mode="json"),
            "updates": {path: [u.rate, u.decay] for path, u in self.updates.items()},
            "learning_rate": base["learning_rate"],
            "name": base["name"],
        }


def _missing(beta: float, step: Any) -> Any:
    """`1 - beta ** step`."""
    return 1 - ops.exp(step * math.log(beta)) if beta else ops.ones_like(step)


def cross_entropy(labels: Any, logits: Any, smoothing: float = 0.0) -> Any:
    """Mean over what counts of a batch, in the logits' own precision, with the recipe's label
    smoothing.
    """
    classes = logits.shape[-1]
    one_hot = ops.one_hot(labels, classes, dtype=logits.dtype)
    counted = ops.cast(ops.not_equal(labels, UNCOUNTED), logits.dtype)
    targets = ((1 - smoothing) * one_hot + smoothing / classes) * counted[..., None]
    count = mean_over_replicas(ops.sum(counted))
    return -ops.sum(targets * ops.log_softmax(logits)) / count


class Trainer(BaseTrainer[ResNet]):
    """Trains a model, a batch at a time.

    On several devices, each gets an equal part of every batch, and the step is that of the whole
    batch, norms included: with `keras.distribution.DataParallel` on the JAX engine, set before the
    model is built, and with a strategy of `tf.distribute` on TensorFlow's, where model and trainer
    are made in its scope.

    Examples:
        >>> model = create_model("resnet20")
        >>> trainer = Trainer(model, optimization(learning_rate=0.1), steps=64_000)
        >>> loss = trainer.step(images, labels)
    """

    verbs = WEIGHTS

    def __init__(self, model: ResNet, optimization: Optimization, steps: int) -> None:
        super().__init__(model, optimization, steps)
        self._natives = WEIGHTS.natives(model)
        self._prepare()
        self.optimizer = RecipeOptimizer.of(model, optimization)
        self.optimizer.build(self.trained)
        self._average: dict[str, Any] = {}
        if optimization.ema_decay:
            self._average = {
                name: keras.Variable(
                    WEIGHTS.copied(v),
                    dtype=optimization.dtype,
                    trainable=False,
                    aggregation="only_first_replica",
                )
                for name, v in self._natives.items()
            }
            for name, average in self._average.items():
                arrange_like(average, self._natives[name])
        self._engine = ENGINES[keras.backend.backend()](self)

    def _settle(self) -> None:
        self._engine.settle()

    def _place(self, images: np.ndarray, labels: np.ndarray) -> Placed:
        return Placed(self._engine.place(images), self._engine.place(labels))

    def _update(self, images: Any, labels: Any, rate: float) -> Progress:
        loss, correct = self._engine.update(
            images, labels, np.asarray(rate, self.optimization.dtype)
        )
        return Progress(loss, correct)

    def _differentiate(
        self, images: np.ndarray, labels: np.ndarray
    ) -> tuple[Any, dict[str, Any], np.ndarray]:
        self._settle()
        loss, gradients = self._engine.gradients(images, labels)
        of_images, *parameters = gradients
        named = dict(zip(self._updates, parameters, strict=True))
        return loss, named, np.array(ops.convert_to_numpy(of_images))

    def _arrays(self) -> TrainerArrays:
        self._settle()
        return TrainerArrays(self._natives, self._moments(), self._average or None)

    def _moments(self) -> dict[str, dict[str, Any]]:
        return {
            key: dict(zip(self._updates, variables, strict=True))
            for key, variables in self.optimizer.moments.items()
        }

    def _restore(self, state: TrainingState) -> None:
        self._assign(self._natives, state.weights)
        for key, variables in self._moments().items():
            self._assign(variables, state.moments[key])
        self._assign(self._average, state.average or {})
        self.optimizer.iterations.assign(state.step)
        for layer in drawing_layers(self._model):
            # Each layer draws once a step, and so has drawn as often.
            generator = layer.seed_generator
            seed = WEIGHTS.copied(generator.state)
            generator.state.assign(np.array([seed[0], state.step], seed.dtype))
        self._engine.changed()

    def _prepare(self) -> None:
        """Say which variables train, which norms keep their statistics, and what is kept."""
        self._model.remat = self._model.remat or self.optimization.remat
        layer = WEIGHTS.modules(self._model)
        for name, q in self._parameters.items():
            # What a layer calls trainable decides for all its variables, statistics too.
            layer(q.module).trainable = True
            if q.role not in STATISTICS:
                self._natives[name].trainable = name in self._updates
        for path in self.optimization.frozen_norms(self._model.plan):
            layer(path).trainable = False
        # In the order in which Keras passes them.
        names = {id(variable): name for name, variable in self._natives.items()}
        self.trained = self._model.trainable_variables
        self.others = self._model.non_trainable_variables
        self._updates = {names[id(v)]: self._updates[names[id(v)]] for v in self.trained}

    def forward(self, trained: list[Any], others: list[Any], x: Any, y: Any) -> Any:
        """Loss, logits and the new values of what does not train; no variable changes."""
        found, others = self._model.stateless_call(trained, others, x, training=True)
        dtype, smoothing = self.optimization.dtype, self.optimization.label_smoothing
        results = [ops.cast(z, dtype) for z in (found if isinstance(found, list) else [found])]
        losses = [
            w * cross_entropy(y, logits, smoothing)
            for w, logits in zip(LOSS_WEIGHTS, results, strict=False)
        ]
        return sum(losses[1:], losses[0]), results[0], others

    def clipped(self, gradients: list[Any]) -> list[Any]:
        """Gradients, scaled to the recipe's largest norm if theirs is larger."""
        limit = self.optimization.clip_norm
        assert limit is not None
        squares = [ops.sum(g * g) for g in gradients]
        norm = ops.sqrt(sum(squares[1:], squares[0]))
        # ops.minimum gives float32 on the PyTorch engine.
        scale = limit / (limit + ops.relu(norm - limit))
        return [g * scale for g in gradients]

    def apply(self, gradients: list[Any], others: list[Any]) -> None:
        """Give all variables the values that they have after a step."""
        optimization = self.optimization
        self.optimizer.apply(gradients, self.trained)
        for variable, value in zip(self.others, others, strict=True):
            variable.assign(value)
        for name, average in self._average.items():
            assert optimization.ema_decay is not None
            now = ops.convert_to_tensor(self._natives[name])
            kept = optimization.ema_decay * ops.convert_to_tensor(average)
            average.assign(kept + (1 - optimization.ema_decay) * now)

    def values(self) -> tuple[list[Any], list[Any]]:
        """What the variables hold: those that train, and the others."""
        return [v.value for v in self.trained], [v.value for v in self.others]

    def variables(self) -> list[Any]:
        """All that a step changes."""
        return [*self.trained, *self.others, *self.optimizer.variables, *self._average.values()]

    @contextmanager
    def mixed(self) -> Iterator[None]:
        """Layers compute in bfloat16, if the recipe says so, while their calls and the gradients of
        these are traced.
        """
        if self.optimization.precision != "bfloat16":
            yield
            return
        kept = [(layer, layer.dtype_policy) for layer in self._model.layers]
        try:
            for layer, _ in kept:
                layer.dtype_policy = "mixed_bfloat16"
            yield
        finally:
            for layer, policy in kept:
                layer.dtype_policy = policy

    def _assign(self, variables: Mapping[str, Any], state: State) -> None:
        for name, variable in variables.items():
            variable.assign(self._native(name, state[name]))


class _Engine:
    """How one of Keras's engines differentiates and compiles; here nothing is compiled."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def place(self, array: np.ndarray) -> Any:
        """A batch's images or labels where steps are computed."""
        return ops.convert_to_tensor(array)

    def update(self, x: Any, y: Any, rate: np.ndarray) -> tuple[Any, Any]:
        """One step on what was placed: the loss, and how many answers were right."""
        return self.step(x, y, rate)

    def step(self, x: Any, y: Any, rate: Any) -> tuple[Any, Any]:
        """The part of a step that is compiled; it changes variables."""
        trainer = self.trainer
        with trainer.mixed():
            (loss, logits, others), gradients = self.differentiate(x, y)
        if trainer.optimization.clip_norm is not None:
            gradients = self.shares(trainer.clipped(self.whole(gradients)))
        trainer.optimizer.learning_rate = rate
        trainer.apply(gradients, others)
        right = ops.equal(ops.cast(ops.argmax(logits, -1), "int32"), ops.cast(y, "int32"))
        return loss, ops.sum(ops.cast(right, "int32"))

    def gradients(self, x: Any, y: Any) -> tuple[Any, list[Any]]:
        """The loss, and its gradients of the images and of what trains."""
        with self.trainer.mixed():
            (loss, *_), found = self.differentiate(x, y, images=True)
        return loss, found

    def differentiate(self, x: Any, y: Any, images: bool = False) -> tuple[Any, list[Any]]:
        """What `Trainer.forward` gives, and the loss's gradients: of the images first, if asked."""
        raise NotImplementedError

    def whole(self, gradients: list[Any]) -> list[Any]:
        """Gradients of the whole batch, from those of a replica's part."""
        return gradients

    def shares(self, gradients: list[Any]) -> list[Any]:
        """Gradients of the whole batch, so that the sum over replicas gives them back."""
        return gradients

    def settle(self) -> None:
        """Bring variables up to date."""

    def changed(self) -> None:
        """Take note of variables that were assigned."""


class _Torch(_Engine):
    """PyTorch, operation by operation."""

    def step(self, x: Any, y: Any, rate: Any) -> tuple[Any, Any]:
        import torch

        with torch.no_grad():
            return super().step(x, y, rate)

    def differentiate(self, x: Any, y: Any, images: bool = False) -> tuple[Any, list[Any]]:
        import torch

        trained, others = self.trainer.values()
        with torch.enable_grad():
            x = ops.convert_to_tensor(x).requires_grad_(images)
            found = self.trainer.forward(trained, others, x, ops.convert_to_tensor(y))
            gradients = torch.autograd.grad(found[0], [x, *trained] if images else trained)
        return [part.detach() if torch.is_tensor(part) else part for part in found], [*gradients]


class _TensorFlow(_Engine):
    """TensorFlow, a graph for each shape of the batch, on each replica of the strategy in force."""

    def __init__(self, trainer: Trainer) -> None:
        import tensorflow as tf

        super().__init__(trainer)
        self._strategy = tf.distribute.get_strategy()
        self._replicas: int = self._strategy.num_replicas_in_sync
        self._compiled = tf.function(
            self.step if self._replicas == 1 else self._on_replicas, reduce_retracing=True
        )

    def update(self, x: Any, y: Any, rate: np.ndarray) -> tuple[Any, Any]:
        import tensorflow as tf

        found: tuple[Any, Any] = self._compiled(x, y, tf.convert_to_tensor(rate))
        return found

    def _on_replicas(self, x: Any, y: Any, rate: Any) -> tuple[Any, Any]:
        loss, correct = self._strategy.run(self.step, (x, y, rate))
        reduce = self._strategy.reduce
        return reduce("MEAN", loss, axis=None), reduce("SUM", correct, axis=None)

    def place(self, array: np.ndarray) -> Any:
        """Whole, or an equal part of a batch for each replica."""
        import tensorflow as tf

        if self._replicas == 1:
            return tf.convert_to_tensor(array)
        require_equal_parts(array, self._replicas, "replica")
        parts = [tf.convert_to_tensor(part) for part in np.split(array, self._replicas)]
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    def whole(self, gradients: list[Any]) -> list[Any]:
        import tensorflow as tf

        if self._replicas == 1:
            return gradients
        found: list[Any] = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
        return found

    def shares(self, gradients: list[Any]) -> list[Any]:
        return [g / self._replicas for g in gradients]

    def differentiate(self, x: Any, y: Any, images: bool = False) -> tuple[Any, list[Any]]:
        import tensorflow as tf

        trained, others = self.trainer.values()
        x, *trained = (tf.convert_to_tensor(value) for value in (x, *trained))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            watched = [x, *trained] if images else trained
            tape.watch(watched)
            found = self.trainer.forward(trained, others, x, y)
            # The loss of a batch is the mean over its replicas; the optimizer takes their sum.
            share = found[0] / replicas()
        return found, tape.gradient(share, watched)


class _Jax(_Engine):
    """JAX, compiled over arrays that are kept here; each step passes its memory on to the next."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self._variables = trainer.variables()
        self._values: list[Any] | None = None
        self._compiled = xla.jit(self._pure, trainer.optimization.precision, donate_argnums=0)

    def update(self, x: Any, y: Any, rate: np.ndarray) -> tuple[Any, Any]:
        import jax.numpy as jnp

        if self._values is None:
            self._values = [jnp.array(v.value) for v in self._variables]
        self._values, loss, correct = self._compiled(self._values, x, y, rate)
        return loss, correct

    def place(self, array: np.ndarray) -> Any:
        """Whole, or this process' part of a batch over the devices of Keras's distribution."""
        import jax

        distribution = keras.distribution.distribution()
        if distribution is None:
            return jax.device_put(array)
        layout = distribution.get_data_layout(array.shape).backend_layout
        require_equal_parts(array, jax.local_device_count(), "device")
        whole: Any = jax.make_array_from_process_local_data
        return whole(layout, array)

    def _pure(self, values: list[Any], x: Any, y: Any, rate: Any) -> tuple[list[Any], Any, Any]:
        mapping = list(zip(self._variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            loss, correct = self.step(x, y, rate)
        return [scope.get_current_value(v) for v in self._variables], loss, correct

    def differentiate(self, x: Any, y: Any, images: bool = False) -> tuple[Any, list[Any]]:
        import jax

        def loss(trained: list[Any], x: Any) -> Any:
            found = self.trainer.forward(trained, others, x, y)
            return found[0], found

        trained, others = self.trainer.values()
        run = jax.grad(loss, (0, 1) if images else 0, has_aux=True)
        gradients, found = run(trained, x)
        return found, [gradients[1], *gradients[0]] if images else gradients

    def settle(self) -> None:
        if self._values is not None:
            for variable, value in zip(self._variables, self._values, strict=True):
                variable.assign(value)
        # The next step copies what variables hold, and gives the copies on.
        self._values = None

    def changed(self) -> None:
        self._values = None


ENGINES: dict[str, type[_Engine]] = {"torch": _Torch, "tensorflow": _TensorFlow, "jax": _Jax}
