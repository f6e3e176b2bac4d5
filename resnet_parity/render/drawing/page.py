"""A whole drawing: the row of stages, and below it stem, kinds of blocks and head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from resnet_parity.render.drawing import comparison
from resnet_parity.render.drawing.canvas import Canvas, text_width
from resnet_parity.render.drawing.kinds import (
    Kind,
    Net,
    Parts,
    Placed,
    Use,
    kind_of,
    shape_text,
    taken_apart,
)
from resnet_parity.render.drawing.pieces import Piece, beside, block, whole
from shared_spec.plan.network import Plan

_WIDTH = 1180.0
_MARGIN = 20.0
_LINE = 16.0
_NAME = 1.25
"""Of the type of names, against the rest."""
_RUNS = 4
_USES = 6
"""Lines of places under a kind's title; the rest is told where the pointer rests."""


@dataclass(frozen=True)
class Drawn:
    """A plan under a name, on images of `size` (H, W)."""

    name: str
    plan: Plan
    size: tuple[int, int]


def draw(one: Drawn) -> str:
    """An SVG of a net: stages in a row, then each kind of block once, stem and head.

    Text can be selected, colours follow the reader's preference for light or dark, and boxes tell
    shapes, parameters and all settings of their layers where the pointer rests.

    Raises:
        SpecError: if the image is too small for the net.
    """
    net = taken_apart(one.plan, one.size)
    letters: dict[object, str] = {}
    members: dict[str, list[Placed]] = {}
    for _, blocks in net.stages:
        for placed in blocks:
            letter = letters.setdefault(placed.signature, _letter(len(letters)))
            members.setdefault(letter, []).append(placed)
    row = _row(net, lambda placed: letters[placed.signature])
    ends = ("Stem", net.stem), ("Head", net.head)
    panels = [_chain_panel(title, parts) for title, parts in ends if parts]
    for letter, kind in zip(members, map(kind_of, members.values()), strict=True):
        panels.append(_panel(f"Block {letter}", _places(kind), block(kind)))
    return _page(one.name, [_facts(net)], [row], panels, one.name)


def compare(a: Drawn, b: Drawn, notes: Sequence[str] = ()) -> str:
    """As `draw`, of two nets side by side; what differs has a frame of its own.

    `notes` are lines below the title.

    Raises:
        SpecError: if an image is too small for its net.
    """
    nets = [taken_apart(one.plan, one.size) for one in (a, b)]
    pairs = comparison.pairs(*nets)
    letter = {}
    for i, pair in enumerate(pairs):
        for side, kind in enumerate(pair):
            for name in kind.names if kind else ():
                letter[side, name] = _letter(i)
    rows = []
    for side, (one, net) in enumerate(zip((a, b), nets, strict=True)):
        other = nets[1 - side]
        inner = _row(net, partial(_of, letter, side), other)
        rows.append(_titled(f"{one.name}: {_facts(net)}", inner))
    stems = comparison.marked(nets[0].stem, nets[1].stem)
    heads = comparison.marked(nets[0].head, nets[1].head)
    names = a.name, b.name
    ends = ("Stem", stems), ("Head", heads)
    panels = [_pair_of_chains(title, names, both) for title, both in ends if any(both)]
    panels += [_pair(f"Block {_letter(i)}", names, pair) for i, pair in enumerate(pairs)]
    title = f"{a.name} and {b.name}"
    return _page(title, [*notes, "What differs has a thick frame."], rows, panels, title)


def _of(letter: Mapping[tuple[int, str], str], side: int, placed: Placed) -> str:
    return letter[side, placed.block.name]


def _facts(net: Net) -> str:
    return (
        f"images of {shape_text(net.given)}, {net.parameters:,} parameters, "
        f"{net.macs / 1e9:.2f} G multiply-accumulates"
    )


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else f"{_letter(i // 26 - 1)}{_letter(i % 26)}"


def _row(net: Net, letter: Callable[[Placed], str], other: Net | None = None) -> Piece:
    """Stem, stages and head from left to right, with what `other` has otherwise marked."""
    cells = [_end(net, 0, other), *_stages(net, letter, other), _end(net, 1, other)]
    return _flowing([cell for cell in cells if cell is not None])


def _end(net: Net, i: int, other: Net | None) -> Piece | None:
    """The box of the stem, or of the head."""
    row, parts = net.ends[i], (net.stem, net.head)[i]
    if not parts:
        return None
    same = other is None or (row, parts) == (other.ends[i], (other.stem, other.head)[i])
    lines = [row.name, shape_text(row.shape), f"{row.parameters:,} parameters"]
    lines += [f"→ {part.gives}" for part in parts if part.gives]
    return _cell(lines, "\n".join(part.label for part in parts), not same)


def _stages(net: Net, letter: Callable[[Placed], str], other: Net | None) -> Iterator[Piece]:
    def said(of: Net, i: int) -> list[tuple[object, ...]] | None:
        if i >= len(of.stages):
            return None
        return [(b.signature, b.shape, b.parameters) for b in of.stages[i][1]]

    for i, (name, blocks) in enumerate(net.stages):
        runs = [(text, len([*run])) for text, run in groupby(map(letter, blocks))]
        told = [f"{count} × {text}" if count > 1 else text for text, count in runs]
        count = sum(b.parameters for b in blocks)
        if len(told) > _RUNS:
            told = [*told[: _RUNS - 1], "…", told[-1]]
        lines = [name, ", ".join(told), shape_text(blocks[-1].shape), f"{count:,} parameters"]
        lines += [f"→ {net.results[b.block.name]}" for b in blocks if b.block.name in net.results]
        hover = f"{len(blocks)} blocks\n{name}: gives {lines[2]}, {count:,} parameters"
        yield _cell(lines, hover, other is not None and said(net, i) != said(other, i))


def _cell(lines: Sequence[str], hover: str, differs: bool) -> Piece:
    width = max(100.0, *(text_width(line, _NAME if i == 0 else 1) for i, line in enumerate(lines)))
    width, height = width + 16, _LINE * len(lines) + 12

    def paint(canvas: Canvas, x: float, y: float) -> None:
        canvas.group(hover)
        canvas.rectangle(x, y, width, height, "panel" + (" differs" if differs else ""))
        for i, line in enumerate(lines):
            kind = "name middle" if i == 0 else "middle"
            canvas.text(x + width / 2, y + _LINE * (i + 1) + 2, line, kind)
        canvas.end()

    return Piece(width, height, width / 2, paint)


def _flowing(cells: Sequence[Piece]) -> Piece:
    """Cells in a row with lines between them, which goes on below where the page ends."""
    gap, lines = 24.0, list[list[Piece]]([[]])
    for cell in cells:
        if lines[-1] and _wide(lines[-1], gap) + gap + cell.width > _WIDTH:
            lines.append([])
        lines[-1].append(cell)
    heights = [max(cell.height for cell in line) for line in lines]

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for line, height in zip(lines, heights, strict=True):
            left = x
            for i, cell in enumerate(line):
                if i:
                    at = y + 2 * _LINE
                    canvas.flow((left - gap, at), (left, at))
                cell.paint(canvas, left, y)
                left += cell.width + gap
            y += height + _LINE

    width = max(_wide(line, gap) for line in lines)
    return Piece(width, sum(heights) + _LINE * (len(lines) - 1), 0, paint)


def _wide(pieces: Sequence[Piece], gap: float) -> float:
    return sum(piece.width for piece in pieces) + gap * (len(pieces) - 1)


def _panel(title: str, places: Sequence[str], inner: Piece) -> Piece:
    """A piece under its title and a line for each place that it has."""
    told = [*places[:_USES], *([f"and {len(places) - _USES} more"] if len(places) > _USES else [])]
    top = _LINE * (len(told) + 1) + 14
    widths = [text_width(title, _NAME), *map(text_width, told), inner.width]
    width, height = max(widths) + 24, top + inner.height + 12

    def paint(canvas: Canvas, x: float, y: float) -> None:
        canvas.group("\n".join([title, *places]))
        canvas.text(x, y + 13, title, "name")
        for i, line in enumerate(told, 1):
            canvas.text(x, y + 13 + _LINE * i, line, "soft")
        canvas.end()
        inner.paint(canvas, x + (width - 24 - inner.width) / 2, y + top)

    return Piece(width, height, width / 2, paint)


def _chain_panel(title: str, parts: Parts) -> Piece:
    return _panel(title, [], whole(parts))


def _places(kind: Kind) -> list[str]:
    return [_place(use) for use in kind.uses]


def _place(use: Use) -> str:
    times, each = (f" ({use.count} ×)", " each") if use.count > 1 else ("", "")
    given = f"{shape_text(use.given)} → " if use.given != use.shape else ""
    shapes = f"{given}{shape_text(use.shape)}"
    return f"{use.where}{times}: {shapes}, {use.parameters:,} parameters{each}"


def _pair(title: str, names: tuple[str, str], pair: tuple[Kind | None, Kind | None]) -> Piece:
    """A kind of both nets: once where nothing differs, else side by side."""
    a, b = pair
    sides = [
        _panel(f"{title}: {name}", _places(kind), block(kind))
        for name, kind in zip(names, pair, strict=True)
        if kind
    ]
    if a and b and not comparison.differs(a) and not comparison.differs(b):
        return _panel(f"{title}: the same in both", _places(a), block(a))
    return beside(sides, 24)


def _pair_of_chains(title: str, names: tuple[str, str], pair: tuple[Parts, Parts]) -> Piece:
    if not any(part.differs for parts in pair for part in parts):
        return _chain_panel(f"{title}: the same in both", pair[0])
    sides = zip(names, pair, strict=True)
    return beside([_chain_panel(f"{title}: {name}", parts) for name, parts in sides if parts], 24)


def _titled(title: str, inner: Piece) -> Piece:
    def paint(canvas: Canvas, x: float, y: float) -> None:
        canvas.text(x, y + 12, title, "soft")
        inner.paint(canvas, x, y + 22)

    width = max(text_width(title), inner.width)
    return Piece(width, inner.height + 22, inner.axis, paint)


def _page(
    title: str, lines: Sequence[str], rows: Sequence[Piece], panels: Sequence[Piece], label: str
) -> str:
    """The title and lines of text, rows below one another, and as many panels in each as fit."""
    canvas, y = Canvas(), _MARGIN + 18
    canvas.text(_MARGIN, y, title, "title")
    for line in lines:
        y += _LINE + 2
        canvas.text(_MARGIN, y, line, "soft")
    y += _LINE
    right = max([text_width(title, 1.8), *map(text_width, lines)])
    for row in rows:
        row.paint(canvas, _MARGIN, y)
        y += row.height + _LINE
        right = max(right, row.width)
    left, tallest = 0.0, 0.0
    for panel in panels:
        if left and left + panel.width > _WIDTH:
            y, left, tallest = y + tallest + _LINE, 0.0, 0.0
        panel.paint(canvas, _MARGIN + left, y + _LINE)
        left, tallest = left + panel.width + 24, max(tallest, panel.height)
        right = max(right, left - 24)
    return canvas.svg(right + 2 * _MARGIN, y + tallest + 2 * _MARGIN, label)
