"""The charts of pages and of picture files, each drawn once, on an axis of matplotlib.

A `gid` is the CSS class of what is drawn on a page; colours, dashes and sizes are those of files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

CHARACTER = 6.4
"""About the width of a character in pixels."""

# Told apart by readers who do not see all colours, and without colour by their dashes and marks.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#7f7f7f", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), "-", "--")
MARKS = "os^DvPX"
_MANY = 120
"""Points of a line above which they get no marks: there would be more marks than line."""
_FAR = 3.0
"""A bound this many times the longest bar lies beyond the axis: bars could not be compared."""
_SMALL = {"fontsize": 8}


@dataclass(frozen=True)
class Series:
    """A line; `number` gives its colour, dash and mark, the same in all charts."""

    label: str
    number: int
    points: Sequence[tuple[float, float, str]]
    """x, y, and the name that is shown where the pointer rests."""
    joined: bool = True
    """Whether a point follows from those before it; otherwise it is drawn by its mark alone."""


@dataclass(frozen=True)
class Group:
    """Places along depth that belong together: a stage."""

    label: str
    first: int
    last: int


@dataclass(frozen=True)
class Bar:
    """A side. `value` is None where the figure was refused, as `note` says."""

    label: str
    value: float | None
    note: str = ""
    spread: tuple[float, float] | None = None
    bound: float | None = None
    peer: bool = False


def depth(
    axis: Any, series: Sequence[Series], bounds: Sequence[float], groups: Sequence[Group]
) -> None:
    """Errors at each place along depth on a logarithmic scale, with their bounds, by stages."""
    values = [y for each in series for _, y, _ in each.points]
    powers = [_power(y) for y in (*values, *bounds) if 0 < y < math.inf] or [-16.0, 0.0]
    low = math.floor(min(powers))
    high = max(math.ceil(max(powers)), low + 1)
    strip = 0.09 * (high - low)

    def up(y: float) -> float:
        # What is not finite stands above the axis, and 0 below it.
        if not 0 <= y < math.inf:
            return high + strip
        return _power(y) if y else low - strip

    ticks = _decades(low, high, "{:.0e}")
    ticks |= {low - strip: "0"} if 0 in values else {}
    ticks |= {high + strip: "NaN, ∞"} if not all(0 <= y < math.inf for y in values) else {}
    axis.set_yticks(list(ticks), ticks.values())
    axis.grid(axis="y", gid="grid", alpha=0.3)
    axis.set(xlim=(-0.5, len(bounds) - 0.5), ylim=(min(ticks) - 0.01, max(ticks) + 0.01))
    axis.set_xticks([])
    for group in groups[1:]:
        axis.axvline(group.first - 0.5, gid="stage", color="#b0b0b0", linestyle=":", linewidth=1)
    for label, x, row in _placed(groups, len(bounds), axis.bbox.width):
        y = -(14 + 16 * row) / axis.bbox.height
        axis.text(x, y, label, ha="center", transform=axis.get_xaxis_transform(), **_SMALL)
    edges = [(i + side, up(y)) for i, y in enumerate(bounds) for side in (-0.5, 0.5)]
    if edges:
        axis.plot(*zip(*edges, strict=True), gid="bound", color=COLOURS[3], linestyle="--")
        style = {"ha": "right", "va": "bottom", "color": COLOURS[3]}
        axis.text(*edges[-1], "bound", gid="bound-label", **style, **_SMALL)
    for each in series:
        _line(axis, each, float, up)


def curve(axis: Any, series: Sequence[Series], over: str) -> None:
    """Something measured over batch, depth or size; logarithmic where it spans much."""
    ys = [y for each in series for _, y, _ in each.points]
    xs = sorted({x for each in series for x, _, _ in each.points})
    up: Callable[[float], float] = float
    if min(ys) > 0 and max(ys) > 20 * min(ys):
        up, low, high = _power, math.floor(_power(min(ys))), math.ceil(_power(max(ys)))
        ticks = _decades(low, high, "{:,.6g}")
        axis.set_yticks(list(ticks), ticks.values())
        axis.set_ylim(low, high)
    else:
        axis.set_ylim(0, 1.05 * max(ys) or 1)
        axis.locator_params(axis="y", nbins=5)
        axis.yaxis.set_major_formatter("{x:,.6g}")
    across: Callable[[float], float] = _power if xs[0] > 0 and xs[-1] > 4 * xs[0] else float
    start, end = across(xs[0]), across(xs[-1])
    room = 0.05 * (end - start) or 1.0
    axis.set_xlim(start - room, end + room)
    shown, free = [], -math.inf
    for x in xs:
        half = len(f"{x:,.6g}") * CHARACTER / 2 * (end - start + 2 * room) / axis.bbox.width
        if across(x) - half > free:
            shown.append(x)
            free = across(x) + 1.3 * half
    axis.set_xticks([across(x) for x in shown], [f"{x:,.6g}" for x in shown])
    axis.set_xlabel(over, gid="axis-label")
    axis.grid(axis="y", gid="grid", alpha=0.3)
    for each in series:
        _line(axis, each, across, up)


def bars(axis: Any, rows: Sequence[Bar], unit: str, one: float = 1.0) -> None:
    """A bar for each side under its name and figure, with whiskers and a tick at the bound; the
    axis counts in `unit`, which is `one` of what the values are in.
    """
    longest = max([v for row in rows for v in (row.value, *(row.spread or ())) if v], default=0.0)
    near = [row.bound for row in rows if row.bound and row.bound <= _FAR * longest]
    end = max([longest, *near]) / one or 1.0
    axis.set(xlim=(0, end), ylim=(len(rows), 0))
    axis.set_yticks([])
    axis.locator_params(axis="x", nbins=5)
    axis.xaxis.set_major_formatter("{x:,.4g}")
    axis.set_axisbelow(True)
    axis.grid(axis="x", gid="grid", alpha=0.3)
    axis.set_xlabel(unit, gid="axis-label")
    width = axis.bbox.width
    for i, row in enumerate(rows):
        note = fitted(row.note, width * 0.6)
        label = fitted(row.label, width - len(note) * CHARACTER - 12)
        axis.text(0, i + 0.34, label, gid="bar-label", **_SMALL)
        at_end = {"ha": "right", "transform": axis.get_yaxis_transform()}
        axis.text(1, i + 0.34, note, gid="bar-note", **at_end, **_SMALL)
        middle = i + 0.62
        if row.value is None:
            axis.barh(middle, 0.14 * end, 0.32, gid="refused", fill=False, edgecolor=COLOURS[3])
            style = {"ha": "center", "va": "center"}
            axis.text(0.07 * end, middle, "refused", gid="refused-label", **style, **_SMALL)
        else:
            colour, kind = (COLOURS[6], "bar peer") if row.peer else (COLOURS[0], "bar")
            axis.barh(middle, row.value / one, 0.32, gid=kind, color=colour)
        if row.value is not None and row.spread is not None:
            a, b = (min(side / one, end) for side in row.spread)
            up, down = middle - 0.1, middle + 0.1
            xs = [a, a, math.nan, a, b, math.nan, b, b]
            ys = [up, down, math.nan, middle, middle, math.nan, up, down]
            axis.plot(xs, ys, gid="whisker", color="black", linewidth=1, clip_on=False)
        if row.bound is not None:
            xs, ys = [row.bound / one] * 2, [middle - 0.23, middle + 0.23]
            if not row.bound <= end * one:  # beyond the axis: an arrow
                xs, ys = [0.985 * end, end, 0.985 * end], [middle - 0.12, middle, middle + 0.12]
            axis.plot(xs, ys, gid="limit", color=COLOURS[3], clip_on=False)


def titles(series: Sequence[Series], figure: Callable[[float], str]) -> dict[str, Iterator[str]]:
    """What marks are called, by their class."""
    return {
        f"mark s{each.number % len(MARKS)}": iter(
            [f"{each.label}, {name}: {figure(y)}" for _, y, name in each.points]
        )
        for each in series
    }


def line(axis: Any, xs: Sequence[float], ys: Sequence[float], label: str, number: int) -> None:
    """One curve, with a colour and a dash of its own."""
    style = number % len(COLOURS)
    kind = f"line s{number % len(MARKS)}"
    dash = {"color": COLOURS[style], "linestyle": DASHES[style], "linewidth": 1.6}
    axis.plot(xs, ys, gid=kind, label=label, **dash)


def marks(
    axis: Any, xs: Sequence[float], ys: Sequence[float], number: int, label: str | None = None
) -> None:
    """The marks of a curve, or, with a label, of points that no curve joins."""
    style = number % len(MARKS)
    dot = {"marker": MARKS[style], "linestyle": "", "color": COLOURS[style], "markersize": 9}
    dot |= {"markeredgecolor": "white"}
    axis.plot(xs, ys, gid=f"mark s{style}", clip_on=False, label=label, **dot)


def fitted(text: str, width: float) -> str:
    """A label, cut if it is wider than there is room."""
    room = max(int(width / CHARACTER), 1)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _line(
    axis: Any, each: Series, across: Callable[[float], float], up: Callable[[float], float]
) -> None:
    xs, ys = [across(x) for x, _, _ in each.points], [up(y) for _, y, _ in each.points]
    if not each.joined:
        marks(axis, xs, ys, each.number, each.label)
        return
    line(axis, xs, ys, each.label, each.number)
    if len(xs) <= _MANY:
        marks(axis, xs, ys, each.number)


def _power(value: float) -> float:
    return math.log10(min(max(value, 1e-300), 1e300))


def _decades(low: int, high: int, form: str) -> dict[float, str]:
    """Powers of ten, every so many that no more than seven are left."""
    step = max(1, math.ceil((high - low) / 6))
    return {float(power): form.format(10.0**power) for power in range(high, low - 1, -step)}


def _placed(groups: Sequence[Group], places: int, width: float) -> list[tuple[str, float, int]]:
    """Names of stages, where they stand, and on which of two lines, if there is room at all."""
    found, ends = [], [-math.inf, -math.inf]
    for group in groups:
        half = len(group.label) * CHARACTER / 2 * places / width
        middle = (group.first + group.last) / 2
        row = next((i for i, end in enumerate(ends) if middle - half > end), None)
        if row is not None:
            found.append((group.label, middle, row))
            ends[row] = middle + 1.2 * half
    return found
