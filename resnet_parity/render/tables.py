"""What the commands print for people: rich tables and progress bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from resnet_parity.check.record_file import Record
from resnet_parity.check.result import CheckReport, TrainingReport
from resnet_parity.engines.reference_libraries import REFERENCES
from resnet_parity.render.text import figure, join_words, largest, plain, plain_figure


def sweep(console: Console, data: dict[str, Any]) -> None:
    """The result of a sweep: a line for each name and library, then what is wrong."""
    records = [Record.from_dict(record) for record in data["records"]]
    names = max(len(record.name) for record in records)
    head = f"{'name':{names}}  {'reference':18}  {'dtype':7}  to reference  between engines"
    console.print(head, style="bold", highlight=False, no_wrap=True, overflow="ellipsis")
    for record in records:
        rows = [(name, largest(j)) for name, j in record.references.items()]
        rows += [(name, "not installed") for name in record.missing if name in REFERENCES]
        for name, worst in rows or [("–", "–")]:
            good = record.holds if name not in record.references else record.holds_for(name)
            between = plain_figure(record.between) if record.pair else "–"
            line = f"{record.name:{names}}  {name:18}  {record.dtype}  {worst:>12}  {between:>15}"
            print(f"{line}  {'✓' if good else '✗'}", file=console.file)
    for record in records:
        for problem in record.all_problems():
            console.print(
                f"[red]✗[/] {record.name}: {plain(problem)}", highlight=False, soft_wrap=True
            )
    held, rows = data["held"], data["rows"]
    console.print(
        f"{held['judged']} of {rows['judged']} comparisons with a library hold, and "
        f"{held['alone']} of {rows['alone']} names that no library has",
        highlight=False,
        soft_wrap=True,
    )
    verdict = "[bold green]✓ holds[/]" if data["holds"] else "[bold red]✗ does not hold[/]"
    console.print(verdict)


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


def parity(console: Console, report: CheckReport) -> None:
    """The result of a check."""
    sizes = ", ".join("×".join(map(str, shape)) for shape in report.inputs)
    own = ", products in each framework's own precision," if report.precision == "default" else ""
    console.print(f"[bold]{plain(report.model)}[/] in {report.dtype}{own} on inputs {sizes}\n")
    _engines_table(console, report)
    if report.pairs:
        console.print("\nlogits, between every two engines:", highlight=False)
        found = {pair.engines: pair.logits.maximum for pair in report.pairs}
        _matrix(console, [ran.engine for ran in report.ran], found)
        worst = max(report.pairs, key=lambda pair: _or_infinity(pair.blocks.maximum))
        console.print(
            f"\nworst block: {worst.worst_block}, "
            f"{figure(worst.blocks.maximum)} between {' and '.join(worst.engines)}",
            highlight=False,
        )
    bound = "" if report.dtype != "float64" else f" ≤ {report.tolerance:.0e}"
    console.print(f"rule: {report.rule}{bound}", highlight=False)
    _verdict(console, report.problems)


def training(console: Console, report: TrainingReport) -> None:
    """The result of a check of training."""
    batch = "×".join(map(str, report.batch))
    console.print(
        f"[bold]{plain(report.model)}[/] trained in {report.dtype} for {report.steps} steps on "
        f"batches {batch}\n",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("engine", "versions", "device"):
        table.add_column(name)
    for name in ("seconds", "first loss", "last loss"):
        table.add_column(name, justify="right")
    for row in report.engines:
        versions = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
        losses = [f"{x:.6g}" if math.isfinite(x) else "NaN" for x in row["losses"]]
        cells = [row["engine"], versions, plain(row["device"]), f"{row['seconds']:.1f}"]
        table.add_row(*cells, losses[0], losses[-1])
    _absent(table, report)
    console.print(table)
    if report.pairs and report.dtype == "float64":
        rows = [(" and ".join(pair), found) for pair, found in report.pairs.items()]
        console.print("\nlargest differences between every two engines:", highlight=False)
        _parts(console, rows)
    if report.against_float64:
        console.print("\nlargest differences from float64:", highlight=False)
        _parts(console, list(report.against_float64.items()))
    bounds = ", ".join(f"{part} ≤ {bound:.0e}" for part, bound in report.tolerances.items())
    console.print(f"\nrule: {report.rule}; {bounds}", highlight=False)
    for note in report.notes:
        console.print(f"note: {plain(note)}", highlight=False)
    _verdict(console, report.problems)


def recipes(console: Console, data: dict[str, str]) -> None:
    """The recipes that are shipped."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recipe", no_wrap=True)
    table.add_column("")
    for name, text in data.items():
        table.add_row(name, plain(text))
    console.print(table)


def trained(console: Console, data: dict[str, Any]) -> None:
    """The result of a training."""
    scores = data["held_out"]
    # Null where there was no step left to take.
    loss, held_out_loss = (math.nan if x is None else x for x in (data["loss"], scores["loss"]))
    console.print(
        f"{data['steps']:,} steps in {data['seconds']:.1f} s, {data['images_per_second']:.0f} "
        f"images/s; last loss {loss:.4f}",
        highlight=False,
    )
    console.print(
        f"held out, {scores['images']:,} images: top 1 [bold]{scores['top1']:.2%}[/], top 5 "
        f"{scores['top5']:.2%}, loss {held_out_loss:.4f}",
        highlight=False,
    )
    console.print(f"wrote {plain(data['folder'])}", highlight=False, soft_wrap=True)


def evaluated(console: Console, data: dict[str, Any]) -> None:
    """The result of an evaluation."""
    sides = ", ".join(map(str, data["scales"]))
    how = {
        "center": f"the middle of {data['image_size']} pixels",
        "10": f"ten crops of {data['image_size']} pixels",
        "multi_scale": f"whole images at the scales {sides}",
    }[data["crops"]]
    console.print(
        f"[bold]{plain(data['weights'])}[/] in {data['dtype']} on {data['images']:,} images of "
        f"{plain(data['data'])}, {data['classes']:,} classes; {how}\n",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("engine", no_wrap=True)
    for name in ("top 1", "top 5", "top-1 error", "top-5 error", "loss", "images/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in data["engines"]:
        shares = [row[key] for key in ("top1", "top5", "top1_error", "top5_error")]
        speed = row["images_per_second"]
        table.add_row(
            row["engine"],
            *(f"{share:.2%}" for share in shares),
            "[red]NaN[/]" if row["loss"] is None else f"{row['loss']:.4f}",
            "–" if speed is None else f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}",
        )
    console.print(table)
    if data["pairs"]:
        console.print("\nlogits, between every two engines:", highlight=False)
        logits = {tuple(pair["engines"]): pair["logits"] for pair in data["pairs"]}
        _matrix(console, [row["engine"] for row in data["engines"]], logits)
        least = min(data["pairs"], key=lambda pair: pair["same_top1"])
        console.print(
            f"\nsame top 1: {least['same_top1']:.2%} of the images"
            + (" for every two engines" if least["same_top1"] == 1 else " at least"),
            highlight=False,
        )
    for pair in data["pairs"]:
        for found in pair["disagreements"]:
            said = ", ".join(f"{name} {plain(found[name])}" for name in pair["engines"])
            console.print(
                f"  {plain(found['image'])} ({plain(found['label'])}): {said}",
                highlight=False,
                soft_wrap=True,
            )
    for note in data["notes"]:
        console.print(f"note: {plain(note)}", highlight=False, soft_wrap=True)
    if data["tolerance"] is not None:
        console.print(f"rule: {data['rule']}", highlight=False, soft_wrap=True)
    if data["pairs"] or data["problems"]:
        _verdict(console, data["problems"])


def _parts(console: Console, rows: Sequence[tuple[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    parts = ("loss", "gradients", "update", "statistics", "weights")
    for part in parts:
        table.add_column(part, justify="right")
    for name, row in rows:
        table.add_row(name, *(figure(row[part][1]) for part in parts))
    console.print(table)


def _verdict(console: Console, problems: Sequence[str]) -> None:
    for problem in problems:
        console.print(f"[red]✗[/] {plain(problem)}", highlight=False)
    console.print("[bold red]✗ does not hold[/]" if problems else "[bold green]✓ holds[/]")


def _absent(table: Table, report: CheckReport | TrainingReport) -> None:
    for state, reasons in (("missing", report.missing), ("failed", report.failed)):
        for engine, reason in reasons.items():
            table.add_row(engine, f"[red]{state}:[/] {plain(reason)}")


def _engines_table(console: Console, report: CheckReport) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("engine", "versions", "device"):
        table.add_column(name)
    for name in ("parameters", "seconds"):
        table.add_column(name, justify="right")
    if report.against_float64:
        table.add_column("logits to float64", justify="right")
    for ran in report.ran:
        versions = ", ".join(f"{k} {v}" for k, v in ran.versions.items())
        cells = [ran.engine, versions, plain(ran.device)]
        cells += [f"{ran.parameters:,}", f"{ran.seconds:.1f}"]
        if ran.engine in report.against_float64:
            cells.append(figure(report.against_float64[ran.engine].maximum))
        table.add_row(*cells)
    _absent(table, report)
    console.print(table)


def _matrix(console: Console, names: Sequence[str], found: Mapping[Any, float | None]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in names[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for a in names[:-1]:
        cells = [figure(found[a, b]) if (a, b) in found else "" for b in names[1:]]
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
    if not data["unchanged"]:
        console.print(
            "The weights are others than the source's: the target's library needs these for the "
            "same function.",
            highlight=False,
        )
    _checks(console, data["checks"])
    if data["certificate"]:
        console.print(f"Certificate: {plain(data['certificate'])}", highlight=False, soft_wrap=True)
    if data["removed"]:
        console.print(
            f"Removed {plain(data['removed'])}: it certified what was there before.",
            highlight=False,
            soft_wrap=True,
        )
    if data["lost"]:
        console.print(f"This format has no place for {join_words(data['lost'])}.", highlight=False)


def verified(console: Console, data: dict[str, Any]) -> None:
    """A converted file compared with its certificate."""
    console.print(
        f"{plain(data['target'])}, converted from {plain(data['source'].get('name', '?'))}; "
        f"reference: {plain(data['reference'])} in float64",
        highlight=False,
        soft_wrap=True,
    )
    _checks(console, data["checks"])


def _checks(console: Console, checks: Sequence[dict[str, Any]]) -> None:
    """Logits of engines against the source's."""
    for check in checks:
        mark = "[green]✓[/]" if check["holds"] else "[red]✗[/]"
        error = "not a number" if check["error"] is None else f"{check['error']:.1e}"
        console.print(
            f"{mark} {plain(check['engine'])} in {check['dtype']}: logits {error} from the "
            f"source's (bound {check['bound']:.1e})",
            highlight=False,
            soft_wrap=True,
        )


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


def _or_infinity(value: float) -> float:
    return math.inf if math.isnan(value) else value
