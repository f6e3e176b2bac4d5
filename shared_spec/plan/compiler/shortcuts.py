"""What is beside a block's branch."""

from __future__ import annotations

from shared_spec import plan
from shared_spec.plan.compiler.pieces import convolution, norm_layer
from shared_spec.plan.compiler.sites import Site
from shared_spec.plan.layers import Layer, Layers
from shared_spec.plan.names import names_of
from shared_spec.spec.resnet_spec import ResNetSpec


def shortcut_layers(spec: ResNetSpec, name: str, site: Site) -> Layers:
    """The chain beside the branch; empty where it is the identity, or where there is none."""
    if not has_shortcut_layers(spec, site):
        return ()
    names = names_of(spec)
    if spec.shortcut == "zero_pad":
        return _zero_pad(f"{name}.{names.shortcut}", site)
    layers: list[Layer] = []
    stride = site.stride
    if spec.shortcut_pool == "avg":
        pool, stride = f"{name}.{names.shortcut_pool.format(i=0)}", 1
        layers += _shortcut_pool(spec, pool, site) or (plan.Identity(pool),)
    dilates = site.dilation > 1 or stride > 1
    kernel_size = spec.shortcut_kernel if dilates else 1
    at, normed = f"{name}.{names.shortcut_conv.format(i=len(layers))}", spec.shortcut_norm
    shape = (site.in_channels, site.out_channels)
    dilation = site.first_dilation if kernel_size > 1 else 1
    layers.append(convolution(spec, at, shape, kernel_size, stride, normed, dilation=dilation))
    if normed:
        at = f"{name}.{names.shortcut_norm.format(i=len(layers))}"
        layers.append(norm_layer(spec, at, site.out_channels))
    return tuple(layers)


def pre_activation_shortcut(spec: ResNetSpec, name: str, site: Site) -> Layers:
    """As `shortcut_layers`, without a norm; each stage of bottlenecks begins with a projection."""
    first_bottleneck = site.number == 0 and spec.blocks[site.stage] == "bottleneck"
    names = names_of(spec)
    at = f"{name}.{names.shortcut}"
    if spec.shortcut == "zero_pad" and not site.same_shape:
        return _zero_pad(at, site)
    if spec.shortcut in ("none", "zero_pad", "identity"):
        return ()
    if not has_shortcut_layers(spec, site) and not first_bottleneck:
        return ()
    if spec.stride_block == "last" and site.number > 0 and spec.shortcut != "projection_all":
        return (plan.MaxPool(at, 1, site.stride),)
    averages = spec.shortcut_pool == "avg"
    before = f"{name}.{names.shortcut_pool.format(i=0)}"
    pool = _shortcut_pool(spec, before, site) if averages else ()
    if averages and before.rpartition(".")[2].isdigit():
        pool = pool or (plan.Identity(before),)
    shape, stride = (site.in_channels, site.out_channels), 1 if averages else site.stride
    return (
        *pool,
        convolution(spec, f"{name}.{names.shortcut_conv}", shape, 1, stride, normed=False),
    )


def has_shortcut_layers(spec: ResNetSpec, site: Site) -> bool:
    """Whether the shortcut is anything but the identity."""
    everywhere = spec.shortcut == "projection_all"
    first = spec.shortcut == "projection_stage" and site.number == 0
    changes = not site.same_shape or everywhere or first
    return changes and spec.shortcut not in ("none", "identity")


def has_sum(spec: ResNetSpec, site: Site) -> bool:
    """Whether anything is added to the branch."""
    return spec.shortcut != "none" and (site.same_shape or spec.shortcut != "identity")


def _zero_pad(name: str, site: Site) -> Layers:
    extra = site.out_channels - site.in_channels
    before = extra // 2
    return (plan.ZeroPadShortcut(name, site.stride, before, extra - before),)


def _shortcut_pool(spec: ResNetSpec, name: str, site: Site) -> Layers:
    """The mean before a projection: 2x2 pixels with the block's stride, or, where dilation has
    taken its place, around each pixel, zeros at the border counted as timm does.

    Some of timm's nets average only where the pixels that the block sees are apart already.
    """
    dilation = site.first_dilation if names_of(spec).averages_apart else site.dilation
    if dilation > 1:
        return (plan.AvgPool(name, 2, 1, "same", count_padding=True),)
    return (plan.AvgPool(name, 2, site.stride, "same"),) if site.stride > 1 else ()
