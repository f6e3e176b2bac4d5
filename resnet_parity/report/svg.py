"""Drawing in SVG: elements, scales and axes. Colours and type are the page's style sheet's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

WIDTH = 440
"""Of every chart, in units that are about a pixel: on a phone it is drawn at 3/4 of this size, and
its type with it, so that a chart is not made wider than that.
"""
CHARACTER = 6.4
"""About the width of a character of the charts' type."""


def picture(ident: str, title: str, text: str, height: float) -> ET.Element:
    """An image for those who see it, and its title and description for those who do not."""
    root = ET.Element(
        "svg",
        {
            "viewBox": f"0 0 {WIDTH} {number(height)}",
            "role": "img",
            "aria-labelledby": f"{ident}-title {ident}-text",
        },
    )
    ET.SubElement(root, "title", {"id": f"{ident}-title"}).text = title
    ET.SubElement(root, "desc", {"id": f"{ident}-text"}).text = text
    return root


def add(parent: ET.Element, tag: str, kind: str, text: str = "", **places: float | str) -> None:
    """One element with a CSS class, whose places are numbers."""
    attributes = {
        key.replace("_", "-"): value if isinstance(value, str) else number(value)
        for key, value in places.items()
    }
    ET.SubElement(parent, tag, {"class": kind, **attributes}).text = text or None


def finished(root: ET.Element) -> Markup:
    """The picture as markup: ElementTree has escaped every text in it."""
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704


def number(value: float) -> str:
    """A coordinate, as short as it can be."""
    return f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Scale:
    """Values to places along an axis."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        a, b, x = self.low, self.high, value
        if self.logarithmic:
            a, b, x = math.log10(a), math.log10(b), math.log10(max(x, 1e-300))
        return self.start + (self.end - self.start) * ((x - a) / (b - a) if b > a else 0.5)


def decades(low: float, high: float) -> tuple[float, float]:
    """The powers of ten around some values above 0, two at least."""
    first = math.floor(math.log10(max(low, 1e-300)))
    last = min(math.ceil(math.log10(max(high, 1e-300))), 300)
    return 10.0**first, 10.0 ** max(last, first + 1)


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Powers of ten from `low` to `high`, every so many that no more than `most` are left."""
    first, last = round(math.log10(low)), round(math.log10(high))
    step = max(1, math.ceil((last - first) / (most - 1)))
    return [10.0**power for power in range(last, first - 1, -step)][::-1]


def round_ticks(high: float, most: int = 5) -> list[float]:
    """Round numbers from 0 to `high` or just above."""
    if not high > 0:
        return [0.0, 1.0]
    rough = high / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    return [step * i for i in range(math.ceil(high / step - 1e-9) + 1)]


MARKS = 7


def mark(number_: int, x: float, y: float, size: float = 4) -> str:
    """The path of a series' mark; shapes differ where colours may not be seen."""
    s = size
    shapes: tuple[Callable[[], str], ...] = (
        lambda: _polygon(x, y, [(s, 0), (0, s), (-s, 0), (0, -s)], curve=s),
        lambda: _polygon(x, y, [(-s, -s), (s, -s), (s, s), (-s, s)]),
        lambda: _polygon(x, y, [(0, -1.3 * s), (1.2 * s, s), (-1.2 * s, s)]),
        lambda: _polygon(x, y, [(0, -1.4 * s), (1.4 * s, 0), (0, 1.4 * s), (-1.4 * s, 0)]),
        lambda: _polygon(x, y, [(0, 1.3 * s), (1.2 * s, -s), (-1.2 * s, -s)]),
        lambda: _polygon(x, y, [(-1.4 * s, -0.6 * s), (1.4 * s, -0.6 * s), (1.4 * s, 0.6 * s),
                                (-1.4 * s, 0.6 * s)]),
        lambda: _polygon(x, y, [(-0.6 * s, -1.4 * s), (0.6 * s, -1.4 * s), (0.6 * s, 1.4 * s),
                                (-0.6 * s, 1.4 * s)]),
    )  # fmt: skip
    return shapes[number_ % len(shapes)]()


def _polygon(
    x: float, y: float, corners: Sequence[tuple[float, float]], curve: float | None = None
) -> str:
    first, *rest = [f"{number(x + dx)} {number(y + dy)}" for dx, dy in corners]
    join = "L" if curve is None else f"A{number(curve)} {number(curve)} 0 0 1 "
    last = "" if curve is None else f"{join}{first}"
    return f"M{first}" + "".join(f"{join}{point}" for point in rest) + f"{last}Z"


def path(points: Sequence[tuple[float, float]]) -> str:
    """A line through some places."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def fitted(text: str, width: float) -> str:
    """A label, cut if it is wider than there is room."""
    room = max(int(width / CHARACTER), 1)
    return text if len(text) <= room else f"{text[: room - 1]}…"
