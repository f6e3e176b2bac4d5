"""Training on several devices or machines: `torch.distributed`, with norms over the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from resnet_torch.layers import BiasedBatchNorm, BiasedBatchNorm1d, BiasedBatchNorm2d


def world() -> tuple[int, int]:
    """Rank of this process, and how many there are; (0, 1) without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def parallel(model: nn.Module) -> nn.Module:
    """`model` under `DistributedDataParallel`, its batch norms over the batches of all processes;
    `model` itself if there is one process.
    """
    _, count = world()
    if count == 1:
        return model
    for module in model.modules():
        if type(module) in (nn.BatchNorm2d, nn.BatchNorm1d, BiasedBatchNorm2d, BiasedBatchNorm1d):
            # The same module: a reference to it, and what it holds, stay good.
            module.biased = isinstance(module, BiasedBatchNorm)  # type: ignore[assignment]
            module.__class__ = SyncBatchNorm
    device = next(model.parameters()).device
    ids = None if device.type == "cpu" else [device]
    # The norms' statistics are equal in all processes already.
    return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


class SyncBatchNorm(_BatchNorm):
    """A batch norm over the batches of all processes, on any device and in any precision:
    PyTorch's own `SyncBatchNorm` runs on accelerators alone.
    """

    biased: bool

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] or [N, C] to the same."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        rest = tuple(axis for axis in range(wide.ndim) if axis != 1)
        each = (-1, *(1,) * (wide.ndim - 2))
        count = wide.new_full((1,), wide.numel() / wide.shape[1])
        total = _summed(torch.cat((wide.sum(rest), count)))
        n, mean = total[-1].detach(), total[:-1] / total[-1].detach()
        centred = wide - mean.reshape(each)
        variance = _summed(centred.square().sum(rest)) / n
        scale = variance.add(self.eps).rsqrt() * self.weight
        y = centred * scale.reshape(each) + self.bias.reshape(each)
        self._keep(mean.detach(), variance.detach(), n)
        return y.to(x.dtype)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim not in (2, 4):
            raise ValueError(f"expected [N, C, H, W] or [N, C], got {x.ndim} axes")

    def _keep(self, mean: Tensor, variance: Tensor, n: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        estimate = variance if self.biased else variance * (n / (n - 1).clamp_min(1))
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(estimate.to(self.running_var.dtype), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)


def _summed(x: Tensor) -> Tensor:
    """The sum over processes, through which gradients flow."""
    y: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return y


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def mean_over_processes(tensors: list[Tensor]) -> list[Tensor]:
    """Each tensor's mean over all processes."""
    _, count = world()
    if count > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= count
    return tensors


def sum_over_processes(x: Tensor) -> Tensor:
    """A tensor's sum over all processes."""
    if world()[1] > 1:
        dist.all_reduce(x)
    return x
