"""One builder a layer record: plan record in, native `torch.nn` module out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from resnet_torch.scripting import Scriptable
from shared_spec import plan
from shared_spec.errors import FrameworkError
from shared_spec.kernels.torch_conv import conv2d
from shared_spec.plan.parameters import squeeze_convs

ACTIVATIONS: dict[str, Any] = {
    "relu": functools.partial(nn.ReLU, inplace=True),
    "relu6": functools.partial(nn.ReLU6, inplace=True),
    "leaky_relu": functools.partial(nn.LeakyReLU, plan.LEAKY_SLOPE),
    "elu": nn.ELU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "gelu_tanh": functools.partial(nn.GELU, approximate="tanh"),
    "hardswish": nn.Hardswish,
}


def build(layer: plan.Layer) -> nn.Module:
    """The native module of a layer record."""
    if type(layer) not in BUILDERS:
        raise FrameworkError(f"resnet_torch has no layer for {type(layer).__name__}")
    return BUILDERS[type(layer)](layer)


def _conv(layer: plan.Conv) -> nn.Module:
    kind: Any = Conv2dSame if layer.padding == "same" else nn.Conv2d
    if layer.standardize_eps is not None:
        same = layer.padding == "same"
        kind = functools.partial(StandardizedConv2d, layer.standardize_eps, same, layer.scale)
    conv: nn.Module = kind(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=0 if layer.padding == "same" else layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=layer.bias,
    )
    return conv


def _batch_norm(layer: plan.BatchNorm) -> nn.Module:
    if layer.frozen:
        return FrozenBatchNorm(layer.channels, layer.eps)
    kind: Any = nn.BatchNorm2d if layer.variance == "unbiased" else BiasedBatchNorm2d
    if layer.of_features:
        kind = nn.BatchNorm1d if layer.variance == "unbiased" else BiasedBatchNorm1d
    norm: nn.Module = kind(layer.channels, eps=layer.eps, momentum=layer.momentum)
    return norm


def _avg_pool(layer: plan.AvgPool) -> nn.Module:
    if layer.padding == "same":
        return AvgPool2dSame(layer)
    return nn.AvgPool2d(
        layer.kernel_size, layer.stride, layer.padding, count_include_pad=layer.count_padding
    )


def _max_pool(layer: plan.MaxPool) -> nn.Module:
    if layer.padding == "same":
        return MaxPool2dSame(layer.kernel_size, layer.stride)
    return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil)


def run(layer: nn.Module, x: Tensor | list[Tensor]) -> Tensor:
    """`layer(x)` of [N, C, H, W], or of several maps; a plain convolution by the fastest route for
    the size of `x`.

    The choice is made here and not in a class of our own, so that layers are PyTorch's own to every
    tool. Where a hook wants to see a layer at work, it works as always.
    """
    if isinstance(x, Tensor) and not torch.compiler.is_compiling() and not _watched(layer):
        if type(layer) is nn.Sequential:
            for child in layer:
                x = run(child, x)
            return x
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
            conv: Any = layer
            if not isinstance(conv.padding, str):
                how = conv.stride, conv.padding, conv.dilation, conv.groups
                return conv2d(x, conv.weight, conv.bias, *how)
    y: Tensor = layer(x)
    return y


def chain(module: nn.Module, names: Iterable[str], x: Tensor) -> Tensor:
    """Run the children of `module` called `names` one after another.

    They are looked up on every call, so that a replaced child (`model.fc = ...`) takes effect.
    """
    for name in names:
        layer = getattr(module, name)
        if layer is None:
            raise FrameworkError(
                f"{name}: was set to None in this {type(module).__name__}, which runs it; "
                f"nn.Identity() leaves it out"
            )
        x = run(layer, x)
    return x


def attach(
    parent: nn.Module,
    prefix: str,
    layers: plan.Layers,
    make: Callable[[plan.Layer], nn.Module] = build,
    after_sum: bool = False,
) -> tuple[str, ...]:
    """Put what `make` gives for `layers` under `parent`, at their names without `prefix`. Nothing
    but they takes what enters them if that is the sum of a block.

    Returns:
        The children of `parent` to run, in order; a dotted name becomes an `nn.Sequential`.
    """
    modules = [make(layer) for layer in layers]
    if layers and isinstance(layers[0], plan.Activation) and not after_sum:
        modules[0].inplace = False  # type: ignore[assignment]
    names = (layer.name.removeprefix(prefix + ".") for layer in layers)
    return tuple(dict.fromkeys(map(functools.partial(place, parent), names, modules)))


def place(parent: nn.Module, path: str, module: nn.Module | None) -> str:
    """Put `module` at the dotted `path` below `parent`; return the first name of the path."""
    first, _, rest = path.partition(".")
    add = functools.partial(nn.Module.add_module, parent)  # a net's own refuses what is not there
    if not rest:
        add(first, module)
        return first
    if not hasattr(parent, first):
        add(first, nn.Sequential())
    place(getattr(parent, first), rest, module)
    return first


def _watched(layer: nn.Module) -> bool:
    """Whether something acts between `layer(x)` and its class's `forward`."""
    every = nn.modules.module
    hooks = (
        *(layer._forward_hooks, layer._forward_pre_hooks),
        *(layer._backward_hooks, layer._backward_pre_hooks),
        *(every._global_forward_hooks, every._global_forward_pre_hooks),
        *(every._global_backward_hooks, every._global_backward_pre_hooks),
    )
    return any(hooks) or "forward" in vars(layer)


def pad_same(x: Tensor, kernel_size: int, stride: int, value: float) -> Tensor:
    """Pad [N, C, H, W] by TensorFlow's `same` rule: the larger half at the bottom and right."""
    amounts: list[int] = []
    for n in (x.shape[-1], x.shape[-2]):
        # Exporters round quotients towards 0: there is none here of a negative number.
        total = (n - 1) // stride * stride + kernel_size - n
        if kernel_size < stride:  # a maximum of sizes that are open takes `torch.export` minutes
            total = max(total, 0)
        amounts += [total // 2, total - total // 2]
    return F.pad(x, amounts, value=value)


fx.wrap("pad_same")


def _extent(kernel_size: int, dilation: int) -> int:
    """Pixels that a dilated kernel spans."""
    return (kernel_size - 1) * dilation + 1


class Conv2dSame(nn.Conv2d):
    """`nn.Conv2d` under TensorFlow's `same` rule."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, out, ceil(H / stride), ceil(W / stride)]."""
        extent = _extent(self.kernel_size[0], self.dilation[0])
        x = pad_same(x, extent, self.stride[0], 0.0)
        y: Tensor = self._conv_forward(x, self.weight, self.bias)
        return y


class StandardizedConv2d(nn.Conv2d):
    """`nn.Conv2d` whose filters are standardised, over their own weights, at each call; with
    `scale`, then multiplied by it and by a gain.
    """

    def __init__(
        self, eps: float, pads_same: bool, scale: float | None, *args: Any, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.eps, self.pads_same, self.scale = eps, pads_same, scale
        self.gain = None if scale is None else nn.Parameter(torch.empty(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, out, H', W']."""
        if self.pads_same:
            extent = _extent(self.kernel_size[0], self.dilation[0])
            x = pad_same(x, extent, self.stride[0], 0.0)
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        standard = (self.weight - mean) * (variance + self.eps).rsqrt()
        if self.gain is not None and self.scale is not None:
            standard = standard * (self.gain * self.scale)
        y: Tensor = self._conv_forward(x, standard, self.bias)
        return y


class SpaceToDepth(Scriptable):
    """Blocks of 2 x 2 pixels as pixels of four times the channels."""

    def __init__(self, layer: plan.SpaceToDepth) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, 4 C, H', W']."""
        x = F.pad(x, (*self.layer.around(x.shape[3]), *self.layer.around(x.shape[2])))
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
        return blocks.reshape(n, 4 * c, h // 2, w // 2)


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by numbers that never change. Its buffers are those of
    `torchvision.ops.FrozenBatchNorm2d`; state dicts of `nn.BatchNorm2d` load too.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias, self.running_mean, self.running_var = (
            nn.Buffer(torch.empty(channels)) for _ in range(4)
        )

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        state.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] or [N, C] to the same."""
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, False, 0.0, self.eps)


class EvoNorm(nn.Module):
    """EvoNorm-S0: a gated activation over the deviation of its group."""

    def __init__(self, layer: plan.EvoNorm) -> None:
        super().__init__()
        self.groups, self.eps = layer.groups, layer.eps
        self.weight, self.bias = (nn.Parameter(torch.empty(layer.channels)) for _ in range(2))
        self.v = nn.Parameter(torch.empty(layer.channels)) if layer.activates else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        n, c, h, w = x.shape
        grouped = (n, self.groups, c // self.groups, h, w)
        variance = x.reshape(grouped).var((2, 3, 4), correction=0, keepdim=True)
        gated = x if self.v is None else x * (x * self.v[:, None, None]).sigmoid()
        y = gated.reshape(grouped) * (variance + self.eps).rsqrt()
        return y.reshape(x.shape) * self.weight[:, None, None] + self.bias[:, None, None]


class FilterResponseNorm(nn.Module):
    """Each map over its root mean square, then a learnt threshold."""

    def __init__(self, layer: plan.FilterResponseNorm) -> None:
        super().__init__()
        self.eps = layer.eps
        self.weight, self.bias, self.tau = (
            nn.Parameter(torch.empty(layer.channels)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        x = x * (x.square().mean((2, 3), keepdim=True) + self.eps).rsqrt()
        y = x * self.weight[:, None, None] + self.bias[:, None, None]
        return torch.maximum(y, self.tau[:, None, None])


class MaxPool2dSame(nn.Module):
    """Maximum under TensorFlow's `same` rule."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)]."""
        x = pad_same(x, self.kernel_size, self.stride, -math.inf)
        return F.max_pool2d(x, self.kernel_size, self.stride)


class AvgPool2dSame(nn.Module):
    """Mean under TensorFlow's `same` rule, of padding too only if the plan says so."""

    def __init__(self, layer: plan.AvgPool) -> None:
        super().__init__()
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        self.count_padding = layer.count_padding

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)]."""
        total = self._mean(x)
        return total if self.count_padding else total / self._mean(torch.ones_like(x[:1, :1]))

    def _mean(self, x: Tensor) -> Tensor:
        padded = pad_same(x, self.kernel_size, self.stride, 0.0)
        return F.avg_pool2d(padded, self.kernel_size, self.stride)


def blur(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Convolve each channel of [N, C, H, W] with a kernel of 3 x 3, reflecting at the border."""
    channels = x.shape[1]
    kernel = kernel.expand(channels, 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), kernel, stride=stride, groups=channels)


fx.wrap("blur")


class BlurPool(nn.Module):
    """Binomial blur and subsampling for each channel, reflecting one pixel at the border."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        row = torch.tensor([0.25, 0.5, 0.25])
        self.filter = nn.Buffer(row[:, None] * row, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        # `to_empty` makes a buffer without its values, and no checkpoint has these.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            row = self.filter.new_tensor([0.25, 0.5, 0.25])
            self.filter.copy_(row[:, None] * row)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)]."""
        return blur(x, self.filter, self.stride)


class SqueezeExcite(nn.Module):
    """Scale channels by a gate computed from their means."""

    def __init__(self, layer: plan.SqueezeExcite) -> None:
        super().__init__()
        self.fc1, self.fc2 = (build(conv) for conv in squeeze_convs(layer))
        self.act = ACTIVATIONS[layer.activation]()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        gate: Tensor = self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()
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


class _Composite(Scriptable):
    """A layer made of chains of others, which are its children under their names inside of it."""

    def __init__(self, layer: plan.Layer) -> None:
        super().__init__()
        self.layer = layer
        paths: list[tuple[tuple[str, ...], ...]] = []
        for before, layers in layer.chains():
            named = [replace(x, name=before + x.name) for x in layers]
            attach(self, "", tuple(named))
            paths.append(tuple(tuple(x.name.split(".")) for x in named))
        self._paths = tuple(paths)

    def _chain(self, number: int, x: Tensor) -> Tensor:
        """Run a chain of the layer's."""
        for path in self._paths[number]:
            module: Any = self
            for name in path:
                module = getattr(module, name)
            x = run(module, x)
        return x


class GlobalContext(_Composite):
    """Add to channels what follows from their means, in which each pixel has its weight."""

    layer: plan.GlobalContext

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        weights = self._chain(0, x).flatten(2).softmax(2)
        context = (x.flatten(2) * weights).sum(2)
        added: Tensor = self._chain(1, context[:, :, None, None])
        return x + added


class SelectiveKernel(_Composite):
    """Sum paths, each weighted by what the gate makes of the plain sum."""

    layer: plan.SelectiveKernel

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        count = len(self.layer.paths)
        shares = x.chunk(count, 1) if self.layer.split else (x,) * count
        found = torch.stack([self._chain(i, shares[i]) for i in range(count)], 1)
        gate = self._chain(count, found.sum(1))
        weights = gate.reshape(gate.shape[0], count, -1, 1, 1).softmax(1)
        return (found * weights).sum(1)


class HierarchicalSplit(_Composite):
    """Parts of the channels through one path after another."""

    layer: plan.HierarchicalSplit

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, H', W']."""
        parts = x.chunk(self.layer.parts, 1)
        found: list[Tensor] = []
        for i in range(len(self.layer.paths)):
            entering = parts[i] + found[-1] if found and self.layer.cascade else parts[i]
            found.append(self._chain(i, entering))
        if self.layer.parts > len(found):
            found.append(self._chain(len(found), parts[-1]))
        return torch.cat(found, 1)


class SplitAttention(_Composite):
    """Sum parts of the channels, each weighted by what the gate makes of the plain sum."""

    layer: plan.SplitAttention

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        radix, groups = self.layer.radix, self.layer.groups
        found = self._chain(0, x)
        found = torch.stack(found.chunk(radix, 1), 1)
        gate = self._chain(1, found.sum(1))
        if radix == 1:
            return found[:, 0] * gate.sigmoid()
        gate = gate.reshape(gate.shape[0], groups, radix, -1).softmax(2).transpose(1, 2)
        return (found * gate.reshape(gate.shape[0], radix, -1, 1, 1)).sum(1)


def positions(table: Tensor, side: int, height: int, width: int) -> Tensor:
    """A table [1 + side * side, C] for a map of a size, [1 + height * width, C]."""
    kind = torch.float64 if table.dtype == torch.float64 else torch.float32  # halves have no kernel
    pixels = table[1:].to(kind).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    pixels = F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
    return torch.cat((table[:1], pixels.flatten(2)[0].t().to(table.dtype)))


fx.wrap("positions")


class Tokens(nn.Module):
    """Mean and pixels of a map, each with its place's vector added."""

    def __init__(self, layer: plan.Tokens) -> None:
        super().__init__()
        self.side = layer.side
        self.pos_embed = nn.Parameter(torch.empty(1 + layer.side**2, layer.channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, 1 + H * W, C]."""
        pixels = x.flatten(2).transpose(1, 2)
        tokens = torch.cat((pixels.mean(1, keepdim=True), pixels), 1)
        return tokens + positions(self.pos_embed, self.side, x.shape[2], x.shape[3])


class AttentionPool(_Composite):
    """What the mean of the pixels attends to among it and them."""

    layer: plan.AttentionPool

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C']."""
        tokens = self._chain(0, x)
        n, heads = x.shape[0], self.layer.heads
        query = self._chain(1, tokens[:, :1]).reshape(n, 1, heads, -1).transpose(1, 2)
        key = self._chain(2, tokens).reshape(n, -1, heads, query.shape[3]).transpose(1, 2)
        value = self._chain(3, tokens).reshape(n, -1, heads, query.shape[3]).transpose(1, 2)
        weights = (query @ key.transpose(2, 3) * query.shape[3] ** -0.5).softmax(3)
        y: Tensor = (weights @ value).reshape(n, -1)
        return y


class LayerScale(nn.Module):
    """Scale each channel by a learnt number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        return x * self.gamma[:, None, None]


class Scale(nn.Module):
    """Multiply by a number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        return x * self.value


class SkipGain(nn.Module):
    """Multiply by a learnt number."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(()))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        return x * self.gain


def biased_batch_norm(
    x: Tensor,
    statistics: tuple[Tensor, Tensor],
    affine: tuple[Tensor, Tensor],
    momentum: float,
    eps: float,
) -> Tensor:
    """Batch normalisation whose running variance takes the biased estimate of the batch."""
    mean, variance = statistics
    # On a copy: what batch_norm updates it also keeps for the backward pass.
    updated = variance.clone()
    y = F.batch_norm(x, mean, updated, affine[0], affine[1], True, momentum, eps)
    n = x.numel() // x.shape[1]
    with torch.no_grad():
        kept = variance * (1 - momentum)
        variance.copy_(kept + (updated - kept) * ((n - 1) / n))
    return y


fx.wrap("biased_batch_norm")


class BiasedBatchNorm(_BatchNorm):
    """A batch norm whose running variance takes the biased estimate of each batch."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] or [N, C] to the same."""
        mean, variance, momentum = self.running_mean, self.running_var, self.momentum
        if mean is None or variance is None or momentum is None:
            return super().forward(x)
        if not self.training:
            return F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        affine = (self.weight, self.bias)
        return biased_batch_norm(x, (mean, variance), affine, momentum, self.eps)


class BiasedBatchNorm2d(BiasedBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the biased estimate."""


class BiasedBatchNorm1d(BiasedBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` with the biased estimate."""


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
    """Mean and maximum over H and W, one of them or both: torchvision's `avgpool`, then flat."""

    def __init__(self, layer: plan.GlobalPool) -> None:
        super().__init__()
        self.pool = MeanPool((1, 1)) if layer.kind == "avg" else MaximumPool(layer.kind)
        self.flatten = nn.Identity() if layer.keep_axes else FlattenPixel()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C], or to [N, C, 1, 1]; 2 C channels for catavgmax."""
        y: Tensor = self.flatten(self.pool(x))
        return y


class FlattenPixel(nn.Flatten):
    """`nn.Flatten` that has nothing left to do where there is one pixel: in no graph is the size of
    the batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, 1, 1] to [N, C]; [N, C, H, W] to [N, C H W]."""
        return torch.flatten(x.squeeze(-1).squeeze(-1), 1)


class MeanPool(nn.AdaptiveAvgPool2d):
    """`nn.AdaptiveAvgPool2d((1, 1))`, which PyTorch would compute by strides that are those of one
    size of batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, 1, 1]."""
        return x.mean((2, 3), keepdim=True)


class MaximumPool(nn.Module):
    """The maximum over H and W, alone or with the mean."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, 1, 1], or to [N, 2 C, 1, 1]."""
        maximum = x.amax((2, 3), keepdim=True)
        if self.kind == "max":
            return maximum
        mean = x.mean((2, 3), keepdim=True)
        return (mean + maximum) / 2 if self.kind == "avgmax" else torch.cat((mean, maximum), 1)


class DropPath(nn.Module):
    """Stochastic depth: drop whole images of a branch, in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        if not self.training:
            return x
        keep = 1 - self.rate
        return x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep).div_(keep)


def drop_squares(x: Tensor, rate: float, block_size: int, gamma_scale: float) -> Tensor:
    """`x` without squares of pixels, as `plan.DropBlock` says."""
    n, _, h, w = x.shape
    kh, kw, gamma = plan.DropBlock("", rate, block_size, gamma_scale).window(h, w)
    dropped = x.new_empty((n, 1, h, w)).bernoulli_(gamma)
    # An even square reaches one pixel further up and left than down and right.
    dropped = F.pad(dropped, ((kw - 1) // 2, kw // 2, (kh - 1) // 2, kh // 2))
    kept = 1 - F.max_pool2d(dropped, (kh, kw), 1)
    # The sum in float32: 16-bit floats cannot count the pixels of a batch.
    share = kept.sum(dtype=torch.promote_types(x.dtype, torch.float32)) / kept.numel()
    return x * (kept / share.clamp_min(1e-7)).to(x.dtype)


fx.wrap("drop_squares")


class DropBlock(nn.Module):
    """Drop squares of pixels, in training."""

    def __init__(self, layer: plan.DropBlock) -> None:
        super().__init__()
        self.rate, self.block_size = layer.rate, layer.block_size
        self.gamma_scale = layer.gamma_scale

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        if not self.training:
            return x
        # TorchScript does not compile the other branch.
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            raise RuntimeError("DropBlock: TorchScript of it runs in evaluation mode alone")
        else:  # noqa: RET506
            return drop_squares(x, self.rate, self.block_size, self.gamma_scale)


class Sum(nn.Module):
    """The sum of two maps."""

    def forward(self, xs: list[Tensor]) -> Tensor:
        """Two of [N, C, H, W] to one."""
        return xs[0] + xs[1]


class Enlarge(nn.Module):
    """The first of two maps, with the height and width of the second."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, xs: list[Tensor]) -> Tensor:
        """[N, C, h, w] and [N, C', H, W] to [N, C, H, W]."""
        corners = None if self.how == "nearest" else False
        return F.interpolate(xs[0], xs[1].shape[-2:], mode=self.how, align_corners=corners)


class Concat(nn.Module):
    """The channels of several maps."""

    def forward(self, xs: list[Tensor]) -> Tensor:
        """Several of [N, C, H, W] to one."""
        return torch.cat(xs, 1)


BUILDERS: dict[type, Callable[[Any], nn.Module]] = {
    plan.Conv: _conv,
    plan.BatchNorm: _batch_norm,
    plan.GroupNorm: lambda layer: nn.GroupNorm(layer.groups, layer.channels, eps=layer.eps),
    plan.EvoNorm: EvoNorm,
    plan.FilterResponseNorm: FilterResponseNorm,
    plan.ZeroPad: lambda layer: nn.ZeroPad2d(layer.amount),
    plan.SpaceToDepth: SpaceToDepth,
    plan.Flatten: lambda layer: nn.Flatten(),
    plan.FlattenMaps: lambda layer: nn.Flatten(),
    plan.Identity: lambda layer: nn.Identity(),
    plan.AvgPool: _avg_pool,
    plan.BlurPool: lambda layer: BlurPool(layer.stride),
    plan.SqueezeExcite: SqueezeExcite,
    plan.ChannelAttention: lambda layer: ChannelAttention(layer.kernel_size),
    plan.Tokens: Tokens,
    plan.AttentionPool: AttentionPool,
    plan.GlobalContext: GlobalContext,
    plan.SelectiveKernel: SelectiveKernel,
    plan.HierarchicalSplit: HierarchicalSplit,
    plan.SplitAttention: SplitAttention,
    plan.LayerScale: lambda layer: LayerScale(layer.channels),
    plan.Scale: lambda layer: Scale(layer.value),
    plan.SkipGain: lambda layer: SkipGain(),
    plan.Activation: lambda layer: ACTIVATIONS[layer.function](),
    plan.PReLU: lambda layer: nn.PReLU(layer.channels),
    plan.MaxPool: _max_pool,
    plan.ZeroPadShortcut: lambda layer: ZeroPadShortcut(layer.stride, layer.before, layer.after),
    plan.GlobalPool: GlobalPool,
    plan.Dropout: lambda layer: nn.Dropout(layer.rate),
    plan.DropPath: lambda layer: DropPath(layer.rate),
    plan.DropBlock: DropBlock,
    plan.Dense: lambda layer: nn.Linear(layer.in_features, layer.out_features, bias=layer.bias),
    plan.Sum: lambda layer: Sum(),
    plan.Enlarge: lambda layer: Enlarge(layer.how),
    plan.Concat: lambda layer: Concat(),
}
"""The native module of each layer record."""
