"""The command that shows what was measured on one page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from resnet_parity.cli.options import (
    DeviceOption,
    EnginesOption,
    JsonOption,
    conclude,
    require_file,
)
from resnet_parity.engines.registry import parse_device, parse_engines
from resnet_parity.render.console import err
from resnet_parity.render.progress import progress
from resnet_parity.render.text import plain, say
from shared_spec.errors import ResNetError, framework_missing
from shared_spec.weights.state import numpy_dtype


def report(
    models: Annotated[
        list[str] | None, typer.Argument(help="Catalogue names or spec files.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    check: Annotated[
        list[Path] | None, typer.Option(help="Output of `check --json`; can be repeated.")
    ] = None,
    trace: Annotated[
        list[Path] | None, typer.Option(help="Output of `trace --json`; can be repeated.")
    ] = None,
    bench: Annotated[
        list[Path] | None, typer.Option(help="Output of `bench --json`; can be repeated.")
    ] = None,
    aot: Annotated[
        list[Path] | None, typer.Option(help="Output of `aot --json`; can be repeated.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Output of an earlier `report --json`, to see what moved since."),
    ] = None,
    speed: Annotated[
        bool, typer.Option("--speed", help="Measure speed too, unless a file has it.")
    ] = False,
    engines: EnginesOption = None,
    dtype: Annotated[str, typer.Option(help="The dtype of what is run here.")] = "float64",
    device: DeviceOption = "cpu",
    date: Annotated[
        str | None, typer.Option(help="A date to print on the page, in any form.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put parity, errors along depth, speed, memory and scaling on one HTML page.

    Results that the files lack for the models named are measured here: a parity check, a trace of
    each engine against the first, and with --speed a benchmark. The page needs no network and no
    other file. With --against it begins with what moved since an earlier report, of whose nets
    those of the catalogue are measured if nothing else is named.
    """
    for needed in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(needed) is None:
            raise framework_missing("report", needed, "report")
    require_file(output)
    if speed and not models:
        raise ResNetError("--speed: name the models to measure")
    numpy_dtype(dtype)
    from resnet_parity import report as reports

    files = reports.Files(check or [], trace or [], bench or [], aot or [])
    settings = reports.ReportSettings(
        parse_engines(engines),
        dtype=dtype,
        device=parse_device(device),
        speed=speed,
        requested=engines is not None,
    )
    earlier = None if against is None else reports.read_report(against)
    names = models or []
    if earlier and not (names or check or trace or bench):
        names = [net.name for net in earlier if net.spec is not None]
    with progress(err) as advance:
        nets = reports.collect(names, files, settings, advance)
    moved = None
    if against is not None and earlier is not None:
        moved = reports.compare(earlier, nets, against.name)
    reports.write(nets, output, date, moved)
    told = [reports.to_dict(net) for net in nets]
    holds = not any(net["holds"] is False for net in told)
    result = {"report": str(output), "holds": holds, "nets": told}
    if moved is not None:
        result |= {
            "against": moved.to_dict(),
            "moved": [text for text, _ in reports.sentences(moved)],
        }
    conclude(result, as_json, table)


def table(console: Console, data: dict[str, Any]) -> None:
    """A sentence for each net, and where the page is."""
    marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: "–"}
    for net in data["nets"]:
        say(console, f"{marks[net['holds']]} {plain(net['name'])}: {plain(net['summary'])}")
    if "against" in data:
        say(console, f"since {plain(data['against']['report'])}:")
        for text in data["moved"]:
            say(console, f"  {plain(text)}")
    say(console, f"wrote {plain(data['report'])}")
