"""One builder a layer record: plan record in, native `torch.nn` module out."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_spec import plan
from shared_spec.errors import FrameworkError
from shared_spec.parameters import squeeze_convs

ACTIVATIONS = {"relu": nn.ReLU}


@singledispatch
def build(layer: object) -> nn.Module:
    """The native module of a layer record."""
    raise FrameworkError(f"resnet_torch has no layer for {type(layer).__name__}")


@build.register
def _(layer: plan.Conv) -> nn.Module:
    kind = Conv2dSame if layer.padding == "same" else nn.Conv2d
    return kind(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=0 if layer.padding == "same" else layer.padding,
        groups=layer.groups,
        bias=layer.bias,
    )


@build.register
def _(layer: plan.BatchNorm) -> nn.Module:
    kind = nn.BatchNorm2d if layer.variance == "unbiased" else BiasedBatchNorm2d
    return kind(layer.channels, eps=layer.eps, momentum=layer.momentum)


@build.register
def _(layer: plan.GroupNorm) -> nn.Module:
    return nn.GroupNorm(layer.groups, layer.channels, eps=layer.eps)


@build.register
def _(layer: plan.Identity) -> nn.Module:
    return nn.Identity()


@build.register
def _(layer: plan.AvgPool) -> nn.Module:
    if layer.padding == "same":
        return AvgPool2dSame(layer.kernel_size, layer.stride)
    return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, count_include_pad=False)


@build.register
def _(layer: plan.BlurPool) -> nn.Module:
    return BlurPool(layer.stride)


@build.register
def _(layer: plan.SqueezeExcite) -> nn.Module:
    return SqueezeExcite(layer)


@build.register
def _(layer: plan.ChannelAttention) -> nn.Module:
    return ChannelAttention(layer.kernel_size)


@build.register
def _(layer: plan.Activation) -> nn.Module:
    return ACTIVATIONS[layer.function](inplace=True)


@build.register
def _(layer: plan.MaxPool) -> nn.Module:
    if layer.padding == "same":
        return MaxPool2dSame(layer.kernel_size, layer.stride)
    return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding)


@build.register
def _(layer: plan.ZeroPadShortcut) -> nn.Module:
    return ZeroPadShortcut(layer.stride, layer.before, layer.after)


@build.register
def _(layer: plan.GlobalPool) -> nn.Module:
    return GlobalPool()


@build.register
def _(layer: plan.Dense) -> nn.Module:
    return nn.Linear(layer.in_features, layer.out_features, bias=layer.bias)


def pad_same(x: Tensor, kernel_size: int, stride: int, value: float) -> Tensor:
    """Pad [N, C, H, W] by TensorFlow's `same` rule: the larger half at the bottom and right."""
    amounts: list[int] = []
    for n in (x.shape[-1], x.shape[-2]):
        total = max((-(-n // stride) - 1) * stride + kernel_size - n, 0)
        amounts += [total // 2, total - total // 2]
    return F.pad(x, amounts, value=value)


class Conv2dSame(nn.Conv2d):
    """`nn.Conv2d` under TensorFlow's `same` rule."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, out, ceil(H / stride), ceil(W / stride)]."""
        return super().forward(pad_same(x, self.kernel_size[0], self.stride[0], 0.0))


class MaxPool2dSame(nn.Module):
    """Maximum under TensorFlow's `same` rule."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)]."""
        x = pad_same(x, self.kernel_size, self.stride, -torch.inf)
        return F.max_pool2d(x, self.kernel_size, self.stride)


class AvgPool2dSame(nn.Module):
    """Mean under TensorFlow's `same` rule, over the pixels that there are."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)]."""
        one = torch.ones_like(x[:1, :1])
        total, count = (
            F.avg_pool2d(
                pad_same(t, self.kernel_size, self.stride, 0.0), self.kernel_size, self.stride
            )
            for t in (x, one)
        )
        return total / count


class BlurPool(nn.Module):
    """Binomial blur and subsampling for each channel, reflecting one pixel at the border."""

    filter: Tensor

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filter", row[:, None] * row, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)]."""
        channels = x.shape[1]
        kernel = self.filter.expand(channels, 1, 3, 3)
        return F.conv2d(
            F.pad(x, (1, 1, 1, 1), "reflect"), kernel, stride=self.stride, groups=channels
        )


class SqueezeExcite(nn.Module):
    """Scale channels by a gate computed from their means."""

    def __init__(self, layer: plan.SqueezeExcite) -> None:
        super().__init__()
        self.fc1, self.fc2 = (build(conv) for conv in squeeze_convs(layer))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        gate: Tensor = self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x * gate


class ChannelAttention(nn.Module):
    """Scale channels by a gate computed from the means of their neighbours."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        gate: Tensor = self.conv(x.mean((2, 3))[:, None, :]).sigmoid()
        return x * gate[:, 0, :, None, None]


class BiasedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose running variance takes the biased estimate of each batch."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        if not self.training or self.running_var is None or self.momentum is None:
            return super().forward(x)
        kept = self.running_var.clone() * (1 - self.momentum)
        y = super().forward(x)
        n = x.numel() // x.shape[1]
        with torch.no_grad():
            self.running_var.sub_(kept).mul_((n - 1) / n).add_(kept)
        return y


class ZeroPadShortcut(nn.Module):
    """Subsample rows and columns, add channels of zeros (option A)."""

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, before + C + after, ceil(H / stride), ceil(W / stride)]."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class GlobalPool(nn.Module):
    """Mean over H and W."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C]."""
        return x.mean((2, 3))
