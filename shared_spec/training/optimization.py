"""How to train: the optimizer, its schedule and everything that changes an update, declared.

Frameworks mean different things by the same words, so what is meant is defined here, and the three
backends do that. With g the gradient, w the weights, d the weight decay and r the learning rate:

* `sgd`: v = momentum * v + g, then w -= r * v, or w -= r * (g + momentum * v) with `nesterov`. The
  learning rate is outside of the velocity, as in PyTorch and optax; Keras has it inside, which
  differs as soon as it changes.
* `adamw`: Loshchilov and Hutter 2017, arXiv:1711.05101, with epsilon added to the square root of
  the corrected second moment, as in PyTorch and optax; Keras adds it before the correction.
* coupled decay adds d * w to g; decoupled decay takes r * d * w off the weights instead.
* clipping scales all gradients by min(1, clip_norm / norm), before any decay.
* label smoothing s makes the target (1 - s) * one-hot + s / classes.
* the average of weights is a = ema_decay * a + (1 - ema_decay) * w after every step, from the
  initial weights on; of the norms' statistics too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from shared_spec.errors import RecipeError, ResNetError
from shared_spec.plan.layers import Parameter
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import Flag
from shared_spec.spec.validation import Document

Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Steps = Annotated[int, Field(strict=True, ge=0, le=10**9)]
Precision = Literal["float32", "float64", "bfloat16"]

KERNELS = ("conv_kernel", "conv1d_kernel", "dense_kernel")
STATISTICS = ("norm_mean", "norm_var")
"""Roles that an optimizer does not touch."""


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


ByName = BeforeValidator(_named)
"""Lets a record that needs no more be given by its name alone."""


class Declared(Document):
    """Base of the records that a recipe consists of."""

    origin = "recipe"
    refusal: ClassVar[type[ResNetError]] = RecipeError

    @model_serializer(mode="wrap")
    def _tagged(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """With the name that tells records apart, even where defaults are left out."""
        # No name of this module in the signature: pydantic 2.10 looks for it in a subclass's.
        data: dict[str, Any] = handler(self)
        name = getattr(self, "name", None)
        return data if name is None else {"name": name, **data}


class SGD(Declared):
    """Stochastic gradient descent, with momentum unless it is 0."""

    name: Literal["sgd"] = "sgd"
    momentum: Share = 0.9
    nesterov: Flag = False
    coupled: ClassVar[bool] = True
    """What its weight decay is unless the recipe says otherwise."""

    @model_validator(mode="after")
    def _check(self) -> SGD:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: needs a momentum above 0")
        return self


class AdamW(Declared):
    """Adam; its weight decay is decoupled unless the recipe says otherwise."""

    name: Literal["adamw"] = "adamw"
    beta1: Share = 0.9
    beta2: Share = 0.999
    eps: Positive = 1e-8
    coupled: ClassVar[bool] = False
    """What its weight decay is unless the recipe says otherwise."""


class Constant(Declared):
    """The same learning rate all the time."""

    name: Literal["constant"] = "constant"

    def factor(self, step: int, steps: int) -> float:
        """1."""
        return 1.0


class Step(Declared):
    """The learning rate is multiplied by `by` at each of the steps `at`."""

    name: Literal["step"] = "step"
    at: Annotated[tuple[Steps, ...], Field(min_length=1, max_length=100)]
    """Steps before which the learning rate falls, ascending."""
    by: Positive | tuple[Positive, ...] = 0.1
    """What it is multiplied by: at each of them, or one for each."""

    @model_validator(mode="after")
    def _check(self) -> Step:
        if list(self.at) != sorted(set(self.at)):
            raise ValueError(f"at: {list(self.at)} has to ascend")
        if isinstance(self.by, tuple) and len(self.by) != len(self.at):
            raise ValueError(f"by: {len(self.by)} factors for {len(self.at)} steps")
        return self

    def factor(self, step: int, steps: int) -> float:
        """The product of the factors that are reached."""
        factors = self.by if isinstance(self.by, tuple) else (self.by,) * len(self.at)
        reached = (by for at, by in zip(self.at, factors, strict=True) if step >= at)
        return math.prod(reached, start=1.0)


class Cosine(Declared):
    """The learning rate falls as half a cosine to `final` times itself (Loshchilov and Hutter 2016,
    arXiv:1608.03983), over the steps after the warm-up.
    """

    name: Literal["cosine"] = "cosine"
    final: Annotated[float, Field(ge=0, le=1)] = 0.0

    def factor(self, step: int, steps: int) -> float:
        """From 1 at step 0 to `final` at the step after the last."""
        done = min(step / max(steps, 1), 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


class Warmup(Declared):
    """The learning rate rises in a line from `start` times itself, for so many steps.

    Goyal et al. 2017, arXiv:1706.02677.
    """

    steps: Annotated[int, Field(strict=True, ge=1, le=10**9)]
    start: Annotated[float, Field(ge=0, le=1)] = 0.0


@dataclass(frozen=True, slots=True)
class Update:
    """How one parameter is updated: the factor on its learning rate, and its weight decay."""

    rate: float
    decay: float


class Optimization(Declared):
    """Everything that turns gradients into updates. Defaults: momentum 0.9, no decay, a constant
    learning rate, float32.
    """

    optimizer: Annotated[SGD | AdamW, Field(discriminator="name"), ByName] = SGD()
    learning_rate: Positive
    """Before the schedule's factor."""
    schedule: Annotated[Constant | Step | Cosine, Field(discriminator="name"), ByName] = Constant()
    warmup: Warmup | None = None
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    decay: Literal["coupled", "decoupled"] | None = None
    """Added to the gradient, or taken off the weights; left out: coupled for sgd, decoupled for
    adamw."""
    decay_norms: Flag = True
    """Whether scales and biases decay as kernels do."""
    label_smoothing: Share = 0.0
    clip_norm: Positive | None = None
    """Largest norm of all gradients together."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an average of the weights, and evaluate that."""
    precision: Precision = "float32"
    """bfloat16: weights stay float32, layers compute in bfloat16."""
    freeze: tuple[str, ...] = ()
    """Parts that do not train, such as conv1 or layer1, or patterns of parameters' names; the norms
    among them keep their statistics."""
    rates: dict[str, Positive] = Field(default_factory=dict)
    """Factors on the learning rate of parts of the net, such as {layer4: 0.1}; the last that fits
    counts."""
    remat: Flag = False
    """Keep no activations inside of blocks for the backward pass, but compute them again: less
    memory, more time, and the same results."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    """Of fresh weights, batches and dropout."""

    @property
    def coupled(self) -> bool:
        """Whether weight decay is added to the gradient."""
        return self.optimizer.coupled if self.decay is None else self.decay == "coupled"

    @property
    def dtype(self) -> str:
        """Of parameters and their averages."""
        return "float64" if self.precision == "float64" else "float32"

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of the update number `step` (from 0) out of `steps`."""
        warm = self.warmup.steps if self.warmup else 0
        if self.warmup and step < warm:
            start = self.warmup.start
            return self.learning_rate * (start + (1 - start) * step / warm)
        # Milestones are counted from the beginning, a cosine from the end of the warm-up.
        if self.schedule.name == "cosine":
            step, steps = step - warm, steps - warm
        return self.learning_rate * self.schedule.factor(step, steps)

    def updates(self, p: Plan) -> dict[str, Update]:
        """What happens to each parameter that trains, by its canonical name, in the plan's order.

        Raises:
            RecipeError: if nothing trains, or a part that is named does not exist.
        """
        for pattern in (*self.freeze, *self.rates):
            if not any(belongs(q, pattern) for q in p.parameters()):
                parts = dict.fromkeys(q.name.partition(".")[0] for q in p.parameters())
                raise RecipeError(
                    f"freeze and rates: the net has no part {pattern!r}; it has {', '.join(parts)}"
                )
        found = {q.name: self._update(q) for q in p.parameters() if self._trains(q)}
        if not found:
            raise RecipeError("freeze: nothing is left to train")
        return found

    def frozen_norms(self, p: Plan) -> set[str]:
        """The modules whose statistics stay, since nothing of them trains."""
        norms = {q.module for q in p.parameters() if q.role in STATISTICS}
        training = {q.module for q in p.parameters() if self._trains(q)}
        return norms - training

    def _trains(self, q: Parameter) -> bool:
        return q.trainable and not any(belongs(q, part) for part in self.freeze)

    def _update(self, q: Parameter) -> Update:
        decays = self.decay_norms or q.role in KERNELS
        rates = [1.0, *(factor for part, factor in self.rates.items() if belongs(q, part))]
        return Update(rates[-1], self.weight_decay if decays else 0.0)


def belongs(q: Parameter, part: str) -> bool:
    """Whether a parameter is the one called `part`, lies below it, or fits the pattern."""
    return q.name == part or q.name.startswith(part + ".") or fnmatchcase(q.name, part)


def grouped(updates: dict[str, Update]) -> Iterator[tuple[Update, list[str]]]:
    """The parameters that are updated alike, together."""
    for update in dict.fromkeys(updates.values()):
        yield update, [name for name, other in updates.items() if other == update]


def optimization(**fields: Any) -> Optimization:
    """An `Optimization` from its fields, with the errors of a recipe.

    Raises:
        RecipeError: naming every bad field, what was given, and what would be accepted.
    """
    return Optimization.parse(fields)
