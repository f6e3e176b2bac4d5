"""What `list` and `show` print for people, apart from other tables: `list` is to be quick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from resnet_parity.render.text import grid, plain


def catalogue(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """The models, one a line; on a terminal that is too narrow the source gives way.

    Aligned by hand: rich takes longer to lay out a hundred lines than all the rest of the command.
    """
    names = max(len(row["name"]) for row in rows)
    families = max(len(row["family"]) for row in rows)
    head = f"{'name':{names}}  {'family':{families}}   parameters    GMACs  input  source"
    width = console.width if console.is_terminal else 1000
    lines = []
    for row in rows:
        note = f"{row['note']}; " if row["note"] else ""
        line = (
            f"{row['name']:{names}}  {row['family']:{families}}  {row['parameters']:>11,}  "
            f"{row['macs'] / 1e9:7.3f}  {row['image_size']:>5}  {note}{row['source']}"
        )
        lines.append(line if len(line) <= width else line[: width - 1] + "…")
    console.print(head, style="bold", highlight=False, no_wrap=True, overflow="ellipsis")
    print("\n".join(lines), file=console.file)


def pretrained(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """Published weights, one a line; the place gives way on a terminal that is too narrow."""
    names = [row["name"] for row in rows]
    wide, libraries = max(map(len, names)), max(len(row["library"]) for row in rows)
    head = f"{'name':{wide}}  {'library':{libraries}}  classes  input  top-1  top-5  where"
    width = console.width if console.is_terminal else 1000
    lines = []
    for name, row in zip(names, rows, strict=True):
        size = row["preprocessing"]["image_size"] if row["preprocessing"] else ""
        tops = (f"{top:5.1f}" if (top := row[key]) is not None else " " * 5 for key in _TOPS)
        line = (
            f"{name:{wide}}  {row['library']:{libraries}}  {row['classes']:>7,}  {size:>5}  "
            f"{'  '.join(tops)}  {row['where']}"
        )
        lines.append(line if len(line) <= width else line[: width - 1] + "…")
    console.print(head, style="bold", highlight=False, no_wrap=True, overflow="ellipsis")
    print("\n".join(lines), file=console.file)


_TOPS = ("top1", "top5")


def network(console: Console, data: dict[str, Any]) -> None:
    """One network, stage by stage."""
    size = " × ".join(map(str, data["input"]))
    table = grid(("stage", "layers"), ("output", "parameters", "MACs"))
    for stage in data["stages"]:
        counts = (f"{stage['parameters']:,}", f"{stage['macs']:,}")
        shape = " × ".join(map(str, stage["shape"]))
        table.add_row(stage["name"], plain(stage["layers"]), shape, *counts)
    table.add_section()
    table.add_row("total", "", "", f"{data['parameters']:,}", f"{data['macs']:,}", style="bold")
    console.print(f"[bold]{plain(data['model'])}[/] on {size} (height, width, channels)\n")
    console.print(table)
