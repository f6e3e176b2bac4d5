"""Bar charts: speed and memory of several sides, one below the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

from resnet_parity.report import svg
from resnet_parity.report.charts import Chart
from resnet_parity.report.svg import CHARACTER, WIDTH, Scale, add

_ROW, _BAR, _TOP, _BOTTOM = 44.0, 14.0, 2.0, 36.0
_FAR = 3.0
"""A bound this many times the longest bar lies beyond the axis: bars could not be compared."""


@dataclass(frozen=True)
class Bar:
    """A side. `value` is None where the figure was refused, as `note` says."""

    label: str
    value: float | None
    note: str = ""
    spread: tuple[float, float] | None = None
    bound: float | None = None
    peer: bool = False


def bars(chart: Chart, rows: Sequence[Bar], unit: str, one: float = 1.0) -> Markup:
    """A bar for each side under its name and figure, with whiskers and a tick at the bound; the
    axis counts in `unit`, which is `one` of what the values are in.
    """
    height = _TOP + _ROW * len(rows) + _BOTTOM
    root = svg.picture(chart.ident, chart.title, chart.text, height)
    longest = max([v for row in rows for v in (row.value, *(row.spread or ())) if v], default=0.0)
    near = [row.bound for row in rows if row.bound and row.bound <= _FAR * longest]
    ticks = svg.round_ticks(max([longest, *near]))
    across = Scale(0, ticks[-1], 1, WIDTH - 14)
    foot = _TOP + _ROW * len(rows) + 4
    for tick in ticks:
        x = across(tick)
        for i in range(len(rows)):
            y = _TOP + _ROW * i
            add(root, "line", "grid", x1=x, x2=x, y1=y + 18, y2=y + _ROW - 6)
        anchor = "start" if tick == 0 else "middle" if tick < ticks[-1] else "end"
        if tick == ticks[-1] and anchor == "end":
            x = WIDTH - 1
        add(root, "text", "tick", f"{tick / one:,.4g}", x=x, y=foot + 14, text_anchor=anchor)
    add(root, "text", "axis-label", unit, x=WIDTH / 2, y=foot + 29, text_anchor="middle")
    for i, row in enumerate(rows):
        y = _TOP + _ROW * i
        note = svg.fitted(row.note, WIDTH * 0.6)
        room = WIDTH - len(note) * CHARACTER - 12
        add(root, "text", "bar-label", svg.fitted(row.label, room), x=1, y=y + 13)
        add(root, "text", "bar-note", note, x=WIDTH - 1, y=y + 13, text_anchor="end")
        _bar(root, row, across, y + 20)
    return svg.finished(root)


def _bar(root: ET.Element, row: Bar, across: Scale, y: float) -> None:
    middle = y + _BAR / 2
    if row.value is None:
        add(root, "rect", "refused", x=1.5, y=y + 0.5, width=60, height=_BAR - 1, rx=2)
        add(root, "text", "refused-label", "refused", x=31, y=y + 11, text_anchor="middle")
    else:
        kind = "bar peer" if row.peer else "bar"
        width = max(across(row.value) - across(0), 1.5)
        add(root, "rect", kind, x=across(0), y=y, width=width, height=_BAR)
        if row.spread is not None:
            a, b = (across(min(end, across.high)) for end in row.spread)
            d = f"M{_xy(a, middle - 4)}V{_n(middle + 4)}M{_xy(a, middle)}H{_n(b)}"
            add(root, "path", "whisker", d=f"{d}M{_xy(b, middle - 4)}V{_n(middle + 4)}")
    if row.bound is None or not math.isfinite(row.bound):
        return
    if row.bound <= across.high:
        x = across(row.bound)
        add(root, "line", "limit", x1=x, x2=x, y1=y - 3, y2=y + _BAR + 3)
    else:
        tip = WIDTH - 2.0
        d = f"M{_xy(tip - 5, middle - 5)}L{_xy(tip, middle)}L{_xy(tip - 5, middle + 5)}"
        add(root, "path", "limit", d=d)


def _xy(x: float, y: float) -> str:
    return f"{svg.number(x)} {svg.number(y)}"


_n = svg.number
