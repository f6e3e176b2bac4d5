"""Pieces of a drawing that know their size: boxes, chains of them, blocks with their sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resnet_parity.render.drawing.canvas import Canvas, text_width
from resnet_parity.render.drawing.kinds import Kind, Part, Parts
from shared_spec.plan.network import CHAINS

_ROW = 20.0
_ARROW = 14.0
_GAP = 3.0
_RADIUS = 8.0
_BESIDE = 26.0
_LIGHT = ("norm", "activation")
"""Hues of what follows a convolution closely."""


@dataclass(frozen=True)
class Piece:
    """Something to draw: the flow enters it above and leaves it below at `axis`, from its left."""

    width: float
    height: float
    axis: float
    paint: Callable[[Canvas, float, float], None]


def chain(parts: Parts) -> Piece:
    """Boxes below one another; none is a piece without height."""
    plain = (text_width(part.label) + 14 for part in parts if not part.inner)
    wide = max([96.0, *plain])
    pieces = [_frame(part) if part.inner else _plain(part, wide) for part in parts]
    gaps = [0.0, *(_GAP if part.hue in _LIGHT else _ARROW for part in parts[1:])]
    left = max((piece.axis for piece in pieces), default=0.0)
    right = max((piece.width - piece.axis for piece in pieces), default=0.0)
    height = sum(gaps[: len(pieces)]) + sum(piece.height for piece in pieces)

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for gap, piece in zip(gaps, pieces, strict=False):
            if gap:
                ends = (x + left, y), (x + left, y + gap)
                canvas.flow(*ends, arrow=gap == _ARROW)
            y += gap
            piece.paint(canvas, x + left - piece.axis, y)
            y += piece.height

    return Piece(left + right, height, left, paint)


def block(kind: Kind) -> Piece:
    """`output(branch(pre(x)) + shortcut)`, the shortcut on the right."""
    if kind.shortcut_from is None:
        return whole(tuple(part for parts in kind.chains.values() for part in parts))
    pre, branch, shortcut, output = (chain(kind.chains[name]) for name in CHAINS)
    column = (pre, branch, output)
    axis = max(piece.axis for piece in column)
    right = max(piece.width - piece.axis for piece in column)
    beside = axis + right + _BESIDE
    from_input = kind.shortcut_from == "input"
    fork = _ARROW / 2 if from_input or not pre.height else _ARROW + pre.height + _ARROW / 2
    start = _ARROW + pre.height + (_ARROW if pre.height and branch.height else 0)
    below = max(start + branch.height, fork + _ARROW + shortcut.height) + _ARROW
    total = below + 2 * _RADIUS + (_ARROW + output.height if output.height else 0) + _ARROW

    def paint(canvas: Canvas, x: float, y: float) -> None:
        def down(top: float, bottom: float, arrow: bool = True) -> None:
            canvas.flow((x + axis, y + top), (x + axis, y + bottom), arrow=arrow)

        side, middle = x + beside + shortcut.axis, y + below + _RADIUS
        way = "differs" if kind.differs else ""
        line = [(x + axis, y + fork), (side, y + fork)]
        if shortcut.height:
            top = y + fork + _ARROW
            canvas.flow(*line, (side, top), kind=way)
            shortcut.paint(canvas, side - shortcut.axis, top)
            line = [(side, top + shortcut.height)]
        canvas.flow(*line, (side, middle), (x + axis + _RADIUS, middle), kind=way)
        down(0, _ARROW if pre.height else start, bool(pre.height or branch.height))
        pre.paint(canvas, x + axis - pre.axis, y + _ARROW)
        if pre.height:
            down(_ARROW + pre.height, start)
        branch.paint(canvas, x + axis - branch.axis, y + start)
        down(start + branch.height, below)
        canvas.circle(x + axis, middle, _RADIUS, "sum")
        canvas.text(x + axis, middle + 4, "+", "middle")
        after = below + 2 * _RADIUS
        if output.height:
            down(after, after + _ARROW)
            output.paint(canvas, x + axis - output.axis, y + after + _ARROW)
            after += _ARROW + output.height
        down(after, after + _ARROW)

    return Piece(beside + max(shortcut.width, 8), total, axis, paint)


def whole(parts: Parts) -> Piece:
    """A chain with the lines that enter and leave it."""
    inner = chain(parts)

    def paint(canvas: Canvas, x: float, y: float) -> None:
        at, end = x + inner.axis, y + _ARROW + inner.height
        canvas.flow((at, y), (at, y + _ARROW))
        inner.paint(canvas, x, y + _ARROW)
        canvas.flow((at, end), (at, end + _ARROW))

    return Piece(inner.width, inner.height + 2 * _ARROW, inner.axis, paint)


def beside(pieces: Sequence[Piece], gap: float) -> Piece:
    """Pieces next to one another, their tops at one height."""
    width = sum(piece.width for piece in pieces) + gap * (len(pieces) - 1)

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for piece in pieces:
            piece.paint(canvas, x, y)
            x += piece.width + gap

    return Piece(width, max(piece.height for piece in pieces), width / 2, paint)


def _plain(part: Part, width: float) -> Piece:
    gives = f"→ {part.gives}" if part.gives else ""

    def paint(canvas: Canvas, x: float, y: float) -> None:
        canvas.group(part.hover)
        canvas.rectangle(x, y, width, _ROW, part.hue + (" differs" if part.differs else ""))
        canvas.text(x + width / 2, y + 14, part.label, "middle")
        canvas.end()
        if gives:
            canvas.text(x + width + 6, y + 14, gives, "soft")

    return Piece(width + (text_width(gives) + 8 if gives else 0), _ROW, width / 2, paint)


def _frame(part: Part) -> Piece:
    """The inner chains side by side, what they are part of above them."""
    columns = [_captioned(caption, chain(parts)) for caption, parts in part.inner]
    inner = beside(columns, 12)
    width = max(inner.width, text_width(part.label)) + 16
    height = inner.height + 32

    def paint(canvas: Canvas, x: float, y: float) -> None:
        canvas.group(part.hover)
        canvas.rectangle(x, y, width, height, "panel")
        canvas.rectangle(x, y, width, height, "frame" + (" differs" if part.differs else ""))
        canvas.text(x + width / 2, y + 15, part.label, "middle")
        canvas.end()
        inner.paint(canvas, x + (width - inner.width) / 2, y + 24)

    return Piece(width, height, width / 2, paint)


def _captioned(caption: str, piece: Piece) -> Piece:
    width = max(piece.width, text_width(caption))
    left = (width - piece.width) / 2

    def paint(canvas: Canvas, x: float, y: float) -> None:
        canvas.text(x + left + piece.axis, y + 12, caption, "soft middle")
        piece.paint(canvas, x + left, y + 20)

    return Piece(width, piece.height + 20, left + piece.axis, paint)
