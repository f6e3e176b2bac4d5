"""Text that is safe to print, and figures as they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from resnet_parity.check.record_file import LibraryVerdict


def plain(text: object) -> str:
    """Any text with rich's markup and control characters made harmless."""
    clean = "".join(c if c.isprintable() else " " for c in str(text))
    return escape(clean)


def say(console: Console, markup: str) -> None:
    """Print a line of rich's markup: no guessed colours, and wrapped by the terminal alone."""
    console.print(markup, highlight=False, soft_wrap=True)


def say_plain(console: Console, *texts: str, before: str = "") -> None:
    """Print lines of any text, each after `before`, which is markup."""
    for text in texts:
        say(console, before + plain(text))


def grid(
    left: Sequence[str], right: Sequence[str] = (), *, fold: int = 0, show_header: bool = True
) -> Table:
    """A table without lines: columns of text, then columns of figures. The first column stays on
    one line, or folds into lines of `fold` characters at least.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=show_header)
    for i, name in enumerate(left):
        if i == 0 and fold:
            table.add_column(name, overflow="fold", min_width=fold)
        else:
            table.add_column(name, no_wrap=i == 0)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def largest(judged: LibraryVerdict) -> str:
    """The largest difference of any engine from a library."""
    values = [math.inf if x is None else x for x in judged.differences.values()]
    return plain_figure(max(values, default=None))


def plain_figure(value: float | None) -> str:
    """A relative error; None is what JSON has for NaN."""
    return "NaN" if value is None or not math.isfinite(value) else f"{value:.1e}"


def severity(value: float | None) -> float:
    """What an error is sorted by: NaN is the worst, and what was not compared the least."""
    return -1.0 if value is None else math.inf if math.isnan(value) else value


def join_words(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def figure(value: float | None) -> str:
    """As `plain_figure`, in rich's markup."""
    text = plain_figure(value)
    return "[red]NaN[/]" if text == "NaN" else text


def pairs(found: Mapping[str, object]) -> str:
    """`torch 2.13.0, jax 0.10.2`."""
    return ", ".join(f"{name} {value}" for name, value in found.items())
