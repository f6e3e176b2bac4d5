"""Text that is safe to print, and figures as they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.markup import escape

from resnet_parity.check.record_file import LibraryVerdict


def plain(text: object) -> str:
    """Any text with rich's markup and control characters made harmless."""
    clean = "".join(c if c.isprintable() else " " for c in str(text))
    return escape(clean)


def largest(judged: LibraryVerdict) -> str:
    """The largest difference of any engine from a library."""
    values = [math.inf if x is None else x for x in judged.differences.values()]
    return plain_figure(max(values, default=None))


def plain_figure(value: float | None) -> str:
    """A relative error; None is what JSON has for NaN."""
    return "NaN" if value is None or math.isinf(value) else f"{value:.1e}"


def join_words(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def figure(value: float | None) -> str:
    """As `plain_figure`, in rich's markup."""
    if value is not None and math.isfinite(value):
        return f"{value:.1e}"
    return "[red]NaN[/]"
