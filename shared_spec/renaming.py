"""Names of one library from those of another, by rules that are applied one after another."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Regular expressions, and what takes the place of what they find."""


def rename(name: str, rules: Rules) -> str:
    """`name` after all rules."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
