"""What scales channels by what they are on the whole map."""

from __future__ import annotations

import math

from shared_spec import plan
from shared_spec.errors import SpecError
from shared_spec.plan.compiler.pieces import nearest_multiple
from shared_spec.plan.compiler.sites import Site
from shared_spec.plan.layers import Layer, Layers
from shared_spec.plan.names import names_of
from shared_spec.spec.resnet_spec import ResNetSpec


def attention_layers(spec: ResNetSpec, name: str, channels: int, site: Site) -> Layers:
    """What scales so many channels by what they are on the whole map."""
    if spec.attention == "none":
        return ()
    last = spec.attention_on == "last"
    names = names_of(spec)
    at = f"{name}.{names.last_attention if last else names.attention}"
    # A gate halves what it scales, on average.
    twice = (plan.Scale(f"{at}_gain", 2.0),) if spec.norm == "none" else ()
    if spec.attention == "se":
        reduced = _squeezed(spec, channels, site)
        return (plan.SqueezeExcite(at, channels, reduced, spec.se_activation), *twice)
    if spec.attention == "gc":
        return (_global_context(at, channels, _squeezed(spec, channels, site)),)
    # Of the width before pruning.
    inner = spec.inner_width(site.stage, site.in_channels)
    whole = spec.out_channels[site.stage] if last else inner
    t = int(abs(math.log2(whole) + 1) / 2)
    return (plan.ChannelAttention(at, channels, max(t if t % 2 else t + 1, 3)), *twice)


def _global_context(name: str, channels: int, reduced: int) -> Layer:
    if reduced == 1:
        raise SpecError(
            f"se_ratio: of the {channels} channels of {name} one is left, which the norm there "
            f"would make a constant"
        )
    weigh = (plan.Conv("conv_attn", channels, 1, 1, bias=True, start="fan_in"),)
    transform = (
        plan.Conv("fc1", channels, reduced, 1, bias=True),
        plan.GroupNorm("norm", reduced, 1, 1e-6),
        plan.Activation("act", "relu"),
        plan.Conv("fc2", reduced, channels, 1, bias=True, start="zeros"),
    )
    return plan.GlobalContext(name, channels, weigh, transform)


def _squeezed(spec: ResNetSpec, channels: int, site: Site) -> int:
    """Channels inside of squeeze-and-excitation or global context."""
    if spec.se_of == "own":
        return nearest_multiple(channels * spec.se_ratio, spec.se_divisor)
    reduced = round(site.in_channels * spec.se_ratio)
    if not reduced:
        raise SpecError(
            f"se_ratio: {spec.se_ratio:g} of the {site.in_channels} channels that enter stage "
            f"{site.stage + 1} leaves none"
        )
    return reduced
