"""A bench as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from resnet_parity.bench.result import BenchReport, Parity, Scaled, Timed
from resnet_parity.render.text import plain


def table(console: Console, report: BenchReport) -> None:
    """A table for each setting, the bound, and what was in force."""
    console.print(f"[bold]{plain(report.name)}[/]", highlight=False)
    _print(console, _conditions(report.environment))
    for rates in report.bounds:
        _print(
            console,
            f"{rates.dtype}: at best {(rates.flops_per_second or 0) / 1e9:,.0f} GFLOP/s "
            f"({rates.kernel}), memory {(rates.bytes_per_second or 0) / 1e9:,.0f} GB/s",
        )
    keys = ("mode", "dtype", "batch", "size")
    settings = list(dict.fromkeys(tuple(str(getattr(row, k)) for k in keys) for row in report.rows))
    for setting in settings:
        rows = [row for row in report.rows if tuple(str(getattr(row, k)) for k in keys) == setting]
        height, width = rows[0].size
        title = f"{rows[0].mode}, {rows[0].dtype}, {rows[0].batch} images of "
        console.print(f"\n[bold]{title}{height}×{width}[/]\n", highlight=False)
        console.print(_speeds(rows))
        console.print()
        console.print(_costs(rows))
    _scaled(console, report.scaling)
    worst = max((p for p in report.parity if p.holds), key=_used, default=None)
    if worst is not None:
        console.print()
        _print(
            console,
            f"parity: {sum(p.holds for p in report.parity)} of {len(report.parity)} timed "
            f"functions agree with {worst.reference}; nearest to its bound is "
            f"{worst.engine}, {worst.side}: {worst.error:.1e} of {worst.bound:.1e}",
        )
    for note in dict.fromkeys(f"{row.side}: {row.note}" for row in report.rows):
        if not note.endswith(": "):
            _print(console, note)
    for note in report.notes:
        _print(console, note)
    for name, reason in report.missing.items():
        _print(console, f"missing: {name}: {reason}")
    for problem in report.problems:
        console.print(f"[red]✗[/] {plain(problem)}", highlight=False, soft_wrap=True)


def _print(console: Console, text: str) -> None:
    console.print(plain(text), highlight=False, soft_wrap=True)


def _used(parity: Parity) -> float:
    return (parity.error or 0.0) / parity.bound if parity.bound else 0.0


def _conditions(environment: dict[str, Any]) -> str:
    told = environment
    versions = ", ".join(f"{k} {v}" for k, v in sorted(told["versions"].items()))
    threads = ", ".join(f"{k} {v}" for k, v in sorted(told["threads"].items()))
    precision = ", ".join(f"{k} {v}" for k, v in sorted(told["matmul_precision"].items()))
    variables = "".join(f", {k}={v}" for k, v in sorted(told["variables"].items()))
    processes = f" in {told['processes']} processes each" if told["processes"] > 1 else ""
    return (
        f"{told['hardware']}, {told['cores']} cores, {told['system']}, Python {told['python']}: "
        f"{versions}; threads: {threads}{variables}; TF32 {'on' if told['tf32'] else 'off'}; "
        f"precision of float32 products: {precision}; medians and quartiles of "
        f"{told['rounds']} rounds{processes}, alternating"
    )


def _columns(*numbers: str) -> Table:
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("", overflow="fold", min_width=22)
    for name in numbers:
        found.add_column(name, justify="right", no_wrap=True)
    return found


def _name(row: Timed) -> str:
    """Ours, and the peers in the same framework below."""
    side = plain(row.side)
    return f"  {side}" if row.peer else f"[bold]{side}[/]"


def _speeds(rows: Sequence[Timed]) -> Table:
    found = _columns("images/s", "quartiles", "of bound", "ratio")
    found.add_column("to", overflow="fold")
    for row in rows:
        if row.spread is None:
            found.add_row(_name(row), "[red]refused[/]")
            continue
        low, high = row.spread
        found.add_row(
            _name(row),
            f"{row.images_per_second:,.1f}",
            f"{low:,.1f}–{high:,.1f}",
            f"{row.share:.1%}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            plain(row.against or ""),
        )
    return found


def _costs(rows: Sequence[Timed]) -> Table:
    """What comes before the first image, the memory, and the layout."""
    on_device = any(row.peak_device_bytes for row in rows)
    numbers = ("first call", "build", "load", "import", "host MB", *["device MB"] * on_device)
    found = _columns(*numbers)
    found.add_column("layout", overflow="fold")
    for row in rows:
        if row.refused is None:
            peaks = [row.peak_host_bytes, *[row.peak_device_bytes] * on_device]
            found.add_row(
                _name(row),
                *(
                    f"{getattr(row, key):.2f} s"
                    for key in ("first_call", "build", "load", "imported")
                ),
                *("–" if peak is None else f"{peak / 1e6:,.0f}" for peak in peaks),
                row.layout,
            )
    return found


def _scaled(console: Console, points: Sequence[Scaled]) -> None:
    for over in dict.fromkeys(point.over for point in points):
        some = [point for point in points if point.over == over]
        sides = dict.fromkeys((p.engine, p.side, p.mode, p.dtype) for p in some)
        found = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("engine", "mode", "dtype", over):
            found.add_column(name, no_wrap=True)
        for name in ("images/s", "of bound", "first call"):
            found.add_column(name, justify="right", no_wrap=True)
        for engine, side, mode, dtype in sides:
            for p in some:
                if (p.engine, p.side, p.mode, p.dtype) != (engine, side, mode, dtype):
                    continue
                cells = ["[red]refused[/]"]
                if p.refused is None:
                    cells = [f"{p.images_per_second:,.1f}", f"{p.share:.1%}"]
                    cells += [f"{p.first_call:.2f} s"]
                found.add_row(plain(side), mode, dtype, p.label, *cells)
        console.print(f"\n[bold]over the {over}[/]\n", highlight=False)
        console.print(found)
