"""Training with `torch.optim`, as a recipe defines it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_torch.model import ResNet
from resnet_torch.parallel import mean_over_processes, parallel, sum_over_processes, world
from resnet_torch.weights import dtype_name, export_weights, from_numpy, native, to_numpy
from shared_spec.plan.layers import TRAINING_ONLY
from shared_spec.training.optimization import SGD, STATISTICS, Optimization, grouped
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
from shared_spec.weights.layouts import TORCH as LAYOUTS
from shared_spec.weights.state import State

BUFFERS = {
    "momentum": "momentum_buffer",
    "first_moment": "exp_avg",
    "second_moment": "exp_avg_sq",
}
"""PyTorch's names of what an optimizer keeps."""


class Trainer:
    """Trains a model in place, a batch at a time.

    With a process group of `torch.distributed`, each process trains on its part of every batch:
    gradients are averaged (`DistributedDataParallel`), and norms see the whole batch.

    Args:
        model: of the recipe's dtype; it goes into training mode.
        how: the optimizer, its schedule, and all that changes an update.
        steps: of the whole training, which the schedule needs.

    Raises:
        ResNetError: if the model has no classes, another dtype, or none of the parts named.
    """

    def __init__(self, model: ResNet, how: Optimization, steps: int) -> None:
        check_trainable(model.plan, model.spec, dtype_name(model), how)
        self.model, self.how, self.steps, self.step_number = model, how, steps, 0
        self._names = {q.name: q for q in model.plan.parameters()}
        self._updates = how.updates(model.plan)
        self._prepare()
        self._parallel = parallel(model)
        self._optimizer = self._new_optimizer()
        self._average: dict[str, Tensor] = {}
        if how.ema_decay:
            self._average = {name: t.detach().clone() for name, t in self._tensors().items()}
        self._drops = any(isinstance(layer, TRAINING_ONLY) for layer in model.plan.layers())

    def place(self, images: np.ndarray, labels: np.ndarray | None) -> Placed:
        """A batch, checked, on its way to the device: images [N, H, W, C], normalised, and labels
        [N]. Placed before the last step's figures are read, it travels while that step computes.
        The arrays must not change before the step is over: they may be used as they are.

        Raises:
            ImageError: if it does not fit the net, or does not divide among the devices.
        """
        images, labels = batch(images, labels, self.model.spec, self.how.dtype)
        device = next(self.model.parameters()).device
        x, y = from_numpy(images), torch.from_numpy(labels)
        if device.type == "cuda":  # from other memory a copy waits for all that is under way
            x, y = x.pin_memory(), y.pin_memory()
        x = x.to(device, non_blocking=True).permute(0, 3, 1, 2)
        return Placed(x, y.to(device, non_blocking=True))

    def step(self, images: np.ndarray | Placed, labels: np.ndarray | None = None) -> Progress:
        """Update the model by one batch, given as to `place` or placed already."""
        given = images if isinstance(images, Placed) else self.place(images, labels)
        rate = self.how.rate(self.step_number, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        x, y = given.images, given.labels
        with self._drawing():
            logits = self._forward(self._parallel, x)
        loss = F.cross_entropy(logits, y, label_smoothing=self.how.label_smoothing)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._clip()
        self._decay()
        self._optimizer.step()
        self._follow()
        self.step_number += 1
        (mean,) = mean_over_processes([loss.detach()])
        return Progress(mean, sum_over_processes((logits.detach().argmax(1) == y).sum()))

    def gradients(self, images: np.ndarray, labels: np.ndarray) -> Gradients:
        """What the next step would compute from a batch; nothing changes."""
        given = self.place(images, labels)
        x, y = given.images.requires_grad_(True), given.labels
        # The norms write new statistics in place: into copies.
        kept = {name: t.clone() for name, t in self.model.named_buffers()}
        with self._drawing():
            logits = self._forward(partial(torch.func.functional_call, self.model, kept), x)
        loss = F.cross_entropy(logits, y, label_smoothing=self.how.label_smoothing)
        tensors = self._tensors()
        natives = [tensors[name] for name in self._updates]
        found = torch.autograd.grad(loss, [x, *natives])
        # The loss is the mean over processes, so that this one's images have a share in it.
        image = to_numpy(found[0].permute(0, 2, 3, 1) / world()[1])
        mean, *rest = mean_over_processes([loss.detach(), *found[1:]])
        parameters = dict(zip(self._updates, rest, strict=True))
        return Gradients(mean.item(), self._canonical(parameters), image)

    def state(self) -> State:
        """Where the training is, as arrays that every backend's trainer takes back."""
        moments = {}
        for key in self._kept():
            buffers = {name: self._buffer(name, key) for name in self._updates}
            moments[key] = self._canonical(buffers)
        average = self._canonical(self._average) if self._average else None
        weights = export_weights(self.model)
        return TrainingState(self.step_number, weights, moments, average).flat()

    def load_state(self, state: Mapping[str, np.ndarray], where: str = "training state") -> None:
        """Go on from a state.

        Raises:
            WeightsError: if it is not one of this model and recipe; nothing has changed then.
        """
        found = restored(state, self.model.plan, self.how, where)
        tensors = self._tensors()
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(self._native(name, found.weights[name]))
            for name, tensor in self._average.items():
                assert found.average is not None
                tensor.copy_(self._native(name, found.average[name]))
        for key, arrays in found.moments.items():
            for name, array in arrays.items():
                like = tensors[name]
                kept = self._optimizer.state[like]
                kept[BUFFERS[key]] = torch.empty_like(like).copy_(self._native(name, array))
                if key != "momentum":
                    kept["step"] = torch.tensor(float(found.step))
        self.step_number = found.step

    def averaged(self) -> State:
        """Canonical weights to evaluate: their average if the recipe keeps one."""
        return self._canonical(self._average) if self._average else export_weights(self.model)

    def statistics(self) -> State:
        """The norms' running means and variances."""
        tensors = self._tensors()
        return self._canonical(
            {n: tensors[n] for n, q in self._names.items() if q.role in STATISTICS}
        )

    def _prepare(self) -> None:
        """Training mode, except for what is frozen."""
        self.model.train()
        for name, tensor in self._tensors().items():
            if isinstance(tensor, torch.nn.Parameter):
                tensor.requires_grad_(name in self._updates)
        for path in self.how.frozen_norms(self.model.plan):
            self.model.get_submodule(path).eval()
        if self.how.precision != "float64":
            # The layout that PyTorch's convolutions are fastest in; strides alone change.
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _new_optimizer(self) -> torch.optim.Optimizer:
        how, tensors = self.how, self._tensors()
        groups: list[dict[str, Any]] = [
            {
                "params": [tensors[name] for name in names],
                "factor": update.rate,
                "decay": update.decay,
                "weight_decay": update.decay if how.coupled else 0.0,
            }
            for update, names in grouped(self._updates)
        ]
        if isinstance(how.optimizer, SGD):
            return torch.optim.SGD(
                groups,
                lr=how.learning_rate,
                momentum=how.optimizer.momentum,
                nesterov=how.optimizer.nesterov,
            )
        betas = (how.optimizer.beta1, how.optimizer.beta2)
        # Adam's weight decay is coupled; the decoupled one is taken in `_decay`, as SGD's.
        return torch.optim.Adam(groups, lr=how.learning_rate, betas=betas, eps=how.optimizer.eps)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: native(self.model, q) for name, q in self._names.items()}

    def _forward(self, model: Any, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, self.how.precision == "bfloat16"):
            logits: Tensor = model(x)
        return logits.to(x.dtype)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Dropout that follows from the seed and the step alone, so that a run that resumes from a
        state draws what it would have drawn.
        """
        if not self._drops:
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed(hash((self.how.seed, self.step_number, world()[0])))
            yield

    def _clip(self) -> None:
        if self.how.clip_norm is None:
            return
        found = [p.grad for g in self._optimizer.param_groups for p in g["params"]]
        norm = torch.nn.utils.get_total_norm(found)
        # `clip_grad_norm_` adds 1e-6 to the norm.
        torch._foreach_mul_(found, (self.how.clip_norm / norm).clamp(max=1.0))

    def _decay(self) -> None:
        if self.how.coupled:
            return
        with torch.no_grad():
            for group in self._optimizer.param_groups:
                if group["decay"]:
                    torch._foreach_mul_(group["params"], 1 - group["lr"] * group["decay"])

    def _follow(self) -> None:
        if self._average:
            assert self.how.ema_decay is not None
            tensors = self._tensors()
            with torch.no_grad():
                average = list(self._average.values())
                torch._foreach_mul_(average, self.how.ema_decay)
                now = [tensors[name] for name in self._average]
                torch._foreach_add_(average, now, alpha=1 - self.how.ema_decay)

    def _kept(self) -> tuple[str, ...]:
        return MOMENTS[self.how.optimizer.name]

    def _buffer(self, name: str, key: str) -> Tensor:
        tensor = native(self.model, self._names[name])
        found = self._optimizer.state[tensor].get(BUFFERS[key])
        return torch.zeros_like(tensor) if found is None else found

    def _canonical(self, tensors: Mapping[str, Tensor]) -> State:
        return {
            name: LAYOUTS[self._names[name].role].to_canonical(to_numpy(tensor)).copy()
            for name, tensor in tensors.items()
        }

    def _native(self, name: str, array: np.ndarray) -> Tensor:
        return from_numpy(LAYOUTS[self._names[name].role].to_native(array))
