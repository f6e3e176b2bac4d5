"""Training with `torch.optim`, as a recipe defines it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_torch.model import ResNet
from resnet_torch.parallel import mean_over_processes, parallel, sum_over_processes, world
from resnet_torch.weights import WEIGHTS, from_numpy, to_numpy
from shared_spec.plan.layers import TRAINING_ONLY
from shared_spec.training.optimization import SGD, Optimization, grouped
from shared_spec.training.state import (
    LOSS_WEIGHTS,
    MOMENTS,
    UNCOUNTED,
    Placed,
    Progress,
    TrainingState,
)
from shared_spec.training.trainer import BaseTrainer, TrainerArrays

BUFFERS = {"momentum": "momentum_buffer", "first_moment": "exp_avg", "second_moment": "exp_avg_sq"}
"""PyTorch's names of what an optimizer keeps."""


class Trainer(BaseTrainer[ResNet]):
    """Trains a model in place, a batch at a time.

    With a process group of `torch.distributed`, each process trains on its part of every batch:
    gradients are averaged (`DistributedDataParallel`), and norms see the whole batch.

    Examples:
        >>> model = create_model("resnet20")
        >>> trainer = Trainer(model, optimization(learning_rate=0.1), steps=64_000)
        >>> loss = trainer.step(images, labels)
    """

    verbs = WEIGHTS

    def __init__(self, model: ResNet, optimization: Optimization, steps: int) -> None:
        super().__init__(model, optimization, steps)
        self._prepare()
        self._parallel = parallel(model)
        self._optimizer = self._new_optimizer()
        self._average: dict[str, Tensor] = {}
        if optimization.ema_decay:
            self._average = {name: t.detach().clone() for name, t in self._tensors().items()}
        self._drops = any(isinstance(layer, TRAINING_ONLY) for layer in model.plan.layers())

    def _place(self, images: np.ndarray, labels: np.ndarray) -> Placed:
        device = next(self.model.parameters()).device
        x, y = from_numpy(images), torch.from_numpy(labels)
        if device.type == "cuda":  # from other memory a copy waits for all that is under way
            x, y = x.pin_memory(), y.pin_memory()
        x = x.to(device, non_blocking=True).permute(0, 3, 1, 2)
        return Placed(x, y.to(device, non_blocking=True))

    def _update(self, images: Tensor, labels: Tensor, rate: float) -> Progress:
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        with self._drawing():
            results = self._forward(self._parallel, images)
        loss = self._loss(results, labels)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._clip()
        self._decay()
        self._optimizer.step()
        self._follow()
        (mean,) = mean_over_processes([loss.detach()])
        right = (results[0].detach().argmax(1) == labels).sum()
        return Progress(mean, sum_over_processes(right))

    def _differentiate(
        self, images: np.ndarray, labels: np.ndarray
    ) -> tuple[Tensor, dict[str, Tensor], np.ndarray]:
        placed = self._place(images, labels)
        x = placed.images.requires_grad_(True)
        # The norms write new statistics in place: into copies.
        buffers = {name: t.clone() for name, t in self.model.named_buffers()}
        with self._drawing():
            results = self._forward(partial(torch.func.functional_call, self.model, buffers), x)
        loss = self._loss(results, placed.labels)
        tensors = self._tensors()
        of_images, *gradients = torch.autograd.grad(loss, [x, *map(tensors.get, self._updates)])
        mean, *means = mean_over_processes([loss.detach(), *gradients])
        # The loss is the mean over processes, so that this one's images have a share in it.
        share = to_numpy(of_images.permute(0, 2, 3, 1) / world()[1])
        return mean, dict(zip(self._updates, means, strict=True)), share

    def _arrays(self) -> TrainerArrays:
        tensors = self._tensors()
        moments = {
            key: {name: self._moment(tensors[name], key) for name in self._updates}
            for key in MOMENTS[self.optimization.optimizer.name]
        }
        return TrainerArrays(tensors, moments, self._average or None)

    def _restore(self, state: TrainingState) -> None:
        tensors = self._tensors()
        for weights, natives in ((state.weights, tensors), (state.average or {}, self._average)):
            for name, tensor in natives.items():
                self.verbs.assign(tensor, self._native(name, weights[name]))
        for key, arrays in state.moments.items():
            for name, array in arrays.items():
                kept = self._optimizer.state[tensors[name]]
                kept[BUFFERS[key]] = torch.empty_like(tensors[name])
                self.verbs.assign(kept[BUFFERS[key]], self._native(name, array))
                if key != "momentum":
                    kept["step"] = torch.tensor(float(state.step))

    def _prepare(self) -> None:
        """Training mode, except for what is frozen."""
        self.model.train()
        if self.optimization.remat:
            self.model.set_grad_checkpointing()
        for name, tensor in self._tensors().items():
            if isinstance(tensor, torch.nn.Parameter):
                tensor.requires_grad_(name in self._updates)
        for path in self.optimization.frozen_norms(self.model.plan):
            self.model.get_submodule(path).eval()
        if self.optimization.precision != "float64":
            # The layout that PyTorch's convolutions are fastest in; strides alone change.
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _new_optimizer(self) -> torch.optim.Optimizer:
        optimization, tensors = self.optimization, self._tensors()
        groups: list[dict[str, Any]] = [
            {
                "params": [tensors[name] for name in names],
                "factor": update.rate,
                "decay": update.decay,
                "weight_decay": update.decay if optimization.coupled else 0.0,
            }
            for update, names in grouped(self._updates)
        ]
        if isinstance(optimization.optimizer, SGD):
            return torch.optim.SGD(
                groups,
                lr=optimization.learning_rate,
                momentum=optimization.optimizer.momentum,
                nesterov=optimization.optimizer.nesterov,
            )
        betas = (optimization.optimizer.beta1, optimization.optimizer.beta2)
        # Adam's weight decay is coupled; the decoupled one is taken in `_decay`, as SGD's.
        return torch.optim.Adam(
            groups, lr=optimization.learning_rate, betas=betas, eps=optimization.optimizer.eps
        )

    def _tensors(self) -> dict[str, Tensor]:
        return self.verbs.natives(self._model)

    def _loss(self, results: list[Tensor], labels: Tensor) -> Tensor:
        """Mean over what counts of the whole batch, once the mean over processes is taken."""
        smoothing = self.optimization.label_smoothing
        entropy = partial(
            F.cross_entropy, ignore_index=UNCOUNTED, reduction="sum", label_smoothing=smoothing
        )
        losses = [w * entropy(x, labels) for w, x in zip(LOSS_WEIGHTS, results, strict=False)]
        count = (labels != UNCOUNTED).sum().to(results[0].dtype)
        return sum(losses[1:], losses[0]) / mean_over_processes([count])[0]

    def _forward(self, model: Any, x: Tensor) -> list[Tensor]:
        mixed = self.optimization.precision == "bfloat16"
        with torch.autocast(x.device.type, torch.bfloat16, mixed):
            found = model(x)
        return [y.to(x.dtype) for y in (found if isinstance(found, list) else [found])]

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Dropout that follows from the seed and the step alone, so that a run that resumes from a
        state draws what it would have drawn.
        """
        if not self._drops:
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed(hash((self.optimization.seed, self.step_number, world()[0])))
            yield

    def _clip(self) -> None:
        if self.optimization.clip_norm is None:
            return
        gradients = [p.grad for g in self._optimizer.param_groups for p in g["params"]]
        norm = torch.nn.utils.get_total_norm(gradients)
        # `clip_grad_norm_` adds 1e-6 to the norm.
        torch._foreach_mul_(gradients, (self.optimization.clip_norm / norm).clamp(max=1.0))

    def _decay(self) -> None:
        if self.optimization.coupled:
            return
        with torch.no_grad():
            for group in self._optimizer.param_groups:
                if group["decay"]:
                    torch._foreach_mul_(group["params"], 1 - group["lr"] * group["decay"])

    def _follow(self) -> None:
        if self._average:
            assert self.optimization.ema_decay is not None
            tensors = self._tensors()
            with torch.no_grad():
                average = list(self._average.values())
                torch._foreach_mul_(average, self.optimization.ema_decay)
                now = [tensors[name] for name in self._average]
                torch._foreach_add_(average, now, alpha=1 - self.optimization.ema_decay)

    def _moment(self, tensor: Tensor, key: str) -> Tensor:
        moment = self._optimizer.state[tensor].get(BUFFERS[key])
        return torch.zeros_like(tensor) if moment is None else moment
