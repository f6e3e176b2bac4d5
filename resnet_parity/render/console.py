"""The two streams that commands print to."""

from __future__ import annotations

from rich.console import Console

out = Console(emoji=False)
err = Console(stderr=True, emoji=False)
