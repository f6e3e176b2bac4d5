"""What is before the stages and behind them."""

from __future__ import annotations

from dataclasses import replace

from shared_spec import plan
from shared_spec.plan.compiler.pieces import (
    activation,
    anti_alias_layer,
    convolution,
    norm_activates,
    norm_and_act,
    norm_layer,
    norm_layers,
    padding_for,
)
from shared_spec.plan.layers import Layer, Layers
from shared_spec.plan.names import names_of
from shared_spec.spec.resnet_spec import HEAD, ResNetSpec


def stem_layers(spec: ResNetSpec) -> tuple[Layers, str]:
    """Convolutions, each with norm and activation, without the pool after them; and the name of the
    layer before the stem's last stride.

    A pre-activation net leaves the last norm and activation to its first block.
    """
    kernel_size = 7 if spec.stem == "conv7x7" else 3
    names, widths = names_of(spec), spec.stem_channels
    padding = padding_for(spec.stem_padding or spec.padding, kernel_size)
    layers: list[Layer] = []
    channels, tap, last = spec.in_channels, "", len(widths) - 1
    for index, out_channels in enumerate(widths):
        conv, norm, act = names.of_stem(index, len(widths), len(layers))
        stride = spec.stem_stride if index == 0 else 1
        if index == last and spec.stem_last_stride > 1:
            stride, tap = stride * spec.stem_last_stride, layers[-1].name
        normed = index < last or not spec.pre_activation
        if index < spec.stem_linear:
            conv, normed = names.linear_stem_conv.format(n=index + 1, c=len(layers)), False
        shape = (channels, out_channels)
        layers.append(convolution(spec, conv, shape, kernel_size, stride, normed, padding))
        if normed:
            layers += norm_and_act(spec, norm, act, out_channels)
        channels = out_channels
    pools = spec.stem_pool != "none"
    return tuple(layers), layers[-1].name if pools or not tap else tap


def stem_pool_layers(spec: ResNetSpec, name: str) -> Layers:
    """What halves the resolution after the stem."""
    width, anti_alias = spec.stem_width, spec.anti_alias != "none"
    if spec.stem_pool == "none":
        return ()
    if spec.stem_pool == "max_zero":
        pad, at = names_of(spec).padded_stem_pool
        return (plan.ZeroPad(pad, 1), plan.MaxPool(at, 3, 2))
    if spec.stem_pool == "conv":
        layers = [convolution(spec, f"{name}.0", (width, width), 3, 1 if anti_alias else 2)]
        layers += [anti_alias_layer(spec, f"{name}.1", width, 2)] if anti_alias else []
        next_ = len(layers)
        return (*layers, *norm_and_act(spec, f"{name}.{next_}", f"{name}.{next_ + 1}", width))
    if spec.anti_alias == "avg":
        return (anti_alias_layer(spec, name, width, 2),)
    if spec.stem_pool == "max_ceil":
        return (plan.MaxPool(name, 3, 2, ceil=True),)
    padding = padding_for(spec.padding, 3)
    if spec.anti_alias == "blur":
        pool = plan.MaxPool(f"{name}.0", 3, 1, padding)
        return (pool, anti_alias_layer(spec, f"{name}.1", width, 2))
    return (plan.MaxPool(name, 3, 2, padding),)


def head_layers(spec: ResNetSpec, channels: int, stride: int) -> Layers:
    """Pool, dropout and classifier, such as they are, behind maps of so many channels that have a
    pixel for so many of the image's.
    """
    names = names_of(spec)
    final, channels = final_layers(spec, channels)
    side = -(-spec.image_size // stride)
    pooled = channels * (2 if spec.head_pool == "catavgmax" else 1)
    keep_axes = names.conv_classifier
    drop: Layers = (plan.Dropout(f"{names.head}drop", spec.drop_rate),) if spec.drop_rate else ()
    if spec.head_pool == "flatten":
        pooled = channels * side * side
        pool: Layer = plan.FlattenMaps(f"{names.head}flatten", side, side, channels)
    elif spec.head_pool == "attention":
        table = max(spec.image_size // stride, 1)
        pool = _attention_pool(f"{names.head}pool", channels, table)
    else:
        keeps = keep_axes or spec.head_hidden is not None
        pool = plan.GlobalPool(f"{names.head}global_pool", keeps, spec.head_pool)
    hidden, pooled = _hidden(spec, pooled)
    fc, ends = f"{names.head}{names.classifier}", (pooled, spec.num_classes)
    start = names.classifier_start
    layer: Layer = plan.Dense(fc, *ends, start=start)
    if keep_axes:
        layer = plan.Conv(fc, *ends, 1, bias=True, start=start)
    classifier = (layer,) if spec.num_classes else ()
    flatten = (plan.Flatten(f"{names.head}flatten"),) if keep_axes else ()
    return (*final, pool, *hidden, *drop, *classifier, *flatten, *_output_norm(spec))


def _output_norm(spec: ResNetSpec) -> Layers:
    if not (spec.output_norm and spec.num_classes):
        return ()
    norm = norm_layer(spec, names_of(spec).output_norm, spec.num_classes)
    assert isinstance(norm, plan.BatchNorm)
    return (replace(norm, of_features=True),)


def _attention_pool(name: str, channels: int, side: int) -> Layer:
    query, key, value = (plan.Dense(leaf, channels, channels, start="lecun") for leaf in "qkv")
    tokens = plan.Tokens("tokens", channels, side)
    return plan.AttentionPool(name, tokens, query, key, value, channels // HEAD)


def _hidden(spec: ResNetSpec, channels: int) -> tuple[Layers, int]:
    """A norm and a dense layer behind the pool, and the channels after them."""
    if spec.head_hidden is None:
        return (), channels
    head, fc = names_of(spec).head, f"{names_of(spec).head}pre_logits"
    layers = (
        norm_layer(spec, f"{head}norm", channels),
        plan.Flatten(f"{head}flatten"),
        plan.Dense(f"{fc}.fc", channels, spec.head_hidden),
        activation(spec, f"{fc}.act", spec.head_hidden),
    )
    return layers, spec.head_hidden


def final_layers(spec: ResNetSpec, channels: int) -> tuple[Layers, int]:
    """What is between the last stage and the pool, and the channels after it."""
    names = names_of(spec)
    conv, norm, act = names.final
    if spec.head_width is not None:
        width = spec.head_width
        layer = convolution(spec, conv, (channels, width), 1)
        return (layer, *norm_and_act(spec, norm, act, width)), width
    norms = norm_layers(spec, norm, channels) if spec.has_final_norm else ()
    if not spec.has_final_activation or (norms and norm_activates(spec)):
        return norms, channels
    return (*norms, activation(spec, act if norms else names.final_act, channels)), channels
