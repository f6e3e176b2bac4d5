"""The most that a device can do of a net: multiply-accumulates and bytes of the plan, and rates
that were measured.

Each layer takes at least the larger of its arithmetic and its traffic; the sum over layers is the
bound. What a compiler may fuse counts as fused, so that a figure above the bound is an error of the
timing. In inference, norms, biases, activations and the sum ride on the convolutions. In training a
convolution is three products (the first one two: images need no gradient), and norms and sums pass
over their maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from resnet_parity.engines.bench_job import BYTES, Rates
from shared_spec import plan
from shared_spec.plan.layers import Layer
from shared_spec.plan.network import Plan
from shared_spec.plan.summary import LayerRow, layer_rows

NORMS = (plan.BatchNorm, plan.GroupNorm, plan.EvoNorm, plan.FilterResponseNorm)
POOLS = (plan.MaxPool, plan.AvgPool, plan.BlurPool)
REDUCTIONS = (plan.GlobalPool, plan.SqueezeExcite, plan.ChannelAttention)
"""They read a map; what they give, or scale by it, is small or rides on the next layer."""


@dataclass(frozen=True)
class Work:
    """What a layer costs at least: MACs of an image, the sizes of the maps of an image that it
    reads or writes, and of the parameters that it reads or writes once a batch, in numbers.
    """

    name: str
    macs: int
    maps: tuple[int, ...]
    parameters: int = 0


def bound_seconds(p: Plan, size: tuple[int, int], mode: str, batch: int, rates: Rates) -> float:
    """The least time of a pass (`mode` infer) or of a step of training (train) over a batch."""
    width = BYTES[rates.dtype]
    return math.fsum(
        rates.seconds(
            2.0 * work.macs * batch,
            [*(n * batch * width for n in work.maps), work.parameters * width],
        )
        for work in works(p, size, mode)
    )


def works(p: Plan, size: tuple[int, int], mode: str) -> list[Work]:
    """What each layer costs, in `mode` infer or train."""
    if mode == "infer":
        return list(_walk(p, size, _inference))
    found = list(_walk(p, size, _training))
    # Images need no gradient, and the optimizer reads weight, gradient and momentum and writes two.
    first = next(i for i, work in enumerate(found) if work.macs)
    found[first + 1 : first + 2] = []
    return [*found, Work("optimizer", 0, (), 5 * p.parameter_count())]


Rule = Callable[[Layer | None, str, LayerRow | None, int, int], Iterator[Work]]
"""A layer (None for a sum), its name and row, and the sizes of what enters and leaves it."""


def _inference(
    layer: Layer | None, name: str, row: LayerRow | None, x: int, y: int
) -> Iterator[Work]:
    macs, parameters = (row.macs, row.parameters) if row else (0, 0)
    if layer is None:
        yield Work(name, 0, (y,))  # the shortcut; the branch is at hand
    elif isinstance(layer, POOLS) or (
        isinstance(layer, NORMS) and not isinstance(layer, plan.BatchNorm)
    ):
        yield Work(name, 0, (x, y))
    elif isinstance(layer, REDUCTIONS):
        yield Work(name, macs, (x,), parameters)
    elif macs:  # convolutions, and layers that are several
        yield Work(name, macs, (x, y), parameters)


def _training(
    layer: Layer | None, name: str, row: LayerRow | None, x: int, y: int
) -> Iterator[Work]:
    macs, parameters = (row.macs, row.parameters) if row else (0, 0)
    if layer is None:
        yield Work(name, 0, (y, y))  # the shortcut, and its gradient beside the branch's
    elif isinstance(layer, NORMS):
        # Statistics, then values; backward the sums over x and dy, then the gradient from both.
        yield Work(name, 0, (x, x, y))
        yield Work(f"{name}, gradient", 0, (x, y, x, y, x))
    elif isinstance(layer, POOLS):
        yield Work(name, 0, (x, y))
        yield Work(f"{name}, gradient", 0, (x, y))
    elif isinstance(layer, REDUCTIONS):
        yield Work(name, 3 * macs, (x,), parameters)
        yield Work(f"{name}, gradient", 0, (x,))
    elif macs:
        yield Work(name, macs, (x, y), parameters)
        yield Work(f"{name}, gradient of the input", macs, (x, y), parameters)
        yield Work(f"{name}, gradient of the weights", macs, (x, y), parameters)


def _walk(p: Plan, size: tuple[int, int], rule: Rule) -> Iterator[Work]:
    rows = {row.name: row for row in layer_rows(p, size)}
    sizes: dict[str, int] = {name: math.prod(row.shape) for name, row in rows.items()}

    def chain(layers: plan.Layers, x: int) -> Generator[Work, None, int]:
        for layer in layers:
            y = sizes[layer.name]
            yield from rule(layer, layer.name, rows[layer.name], x, y)
            x = y
        return x

    x = yield from chain(p.stem, size[0] * size[1] * p.in_channels)
    ends = {stage.blocks[-1].name: stage.name for stage in p.stages}
    for b in p.blocks():
        h = yield from chain(b.pre, x)
        y = yield from chain(b.branch, h)
        if b.shortcut_from is not None:
            yield from chain(b.shortcut, x if b.shortcut_from == "input" else h)
            yield from rule(None, f"{b.name}.add", None, y, y)
        x = yield from chain(b.output, y)
        sizes |= {ends[b.name]: x} if b.name in ends else {}
    yield from chain(p.head, x)
    for junction in p.junctions:
        layers, x = junction.layers, sizes.get(junction.sources[0], 0)
        if isinstance(layers[0], plan.Join):
            x = sizes[layers[0].name]
            yield from rule(None, layers[0].name, None, x, x)
            layers = layers[1:]
        yield from chain(layers, x)
