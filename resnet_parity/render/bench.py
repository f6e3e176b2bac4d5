"""A bench as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from resnet_parity.render.text import plain


def table(console: Console, data: dict[str, Any]) -> None:
    """A table for each setting, the bound, and what was in force."""
    console.print(f"[bold]{plain(data['name'])}[/]", highlight=False)
    _print(console, _conditions(data["environment"]))
    for rates in data["bounds"]:
        _print(
            console,
            f"{rates['dtype']}: at best {rates['flops_per_second'] / 1e9:,.0f} GFLOP/s "
            f"({rates['kernel']}), memory {rates['bytes_per_second'] / 1e9:,.0f} GB/s",
        )
    keys = ("mode", "dtype", "batch", "size")
    settings = list(dict.fromkeys(tuple(str(row[k]) for k in keys) for row in data["rows"]))
    for setting in settings:
        rows = [row for row in data["rows"] if tuple(str(row[k]) for k in keys) == setting]
        height, width = rows[0]["size"]
        title = f"{rows[0]['mode']}, {rows[0]['dtype']}, {rows[0]['batch']} images of "
        console.print(f"\n[bold]{title}{height}×{width}[/]\n", highlight=False)
        console.print(_speeds(rows))
        console.print()
        console.print(_costs(rows))
    _scaled(console, data["scaling"])
    worst = max((p for p in data["parity"] if p["holds"]), key=_used, default=None)
    if worst is not None:
        console.print()
        _print(
            console,
            f"parity: {sum(p['holds'] for p in data['parity'])} of {len(data['parity'])} timed "
            f"functions agree with {worst['reference']}; nearest to its bound is "
            f"{worst['engine']}, {worst['side']}: {worst['error']:.1e} of {worst['bound']:.1e}",
        )
    for note in dict.fromkeys(f"{row['side']}: {row['note']}" for row in data["rows"]):
        if not note.endswith(": "):
            _print(console, note)
    for note in data["notes"]:
        _print(console, note)
    for name, reason in data["missing"].items():
        _print(console, f"missing: {name}: {reason}")
    for problem in data["problems"]:
        console.print(f"[red]✗[/] {plain(problem)}", highlight=False, soft_wrap=True)


def _print(console: Console, text: str) -> None:
    console.print(plain(text), highlight=False, soft_wrap=True)


def _used(parity: dict[str, Any]) -> float:
    return float(parity["error"] / parity["bound"]) if parity["bound"] else 0.0


def _conditions(environment: dict[str, Any]) -> str:
    told = environment
    versions = ", ".join(f"{k} {v}" for k, v in sorted(told["versions"].items()))
    threads = ", ".join(f"{k} {v}" for k, v in sorted(told["threads"].items()))
    precision = ", ".join(f"{k} {v}" for k, v in sorted(told["matmul_precision"].items()))
    variables = "".join(f", {k}={v}" for k, v in sorted(told["variables"].items()))
    processes = f" in {told['processes']} processes a side" if told["processes"] > 1 else ""
    return (
        f"{told['hardware']}, {told['cores']} cores, {told['system']}, Python {told['python']}: "
        f"{versions}; threads: {threads}{variables}; TF32 {'on' if told['tf32'] else 'off'}; "
        f"precision of float32 products: {precision}; medians and quartiles of "
        f"{told['rounds']} rounds{processes}, the sides by turns"
    )


def _columns(*numbers: str) -> Table:
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("", overflow="fold", min_width=22)
    for name in numbers:
        found.add_column(name, justify="right", no_wrap=True)
    return found


def _name(row: dict[str, Any]) -> str:
    """Ours, and the peers in the same framework below."""
    side = plain(row["side"])
    return f"  {side}" if row["peer"] else f"[bold]{side}[/]"


def _speeds(rows: Sequence[dict[str, Any]]) -> Table:
    found = _columns("images/s", "quartiles", "of bound", "ratio")
    found.add_column("to", overflow="fold")
    for row in rows:
        if row["refused"] is not None:
            found.add_row(_name(row), "[red]refused[/]")
            continue
        seconds, batch = row["seconds"], row["batch"]
        found.add_row(
            _name(row),
            f"{row['images_per_second']:,.1f}",
            f"{batch / seconds['high']:,.1f}–{batch / seconds['low']:,.1f}",
            f"{row['share']:.1%}",
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            plain(row["against"] or ""),
        )
    return found


def _costs(rows: Sequence[dict[str, Any]]) -> Table:
    """What comes before the first image, the memory, and the layout."""
    on_device = any(row["peak_device_bytes"] for row in rows)
    numbers = ("first call", "build", "load", "import", "host MB", *["device MB"] * on_device)
    found = _columns(*numbers)
    found.add_column("layout", overflow="fold")
    for row in rows:
        if row["refused"] is None:
            peaks = [row["peak_host_bytes"], *[row["peak_device_bytes"]] * on_device]
            found.add_row(
                _name(row),
                *(f"{row[key]:.2f} s" for key in ("first_call", "build", "load", "import")),
                *("–" if peak is None else f"{peak / 1e6:,.0f}" for peak in peaks),
                row["layout"],
            )
    return found


def _scaled(console: Console, points: Sequence[dict[str, Any]]) -> None:
    for over in dict.fromkeys(point["over"] for point in points):
        some = [point for point in points if point["over"] == over]
        sides = dict.fromkeys((p["engine"], p["side"], p["mode"], p["dtype"]) for p in some)
        found = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("engine", "mode", "dtype", over):
            found.add_column(name, no_wrap=True)
        for name in ("images/s", "of bound", "first call"):
            found.add_column(name, justify="right", no_wrap=True)
        for engine, side, mode, dtype in sides:
            for p in some:
                if (p["engine"], p["side"], p["mode"], p["dtype"]) != (engine, side, mode, dtype):
                    continue
                cells = ["[red]refused[/]"]
                if p["refused"] is None:
                    cells = [f"{p['images_per_second']:,.1f}", f"{p['share']:.1%}"]
                    cells += [f"{p['first_call']:.2f} s"]
                found.add_row(plain(side), mode, dtype, p["label"], *cells)
        console.print(f"\n[bold]over the {over}[/]\n", highlight=False)
        console.print(found)
