"""What the trainers of the three backends share: batches, results, and the state of a training.

A state is a flat dict of numpy arrays under canonical names and in PyTorch's layouts, so that what
one framework has begun another can go on with: `step`, `weights/<parameter>`,
`<moment>/<parameter>` for what the optimizer keeps, and `average/<parameter>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared_spec.errors import ImageError, RecipeError, WeightsError
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.training.optimization import Optimization
from shared_spec.weights.state import State, check_weights, numpy_dtype

MOMENTS = {"sgd": ("momentum",), "adamw": ("first_moment", "second_moment")}
"""What each optimizer keeps of every parameter that trains."""


@dataclass(frozen=True)
class Gradients:
    """The loss of a batch and its gradients: of every parameter that trains, under canonical names
    and in PyTorch's layouts, and of the images [N, H, W, C].
    """

    loss: float
    parameters: State
    images: np.ndarray


@dataclass(frozen=True)
class Progress:
    """Loss (mean) and number of right answers of one batch, as the framework's scalars: reading
    them waits for the device.
    """

    loss: Any
    correct: Any


@dataclass(frozen=True)
class Placed:
    """A checked batch where a trainer computes, in arrays of its framework: what `Trainer.place`
    gives, and `Trainer.step` of the same trainer takes once or many times.
    """

    images: Any
    labels: Any


@dataclass
class TrainingState:
    """Where a training is: all that the next step depends on, except for the batch."""

    step: int
    weights: State
    moments: dict[str, State] = field(default_factory=dict)
    average: State | None = None

    def flat(self) -> State:
        """As one dict; see the module."""
        parts = {"weights": self.weights, **self.moments}
        if self.average is not None:
            parts["average"] = self.average
        arrays = {f"{part}/{name}": a for part, state in parts.items() for name, a in state.items()}
        return {"step": np.array(self.step, np.int64), **arrays}


def restored(
    state: Mapping[str, np.ndarray], p: Plan, how: Optimization, where: str = "training state"
) -> TrainingState:
    """A state from its flat form, for training the net `p` as `how` says.

    Raises:
        WeightsError: if arrays are missing, of other shapes, or not called for.
    """
    updates = how.updates(p)
    parts: dict[str, State] = {}
    for key, array in state.items():
        part, _, name = key.partition("/")
        if name:
            parts.setdefault(part, {})[name] = array
    wanted = ["weights", *MOMENTS[how.optimizer.name], *(["average"] if how.ema_decay else [])]
    if "step" not in state or sorted(parts) != sorted(wanted):
        given = ", ".join(sorted({key.partition("/")[0] for key in state})) or "nothing"
        raise WeightsError(
            f"{where}: holds {given}; this recipe needs {', '.join(sorted(['step', *wanted]))}"
        )
    for part in ("weights", "average"):
        if part in parts:
            check_weights(p, parts[part], how.dtype, f"{where}, {part}")
    shapes = {q.name: q.shape for q in p.parameters()}
    for part in MOMENTS[how.optimizer.name]:
        found = {name: array.shape for name, array in parts[part].items()}
        if found != {name: shapes[name] for name in updates}:
            raise WeightsError(f"{where}: {part} does not match the trainable parameters")
    moments = {part: parts[part] for part in MOMENTS[how.optimizer.name]}
    return TrainingState(int(state["step"]), parts["weights"], moments, parts.get("average"))


def require_classes(spec: ResNetSpec) -> None:
    """Raise a `RecipeError` for a net that gives no logits to learn from."""
    if spec.gives_maps or not spec.num_classes:
        raise RecipeError(
            "the net has no classes to learn for whole images; give it num_classes and a head"
        )


def require_equal_parts(array: np.ndarray, parts: int, owner: str) -> None:
    """Raise an `ImageError` for a batch that does not divide into a part for each `owner`."""
    if len(array) % parts:
        raise ImageError(
            f"a batch of {len(array)} images does not divide into {parts} equal parts, one for "
            f"each {owner}"
        )


def batch(
    images: np.ndarray, labels: np.ndarray | None, spec: ResNetSpec, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """A batch to train on, checked: images [N, H, W, C] in `dtype`, labels [N] as int64.

    Raises:
        ImageError: if it does not fit the net.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or images.shape[-1] != spec.in_channels:
        raise ImageError(
            f"images of shape {list(images.shape)}: expected [N, H, W, {spec.in_channels}]"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or not len(labels):
        raise ImageError(
            f"labels of shape {list(labels.shape)} and type {labels.dtype.name}: expected "
            f"{len(images)} whole numbers, and at least one"
        )
    classes = spec.num_classes
    if labels.min() < 0 or labels.max() >= classes:
        raise ImageError(
            f"labels go from {labels.min()} to {labels.max()}; the net has {classes} classes, "
            f"numbered from 0"
        )
    return np.asarray(images, numpy_dtype(dtype)), labels.astype(np.int64, copy=False)
