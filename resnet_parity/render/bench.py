"""A bench as tables in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from resnet_parity.bench.result import BenchReport, Latency, Scaled, Timed
from resnet_parity.render.text import grid, pairs, plain, say, say_plain


def table(console: Console, report: BenchReport) -> None:
    """A table for each setting, the bound, and what was in force."""
    say(console, f"[bold]{plain(report.name)}[/]")
    say_plain(console, _conditions(report.environment))
    for rates in report.bounds:
        say_plain(
            console,
            f"{rates.dtype}: at best {(rates.flops_per_second or 0) / 1e9:,.0f} GFLOP/s "
            f"({rates.kernel}), memory {(rates.bytes_per_second or 0) / 1e9:,.0f} GB/s",
        )
    settings: dict[str, list[Timed]] = {}
    for row in report.rows:
        size = "×".join(map(str, row.size))
        title = f"{row.mode}, {row.dtype}, {row.batch} images of {size}"
        settings.setdefault(title, []).append(row)
    for title, rows in settings.items():
        say(console, f"\n[bold]{title}[/]\n")
        console.print(_speeds(rows))
        console.print()
        console.print(_costs(rows))
    _scaled(console, report.scaling)
    worst = max(
        (p for p in report.parity if p.holds),
        key=lambda p: (p.error or 0.0) / (p.bound or math.inf),
        default=None,
    )
    if worst is not None:
        console.print()
        say_plain(
            console,
            f"parity: {sum(p.holds for p in report.parity)} of {len(report.parity)} timed "
            f"functions agree with {worst.reference}; nearest to its bound is "
            f"{', '.join(dict.fromkeys((worst.engine, worst.side)))}: {worst.error:.1e} of "
            f"{worst.bound:.1e}",
        )
    say_plain(console, *dict.fromkeys(f"{row.side}: {row.note}" for row in report.rows if row.note))
    say_plain(console, *report.notes)
    say_plain(console, *(f"missing: {name}: {reason}" for name, reason in report.missing.items()))
    say_plain(console, *report.problems, before="[red]✗[/] ")


def _conditions(environment: dict[str, Any]) -> str:
    versions, threads, precision = (
        pairs(dict(sorted(environment[key].items())))
        for key in ("versions", "threads", "matmul_precision")
    )
    variables = "".join(f", {k}={v}" for k, v in sorted(environment["variables"].items()))
    processes = (
        f" in {environment['processes']} processes each" if environment["processes"] > 1 else ""
    )
    return (
        f"{environment['hardware']}, {environment['cores']} cores, {environment['system']}, "
        f"Python {environment['python']}: {versions}; threads: {threads}{variables}; "
        f"TF32 {'on' if environment['tf32'] else 'off'}; "
        f"precision of float32 products: {precision}; medians and quartiles of "
        f"{environment['rounds']} rounds{processes}, alternating"
    )


def _name(row: Timed) -> str:
    """Ours, and the peers in the same framework below."""
    side = plain(row.side)
    return f"  {side}" if row.peer else f"[bold]{side}[/]"


def _speeds(rows: Sequence[Timed]) -> Table:
    called = any(row.latency for row in rows)
    numbers = ("images/s", "quartiles", *("p50", "p99", "calls") * called, "of bound", "ratio")
    table = grid(("",), numbers, fold=22)
    table.add_column("to", overflow="fold")
    for row in rows:
        if row.spread is None:
            table.add_row(_name(row), "[red]refused[/]")
            continue
        low, high = row.spread
        table.add_row(
            _name(row),
            f"{row.images_per_second:,.1f}",
            f"{low:,.1f}–{high:,.1f}",
            *_latency(row.latency) * called,
            "–" if row.share is None else f"{row.share:.1%}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            plain(row.against or ""),
        )
    return table


def _latency(latency: Latency | None) -> tuple[str, ...]:
    """p50, p99 and the calls that they are of."""
    if latency is None:
        return "–", "–", "–"
    times = ("–" if x is None else f"{1e3 * x:,.1f} ms" for x in (latency.p50, latency.p99))
    return (*times, f"{len(latency.calls):,}")


def _costs(rows: Sequence[Timed]) -> Table:
    """What comes before the first image, the memory, and the layout."""
    on_device = any(row.peak_device_bytes for row in rows)
    numbers = ("first call", "build", "load", "import", "host MB", *["device MB"] * on_device)
    table = grid(("",), numbers, fold=22)
    table.add_column("layout", overflow="fold")
    for row in rows:
        if row.refused is None:
            times = (row.first_call, row.build, row.load, row.imported)
            peaks = [row.peak_host_bytes, *[row.peak_device_bytes] * on_device]
            cells = [f"{time:.2f} s" for time in times]
            cells += ["–" if peak is None else f"{peak / 1e6:,.0f}" for peak in peaks]
            table.add_row(_name(row), *cells, row.layout)
    return table


def _scaled(console: Console, points: Sequence[Scaled]) -> None:
    for over in dict.fromkeys(point.over for point in points):
        some = [point for point in points if point.over == over]
        groups = list(dict.fromkeys((p.engine, p.side, p.mode, p.dtype) for p in some))
        table = grid(("engine", "mode", "dtype", over), ("images/s", "of bound", "first call"))
        for p in sorted(some, key=lambda p: groups.index((p.engine, p.side, p.mode, p.dtype))):
            cells = ["[red]refused[/]"]
            if p.refused is None:
                share = "–" if p.share is None else f"{p.share:.1%}"
                cells = [f"{p.images_per_second:,.1f}", share, f"{p.first_call:.2f} s"]
            table.add_row(plain(p.side), p.mode, p.dtype, p.label, *cells)
        say(console, f"\n[bold]over the {over}[/]\n")
        console.print(table)
