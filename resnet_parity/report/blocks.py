"""What a page is made of: plain records, which the template draws and escapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from resnet_parity.engines.registry import ENGINES
from resnet_parity.render import svg


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    tag: str = "text"


@dataclass(frozen=True)
class Heading:
    """Below that of a section."""

    text: str
    tag: str = "heading"


@dataclass(frozen=True)
class Notice:
    """A sentence that must not be missed; `kind` is bad, warn or note, and `mark` says it too."""

    text: str
    kind: str
    mark: str
    tag: str = "notice"


@dataclass(frozen=True)
class Missing:
    """What was not measured, and the command that would measure it."""

    text: str
    command: str = ""
    tag: str = "missing"


@dataclass(frozen=True)
class Cell:
    """Of a table, where its text alone does not say all; `kind` is its CSS class."""

    text: str
    kind: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """The first column heads the rows; the others hold figures, except for those in `words`."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    words: Sequence[int] = ()
    legend: Sequence[Cell] = ()
    kind: str = ""
    tag: str = "table"


@dataclass(frozen=True)
class Picture:
    """A chart, and the same figures as a table."""

    caption: str
    svg: Markup
    table: Table | None = None


@dataclass(frozen=True)
class Pictures:
    """Charts beside one another that share a legend."""

    pictures: Sequence[Picture]
    legend: Sequence[tuple[Markup, str]] = ()
    table: Table | None = None
    keys: Sequence[Cell] = ()
    tag: str = "pictures"


@dataclass(frozen=True)
class Fact:
    """A figure that stands out, with what it is."""

    value: str
    what: str


@dataclass(frozen=True)
class Facts:
    """Some of them in a row."""

    facts: Sequence[Fact]
    tag: str = "facts"


@dataclass(frozen=True)
class Commands:
    """Commands, one below the other, each with what it measures."""

    lines: Sequence[tuple[str, str]]
    tag: str = "commands"


Block = Text | Heading | Notice | Missing | Table | Pictures | Facts | Commands


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]
    ident: str


@dataclass
class Styles:
    """Which colour, dash and mark a side has: an engine the same in every report, and others the
    ones that are left, in the order in which they come.
    """

    _others: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, side: str) -> int:
        if side in ENGINES:
            return list(ENGINES).index(side)
        return self._others.setdefault(side, len(ENGINES) + len(self._others))


def problems(found: Sequence[str]) -> list[Block]:
    """What does not hold, a notice each."""
    return [Notice(text, "bad", "✗") for text in found]


def legend(styles: Styles, sides: Sequence[str]) -> list[tuple[Markup, str]]:
    """A swatch for each side."""
    return [(svg.swatch(styles[side]), side) for side in sides]
