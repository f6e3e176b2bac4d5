"""A matplotlib figure as SVG for a page: its text stays text, its colours are the style sheet's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D

from resnet_parity.render import charts
from resnet_parity.render.drawing.canvas import number

WIDTH = 440
"""Of every chart, in units that are about a pixel: on a phone it is drawn at 3/4 of this size, and
its type with it, so that a chart is not made wider than that.
"""
_LINE = 12.0
"""About the height of a character of the page's type."""

_COMMANDS = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
_ANCHORS = {"left": "start", "center": "middle", "right": "end"}


class SvgRenderer(RendererBase):
    """Draws text, and what has a `gid`, which becomes its CSS class.

    Args:
        root: the picture.
        size: of the picture.
        titles: for a class what is shown where the pointer rests, a text for each of its paths.
    """

    def __init__(
        self, root: ET.Element, size: tuple[float, float], titles: Mapping[str, Iterator[str]]
    ) -> None:
        super().__init__()
        self._root, self._size, self._titles = root, size, titles
        self._kinds: list[str | None] = []

    def open_group(self, s: str, gid: str | None = None) -> None:
        """An artist begins."""
        self._kinds.append(gid)

    def close_group(self, s: str) -> None:
        """It ends."""
        self._kinds.pop()

    def get_canvas_width_height(self) -> tuple[float, float]:
        """In pixels."""
        return self._size

    def get_text_width_height_descent(
        self, s: str, prop: Any, ismath: Any
    ) -> tuple[float, float, float]:
        """About; no font is opened for it."""
        return len(s) * charts.CHARACTER, _LINE, _LINE / 4

    def draw_path(self, gc: Any, path: Any, transform: Any, rgbFace: Any = None) -> None:  # noqa: N803
        """A line, a mark or a bar."""
        kind = self._kinds[-1]
        if kind is None:
            return
        flipped = transform + Affine2D().scale(1, -1).translate(0, self._size[1])
        d = "".join(
            _COMMANDS[code] + ("" if code == 79 else " ".join(map(number, points)))
            for points, code in path.iter_segments(flipped, simplify=False)
        )
        element = ET.SubElement(self._root, "path", {"class": kind, "d": d})
        title = next(self._titles.get(kind, iter(())), None)
        if title is not None:
            ET.SubElement(element, "title").text = title

    def draw_text(
        self,
        gc: Any,
        x: float,
        y: float,
        s: str,
        prop: Any,
        angle: float,
        ismath: Any = False,
        mtext: Any = None,
    ) -> None:
        """A text at the place where it is anchored; how wide it will be is not known."""
        x, _ = mtext.get_transform().transform(mtext.get_unitless_position())
        attributes = {"class": self._kinds[-1] or "tick", "x": number(x), "y": number(y)}
        anchor = {"text-anchor": _ANCHORS[mtext.get_ha()]}
        ET.SubElement(self._root, "text", attributes | anchor).text = s


@dataclass(frozen=True)
class Chart:
    """What every chart says besides its lines, for those who do not see them."""

    ident: str
    title: str
    text: str


def picture(
    chart: Chart,
    draw: Callable[[Any], None],
    titles: Mapping[str, Iterator[str]] | None = None,
    height: float = 270,
    margins: tuple[float, float, float, float] = (56, 14, 14, 50),
) -> Markup:
    """A chart as `draw` draws it on an axis; margins are left, right, top and bottom."""
    root = ET.Element(
        "svg", {"role": "img", "aria-labelledby": f"{chart.ident}-title {chart.ident}-text"}
    )
    ET.SubElement(root, "title", {"id": f"{chart.ident}-title"}).text = chart.title
    ET.SubElement(root, "desc", {"id": f"{chart.ident}-text"}).text = chart.text
    return _drawn(root, draw, titles or {}, (WIDTH, height), margins)


def swatch(style: int) -> Markup:
    """A piece of a line with its mark, for a legend."""

    def draw(axis: Any) -> None:
        axis.set(xlim=(0, 1), ylim=(-1, 1), xticks=[], yticks=[])
        charts.line(axis, [0, 1], [0, 0], "", style)
        charts.marks(axis, [0.5], [0], style)

    root = ET.Element("svg", {"class": "swatch", "aria-hidden": "true", "width": "30"})
    return _drawn(root, draw, {}, (30, 14), (1, 1, 1, 1))


def _drawn(
    root: ET.Element,
    draw: Callable[[Any], None],
    titles: Mapping[str, Iterator[str]],
    size: tuple[float, float],
    margins: tuple[float, float, float, float],
) -> Markup:
    width, height = size
    left, right, top, bottom = margins
    root.set("viewBox", f"0 0 {number(width)} {number(height)}")
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        inner = (width - left - right) / width, (height - top - bottom) / height
        draw(figure.add_axes((left / width, bottom / height, *inner)))
        figure.draw(SvgRenderer(root, size, titles))
    # ElementTree has escaped every text in it.
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704
