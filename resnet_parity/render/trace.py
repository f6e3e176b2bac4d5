"""A trace as a table in a terminal."""

from __future__ import annotations

import math

from rich.console import Console

from resnet_parity.numerics.record import Figure
from resnet_parity.render.text import figure, grid, plain, say, say_plain, severity
from resnet_parity.trace.result import TraceReport, TraceRow

_FEW = 8
_VERDICTS = {
    "holds": "[bold green]✓ nothing differs[/]",
    "parts": "[bold red]✗ they differ[/]",
    "undecided": "[bold yellow]? undecided[/]",
}


def table(console: Console, report: TraceReport) -> None:
    """The first rows in which something is off and the worst of all, then the verdict."""
    shape = "×".join(map(str, report.input))
    say(
        console,
        f"[bold]{plain(report.model)}[/] in {report.dtype} on {shape}: "
        f"{plain(report.other)} against {report.reference}\n",
    )
    rows = report.rows
    off = [row for row in rows if row.errs or row.diverges][:_FEW]
    off += [row for row in rows if row.name in report.errs][:_FEW]
    worst = sorted(rows, key=lambda row: -severity(row.teacher_forced))[:_FEW]
    worst += sorted(rows, key=lambda row: -severity(row.propagated))[: _FEW // 2]
    wanted = {row.name for row in [*off, *worst]}
    erring = set(report.errs)
    _rows(console, [row for row in rows if row.name in wanted], True, erring)
    say(
        console,
        f"\nforced: on the reference's input; {len(wanted)} of {len(rows)} rows, --json has all",
    )
    if report.gradients:
        gradients = report.gradients
        off = [row for row in gradients if row.diverges][:_FEW]
        worst = sorted(gradients, key=lambda row: -severity(row.propagated))[:_FEW]
        wanted = {row.name for row in [*off, *worst]}
        say(console, "\ngradients, in the order of the backward pass:\n")
        _rows(console, [row for row in gradients if row.name in wanted], False, set())
    say(console, f"\nrule: {report.rule}")
    if report.gradient_rule not in (None, report.rule):
        say(console, f"rule for gradients: {report.gradient_rule}")
    say_plain(console, *report.notes, before="note: ")
    say_plain(console, *report.problems, before="[red]✗[/] ")
    say_plain(console, *report.undecided, before="[yellow]?[/] ")
    console.print(_VERDICTS[report.verdict])


def _rows(console: Console, rows: list[TraceRow], layers: bool, erring: set[str]) -> None:
    titles = ("layer", "kind") if layers else ("parameter",)
    listing = grid(titles, ["as computed", *["forced"] * layers, "bound"], fold=1)
    listing.add_column("", no_wrap=True)
    for row in rows:
        errors = [row.propagated, *[row.teacher_forced] * layers]
        cells = [plain(row.name), *[row.kind] * layers, *map(_figure, errors)]
        mark = "inherits" if row.diverges or row.errs else ""
        if row.name in erring:
            mark = "[red]at fault[/]"
        if mark and not layers:
            mark = "[red]differs[/]"
        listing.add_row(*cells, f"{row.bound:.1e}", mark)
    console.print(listing)


def _figure(value: Figure) -> str:
    return "[red]Infinity[/]" if value == math.inf else "-" if value is None else figure(value)
