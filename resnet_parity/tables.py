"""What the commands print for people: rich tables and progress bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from shared_spec import plan
from shared_spec.plan import Layer, Layers, Stage


def plain(text: object) -> str:
    """Any text with rich's markup and control characters made harmless."""
    clean = "".join(c if c.isprintable() else " " for c in str(text))
    return escape(clean)


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A spinner with the step at work and the time it has taken; on a terminal alone."""
    if not console.is_terminal:
        yield lambda text: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda text: bar.update(task, description=plain(text))


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


def network(console: Console, data: dict[str, Any]) -> None:
    """One network, stage by stage."""
    size = " × ".join(map(str, data["input"]))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True)
    table.add_column("layers")
    for name in ("output", "parameters", "MACs"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in data["stages"]:
        table.add_row(
            stage["name"],
            plain(stage["layers"]),
            " × ".join(map(str, stage["shape"])),
            f"{stage['parameters']:,}",
            f"{stage['macs']:,}",
        )
    table.add_section()
    table.add_row("total", "", "", f"{data['parameters']:,}", f"{data['macs']:,}", style="bold")
    console.print(f"[bold]{plain(data['model'])}[/] on {size} (height, width, channels)\n")
    console.print(table)


def parity(console: Console, data: dict[str, Any]) -> None:
    """The result of a check."""
    sizes = ", ".join("×".join(map(str, shape)) for shape in data["inputs"])
    console.print(f"[bold]{plain(data['model'])}[/] in {data['dtype']} on inputs {sizes}\n")
    _engines_table(console, data)
    if data["pairs"]:
        console.print("\nlogits, each engine against each:", highlight=False)
        _matrix(console, data)
        worst = max(data["pairs"], key=lambda pair: _or_infinity(pair["blocks"]["maximum"]))
        console.print(
            f"\nworst block: {worst['worst_block']}, "
            f"{_figure(worst['blocks']['maximum'])} between {' and '.join(worst['engines'])}",
            highlight=False,
        )
    bound = "" if data["dtype"] != "float64" else f" ≤ {data['tolerance']:.0e}"
    console.print(f"rule: {data['rule']}{bound}", highlight=False)
    for problem in data["problems"]:
        console.print(f"[red]✗[/] {plain(problem)}", highlight=False)
    verdict = "[bold green]✓ holds[/]" if data["holds"] else "[bold red]✗ does not hold[/]"
    console.print(verdict)


def _engines_table(console: Console, data: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("engine", "versions", "device"):
        table.add_column(name)
    for name in ("parameters", "seconds"):
        table.add_column(name, justify="right")
    if data["against_float64"]:
        table.add_column("logits to float64", justify="right")
    for row in data["engines"]:
        versions = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
        cells = [row["engine"], versions, plain(row["device"])]
        cells += [f"{row['parameters']:,}", f"{row['seconds']:.1f}"]
        if row["engine"] in data["against_float64"]:
            cells.append(_figure(data["against_float64"][row["engine"]]["maximum"]))
        table.add_row(*cells)
    for state in ("missing", "failed"):
        for engine, reason in data[state].items():
            table.add_row(engine, f"[red]{state}:[/] {plain(reason)}")
    console.print(table)


def _matrix(console: Console, data: dict[str, Any]) -> None:
    names = [row["engine"] for row in data["engines"]]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in names[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    found = {tuple(pair["engines"]): pair["logits"]["maximum"] for pair in data["pairs"]}
    for a in names[:-1]:
        cells = [_figure(found[a, b]) if (a, b) in found else "" for b in names[1:]]
        table.add_row(a, *cells)
    console.print(table)


def converted(console: Console, data: dict[str, Any]) -> None:
    """The result of a conversion."""
    console.print(
        f"{plain(data['source'])} ({data['source_format']}) → "
        f"{plain(data['target'])} ({data['target_format']})",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"[green]✓[/] {data['tensors']} arrays of {data['dtype']}, {data['bytes']:,} bytes; read "
        f"back bit for bit, SHA-256 {data['sha256']}",
        highlight=False,
        soft_wrap=True,
    )
    if data["lost"]:
        console.print(f"This format has no place for {_join(data['lost'])}.", highlight=False)


def _join(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def predictions(console: Console, data: Sequence[dict[str, Any]]) -> None:
    """The most probable classes of each image."""
    for record in data:
        console.print(f"[bold]{plain(record['image'])}[/]", highlight=False, soft_wrap=True)
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(justify="right")
        table.add_column()
        table.add_column()
        for entry in record["classes"]:
            bar = "█" * round(20 * entry["probability"])
            table.add_row(f"{entry['probability']:7.2%}", bar, plain(entry["label"]))
        console.print(table)


def describe_stage(stage: Stage) -> str:
    """`[1×1, 64; 3×3, 64; 1×1, 256] × 3`, as in the papers."""
    kinds: list[str] = []
    counts: list[int] = []
    for block in stage.blocks:
        convs = [x for x in (*block.pre, *block.branch) if isinstance(x, plan.Conv)]
        text = "; ".join(_describe(conv) for conv in convs)
        if kinds and kinds[-1] == text:
            counts[-1] += 1
        else:
            kinds.append(text)
            counts.append(1)
    return ", ".join(f"[{k}] × {n}" for k, n in zip(kinds, counts, strict=True))


def describe_chain(layers: Layers) -> str:
    """`7×7, 64; 3×3 max pool`."""
    return "; ".join(text for text in map(_describe, layers) if text)


def _describe(layer: Layer) -> str:
    if isinstance(layer, plan.Conv):
        groups = f", {layer.groups} groups" if layer.groups > 1 else ""
        return f"{layer.kernel_size}×{layer.kernel_size}, {layer.out_channels}{groups}"
    if isinstance(layer, plan.MaxPool):
        return f"{layer.kernel_size}×{layer.kernel_size} max pool"
    if isinstance(layer, plan.GlobalPool):
        return "average pool"
    if isinstance(layer, plan.Dense):
        return f"{layer.out_features}-way dense"
    return ""


def _figure(value: float | None) -> str:
    return "[red]NaN[/]" if value is None else f"{value:.1e}"


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value
