"""What was compiled ahead of time, as a table in a terminal."""

from __future__ import annotations

from rich.console import Console

from resnet_parity.aot.result import AotReport, Compiled
from resnet_parity.render.text import grid, pairs, plain, say, say_plain


def table(console: Console, report: AotReport) -> None:
    """A line for each program, and what was in force."""
    size = "×".join(map(str, report.size))
    say(console, f"[bold]{plain(report.name)}[/] in {report.dtype}, images of {size}")
    set_ = f"; {pairs(report.settings)}" if report.settings else ""
    say_plain(console, f"compiled, not run: {pairs(report.versions)}{set_}; bytes of one device")
    columns = ("batch", "arguments", "temporary", "in all", "of", "largest batch")
    costs = ("GFLOP", "GB", "estimate, images/s", "compiled in")
    rows = grid(("engine", "target", "mode"), (*columns, *costs))
    for row in report.rows:
        cells = [_bytes(x) for x in (row.arguments, row.temporary, row.memory, row.device_memory)]
        largest = "–" if row.largest_batch is None else f"{row.largest_batch:,}"
        speed = "–" if row.estimate is None else f"{row.estimate.images_per_second:,.0f}"
        work = [_figure(row.flops, 1e9), _figure(row.traffic, 1e9)]
        named = [row.engine, row.target, row.mode if row.refused is None else f"[red]{row.mode}[/]"]
        figures = [f"{row.batch:,}", *cells, largest, *work, speed, f"{row.compile_seconds:.0f} s"]
        rows.add_row(*named, *figures)
    console.print(rows)
    say_plain(console, *dict.fromkeys(_told(row) for row in report.rows if row.refused is None))
    say_plain(console, *report.problems, before="[red]✗[/] ")
    if not report.problems:
        say(console, "[bold green]✓ compiles, fits and is partitioned as data parallel[/]")


def _told(row: Compiled) -> str:
    """Of collectives, and of what the estimate follows from."""
    kinds = ", ".join(f"{count} of {kind}" for kind, count in row.collectives.items())
    sent = f"{kinds}, {row.collective_bytes / 1e6:,.1f} MB" if kinds else "none"
    told = f"{row.engine}, {row.target}, {row.mode}: {row.devices} devices; collectives: {sent}"
    if row.estimate is None:
        return told
    estimate = row.estimate
    return (
        f"{told}; estimate: {1e3 * estimate.seconds:.3g} ms a step, bound by {estimate.bound_by}, "
        f"at rates {estimate.rates}"
    )


def _bytes(value: int | None) -> str:
    return "–" if value is None else f"{value / 2**20:,.0f} MiB"


def _figure(value: float | None, unit: float) -> str:
    return "–" if value is None else f"{value / unit:,.4g}"
