"""What is behind the stages, drawn as a net of chains: each below all that enters it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from resnet_parity.render.drawing.canvas import Canvas, text_width
from resnet_parity.render.drawing.kinds import Joint
from resnet_parity.render.drawing.pieces import Piece, chain

_BETWEEN = 32.0
"""Of rows."""
_TURN = 11.0
"""Above a piece and below a row, where lines go sideways."""
_LANE = 18.0
"""Beside each column, for lines that pass by what is in it."""


@dataclass
class _Grid:
    """Places of joints and of what they come from, by row and column."""

    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    pieces: dict[str, Piece] = field(default_factory=dict)
    lowest: list[str] = field(default_factory=list)
    """In each column."""

    def put(self, name: str, row: int, column: int | None, piece: Piece) -> None:
        """In a column whose lowest it is then, or in a new one."""
        if column is None:
            column = len(self.lowest)
            self.lowest.append(name)
        self.lowest[column] = name
        self.places[name], self.pieces[name] = (row, column), piece

    def add(self, joint: Joint) -> None:
        """Below all of its sources, and straight below one of them where there is room."""
        sources = [name for name in joint.sources if name]
        for name in sources:
            if name not in self.places:
                self.put(name, 0, None, _named(name))
        row = 1 + max(self.places[name][0] for name in sources)
        columns = (self.places[name][1] for name in reversed(sources) if name in self.lowest)
        self.put(joint.name, row, next(columns, None), chain(joint.parts))

    def passed(self, source: str, row: int) -> bool:
        """Whether something is in a source's column above a row."""
        start, column = self.places[source]
        return any(c == column and start < r < row for r, c in self.places.values())


def joints_piece(joints: Sequence[Joint]) -> Piece:
    """All of them, the stages from which they start in the first row. What only gives the size of
    an enlargement is told in its box.
    """
    grid = _Grid()
    for joint in joints:
        grid.add(joint)
    columns = range(len(grid.lowest))
    rows = range(1 + max(row for row, _ in grid.places.values()))
    at = {place: grid.pieces[name] for name, place in grid.places.items()}
    left = [max(piece.axis for (_, c), piece in at.items() if c == column) for column in columns]
    right = [
        max(piece.width - piece.axis for (_, c), piece in at.items() if c == column) + _LANE
        for column in columns
    ]
    tall = [max(piece.height for (r, _), piece in at.items() if r == row) for row in rows]
    starts = [0.0, *accumulate(a + b for a, b in zip(left, right, strict=True))]
    axes = [start + one for start, one in zip(starts, left, strict=False)]
    tops = [0.0, *accumulate(height + _BETWEEN for height in tall)]

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for joint in joints:
            row, column = grid.places[joint.name]
            end = x + axes[column], y + tops[row]
            for source in _flowing(joint):
                r, c = grid.places[source]
                top, side = y + tops[r] + grid.pieces[source].height, x + axes[c]
                turn = end[1] - _TURN
                points = [(side, top)]
                if grid.passed(source, row):
                    side, fork = x + starts[c + 1] - _LANE / 2, y + tops[r + 1] - _BETWEEN + _TURN
                    points += [(points[0][0], fork), (side, fork)]
                canvas.flow(*points, (side, turn), (end[0], turn), end)
        for name, (row, column) in grid.places.items():
            piece = grid.pieces[name]
            piece.paint(canvas, x + axes[column] - piece.axis, y + tops[row])

    return Piece(starts[-1], tops[-1] - _BETWEEN, starts[-1] / 2, paint)


def _flowing(joint: Joint) -> tuple[str, ...]:
    """The sources whose numbers enter."""
    return joint.sources[:1] if joint.sized else joint.sources


def _named(name: str) -> Piece:
    width = text_width(name)

    def paint(canvas: Canvas, x: float, y: float) -> None:
        canvas.text(x + width / 2, y + 12, name, "soft middle")

    return Piece(width, 16, width / 2, paint)
