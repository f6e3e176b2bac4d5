"""The spec of a network of which only its layers are known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from shared_spec import plan
from shared_spec.errors import ResNetError
from shared_spec.formats.dialects.spec_from_shapes import BlockShapes, shortcut_kind
from shared_spec.formats.graphs.events import Fork, Output, Part, Step
from shared_spec.plan.layers import Layer
from shared_spec.spec.resnet_spec import ResNetSpec

_ATTENTION = (plan.SqueezeExcite, plan.ChannelAttention)
_POOLS = (plan.MaxPool, plan.AvgPool, plan.BlurPool)
_NORMS = (plan.BatchNorm, plan.GroupNorm, plan.EvoNorm, plan.FilterResponseNorm)
_NAMES = {plan.GroupNorm: "group", plan.EvoNorm: "evonorm_s0", plan.FilterResponseNorm: "frn"}


class NoSpecError(ResNetError):
    """No ResNet has such layers."""


def spec_from_parts(
    parts: Sequence[Part], image_size: int | None, known: ResNetSpec | None = None
) -> ResNetSpec:
    """The spec that is nearest to a network: whether it is the same one is for its plan to say.

    Args:
        parts: chains and forks, every number of channels known.
        image_size: height and width of the images, if the network says so.
        known: of the network, whose head may be another.

    Raises:
        NoSpecError: if it has no residual blocks, or such as no spec describes.
    """
    plain = not any(isinstance(part, Fork) for part in parts)
    parts = _in_blocks(parts) if plain and known is None else parts
    levels = _levels(parts)
    parts = [p for p in parts if isinstance(p, Fork) or not isinstance(p.layer, Output)]
    forks = [part for part in parts if isinstance(part, Fork)]
    size = {} if image_size is None else {"image_size": image_size}
    if known is not None and (known.pyramid is not None or known.segmentation != "none"):
        raise NoSpecError("it has junctions behind its stages, which are not read from a graph")
    if known is not None:
        after = _layers(_behind(parts))
        usual = {"features_only": False, "out_indices": (), "drop_rate": 0.0, "head_pool": "avg"}
        head = _head(after)
        if "features_only" in head:
            head["out_indices"] = (len(known.depths),)
        return known.override(**(usual | head | size))
    if not forks:
        raise NoSpecError("it has no residual block, whose branch and shortcut are added up")
    first = parts.index(forks[0])
    stem = _layers(parts[:first])
    rest = _behind(parts)
    blocks = [_layers(fork.branch) for fork in forks]
    ends = [layer for layer in blocks[0] if not isinstance(layer, (*_ATTENTION, plan.LayerScale))]
    pre = isinstance(ends[-1] if ends else None, plan.Conv)
    fields = _stem(stem, pre) | _blocks(stem, forks, pre) | _head(_layers(rest))
    if plain:
        fields["shortcut"] = "none"
    if "features_only" in fields:
        places = [0, *accumulate(fields["depths"])]
        if any(level not in places for level in levels):
            raise NoSpecError("it gives a tensor from inside a stage")
        fields["out_indices"] = [*map(places.index, levels), len(fields["depths"])]
    every = [*stem, *(x for block in blocks for x in block)]
    fields |= _common(every, _layers(x for f in forks for x in f.shortcut), _layers(rest)) | size
    rule = fields.get("padding", "symmetric")
    if fields["stem_stride"] > 1 and fields.setdefault("stem_padding", "symmetric") == rule:
        del fields["stem_padding"]
    return ResNetSpec.parse(fields, "its layers")


def classes_of(parts: Sequence[Part]) -> int:
    """How many logits a network gives; 0 if it gives none."""
    found: int = _head(_layers(_behind(parts)))["num_classes"]
    return found


def _behind(parts: Sequence[Part]) -> Sequence[Part]:
    """What comes after the last block."""
    return parts[max((i + 1 for i, p in enumerate(parts) if isinstance(p, Fork)), default=0) :]


def _levels(parts: Sequence[Part]) -> list[int]:
    """How many blocks come before each output but the last."""
    found, blocks = [], 0
    for part in parts:
        blocks += isinstance(part, Fork)
        if isinstance(part, Step) and isinstance(part.layer, Output):
            found.append(blocks)
    return found


def _in_blocks(parts: Sequence[Part]) -> list[Part]:
    """A net without shortcuts, with forks of which one way is empty in the place of its blocks."""
    layers = _layers(parts)
    ends = [i for i, layer in enumerate(layers) if isinstance(layer, plan.GlobalPool)]
    end = ends[0] if ends else len(layers)
    starts = [i for i, layer in enumerate(layers[:end]) if isinstance(layer, _POOLS)]
    starts += [i for i, layer in enumerate(layers[:end]) if isinstance(layer, plan.Activation)]
    if not starts:
        return [*parts]
    start = starts[0] + 1
    while start < end and isinstance(layers[start], (*_POOLS, Output)):
        start += 1
    count = 2 if all(x.kernel_size == 3 for x in _of(layers[start:end], plan.Conv)) else 3
    pre = start < end and not isinstance(layers[start], plan.Conv)
    found, branch = [*parts[:start]], list[Step]()
    for part in parts[start:end]:
        assert isinstance(part, Step)
        full = len(_of(_layers(branch), plan.Conv)) == count
        closes = full and (pre or isinstance(part.layer, plan.Activation))
        if closes:
            found.append(Fork(tuple(branch), ()))
            branch = []
        outside = (closes and not pre) or (isinstance(part.layer, Output) and not branch)
        (found if outside else branch).append(part)
    if len(_of(_layers(branch), plan.Conv)) == count and pre:
        found.append(Fork(tuple(branch), ()))
        branch = []
    return [*found, *branch, *parts[end:]]


def _layers(parts: Any) -> list[Layer]:
    return [part.layer for part in parts if isinstance(part, Step)]


def _of(layers: Sequence[Layer], kind: Any) -> list[Any]:
    return [layer for layer in layers if isinstance(layer, kind)]


def _common(
    layers: Sequence[Layer], shortcuts: Sequence[Layer], after: Sequence[Layer]
) -> dict[str, Any]:
    """What holds for the whole net, whose layers `after` stand behind its blocks: norm, activation,
    biases, padding.
    """
    fields: dict[str, Any] = {}
    norms = [x for x in (*layers, *after, *shortcuts) if isinstance(x, _NORMS)]
    if norms:
        fields |= {"norm_eps": norms[0].eps}
        if isinstance(norms[0], plan.BatchNorm):
            fields |= {"norm_momentum": norms[0].momentum, "norm_variance": norms[0].variance}
        else:
            fields["norm"] = _NAMES[type(norms[0])]
        if isinstance(norms[0], plan.GroupNorm | plan.EvoNorm):
            fields["norm_groups"] = norms[0].groups
    if functions := _of([*layers, *after], plan.Activation):
        fields["activation"] = functions[0].function
    if gates := _of(layers, plan.SqueezeExcite):
        widest = max(gates, key=lambda gate: gate.channels)
        fields |= {"attention": "se", "se_ratio": widest.reduced / max(widest.channels, 1)}
    elif _of(layers, plan.ChannelAttention):
        fields["attention"] = "eca"
    if scales := _of(layers, plan.LayerScale):
        fields["layer_scale"] = scales[0].init
    for kind, record in (("blur", plan.BlurPool), ("avg", plan.AvgPool)):
        if _of(layers, record):
            fields["anti_alias"] = kind
    convs = _of([*layers, *shortcuts], plan.Conv)
    if convs and convs[0].standardize_eps is not None:
        fields["standardize"] = convs[0].standardize_eps
    biased = [conv.bias for conv in convs]
    if all(biased):
        fields["conv_bias"] = True
    elif any(biased):
        fields["conv_bias"] = "without_norm"
    strided = [c for c in _of(layers, plan.Conv) if c.kernel_size == 3 and c.stride > 1]
    if any(c.padding == "same" for c in strided):
        fields["padding"] = "same"
    return fields


def _stem(stem: Sequence[Layer], pre: bool) -> dict[str, Any]:
    convs = _of(stem, plan.Conv)
    if not convs:
        raise NoSpecError("no convolution comes before its first block")
    widths, sizes = [c.out_channels for c in convs], [c.kernel_size for c in convs]
    width = widths[-1]
    fields: dict[str, Any] = {
        "in_channels": convs[0].in_channels,
        "stem_width": width,
        "stem_stride": convs[0].stride,
        "pre_activation": pre,
    }
    if sizes == [7] or sizes == [3]:
        fields["stem"] = f"conv{sizes[0]}x{sizes[0]}"
    elif sizes == [3, 3, 3]:
        fields["stem"] = "deep" if widths[0] == width // 2 else "deep_tiered"
    else:
        raise NoSpecError(
            f"before its first block are convolutions of {', '.join(map(str, sizes))} pixels, "
            f"expected one of 7 or 3, or three of 3"
        )
    after = stem[stem.index(convs[-1]) :]
    pools, pads = _of(after, _POOLS), _of(after, plan.ZeroPad)
    before = after[: after.index(pools[0])] if pools else []
    kept = any(isinstance(x, plan.Activation) and x.function in ("relu", "relu6") for x in before)
    fields["stem_pool"] = "none" if not pools else "max_zero" if pads and not kept else "max"
    if pools and isinstance(pools[0], plan.MaxPool) and pools[0].ceil:
        fields["stem_pool"] = "max_ceil"
    strided = convs[0].stride > 1
    if strided and convs[0].padding == "same":  # at stride 1 both rules are one
        fields["stem_padding"] = "same"
    if pools and not pads and pools[0].padding == "same":
        fields["padding"] = "same"
    return fields


def _blocks(stem: Sequence[Layer], forks: Sequence[Fork], pre: bool) -> dict[str, Any]:
    branches = [_of(_layers(fork.branch), plan.Conv) for fork in forks]
    kinds = {2: "basic", 3: "bottleneck"}
    for fork, convs in zip(forks, branches, strict=True):
        if not fork.branch:
            raise NoSpecError("a tensor is added to itself")
        sizes = tuple(c.kernel_size for c in convs)
        if sizes not in ((3, 3), (1, 3, 1)):
            raise NoSpecError(
                f"the block that begins at {fork.branch[0].owner} has convolutions of "
                f"{', '.join(map(str, sizes))} pixels, expected 3, 3 or 1, 3, 1"
            )
    strides = [_stride(_layers(fork.branch)) for fork in forks]
    dilations = [convs[-1 if len(convs) == 2 else 1].dilation for convs in branches]
    outs = [convs[-1].out_channels for convs in branches]
    # There the shortcut has no convolution.
    strided = (fork for fork, stride in zip(forks, strides, strict=True) if stride > 1)
    projected = any(_of(_layers(fork.shortcut), plan.Conv) for fork in strided)
    last = pre and _strides_end_stages(outs, strides) and not projected
    starts = [0]
    for i in range(1, len(branches)):
        wider = outs[i] != outs[i - 1] or len(branches[i]) != len(branches[i - 1])
        begins = strides[i - 1] > 1 if last else strides[i] > 1
        if wider or begins or dilations[i] != dilations[i - 1]:
            starts.append(i)
    spans = [*pairwise([*starts, len(branches)])]
    block = [kinds[len(branches[a])] for a, _ in spans]
    fields: dict[str, Any] = {
        "depths": [b - a for a, b in spans],
        "block": block[0] if len(set(block)) == 1 else block,
        "widths": [
            outs[a] // (4 if kind == "bottleneck" else 1)
            for (a, _), kind in zip(spans, block, strict=True)
        ],
    }
    nominal, reached, total, dilation = [], None, _stride(stem), 1
    for a, b in spans:
        stride = strides[b - 1] if last else strides[a]
        jump = dilations[a] // dilation if dilations[a] % dilation == 0 else 1
        if jump > 1 and reached is None:
            reached = total
        nominal.append(stride * jump)
        total, dilation = total * stride, dilations[a]
    fields["strides"] = nominal
    if reached is not None:
        fields["output_stride"] = reached
    if last:
        fields["stride_block"] = "last"
    fields |= _widths(branches, fields["widths"], spans) if "bottleneck" in block else {}
    return fields | _shortcut(stem, forks, branches, spans, pre, last)


def _strides_end_stages(outs: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether strides are in the last block of the stages, which differ in channels."""
    strided = [i for i, stride in enumerate(strides) if stride > 1]
    ends = [i for i in range(len(outs)) if i + 1 == len(outs) or outs[i + 1] != outs[i]]
    begins = [0, *(i + 1 for i in ends)]
    return (
        bool(strided) and all(i in ends for i in strided) and not all(i in begins for i in strided)
    )


def _stride(layers: Sequence[Layer]) -> int:
    return _product(x.stride for x in _of(layers, (plan.Conv, *_POOLS)))


def _widths(branches: Sequence[Any], widths: Sequence[int], spans: Any) -> dict[str, Any]:
    """Groups, base width and the divisor of the first convolution, from the first bottleneck."""
    a, planes = next(
        (a, planes) for (a, _), planes in zip(spans, widths, strict=True) if len(branches[a]) == 3
    )
    one, two, _ = branches[a]
    groups = max(two.groups, 1)
    fields: dict[str, Any] = {}
    base = 64 * two.out_channels // max(planes * groups, 1)
    if (groups, base) != (1, 64):
        fields |= {"groups": groups, "base_width": base}
    if one.out_channels != two.out_channels:
        fields["reduce_first"] = max(two.out_channels // one.out_channels, 1)
    if one.stride > 1 or any(len(c) == 3 and c[0].stride > 1 for c in branches):
        fields["stride_on"] = "1x1"
    return fields


def _shortcut(
    stem: Sequence[Layer],
    forks: Sequence[Fork],
    branches: Sequence[Any],
    spans: Any,
    pre: bool,
    last: bool,
) -> dict[str, Any]:
    chains = [_layers(fork.shortcut) for fork in forks]
    projections = [_of(chain, plan.Conv) for chain in chains]
    fields: dict[str, Any] = {}
    if any(_of(chain, plan.ZeroPadShortcut) for chain in chains):
        return {"shortcut": "zero_pad"}
    if not any(projections):
        return {}
    width = _of(stem, plan.Conv)[-1].out_channels
    stages = [
        [
            BlockShapes(
                tuple((c.out_channels, 1, 1, 1) for c in branches[i]),
                (1, 1, 1, 1) if projections[i] else None,
            )
            for i in range(a, b)
        ]
        for a, b in spans
    ]
    strided = [_stride(_layers(forks[a].branch)) > 1 for a, _ in spans]
    fields["shortcut"] = shortcut_kind(width, stages, [False] * len(spans) if last else strided)
    first = next(chain for chain, found in zip(chains, projections, strict=True) if found)
    if not pre and not _of(first, _NORMS):
        fields["shortcut_norm"] = False
    if any(_of(chain, plan.AvgPool) for chain in chains):
        fields["shortcut_pool"] = "avg"
    if any(conv.kernel_size == 3 for found in projections for conv in found):
        fields["shortcut_kernel"] = 3
    return fields


def _head(layers: Sequence[Layer]) -> dict[str, Any]:
    pools = _of(layers, plan.GlobalPool)
    if not pools:
        return {"features_only": True, "num_classes": 0}
    dense = _of(layers[layers.index(pools[0]) :], plan.Dense | plan.Conv)
    fields: dict[str, Any] = {"num_classes": 0}
    dropped = _of(layers, plan.Dropout)
    if dropped and dense:
        fields["drop_rate"] = dropped[-1].rate
    if pools[0].kind != "avg":
        fields["head_pool"] = pools[0].kind
    if dense:
        one = dense[-1]
        fields["num_classes"] = (
            one.out_features if isinstance(one, plan.Dense) else one.out_channels
        )
    return fields


def _product(numbers: Any) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result
