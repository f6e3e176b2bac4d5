"""Single layers as a spec wants them: convolutions, norms, activations, filters."""

from __future__ import annotations

from typing import Any

from shared_spec import plan
from shared_spec.errors import SpecError
from shared_spec.plan.compiler.sites import Site
from shared_spec.plan.layers import Layer, Layers, Padding
from shared_spec.spec.resnet_spec import GAMMAS, ResNetSpec


def nearest_multiple(number: float, divisor: int) -> int:
    """The nearest multiple of `divisor` that is not zero."""
    return max(divisor, int(number + divisor / 2) // divisor * divisor)


def divisible(number: float, divisor: int, least: int = 0) -> int:
    """The nearest multiple of `divisor` that is not below `least` nor by a tenth below `number`."""
    nearest = max(least, nearest_multiple(number, divisor))
    return nearest + divisor if nearest < 0.9 * number else nearest


def convolution(
    spec: ResNetSpec,
    name: str,
    shape: tuple[int, int],
    kernel_size: int,
    stride: int = 1,
    normed: bool = True,
    padding: Padding | None = None,
    **more: Any,
) -> Layer:
    """A convolution from `shape[0]` channels to `shape[1]`; `normed` says that a norm follows, and
    `more` gives groups and dilation.
    """
    if padding is None:
        padding = padding_for(spec.padding, kernel_size, more.get("dilation", 1))
    fan_in = shape[0] // more.get("groups", 1) * kernel_size**2
    return plan.Conv(
        name,
        *shape,
        kernel_size,
        stride,
        padding,
        bias=not normed if spec.conv_bias == "without_norm" else spec.conv_bias,
        standardize_eps=spec.standardize,
        start="lecun" if spec.norm == "none" else "fan_out",
        scale=GAMMAS[spec.activation] * fan_in**-0.5 if spec.norm == "none" else None,
        **more,
    )


def padding_for(rule: str, kernel_size: int, dilation: int = 1) -> Padding:
    """What keeps the size of a map, but for its stride, under a spec's rule."""
    # A 1x1 kernel is never padded under either rule.
    if kernel_size == 1:
        return 0
    return "same" if rule == "same" else dilation * (kernel_size - 1) // 2


def norm_layer(spec: ResNetSpec, name: str, channels: int, *, last: bool = False) -> Layer:
    """The net's norm; `last` is that at the end of a branch."""
    scale = 0.0 if last and spec.zero_init_last else 1.0
    if spec.norm == "frn":
        return plan.FilterResponseNorm(name, channels, spec.norm_eps)
    if spec.norm in ("batch", "frozen_batch"):
        rules = spec.norm_eps, spec.norm_momentum, spec.norm_variance, scale
        return plan.BatchNorm(name, channels, *rules, frozen=spec.norm == "frozen_batch")
    field = "norm_groups" if spec.norm_group_width is None else "norm_group_width"
    divisor: int = getattr(spec, field)
    if channels % divisor:
        raise SpecError(f"{field}: {divisor} does not divide the {channels} channels of {name}")
    groups = divisor if spec.norm_group_width is None else channels // divisor
    if spec.norm == "evonorm_s0":
        return plan.EvoNorm(name, channels, groups, spec.norm_eps, activates=not last)
    return plan.GroupNorm(name, channels, groups, spec.norm_eps, scale)


def norm_layers(spec: ResNetSpec, name: str, channels: int, *, last: bool = False) -> Layers:
    """The norm, if the net has any."""
    return () if spec.norm == "none" else (norm_layer(spec, name, channels, last=last),)


def norm_activates(spec: ResNetSpec) -> bool:
    """Whether the norm holds the activation, so that none follows it."""
    return spec.norm in ("evonorm_s0", "frn")


def norm_and_act(spec: ResNetSpec, norm: str, act: str, channels: int) -> Layers:
    """A norm and the activation after it, unless the norm holds one."""
    after = () if norm_activates(spec) else (activation(spec, act, channels),)
    return (*norm_layers(spec, norm, channels), *after)


def activation(spec: ResNetSpec, name: str, channels: int) -> Layer:
    """The net's activation."""
    if spec.activation == "prelu":
        return plan.PReLU(name, channels)
    return plan.Activation(name, spec.activation)


def drop_block(spec: ResNetSpec, name: str, site: Site) -> Layers:
    """As timm has it: squares of 5 in the last stage but one, at a quarter of the rate, and of 3 in
    the last.
    """
    sizes = {len(spec.depths) - 2: (5, 0.25), len(spec.depths) - 1: (3, 1.0)}
    if not spec.drop_block_rate or site.stage not in sizes:
        return ()
    return (plan.DropBlock(name, spec.drop_block_rate, *sizes[site.stage]),)


def anti_alias_layer(spec: ResNetSpec, name: str, channels: int, stride: int) -> Layer:
    """The filter that takes a stride."""
    if spec.anti_alias == "blur":
        return plan.BlurPool(name, channels, stride)
    return plan.AvgPool(name, stride, stride)


def numbered(name: str, index: int) -> str:
    """A pattern of `shared_spec.plan.names` with the number from 0 or from 1."""
    return name.format(i=index, n=index + 1)
