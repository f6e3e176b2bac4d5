"""Line charts: errors along depth, and scaling curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

from resnet_parity.report import number_format, svg
from resnet_parity.report.svg import WIDTH, Scale, add

Point = tuple[float, float]

_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 270.0, 56.0, 14.0, 14.0, 50.0
_STRIP = 22.0
"""Height of the strip below a logarithmic axis for 0, and of that above for what is not finite."""
_MANY = 120
"""Points of a line above which they get no marks: there would be more marks than line."""


@dataclass(frozen=True)
class Series:
    """A line; `number` gives its colour, dash and mark, the same in all charts."""

    label: str
    number: int
    points: Sequence[Point]
    names: Sequence[str] = ()
    """Of the points, shown where the pointer rests."""


@dataclass(frozen=True)
class Group:
    """Places along depth that belong together: a stage."""

    label: str
    first: int
    last: int


@dataclass(frozen=True)
class Chart:
    """What every chart says besides its lines."""

    ident: str
    title: str
    text: str


def depth(
    chart: Chart, series: Sequence[Series], bounds: Sequence[float], groups: Sequence[Group]
) -> Markup:
    """Errors at each place along depth on a logarithmic scale, with their bounds, by stages."""
    across = Scale(-0.5, len(bounds) - 0.5, _LEFT, WIDTH - _RIGHT)
    stages = _placed(groups, across)
    foot = 20.0 + 16 * max((row for *_, row in stages), default=0)
    height = _HEIGHT - _BOTTOM + foot + 10
    root = svg.picture(chart.ident, chart.title, chart.text, height)
    values = [y for line in series for _, y in line.points]
    finite = [y for y in [*values, *bounds] if 0 < y < math.inf]
    low, high = svg.decades(min(finite, default=1e-16), max(finite, default=1.0))
    zero = any(y == 0 for y in values)
    lost = any(not 0 <= y < math.inf for y in values)
    top, bottom = _TOP + _STRIP * lost, _HEIGHT - _BOTTOM - _STRIP * zero
    up = Scale(low, high, bottom, top, logarithmic=True)

    def place(y: float) -> float:
        if math.isnan(y) or math.isinf(y):
            return top - _STRIP + 6
        return up(y) if y > 0 else bottom + _STRIP

    ticks = [(up(y), f"{y:.0e}") for y in svg.log_ticks(low, high)]
    ticks += [(bottom + _STRIP, "0")] * zero + [(top - _STRIP + 6, "NaN, ∞")] * lost
    _rows(root, ticks)
    for group in groups[1:]:
        x = across(group.first - 0.5)
        add(root, "line", "stage", x1=x, x2=x, y1=_TOP, y2=_HEIGHT - _BOTTOM + 6)
    for label, x, row in stages:
        y = _HEIGHT - _BOTTOM + 20 + 16 * row
        add(root, "text", "tick", label, x=x, y=y, text_anchor="middle")
    edges = [(across(i + side), place(y)) for i, y in enumerate(bounds) for side in (-0.5, 0.5)]
    if edges:
        add(root, "path", "bound", d=svg.path(edges))
        x, y = edges[-1]
        above = y - 5 if y > top + 12 else y + 13
        add(root, "text", "bound-label", "bound", x=x, y=above, text_anchor="end")
    for line in series:
        _line(root, line, across, place, number_format.error)
    return svg.finished(root)


def curve(
    chart: Chart,
    series: Sequence[Series],
    over: str,
    figure: Callable[[float], str],
) -> Markup:
    """Something measured over batch, depth or size; logarithmic where it spans much."""
    root = svg.picture(chart.ident, chart.title, chart.text, _HEIGHT)
    ys = [y for line in series for _, y in line.points]
    xs = sorted({x for line in series for x, _ in line.points})
    top, bottom = _TOP, _HEIGHT - _BOTTOM
    if min(ys) > 0 and max(ys) > 20 * min(ys):
        low, high = svg.decades(min(ys), max(ys))
        ticks = svg.log_ticks(low, high)
        up = Scale(low, high, bottom, top, logarithmic=True)
    else:
        ticks = svg.round_ticks(max(ys))
        up = Scale(0, ticks[-1], bottom, top)
    wide = xs[0] > 0 and xs[-1] > 4 * xs[0]
    across = Scale(xs[0], xs[-1], _LEFT + 12, WIDTH - _RIGHT - 12, logarithmic=wide)
    _rows(root, [(up(y), f"{y:,.6g}") for y in ticks])
    end = -math.inf
    for x in xs:
        label = f"{x:,.6g}"
        half = len(label) * svg.CHARACTER / 2
        if across(x) - half > end + 4:
            add(root, "text", "tick", label, x=across(x), y=bottom + 18, text_anchor="middle")
            end = across(x) + half
        add(root, "line", "axis", x1=across(x), x2=across(x), y1=bottom, y2=bottom + 4)
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    add(root, "text", "axis-label", over, x=middle, y=bottom + 38, text_anchor="middle")
    for line in series:
        _line(root, line, across, up, figure)
    return svg.finished(root)


def swatch(number: int) -> Markup:
    """A piece of a line with its mark, for a legend."""
    root = ET.Element(
        "svg", {"viewBox": "0 0 30 14", "class": "swatch", "aria-hidden": "true", "width": "30"}
    )
    kind = _kind(number)
    add(root, "path", f"line {kind}", d="M1 7H29")
    add(root, "path", f"mark {kind}", d=svg.mark(number, 15, 7))
    return svg.finished(root)


def _rows(root: ET.Element, ticks: Sequence[tuple[float, str]]) -> None:
    for y, label in ticks:
        add(root, "line", "grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y)
        add(root, "text", "tick", label, x=_LEFT - 7, y=y + 4, text_anchor="end")


def _placed(groups: Sequence[Group], across: Scale) -> list[tuple[str, float, int]]:
    """Names of stages, where they stand, and on which of two lines, if there is room at all."""
    found, ends = [], [-math.inf, -math.inf]
    for group in groups:
        half = len(group.label) * svg.CHARACTER / 2
        middle = (across(group.first - 0.5) + across(group.last + 0.5)) / 2
        middle = max(min(middle, WIDTH - half), half)
        row = next((i for i, end in enumerate(ends) if middle - half > end + 4), None)
        if row is not None:
            found.append((group.label, middle, row))
            ends[row] = middle + half
    return found


def _line(
    root: ET.Element,
    line: Series,
    across: Scale,
    up: Callable[[float], float],
    figure: Callable[[float], str],
) -> None:
    kind = _kind(line.number)
    places = [(across(x), up(y)) for x, y in line.points]
    if places:
        add(root, "path", f"line {kind}", d=svg.path(places))
    if len(places) > _MANY:
        return
    names = line.names or [f"{x:,.6g}" for x, _ in line.points]
    for (x, y), (_, value), name in zip(places, line.points, names, strict=True):
        dot = ET.SubElement(
            root, "path", {"class": f"mark {kind}", "d": svg.mark(line.number, x, y)}
        )
        ET.SubElement(dot, "title").text = f"{line.label}, {name}: {figure(value)}"


def _kind(number: int) -> str:
    return f"s{number % svg.MARKS}"
