"""The elements of a drawing and its style: text stays text, and colours follow the reader's."""

from __future__ import annotations

from xml.etree import ElementTree as ET

SIZE = 11
_CHARACTER = 6.7
"""About the width of a character of the widest sans-serif that is common, at this size."""

STYLE = """
.net { --paper: #fdfdfb; --ink: #1b1f24; --soft: #545c66; --rule: #8b939c; --panel: #f3f4f4;
 --convolution: #cfe3f5; --norm: #f4ecc8; --activation: #d5ecd9; --pool: #e6daf2;
 --attention: #f9dcc9; --other: #e4e7ea; --differs: #b3261e; }
@media (prefers-color-scheme: dark) { .net { --paper: #14171b; --ink: #e4e7ea; --soft: #a4acb6;
 --rule: #7d8690; --panel: #1d2126; --convolution: #1d4263; --norm: #4a431a; --activation: #1e4a2e;
 --pool: #42305c; --attention: #5e3620; --other: #343b43; --differs: #ff9d94; } }
.net { background: var(--paper); max-width: 100%; height: auto;
 font: 11px "Helvetica Neue", Arial, "Liberation Sans", "DejaVu Sans", sans-serif; }
.net text { fill: var(--ink); }
.net .soft { fill: var(--soft); }
.net .title { font-size: 18px; font-weight: 600; }
.net .name { font-size: 13px; font-weight: 600; }
.net .middle { text-anchor: middle; }
.net .panel { fill: var(--panel); }
.net .frame { fill: none; stroke: var(--rule); stroke-dasharray: 3 2; }
.net .flow { fill: none; stroke: var(--rule); stroke-width: 1.3; }
.net .sum { fill: var(--paper); stroke: var(--ink); stroke-width: 1.3; }
.net .convolution { fill: var(--convolution); } .net .norm { fill: var(--norm); }
.net .activation { fill: var(--activation); } .net .pool { fill: var(--pool); }
.net .attention { fill: var(--attention); } .net .other { fill: var(--other); }
.net .differs { stroke: var(--differs); stroke-width: 2.5; }
.net text.mark { fill: var(--differs); font-weight: 700; }
"""


class Canvas:
    """An SVG to which elements are added; ElementTree escapes every text."""

    def __init__(self) -> None:
        self._root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "net"})
        ET.SubElement(self._root, "style").text = STYLE
        self._parents = [self._root]

    def group(self, hover: str) -> None:
        """What follows, up to `end`, tells this where the pointer rests."""
        group = ET.SubElement(self._parents[-1], "g")
        ET.SubElement(group, "title").text = printable(hover)
        self._parents.append(group)

    def end(self) -> None:
        """The innermost group ends."""
        self._parents.pop()

    def rectangle(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """With round corners; `kind` is its class."""
        sides = {"x": x, "y": y, "width": width, "height": height, "rx": 3}
        numbers = {key: number(value) for key, value in sides.items()}
        ET.SubElement(self._parents[-1], "rect", {"class": kind, **numbers})

    def circle(self, x: float, y: float, radius: float, kind: str) -> None:
        """Around a middle."""
        numbers = {"cx": number(x), "cy": number(y), "r": number(radius)}
        ET.SubElement(self._parents[-1], "circle", {"class": kind, **numbers})

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        """On a base line, from x on, or around it if `kind` has `middle`."""
        place = {"x": number(x), "y": number(y), **({"class": kind} if kind else {})}
        ET.SubElement(self._parents[-1], "text", place).text = printable(text)

    def flow(self, *points: tuple[float, float], arrow: bool = True, kind: str = "") -> None:
        """A line through points, with a head at the last one if it goes down or left there."""

        def line(*points: tuple[float, float]) -> str:
            return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)

        d = line(*points)
        (x0, y0), (x, y) = points[-2:]
        if arrow and y0 < y:
            d += line((x - 3, y - 5), (x, y), (x + 3, y - 5))
        elif arrow:
            side = 5 if x0 > x else -5
            d += line((x + side, y - 3), (x, y), (x + side, y + 3))
        ET.SubElement(self._parents[-1], "path", {"class": f"flow {kind}".strip(), "d": d})

    def svg(self, width: float, height: float, label: str) -> str:
        """The whole, for a file or a page."""
        sides = number(width), number(height)
        self._root.attrib |= {"width": sides[0], "height": sides[1]}
        self._root.set("viewBox", f"0 0 {sides[0]} {sides[1]}")
        self._root.attrib |= {"role": "group", "aria-label": printable(label)}
        return ET.tostring(self._root, encoding="unicode") + "\n"


def text_width(text: str, scale: float = 1.0) -> float:
    """About."""
    return len(text) * _CHARACTER * scale


def printable(text: str) -> str:
    """Without what XML has no place for."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def number(value: float) -> str:
    """A coordinate, as short as it can be."""
    return f"{value:.1f}".removesuffix(".0")
