"""A trainer of any backend: what its framework does differently is in the methods that it adds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from shared_spec.errors import FrameworkError
from shared_spec.plan.folding import require_trained
from shared_spec.training.optimization import STATISTICS, Optimization
from shared_spec.training.state import (
    Gradients,
    Placed,
    Progress,
    TrainingState,
    batch,
    require_classes,
    restored,
)
from shared_spec.weights.layouts import ParameterLayout
from shared_spec.weights.state import State

if TYPE_CHECKING:
    from shared_spec.weight_verbs import WeightVerbs

Model = TypeVar("Model")
Natives = Mapping[str, Any]
"""Canonical name to what the framework keeps there."""


class TrainerArrays(NamedTuple):
    """All arrays of a training, in the framework's own form."""

    weights: Natives
    moments: Mapping[str, Natives]
    """What the optimizer keeps of every parameter that trains, by the names in `MOMENTS`."""
    average: Natives | None


class BaseTrainer(ABC, Generic[Model]):
    """Trains a model, a batch at a time."""

    verbs: WeightVerbs[Any]
    """Reads the model's own variables."""

    def __init__(self, model: Any, optimization: Optimization, steps: int) -> None:
        """Prepare the training of a model.

        Args:
            model: of the recipe's dtype; it goes into training mode.
            optimization: the optimizer, its schedule, and all that changes an update.
            steps: of the whole training, which the schedule needs.

        Raises:
            ResNetError: if the model has no classes, another dtype, or none of the parts named.
        """
        self.verbs.follow(model)
        require_trained(model.plan, "to train")
        require_classes(model.spec, pixels=True)
        dtype, needed = self.verbs.dtype_name(model), optimization.dtype
        if dtype != needed:
            raise FrameworkError(
                f"precision: {optimization.precision} trains a model of {needed}, and this one is "
                f"{dtype}"
            )
        self._model, self.optimization = model, optimization
        self.steps, self.step_number = steps, 0
        self._parameters = {q.name: q for q in model.plan.parameters()}
        self._updates = optimization.updates(model.plan)

    @property
    def model(self) -> Model:
        """The model, brought up to date."""
        self._settle()
        model: Model = self._model
        return model

    def place(self, images: np.ndarray, labels: np.ndarray | None) -> Placed:
        """A batch, checked, on its way to the device: images [N, H, W, C], normalised, and labels
        [N], or of a net for segmentation [N, H, W], with 255 where a pixel does not count. Placed
        before the last step's figures are read, it travels while that step computes. The arrays
        must not change before the step is over: they may be used as they are.

        Raises:
            ImageError: if it does not fit the net, or does not divide among the devices.
        """
        return self._place(*batch(images, labels, self._model.spec, self.optimization.dtype))

    def step(self, images: np.ndarray | Placed, labels: np.ndarray | None = None) -> Progress:
        """Update the model by one batch, given as to `place` or placed already."""
        placed = images if isinstance(images, Placed) else self.place(images, labels)
        rate = self.optimization.rate(self.step_number, self.steps)
        progress = self._update(placed.images, placed.labels, rate)
        self.step_number += 1
        return progress

    def gradients(self, images: np.ndarray, labels: np.ndarray) -> Gradients:
        """What the next step would compute from a batch; nothing changes."""
        checked = batch(images, labels, self._model.spec, self.optimization.dtype)
        loss, parameters, of_images = self._differentiate(*checked)
        return Gradients(float(loss), self._canonical(parameters), of_images)

    def state(self) -> State:
        """Where the training is, as arrays that every backend's trainer takes back."""
        arrays = self._arrays()
        moments = {key: self._canonical(natives) for key, natives in arrays.moments.items()}
        average = self._canonical(arrays.average) if arrays.average else None
        weights = self._canonical(arrays.weights)
        return TrainingState(self.step_number, weights, moments, average).flat()

    def load_state(self, state: Mapping[str, np.ndarray], where: str = "training state") -> None:
        """Go on from a state.

        Raises:
            WeightsError: if it is not one of this model and recipe; nothing has changed then.
        """
        training_state = restored(state, self._model.plan, self.optimization, where)
        self._restore(training_state)
        self.step_number = training_state.step

    def averaged(self) -> State:
        """Canonical weights to evaluate: their average if the recipe keeps one."""
        arrays = self._arrays()
        return self._canonical(arrays.average or arrays.weights)

    def statistics(self) -> State:
        """The norms' running means and variances."""
        names = [name for name, q in self._parameters.items() if q.role in STATISTICS]
        weights = self._arrays().weights
        return self._canonical({name: weights[name] for name in names})

    def _settle(self) -> None:
        """Bring the model's own variables up to date."""

    @abstractmethod
    def _place(self, images: np.ndarray, labels: np.ndarray) -> Placed:
        """A checked batch on its way to the device."""

    @abstractmethod
    def _update(self, images: Any, labels: Any, rate: float) -> Progress:
        """Update the model by what was placed, at this learning rate."""

    @abstractmethod
    def _differentiate(
        self, images: np.ndarray, labels: np.ndarray
    ) -> tuple[Any, Natives, np.ndarray]:
        """The loss of a checked batch and its gradients: of what trains, and of the images."""

    @abstractmethod
    def _arrays(self) -> TrainerArrays:
        """All arrays, as they are after the last step."""

    @abstractmethod
    def _restore(self, state: TrainingState) -> None:
        """Take all arrays from a state that fits."""

    def _layout(self, name: str) -> ParameterLayout:
        return self.verbs.layouts[self._parameters[name].role]

    def _canonical(self, natives: Natives) -> State:
        return {
            name: self._layout(name).to_canonical(self.verbs.copied(native))
            for name, native in natives.items()
        }

    def _native(self, name: str, array: np.ndarray) -> np.ndarray:
        return self._layout(name).to_native(array, own=self.verbs.keeps_arrays)
