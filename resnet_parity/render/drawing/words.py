"""What a box of a drawing says of its layer; a record without a line is called by its class."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal

from shared_spec import plan
from shared_spec.plan.layers import Layer

Hue = Literal["convolution", "norm", "activation", "pool", "attention", "other"]


@dataclass(frozen=True)
class Words:
    """`text` has a `{}` for each of the `figures`, which may differ among layers of one kind."""

    text: str
    figures: tuple[str, ...]
    hue: Hue


_HUES: tuple[tuple[type | tuple[type, ...], Hue], ...] = (
    (
        (plan.SqueezeExcite, plan.ChannelAttention, plan.GlobalContext, plan.AttentionPool),
        "attention",
    ),
    ((plan.SelectiveKernel, plan.SplitAttention, plan.HierarchicalSplit), "attention"),
    ((plan.Conv, plan.Dense), "convolution"),
    ((plan.BatchNorm, plan.GroupNorm, plan.EvoNorm, plan.FilterResponseNorm), "norm"),
    ((plan.Activation, plan.PReLU), "activation"),
    ((plan.MaxPool, plan.AvgPool, plan.BlurPool, plan.GlobalPool), "pool"),
)
_POOLS = {"avg": "average", "avgmax": "average and max", "catavgmax": "average beside max"}


def words(layer: Layer) -> Words:
    """Of one layer, without its name."""
    text, *figures = map(str, _said(layer))
    hue: Hue = next((hue for kinds, hue in _HUES if isinstance(layer, kinds)), "other")
    return Words(text, tuple(figures), hue)


def captions(layer: Layer) -> tuple[str, ...]:
    """What stands above each chain that a layer is made of."""
    match layer:
        case plan.SelectiveKernel(paths=paths):
            return (*("path" for _ in paths), "weights of the paths")
        case plan.HierarchicalSplit(paths=paths):
            return (*("part" for _ in paths), "last part")
        case plan.SplitAttention():
            return "all parts", "weights of the parts"
        case plan.GlobalContext():
            return "weights of the pixels", "of their mean, added to all"
        case plan.AttentionPool():
            return "tokens", "query", "key", "value"
    return ("",) * len(layer.chains())


def settings(layer: Layer) -> dict[str, str]:
    """The fields of a record but its name and the layers that it is made of."""
    told = {field.name: getattr(layer, field.name) for field in fields(layer)[1:]}
    return {key: str(x) for key, x in told.items() if not isinstance(x, Layer | tuple)}


def class_words(layer: Layer) -> str:
    """`FilterResponseNorm` as `Filter response norm`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(layer).__name__).capitalize()


def _said(layer: Layer) -> tuple[object, ...]:
    match layer:
        case plan.Conv():
            return _convolution(layer)
        case plan.Dense(out_features=n):
            return "dense, {}", n
        case plan.GroupNorm(groups=groups):
            return "group norm, {} groups", groups
        case plan.Activation(function=function):
            return (function,)
        case plan.PReLU():
            return ("PReLU",)
        case plan.MaxPool(kernel_size=k, stride=s):
            return (f"{k}×{k} max pool{_stride(s)}",)
        case plan.AvgPool(kernel_size=k, stride=s):
            return (f"{k}×{k} average pool{_stride(s)}",)
        case plan.BlurPool(stride=s):
            return (f"3×3 blur{_stride(s)}",)
        case plan.GlobalPool(kind=kind):
            return (f"global {_POOLS.get(kind, kind)} pool",)
        case plan.ZeroPad(amount=n):
            return (f"{n} px of zeros around",)
        case plan.SqueezeExcite(reduced=n):
            return "squeeze-excite, {}", n
        case plan.ChannelAttention(kernel_size=k):
            return "channel attention, {} wide", k
        case plan.ZeroPadShortcut(stride=s, before=before, after=after):
            every = f"every {s}nd pixel, " if s == 2 else f"stride {s}, " if s > 1 else ""
            return every + "{} zero channels", before + after
        case _:
            return _composite(layer)


def _composite(layer: Layer) -> tuple[object, ...]:
    match layer:
        case plan.SelectiveKernel(paths=paths, split=split):
            taken = f"1/{len(paths)} of the channels" if split else "all channels"
            return (f"selective kernel: {len(paths)} paths, each of {taken}",)
        case plan.HierarchicalSplit(parts=parts, cascade=cascade):
            return (f"{parts} parts{', each added to the next' if cascade else ''}",)
        case plan.SplitAttention(radix=radix):
            return (f"split attention, {radix} parts",)
        case plan.AttentionPool(heads=heads):
            return (f"attention pool, {heads} heads",)
        case plan.Scale(value=value):
            return "× {}", f"{value:.3g}"
        case plan.SkipGain():
            return ("× learnt gain",)
        case plan.Dropout(rate=rate) | plan.DropPath(rate=rate):
            return f"{class_words(layer).lower()} {{}}", f"{rate:.3g}"
    return (class_words(layer).lower(),)


def _convolution(layer: plan.Conv) -> tuple[object, ...]:
    kind = "conv" if layer.standardize_eps is None else "std conv"
    text = f"{layer.kernel_size}×{layer.kernel_size} {kind}, {{}}{_stride(layer.stride)}"
    if layer.dilation > 1:
        text += f", dilation {layer.dilation}"
    if layer.groups == 1:
        return text, layer.out_channels
    if layer.groups == layer.in_channels == layer.out_channels:
        return f"{text}, depthwise", layer.out_channels
    return text + ", {} groups", layer.out_channels, layer.groups


def _stride(stride: int) -> str:
    return f", /{stride}" if stride > 1 else ""
