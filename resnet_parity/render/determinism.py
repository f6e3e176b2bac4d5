"""What changes an engine's bits, as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from resnet_parity.check.result import DeterminismReport, Rerun, StrictPrice
from resnet_parity.numerics.difference import RULE
from resnet_parity.render.text import figure, grid, pairs, plain, say, say_plain

_TITLES = {"layers": "layer by layer", "channels_first": "channels first"}
_FEW = 3


def table(console: Console, report: DeterminismReport) -> None:
    """A table for each engine and dtype with a row for each variation, the price, the verdict."""
    shape = "×".join(map(str, report.input))
    say(console, f"[bold]{plain(report.model)}[/] on {shape}, each engine beside itself")
    say(
        console,
        f"{plain(report.processor)}, {report.threads} threads; {', '.join(report.instructions)}",
    )
    for ran in report.ran:
        for dtype in dict.fromkeys(r.dtype for r in report.reruns if r.engine == ran.engine):
            say(console, f"\n[bold]{ran.engine}[/] in {dtype} ({plain(pairs(ran.versions))})\n")
            _rows(console, [r for r in report.reruns if (r.engine, r.dtype) == (ran.engine, dtype)])
    say(console, f"\n=: all bits are equal; figures: {RULE} of what the net gives")
    say_plain(console, *map(price_line, report.prices))
    say_plain(console, *(f"{name}: {why}" for name, why in report.missing.items()), before="note: ")
    say_plain(console, *report.problems, before="[red]✗[/] ")
    if any(rerun.form == "strict" for rerun in report.reruns) and not report.problems:
        console.print("[bold green]✓ the strict form's bits stay[/]")


def price_line(price: StrictPrice) -> str:
    """What the strict form costs, in a sentence."""
    return (
        f"{price.engine} in {price.dtype}: strict takes {price.ratio:.2g} times as long "
        f"({price.usual:.3f} s → {price.strict:.3f} s)"
    )


def _rows(console: Console, rows: Sequence[Rerun]) -> None:
    forms = list(dict.fromkeys(row.form for row in rows))
    listing = grid(("",), [title(form) for form in forms])
    for variation in dict.fromkeys(row.variation for row in rows):
        here = {row.form: row for row in rows if row.variation == variation}
        listing.add_row(variation, *(cell(here.get(form)) for form in forms))
    console.print(listing)
    say_plain(console, *filter(None, map(place_line, rows)), before="  ")


def title(form: str) -> str:
    """What a form is called."""
    return _TITLES.get(form, form)


def cell(row: Rerun | None) -> str:
    """How far bits are, or that they are equal."""
    return "" if row is None else "=" if row.equal else figure(row.relative)


def place_line(row: Rerun) -> str:
    """Where a result parts from the one before, in a line; nothing where it does not."""
    if row.first is None:
        return ""
    text = f"{row.variation}, {title(row.form)}: from {row.first} on"
    if row.form != "layers":
        return text
    names = ", ".join(row.alone[:_FEW])
    more = f" and {len(row.alone) - _FEW} more" if len(row.alone) > _FEW else ""
    return f"{text}; on the same input {names or 'none'}{more}"
