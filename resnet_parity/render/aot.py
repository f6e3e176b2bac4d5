"""What was compiled ahead of time, as a table in a terminal."""

from __future__ import annotations

from rich.console import Console

from resnet_parity.aot.result import AotReport, Compiled
from resnet_parity.render.text import grid, pairs, plain, say, say_plain


def table(console: Console, report: AotReport) -> None:
    """A line for each program, what it needs and sends, and what was in force."""
    size = "×".join(map(str, report.size))
    say(console, f"[bold]{plain(report.name)}[/] in {report.dtype}, images of {size}")
    settings = f"; {pairs(report.settings)}" if report.settings else ""
    say_plain(console, f"compiled, not run: {pairs(report.versions)}{settings}")
    figures = ("batch", "MiB", "largest", "images/s", "compiled")
    rows = grid(("engine", "target", "mode"), figures)
    for row in report.rows:
        mode = row.what if row.refused is None else f"[red]{row.what}[/]"
        largest = "–" if row.largest_batch is None else f"{row.largest_batch:,}"
        speed = "–" if row.estimate is None else f"{row.estimate.images_per_second:,.0f}"
        needs = mebibytes(row.memory)
        cells = [f"{row.batch:,}", needs, largest, speed, f"{row.compile_seconds:.0f} s"]
        rows.add_row(row.engine, row.target, mode, *cells)
    console.print(rows)
    say_plain(console, "batches and MiB are of one device; images/s are of all, and estimates:")
    say_plain(console, *(told(row) for row in report.rows if row.refused is None))
    say_plain(console, *dict.fromkeys(_device(row) for row in report.rows))
    say_plain(console, *report.problems, before="[red]✗[/] ")
    if not report.problems:
        say(console, "[bold green]✓ compiles, fits and is partitioned as data parallel[/]")


def told(row: Compiled) -> str:
    """What a program needs, computes and sends, in a line."""
    kinds = ", ".join(f"{kind} of {count} arrays" for kind, count in row.collectives.items())
    sent = f"{kinds}, {row.collective_bytes / 1e6:,.1f} MB" if kinds else "no collectives"
    notes = [] if row.unpadded is None else [f"{mebibytes(row.unpadded)} before padding"]
    notes += [f"{mebibytes(row.aliased)} in the place of others"] if row.aliased else []
    beside = f" ({', '.join(notes)})" if notes else ""
    bytes_ = (
        f"{mebibytes((row.arguments or 0) + (row.outputs or 0))} MiB of arguments and results"
        f"{beside}, "
        f"{mebibytes(row.temporary)} MiB temporary, {mebibytes(row.code)} MiB of program"
    )
    work = f"{_figure(row.flops)} GFLOP, {_figure(row.traffic)} GB of traffic"
    least = ""
    if row.estimate is not None:
        seconds, bound = 1e3 * row.estimate.seconds, row.estimate.bound_by
        least = f"; estimate: {seconds:.3g} ms a step, bound by {bound}"
    devices = f"{row.devices} device" + ("s" if row.devices > 1 else "")
    return f"{row.engine}, {row.target}, {row.what}, {devices}: {bytes_}; {work}; {sent}{least}"


def _device(row: Compiled) -> str:
    rates = f"; rates: {row.estimate.rates}" if row.estimate is not None else ""
    return f"{row.target}: {mebibytes(row.device_memory)} MiB a device{rates}"


def mebibytes(value: int | None) -> str:
    """Without the unit."""
    return "–" if value is None else f"{value / 2**20:,.0f}"


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    billions = value / 1e9
    return f"{billions:,.0f}" if billions >= 100 else f"{billions:.3g}"
