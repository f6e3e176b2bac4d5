"""Shapes, parameters and multiply-accumulates, folded over the plan without any framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache, lru_cache, reduce
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from shared_spec import plan
from shared_spec.errors import SpecError
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.layers import Layer, Layers, Padding
from shared_spec.plan.network import Block, Plan, Stage
from shared_spec.plan.parameters import parameters_of
from shared_spec.spec.resnet_spec import ResNetSpec

Shape = tuple[int, ...]
"""Shape of one image's activation, channels last: (H, W, C), or (C,) after the global pool."""


class LayerRow(NamedTuple):
    """One layer, block, or stage: its output shape, trainable parameters and MACs for one image."""

    name: str
    shape: Shape
    parameters: int
    macs: int


def layer_rows(p: Plan, size: tuple[int, int]) -> list[LayerRow]:
    """One row a layer for an input of `size` (H, W) pixels, in the order of `p.layers()`.

    Raises:
        SpecError: if the image is so small that some layer has no output.
    """
    return _rows(p, size, whole_blocks=False)


def block_rows(p: Plan, size: tuple[int, int]) -> list[LayerRow]:
    """As `layer_rows`, with each residual block summed into one row named after it."""
    return _rows(p, size, whole_blocks=True)


def _rows(p: Plan, size: tuple[int, int], *, whole_blocks: bool) -> list[LayerRow]:
    rows: list[LayerRow] = []
    shape = _chain(p.stem, (*size, p.in_channels), rows)
    ends: dict[str, Shape] = {}
    for stage in p.stages:
        for block in stage.blocks:
            inner: list[LayerRow] = []
            shape = _block(block, shape, inner)
            rows += [_sum(block.name, shape, inner)] if whole_blocks else inner
        ends[stage.name] = shape
    _chain(p.head, shape, rows)
    if p.junctions:
        ends |= {row.name: row.shape for row in rows} | {"": (*size, p.in_channels)}
    for junction in p.junctions:
        shape, *like = (ends[name] for name in junction.sources)
        if isinstance(junction.layers[0], plan.Enlarge):
            shape = (*like[0][:2], shape[2])
        elif isinstance(junction.layers[0], plan.Concat):
            shape = (*shape[:2], shape[2] + sum(other[2] for other in like))
        ends[junction.name] = _chain(junction.layers, shape, rows)
    return rows


def stage_rows(p: Plan, size: tuple[int, int]) -> list[LayerRow]:
    """The table a paper prints: one row each for the stem, every stage, the head, and what is
    behind.
    """
    rows = {row.name: row for row in block_rows(p, size)}
    groups: list[tuple[str, Layers | tuple[Block, ...]]] = [("stem", p.stem)]
    groups += [*((stage.name, stage.blocks) for stage in p.stages), ("head", p.head)]
    groups += _behind(p).items()
    named = [(name, [rows[part.name] for part in parts]) for name, parts in groups if parts]
    return [_sum(name, members[-1].shape, members) for name, members in named]


def _behind(p: Plan) -> dict[str, Layers]:
    """The layers of junctions by the first parts of their names."""
    layers = [layer for junction in p.junctions for layer in junction.layers]
    roots = dict.fromkeys(layer.name.partition(".")[0] for layer in layers)
    return {root: tuple(x for x in layers if f"{x.name}.".startswith(f"{root}.")) for root in roots}


def describe(p: Plan) -> dict[str, str]:
    """What is in the stem, in each stage, in the head and behind, by the names of `stage_rows`."""
    made = {stage.name: describe_stage(stage) for stage in p.stages}
    made |= {"stem": describe_chain(p.stem), "head": describe_chain(p.head)}
    for name, layers in _behind(p).items():
        counted = groupby(filter(None, map(_describe, layers)))
        made[name] = "; ".join(f"[{text}] × {len([*alike])}" for text, alike in counted)
    return made


def totals(spec: ResNetSpec) -> tuple[int, int]:
    """Parameters, and MACs of an image of the spec's own size.

    The blocks behind a stage's first are equal, but for a last one with the stride, so that one of
    them is folded and counted as often as there are; `list` shows nets of six hundred blocks.
    """
    side = (spec.image_size, spec.image_size)
    kept = 3 if spec.stride_block == "last" else 2
    repeats = [0 if spec.block_widths else max(depth - kept, 0) for depth in spec.depths]
    depths = [depth - n for depth, n in zip(spec.depths, repeats, strict=True)]
    # As valid as it was, with blocks that are no others: not validated once more.
    p = compile_plan(spec.model_copy(update={"depths": tuple(depths)}))
    rows = block_rows(p, side)
    inner = {stage.blocks[1].name: n for stage, n in zip(p.stages, repeats, strict=False) if n}
    times = [1 + inner.get(row.name, 0) for row in rows]
    return (
        sum(n * row.parameters for n, row in zip(times, rows, strict=True)),
        sum(n * row.macs for n, row in zip(times, rows, strict=True)),
    )


def macs(p: Plan, size: tuple[int, int]) -> int:
    """Multiply-accumulates of convolutions and dense layers for one image of `size` (H, W)."""
    return sum(row.macs for row in layer_rows(p, size))


def _sum(name: str, shape: Shape, rows: list[LayerRow]) -> LayerRow:
    return LayerRow(name, shape, sum(r.parameters for r in rows), sum(r.macs for r in rows))


def _chain(layers: Iterable[Layer], shape: Shape, rows: list[LayerRow]) -> Shape:
    for layer in layers:
        kind = type(layer)
        shape, count, macs = _cost(kind, _fields(kind)(layer), shape)  # type: ignore[arg-type]
        if min(shape) < 1:
            raise SpecError(
                f"the input image is too small: {layer.name} would have the output {shape}; "
                f"give a larger height and width"
            )
        rows.append(LayerRow(layer.name, shape, count, macs))
    return shape


@lru_cache(maxsize=4096)
def _cost(kind: type[Layer], values: tuple[Any, ...], shape: Shape) -> tuple[Shape, int, int]:
    """Output shape, parameters and MACs of a layer, whatever its name: a net of a thousand layers
    has a dozen different ones.
    """
    layer = kind("", *values)
    out = output_shape(layer, shape)
    count = sum(p.size for p in parameters_of(layer) if p.trainable)
    # What pools by attention has its products on every pixel.
    return out, count, _layer_macs(layer, shape if isinstance(layer, plan.AttentionPool) else out)


@cache
def _fields(kind: type[Layer]) -> Callable[[Layer], tuple[Any, ...]]:
    names = [f.name for f in fields(kind)[1:]]
    if len(names) > 1:
        return attrgetter(*names)
    return lambda layer: tuple(getattr(layer, name) for name in names)


def _block(block: Block, shape: Shape, rows: list[LayerRow]) -> Shape:
    h = _chain(block.pre, shape, rows)
    y = _chain(block.branch, h, rows)
    if block.shortcut_from is not None:
        s = _chain(block.shortcut, shape if block.shortcut_from == "input" else h, rows)
        if s != y:
            raise SpecError(f"{block.name}: the shortcut gives {s} where the branch gives {y}")
    return _chain(block.output, y, rows)


def _window(n: int, kernel_size: int, stride: int, padding: Padding) -> int:
    if padding == "same":
        return -(-n // stride)
    return (n + 2 * padding - kernel_size) // stride + 1


def output_shape(layer: Layer, shape: Shape) -> Shape:
    """Shape of one image's activation after `layer`; most layers keep it."""
    if isinstance(layer, plan.Dense):
        return (layer.out_features,)
    if isinstance(layer, plan.Flatten):
        return shape[-1:]
    if len(shape) != 3:
        return shape
    h, w, c = shape
    match layer:
        case plan.Conv(extent=k, stride=s, padding=p):
            return _window(h, k, s, p), _window(w, k, s, p), layer.out_channels
        case plan.MaxPool(kernel_size=k, stride=s, padding=p, ceil=ceil):
            more = s - 1 if ceil else 0
            return _window(h + more, k, s, p), _window(w + more, k, s, p), c
        case plan.AvgPool(kernel_size=k, stride=s, padding=p):
            return _window(h, k, s, p), _window(w, k, s, p), c
        case plan.BlurPool(stride=s):
            # Of one row or column, there is no pixel to reflect at the border.
            return (-(-h // s), -(-w // s), c) if min(h, w) >= 2 else (0, 0, c)
        case plan.ZeroPadShortcut(stride=s):
            return -(-h // s), -(-w // s), layer.before + c + layer.after
        case plan.ZeroPad(amount=n):
            return h + 2 * n, w + 2 * n, c
        case plan.SpaceToDepth():
            return (h + sum(layer.around(h))) // 2, (w + sum(layer.around(w))) // 2, 4 * c
        case plan.SelectiveKernel(paths=(path, *_)):
            return chain_shape(path, (h, w, c // len(layer.paths) if layer.split else c))
        case plan.HierarchicalSplit(paths=(path, *_)):
            return (*chain_shape(path, (h, w, c // layer.parts))[:2], c)
        case plan.SplitAttention(branch=branch):
            return (*chain_shape(branch, shape)[:2], layer.channels)
        case plan.AttentionPool():
            return (layer.channels,)
        case plan.FlattenMaps(height=height, width=width):
            if (h, w) != (height, width):
                raise SpecError(
                    f"maps of {height} × {width} pixels are flattened, and these would have "
                    f"{h} × {w}; head_pool 'flatten' takes images of its image_size alone"
                )
            return (h * w * c,)
        case plan.GlobalPool():
            channels = c * (2 if layer.kind == "catavgmax" else 1)
            return (1, 1, channels) if layer.keep_axes else (channels,)
    return shape


def chain_shape(layers: Layers, shape: Shape) -> Shape:
    """Shape of one image's activation after a chain."""
    return reduce(lambda shape, layer: output_shape(layer, shape), layers, shape)


def _layer_macs(layer: Layer, shape: Shape) -> int:
    """MACs of `layer` given its output shape; elementwise work counts as none, as in papers."""
    match layer:
        case plan.Conv(kernel_size=k):
            kernel = layer.out_channels * (layer.in_channels // layer.groups) * k * k
            return shape[0] * shape[1] * kernel
        case plan.SqueezeExcite():
            return 2 * layer.channels * layer.reduced
        case plan.ChannelAttention():
            return layer.channels * layer.kernel_size
        case plan.AttentionPool(query=query):
            tokens = 1 + shape[0] * shape[1]
            return (1 + 2 * tokens) * query.in_features * query.out_features
        case plan.GlobalContext(weigh=weigh, transform=transform):
            return _chain_macs(weigh, shape) + _chain_macs(transform, (1, 1, layer.channels))
        case plan.Dense():
            return layer.in_features * layer.out_features
    return sum(_chain_macs(chain, shape) for _, chain in layer.chains())


def _chain_macs(layers: Layers, shape: Shape) -> int:
    """MACs of a chain inside of a layer whose output has `shape`: of its height and width, until
    there is one pixel.
    """
    total = 0
    for layer in layers:
        shape = (1, 1, *shape[2:]) if isinstance(layer, plan.GlobalPool) else shape
        total += _layer_macs(layer, shape)
    return total


_CONVOLUTIONS = (plan.Conv, plan.SelectiveKernel, plan.HierarchicalSplit, plan.SplitAttention)


def describe_stage(stage: Stage) -> str:
    """`[1×1, 64; 3×3, 64; 1×1, 256] × 3`, as in the papers."""

    def text(block: Block) -> str:
        convs = (x for x in (*block.pre, *block.branch) if isinstance(x, _CONVOLUTIONS))
        return "; ".join(map(_describe, convs))

    return ", ".join(f"[{kind}] × {len([*alike])}" for kind, alike in groupby(stage.blocks, text))


def describe_chain(layers: Layers) -> str:
    """`7×7, 64; 3×3 max pool`."""
    return "; ".join(filter(None, map(_describe, layers)))


def _describe(layer: Layer) -> str:
    match layer:
        case plan.Conv(kernel_size=k):
            groups = f", {layer.groups} groups" if layer.groups > 1 else ""
            return f"{k}×{k}, {layer.out_channels}{groups}"
        case plan.SelectiveKernel(paths=((conv, *_), *_)):
            return f"selected of {len(layer.paths)} {_describe(conv)}"
        case plan.HierarchicalSplit(paths=((conv, *_), *_)):
            return f"{layer.parts} parts of {_describe(conv)}"
        case plan.SplitAttention(branch=(conv, *_)):
            return f"split attention on {_describe(conv)}"
        case plan.MaxPool(kernel_size=k):
            return f"{k}×{k} max pool"
        case plan.AvgPool(kernel_size=k):
            return f"{k}×{k} average pool"
        case plan.BlurPool():
            return "3×3 blur"
        case plan.GlobalPool(kind=kind):
            words = {
                "avg": "average",
                "avgmax": "average and max",
                "catavgmax": "average beside max",
            }
            return f"{words.get(kind, kind)} pool"
        case plan.AttentionPool(heads=heads):
            return f"attention pool, {heads} heads"
        case plan.Dense():
            return f"{layer.out_features}-way dense"
    return ""
