"""A trace as a table in a terminal."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from resnet_parity.numerics.record import Figure
from resnet_parity.render.text import figure, plain
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
    console.print(
        f"[bold]{plain(report.model)}[/] in {report.dtype} on {shape}: "
        f"{plain(report.other)} against {report.reference}\n",
        highlight=False,
    )
    rows = report.rows
    off = [row for row in rows if row.errs or row.diverges][:_FEW]
    off += [row for row in rows if row.name in report.errs][:_FEW]
    worst = sorted(rows, key=lambda row: -_size(row.teacher_forced))[:_FEW]
    worst += sorted(rows, key=lambda row: -_size(row.propagated))[: _FEW // 2]
    wanted = {row.name for row in [*off, *worst]}
    erring = set(report.errs)
    _rows(console, [row for row in rows if row.name in wanted], True, erring)
    console.print(
        f"\nforced: on the reference's input; {len(wanted)} of {len(rows)} rows, --json has all",
        highlight=False,
    )
    if report.gradients:
        found = report.gradients
        off = [row for row in found if row.diverges][:_FEW]
        worst = sorted(found, key=lambda row: -_size(row.propagated))[:_FEW]
        wanted = {row.name for row in [*off, *worst]}
        console.print("\ngradients, in the order of the backward pass:\n", highlight=False)
        _rows(console, [row for row in found if row.name in wanted], False, set())
    console.print(f"\nrule: {report.rule}", highlight=False)
    if report.gradient_rule not in (None, report.rule):
        console.print(f"rule for gradients: {report.gradient_rule}", highlight=False)
    for note in report.notes:
        console.print(f"note: {plain(note)}", highlight=False)
    for problem in report.problems:
        console.print(f"[red]✗[/] {plain(problem)}", highlight=False)
    for what in report.undecided:
        console.print(f"[yellow]?[/] {plain(what)}", highlight=False)
    console.print(_VERDICTS[report.verdict])


def _rows(console: Console, rows: list[TraceRow], layers: bool, erring: set[str]) -> None:
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("layer" if layers else "parameter", overflow="fold")
    for name in ["kind"] * layers:
        found.add_column(name, no_wrap=True)
    for name in ["as computed", *["forced"] * layers, "bound"]:
        found.add_column(name, justify="right", no_wrap=True)
    found.add_column("", no_wrap=True)
    for row in rows:
        errors = [row.propagated, *[row.teacher_forced] * layers]
        cells = [plain(row.name), *[row.kind] * layers, *map(_figure, errors)]
        mark = "inherits" if row.diverges or row.errs else ""
        if row.name in erring:
            mark = "[red]at fault[/]"
        if mark and not layers:
            mark = "[red]differs[/]"
        found.add_row(*cells, f"{row.bound:.1e}", mark)
    console.print(found)


def _size(value: Figure) -> float:
    return -1.0 if value is None else math.inf if math.isnan(value) else value


def _figure(value: Figure) -> str:
    return "[red]Infinity[/]" if value == math.inf else "-" if value is None else figure(value)
