"""What there is to draw of a plan: each kind of block once, with all the places that it has.

Blocks are of one kind if their boxes say the same but for figures: widths, groups, rates.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from resnet_parity.render.drawing.words import Hue, Words, captions, class_words, settings, words
from shared_spec.errors import SpecError
from shared_spec.plan.layers import Layer, Layers
from shared_spec.plan.network import CHAINS, Block, Plan
from shared_spec.plan.parameters import parameters_of
from shared_spec.plan.summary import LayerRow, Shape, layer_rows

_LISTED = 4
"""Figures in a row, beyond which only the first and the last are written."""


@dataclass(frozen=True)
class Part:
    """A box: a layer of a kind of block, as all blocks of the kind have it."""

    label: str
    hue: Hue
    hover: str
    facts: frozenset[str]
    """All that the records say, for a comparison."""
    inner: tuple[tuple[str, tuple[Part, ...]], ...]
    """Chains that the layer is made of, each with what stands above it."""
    differs: bool = False
    gives: str = ""
    """Which of the model's outputs it is."""


Parts = tuple[Part, ...]


@dataclass(frozen=True)
class Placed:
    """A block in its net: what enters it, and a row for each of its layers."""

    block: Block
    given: Shape
    rows: tuple[LayerRow, ...]
    shape: Shape

    @property
    def parameters(self) -> int:
        """Trainable ones."""
        return sum(row.parameters for row in self.rows)

    @cached_property
    def signature(self) -> Hashable:
        """What blocks of one kind share."""
        chains = tuple(_signature(getattr(self.block, name)) for name in CHAINS)
        return self.block.shortcut_from, chains


@dataclass(frozen=True)
class Use:
    """Blocks that follow one another and have the same shapes."""

    first: str
    last: str
    count: int
    given: Shape
    shape: Shape
    parameters: int
    """Of one of them."""

    @property
    def where(self) -> str:
        """By name."""
        return self.first if self.count == 1 else f"{self.first} to {self.last}"


@dataclass(frozen=True)
class Kind:
    """A kind of block, as it is drawn."""

    names: tuple[str, ...]
    """Of all its blocks."""
    uses: tuple[Use, ...]
    shortcut_from: str | None
    chains: dict[str, Parts]
    """By the block's names of them."""
    differs: bool = False
    """In where its shortcut begins."""


@dataclass(frozen=True)
class Net:
    """A plan on images of one size, taken apart."""

    given: Shape
    stem: Parts
    stages: tuple[tuple[str, tuple[Placed, ...]], ...]
    head: Parts
    ends: tuple[LayerRow, LayerRow]
    """Of stem and head: the shape that they give, and their parameters; an empty one keeps all."""
    parameters: int
    macs: int
    results: dict[str, str]
    """What gives an output, with that output."""


def taken_apart(plan: Plan, size: tuple[int, int]) -> Net:
    """The net on images of `size` (H, W).

    Raises:
        SpecError: if the image is too small, or what joins stages is no chain to draw.
    """
    if plan.junctions:
        raise SpecError("a feature pyramid is not drawn, nor what segments; the body alone is")
    rows = layer_rows(plan, size)
    given: Shape = (*size, plan.in_channels)
    shape = given
    left = iter(rows)
    stem = [next(left) for _ in plan.stem]
    shape = stem[-1].shape if stem else shape
    stem_shape, stages = shape, []
    for stage in plan.stages:
        blocks = []
        for block in stage.blocks:
            own = tuple(next(left) for _ in block.layers())
            blocks.append(Placed(block, shape, own, _shape(block, shape, own)))
            shape = blocks[-1].shape
        stages.append((stage.name, tuple(blocks)))
    head = list(left)
    after = head[-1].shape if head else shape
    ends = _sum("stem", stem_shape, stem), _sum("head", after, head)
    results = {place: name for name, place in plan.results().items() if plan.outputs}
    first, last = (
        tuple(_part([x], [(x.name, row)], results) for x, row in zip(layers, own, strict=True))
        for layers, own in ((plan.stem, stem), (plan.head, head))
    )
    macs = sum(row.macs for row in rows)
    return Net(given, first, tuple(stages), last, ends, plan.parameter_count(), macs, results)


def kind_of(blocks: Sequence[Placed]) -> Kind:
    """What is drawn of blocks of one kind."""
    uses = tuple(_uses(blocks))
    rows = {b.block.name: b.rows for b in blocks}
    told = [(use.where, rows[use.first]) for use in uses]
    chains: dict[str, Parts] = {}
    start = 0
    for name in CHAINS:
        columns = zip(*(getattr(b.block, name) for b in blocks), strict=True)
        parts = []
        for i, layers in enumerate(columns, start):
            parts.append(_part(layers, [(where, own[i]) for where, own in told], {}))
        start += len(parts)
        chains[name] = tuple(parts)
    names = tuple(b.block.name for b in blocks)
    return Kind(names, uses, blocks[0].block.shortcut_from, chains)


def several(values: Iterable[str]) -> str:
    """Figures that differ, each once: all of a few, else the first and the last."""
    found = list(dict.fromkeys(values))
    return " · ".join(found) if len(found) <= _LISTED else f"{found[0]} … {found[-1]}"


def shape_text(shape: Shape) -> str:
    """Height, width, channels."""
    return "×".join(map(str, shape))


def _shape(block: Block, shape: Shape, rows: Sequence[LayerRow]) -> Shape:
    """The shape that a block gives: of the last layer of its output, branch or pre."""
    ends = dict(zip((layer.name for layer in block.layers()), rows, strict=True))
    chain = block.output or block.branch or block.pre
    return ends[chain[-1].name].shape if chain else shape


def _uses(blocks: Sequence[Placed]) -> Iterator[Use]:
    runs: list[list[Placed]] = []
    for block in blocks:
        if runs and _follow(runs[-1][-1], block):
            runs[-1].append(block)
        else:
            runs.append([block])
    for run in runs:
        one, names = run[0], [b.block.name for b in run]
        yield Use(names[0], names[-1], len(run), one.given, one.shape, one.parameters)


def _follow(a: Placed, b: Placed) -> bool:
    """Whether two blocks of one kind are in one line of the places."""
    same_stage = a.block.name.rpartition(".")[0] == b.block.name.rpartition(".")[0]
    counts = [[(row.shape, row.parameters) for row in one.rows] for one in (a, b)]
    return same_stage and a.given == b.given and counts[0] == counts[1]


def _part(
    layers: Sequence[Layer], told: Sequence[tuple[str, LayerRow]], results: dict[str, str]
) -> Part:
    said = [words(layer) for layer in layers]
    lines = [_details(layers)]
    lines += [
        f"{where}: gives {shape_text(row.shape)}, {row.parameters:,} parameters"
        for where, row in told
    ]
    return Part(
        _label(said),
        said[0].hue,
        "\n".join(lines),
        frozenset(fact for layer in layers for fact in _facts(layer)),
        _inner(layers),
        gives=results.get(layers[0].name, ""),
    )


def _label(said: Sequence[Words]) -> str:
    slots = zip(*(one.figures for one in said), strict=True)
    return said[0].text.format(*map(several, slots))


def _inner(layers: Sequence[Layer]) -> tuple[tuple[str, Parts], ...]:
    """Chains inside of layers, those alike beside one another once."""
    columns = zip(*(layer.chains() for layer in layers), strict=True)
    chains: list[tuple[str, Parts]] = []
    for caption, column in zip(captions(layers[0]), columns, strict=True):
        places = zip(*(chain for _, chain in column), strict=True)
        chains.append((caption, tuple(_inside(place) for place in places)))

    def said(chain: tuple[str, Parts]) -> tuple[str, list[str]]:
        return chain[0], [part.label for part in chain[1]]

    found = []
    for _, alike in groupby((chain for chain in chains if chain[1]), said):
        (caption, parts), *more = alike
        found.append((f"{len(more) + 1} × {caption}" if more else caption, parts))
    return tuple(found)


def _inside(layers: Sequence[Layer]) -> Part:
    said = [words(layer) for layer in layers]
    counts = (f"{sum(q.size for q in parameters_of(x) if q.trainable):,}" for x in layers)
    hover = f"{_details(layers)}\n{several(counts)} parameters"
    return Part(_label(said), said[0].hue, hover, frozenset(), _inner(layers))


def _signature(chain: Layers) -> Hashable:
    return tuple(
        (words(layer).text, tuple(_signature(inner) for _, inner in layer.chains()))
        for layer in chain
    )


def _details(layers: Sequence[Layer]) -> str:
    """The settings of layers of one kind, for people."""
    each = [settings(layer) for layer in layers]
    told = [f"{key} {several(one[key] for one in each)}" for key in each[0]]
    return ", ".join([class_words(layers[0]), *told])


def _facts(layer: Layer) -> Iterator[str]:
    """The settings of a layer and of those that it is made of."""
    yield type(layer).__name__
    for key, value in settings(layer).items():
        yield f"{key} {value}"
    for _, chain in layer.chains():
        for x in chain:
            yield from _facts(x)


def _sum(name: str, shape: Shape, rows: Sequence[LayerRow]) -> LayerRow:
    counts = (sum(row.parameters for row in rows), sum(row.macs for row in rows))
    return LayerRow(name, shape, *counts)
