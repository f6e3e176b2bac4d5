"""Feature pyramids: what is behind the stages of a net that gives maps (Lin et al. 2016,
arXiv:1612.03144), under the names of torchvision's `FeaturePyramidNetwork`.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared_spec import plan
from shared_spec.plan.compiler.pieces import norm_layer
from shared_spec.plan.layers import Layers
from shared_spec.plan.network import Junction
from shared_spec.spec.resnet_spec import ResNetSpec


def pyramid(
    spec: ResNetSpec, levels: Mapping[str, int], width: int
) -> tuple[tuple[Junction, ...], tuple[str, ...]]:
    """The junctions of a pyramid of so many channels, and which of their layers give its maps.

    Args:
        spec: the net.
        levels: the channels of the maps that enter, by the names of what gives them, finest first.
        width: channels of the pyramid.
    """
    # The order is torchvision's of registration: all projections first, then the sums downwards.
    inner = [
        Junction((name,), _convolution(spec, f"fpn.inner_blocks.{i}", (channels, width), 1))
        for i, (name, channels) in enumerate(levels.items())
    ]
    sums, above = [inner[-1].name], []
    for i in reversed(range(len(inner) - 1)):
        enlarge, add = plan.Enlarge(f"fpn.enlarged{i}"), plan.Sum(f"fpn.sum{i}")
        above.append(Junction((sums[0], inner[i].name), (enlarge,)))
        above.append(Junction((inner[i].name, enlarge.name), (add,)))
        sums.insert(0, add.name)
    maps = [
        Junction((name,), _convolution(spec, f"fpn.layer_blocks.{i}", (width, width), 3))
        for i, name in enumerate(sums)
    ]
    extra = _extra(spec, maps[-1].name, [*levels.items()][-1], width)
    made = (*inner, *above, *maps, *extra)
    return made, tuple(junction.name for junction in (*maps, *extra))


def _convolution(spec: ResNetSpec, name: str, shape: tuple[int, int], kernel_size: int) -> Layers:
    conv = plan.Conv(
        f"{name}.0",
        *shape,
        kernel_size,
        padding=kernel_size // 2,
        bias=not spec.pyramid_norm,
        start="lecun_uniform",
    )
    return (conv, norm_layer(spec, f"{name}.1", shape[1])) if spec.pyramid_norm else (conv,)


def _extra(spec: ResNetSpec, last: str, stage: tuple[str, int], width: int) -> list[Junction]:
    """What follows the last map, or the last stage."""
    if spec.pyramid_extra == "none":
        return []
    if spec.pyramid_extra == "pool":
        return [Junction((last,), (plan.MaxPool("fpn.extra_blocks.pool", 1, 2),))]
    source, channels = stage if spec.pyramid_extra == "p6p7_of_stage" else (last, width)
    p6, p7 = (
        plan.Conv(
            f"fpn.extra_blocks.{name}", entering, width, 3, 2, 1, bias=True, start="lecun_uniform"
        )
        for name, entering in (("p6", channels), ("p7", width))
    )
    act = plan.Activation("fpn.extra_blocks.act", "relu")
    return [Junction((source,), (p6,)), Junction((p6.name,), (act, p7))]
