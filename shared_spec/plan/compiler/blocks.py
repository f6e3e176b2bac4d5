"""Blocks: branch, shortcut and sum."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from shared_spec import plan
from shared_spec.plan.compiler.attention import attention_layers
from shared_spec.plan.compiler.composites import composite_layers
from shared_spec.plan.compiler.pieces import (
    activation,
    anti_alias_layer,
    convolution,
    drop_block,
    norm_activates,
    norm_and_act,
    norm_layer,
    norm_layers,
)
from shared_spec.plan.compiler.shortcuts import has_sum, pre_activation_shortcut, shortcut_layers
from shared_spec.plan.compiler.sites import Site, kernel_sizes
from shared_spec.plan.layers import Layer, Layers
from shared_spec.plan.names import names_of
from shared_spec.plan.network import Block
from shared_spec.spec.resnet_spec import ResNetSpec


def block_or_start(spec: ResNetSpec, name: str, site: Site) -> Block:
    """A block whose activation follows the sum, or the start of a stage without one."""
    if spec.stage_start == "conv_pool" and site.number == 0:
        return _conv_pool(spec, name, site)
    return _block(spec, name, site)


def _conv_pool(spec: ResNetSpec, name: str, site: Site) -> Block:
    """A plain block of one convolution, whose pool has the stride."""
    conv, norm, act = (f"{name}.{part}" for part in names_of(spec).branch("1", 3))
    branch = (
        convolution(spec, conv, (site.in_channels, site.out_channels), 3),
        *norm_and_act(spec, norm, act, site.out_channels),
        *((plan.MaxPool(f"{name}.pool", site.stride, site.stride),) if site.stride > 1 else ()),
    )
    return Block(name, (), branch, (), None, ())


def _block(spec: ResNetSpec, name: str, site: Site) -> Block:
    names = names_of(spec)
    last_act = names.last_act.format(n=len(site.widths) + spec.branch_activation)
    first = f"{name}.{names.norm.format(n=names.first_norm - 1, k='kxk')}"
    return Block(
        name=name,
        pre=(norm_layer(spec, first, site.in_channels),) if spec.pre_norm else (),
        branch=(*_branch(spec, name, site), *_end_of_branch(spec, name, site)),
        shortcut=shortcut_layers(spec, name, site),
        shortcut_from="input" if has_sum(spec, site) else None,
        output=(activation(spec, f"{name}.{last_act}", site.out_channels),)
        if spec.output_activation
        else (),
    )


def pre_activation_block(spec: ResNetSpec, name: str, site: Site) -> Block:
    """He et al. 2016, arXiv:1603.05027: the first norm and activation feed branch and projection;
    an identity takes the block's input as it is, or as `identity_from` says, and nothing follows
    the sum.
    """
    shortcut = pre_activation_shortcut(spec, name, site)
    projects = any(isinstance(layer, plan.Conv) for layer in shortcut)
    source: Literal["input", "pre"] = "pre" if projects else spec.identity_from
    return Block(
        name=name,
        pre=(
            *norm_and_act(spec, f"{name}.norm1", f"{name}.act1", site.in_channels),
            *_expected_scale(spec, f"{name}.beta", site),
        ),
        branch=(*_branch(spec, name, site), *_end_of_branch(spec, name, site)),
        shortcut=shortcut,
        shortcut_from=source if has_sum(spec, site) else None,
        output=(),
    )


def _expected_scale(spec: ResNetSpec, name: str, site: Site) -> Layers:
    """What brings a block's input to a variance of one, in a net without norms."""
    if spec.norm != "none" or site.variance == 1.0:
        return ()
    return (plan.Scale(name, 1 / site.variance**0.5),)


def _branch(spec: ResNetSpec, name: str, site: Site) -> Layers:
    """Convolutions, norms and activations. With pre-activation, the norm before the first
    convolution is in the block's `pre`; else the activation after the last follows the sum.
    """
    kernels, names = kernel_sizes(spec, site.stage), names_of(spec)
    numbers = ("1", "2", "2b", "3") if len(kernels) == 4 else ("1", "2", "3")[: len(kernels)]
    first_3x3 = kernels.index(3) + 1
    layers: list[Layer] = []
    channels, strided = site.in_channels, {}
    if spec.stride_on != "3x3":
        strided = {1 if spec.stride_on == "1x1" else len(kernels): site.stride}
        site = site._replace(stride=1)
    for number, (kernel_size, width) in enumerate(zip(kernels, site.widths, strict=True), start=1):
        shape, last = (channels, width), number == len(kernels)
        label = numbers[number - 1]
        conv, norm, act = (f"{name}.{part}" for part in names.branch(label, kernel_size))
        normed = not (last and spec.pre_activation)
        channels = width
        if last and spec.branch_drop_rate:
            layers.append(plan.Dropout(f"{name}.drop", spec.branch_drop_rate))
        if number == first_3x3 and spec.convolution != "plain":
            layers += composite_layers(spec, f"{name}.conv{number}", shape, site)
            continue
        if number == first_3x3:
            layers.append(_first_3x3(spec, conv, shape, site))
        else:
            stride = strided.get(number, 1)
            more: dict[str, int] = {}
            if kernel_size == 3:
                more = {"dilation": site.dilation, "groups": spec.grouped(site.stage, width)}
            layers.append(convolution(spec, conv, shape, kernel_size, stride, normed, **more))
        if last:
            layers[-1] = _at_rest(spec, layers[-1])
        attends = number == len(kernels) - 1 and spec.attention_on == "middle"
        attention = attention_layers(spec, name, width, site) if attends else ()
        if spec.pre_activation:  # the norm that follows belongs to the next convolution
            layers += attention
        if normed:
            layers += norm_layers(spec, norm, width, last=last)
        if number == first_3x3:
            drop = names.drop_block.format(n=label, k="kxk")
            layers += drop_block(spec, f"{name}.{drop}", site)
        if (not last or spec.branch_activation) and not norm_activates(spec):
            layers.append(activation(spec, act, width))
        if number == first_3x3:
            layers += _strided(spec, name, width, site)
        if not spec.pre_activation:
            layers += attention
    return tuple(layers)


def _at_rest(spec: ResNetSpec, layer: Layer) -> Layer:
    """The last convolution of a branch without norms, which starts by giving nothing."""
    if spec.norm != "none" or spec.skip_gain:
        return layer
    assert isinstance(layer, plan.Conv)
    return replace(layer, gain_init=0.0)


def _first_3x3(spec: ResNetSpec, name: str, shape: tuple[int, int], site: Site) -> Layer:
    """The convolution that has the block's groups and, unless a filter takes it, its stride."""
    stride = 1 if spec.anti_alias != "none" else site.stride
    groups = spec.grouped(site.stage, shape[1])
    return convolution(spec, name, shape, 3, stride, groups=groups, dilation=site.first_dilation)


def _strided(spec: ResNetSpec, name: str, channels: int, site: Site) -> Layers:
    """The filter after a block's first 3x3 convolution, under anti-aliasing: it takes the stride,
    and the blur stays where dilation has taken the stride's place.
    """
    replaced = site.first_dilation != site.dilation and spec.anti_alias == "blur"
    if spec.anti_alias == "none" or (site.stride == 1 and not replaced):
        return ()
    return (anti_alias_layer(spec, f"{name}.aa", channels, site.stride),)


def _end_of_branch(spec: ResNetSpec, name: str, site: Site) -> Layers:
    """Attention, a scale, and stochastic depth, before the addition."""
    layers: list[Layer] = []
    channels = site.out_channels
    if spec.attention_on == "last":
        layers += attention_layers(spec, name, channels, site)
    if spec.layer_scale is not None:
        layers.append(plan.LayerScale(f"{name}.layer_scale", channels, spec.layer_scale))
    if site.drop_path > 0 and has_sum(spec, site):
        layers.append(plan.DropPath(f"{name}.drop_path", site.drop_path))
    if spec.skip_gain:
        layers.append(plan.SkipGain(f"{name}.skipinit_gain"))
    if spec.norm == "none":
        layers.append(plan.Scale(f"{name}.alpha", spec.branch_scale))
    return tuple(layers)
