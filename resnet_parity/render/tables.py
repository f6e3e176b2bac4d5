"""What the commands print for people: rich tables and progress bars."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from resnet_parity.check.record_file import SweepRecord
from resnet_parity.check.result import CheckReport, TrainingReport
from resnet_parity.engines.reference_libraries import REFERENCES
from resnet_parity.render.text import (
    figure,
    grid,
    join_words,
    largest,
    pairs,
    plain,
    plain_figure,
    say,
    say_plain,
    severity,
)
from shared_spec.formats.inspection import ROWS


def sweep(console: Console, data: dict[str, Any]) -> None:
    """The result of a sweep: a line for each name and library, then what is wrong."""
    records = [SweepRecord.from_dict(record) for record in data["records"]]
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
    held, rows = data["held"], data["rows"]
    say(
        console,
        f"{held['judged']} of {rows['judged']} comparisons with a library hold, and "
        f"{held['alone']} of {rows['alone']} names that no library has",
    )
    _verdict(console, [f"{r.name}: {problem}" for r in records for problem in r.all_problems()])


def downloaded(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """What was fetched, and what was not."""
    for row in rows:
        path = row["path"]
        told = f"{plain(row['name'])}: {plain(path)}" if path else f"[red]{plain(row['error'])}[/]"
        console.print(told, highlight=False, soft_wrap=True)


def parity(console: Console, report: CheckReport) -> None:
    """The result of a check."""
    sizes = ", ".join("×".join(map(str, shape)) for shape in report.inputs)
    own = ", products in each framework's own precision," if report.precision == "default" else ""
    console.print(f"[bold]{plain(report.model)}[/] in {report.dtype}{own} on inputs {sizes}\n")
    judged = ["logits to float64"] if report.against_float64 else []
    table = grid(("engine", "versions", "device"), ("parameters", "seconds", *judged))
    for ran in report.ran:
        cells = [ran.engine, pairs(ran.versions), plain(ran.device)]
        cells += [f"{ran.parameters:,}", f"{ran.seconds:.1f}"]
        if ran.engine in report.against_float64:
            cells.append(figure(report.against_float64[ran.engine].maximum))
        table.add_row(*cells)
    _absent(table, report)
    console.print(table)
    if report.pairs:
        say(console, "\nlogits, between every two engines:")
        logits = {pair.engines: pair.logits.maximum for pair in report.pairs}
        _matrix(console, [ran.engine for ran in report.ran], logits)
        worst = max(report.pairs, key=lambda pair: severity(pair.blocks.maximum))
        say(
            console,
            f"\nworst block: {worst.worst_block}, "
            f"{figure(worst.blocks.maximum)} between {' and '.join(worst.engines)}",
        )
    bound = "" if report.dtype != "float64" else f" ≤ {report.tolerance:.0e}"
    say(console, f"rule: {report.rule}{bound}")
    _verdict(console, report.problems)


def training(console: Console, report: TrainingReport) -> None:
    """The result of a check of training."""
    batch = "×".join(map(str, report.batch))
    say(
        console,
        f"[bold]{plain(report.model)}[/] trained in {report.dtype} for {report.steps} steps on "
        f"batches {batch}\n",
    )
    table = grid(("engine", "versions", "device"), ("seconds", "first loss", "last loss"))
    for row in report.engines:
        losses = [f"{x:.6g}" if math.isfinite(x) else "NaN" for x in row["losses"]]
        cells = [row["engine"], pairs(row["versions"]), plain(row["device"])]
        table.add_row(*cells, f"{row['seconds']:.1f}", losses[0], losses[-1])
    _absent(table, report)
    console.print(table)
    if report.pairs and report.dtype == "float64":
        rows = [(" and ".join(pair), row) for pair, row in report.pairs.items()]
        say(console, "\nlargest differences between every two engines:")
        _differences(console, rows)
    if report.against_float64:
        say(console, "\nlargest differences from float64:")
        _differences(console, list(report.against_float64.items()))
    bounds = ", ".join(f"{quantity} ≤ {bound:.0e}" for quantity, bound in report.tolerances.items())
    say(console, f"\nrule: {report.rule}; {bounds}")
    say_plain(console, *report.notes, before="note: ")
    _verdict(console, report.problems)


def recipes(console: Console, data: dict[str, str]) -> None:
    """The recipes that are shipped."""
    table = grid(("recipe", ""))
    for name, text in data.items():
        table.add_row(name, plain(text))
    console.print(table)


def trained(console: Console, data: dict[str, Any]) -> None:
    """The result of a training."""
    scores = data["held_out"]
    # Null where there was no step left to take.
    loss, held_out_loss = (math.nan if x is None else x for x in (data["loss"], scores["loss"]))
    say(
        console,
        f"{data['steps']:,} steps in {data['seconds']:.1f} s, {data['images_per_second']:.0f} "
        f"images/s; last loss {loss:.4f}",
    )
    say(
        console,
        f"held out, {scores['images']:,} images: top 1 [bold]{scores['top1']:.2%}[/], top 5 "
        f"{scores['top5']:.2%}, loss {held_out_loss:.4f}",
    )
    say(console, f"wrote {plain(data['folder'])}")


def evaluated(console: Console, data: dict[str, Any]) -> None:
    """The result of an evaluation."""
    sides = ", ".join(map(str, data["scales"]))
    how = {
        "center": f"the middle of {data['image_size']} pixels",
        "10": f"ten crops of {data['image_size']} pixels",
        "multi_scale": f"whole images at the scales {sides}",
    }[data["crops"]]
    say(
        console,
        f"[bold]{plain(data['weights'])}[/] in {data['dtype']} on {data['images']:,} images of "
        f"{plain(data['data'])}, {data['classes']:,} classes; {how}\n",
    )
    scores = ("top 1", "top 5", "top-1 error", "top-5 error", "loss", "images/s")
    table = grid(("engine",), scores)
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
        say(console, "\nlogits, between every two engines:")
        logits = {tuple(pair["engines"]): pair["logits"] for pair in data["pairs"]}
        _matrix(console, [row["engine"] for row in data["engines"]], logits)
        least = min(data["pairs"], key=lambda pair: pair["same_top1"])
        say(
            console,
            f"\nsame top 1: {least['same_top1']:.2%} of the images"
            + (" for every two engines" if least["same_top1"] == 1 else " at least"),
        )
    for pair in data["pairs"]:
        for image in pair["disagreements"]:
            classes = ", ".join(f"{name} {plain(image[name])}" for name in pair["engines"])
            say(console, f"  {plain(image['image'])} ({plain(image['label'])}): {classes}")
    say_plain(console, *data["notes"], before="note: ")
    if data["tolerance"] is not None:
        say(console, f"rule: {data['rule']}")
    if data["pairs"] or data["problems"]:
        _verdict(console, data["problems"])


def _differences(console: Console, rows: Sequence[tuple[str, Any]]) -> None:
    quantities = ("loss", "gradients", "update", "statistics", "weights")
    table = grid(("",), quantities)
    for name, row in rows:
        table.add_row(name, *(figure(row[quantity][1]) for quantity in quantities))
    console.print(table)


def _verdict(console: Console, problems: Sequence[str]) -> None:
    say_plain(console, *problems, before="[red]✗[/] ")
    console.print("[bold red]✗ does not hold[/]" if problems else "[bold green]✓ holds[/]")


def _absent(table: Table, report: CheckReport | TrainingReport) -> None:
    for state, reasons in (("missing", report.missing), ("failed", report.failed)):
        for engine, reason in reasons.items():
            table.add_row(engine, f"[red]{state}:[/] {plain(reason)}")


def _matrix(
    console: Console, names: Sequence[str], differences: Mapping[Any, float | None]
) -> None:
    table = grid(("",), names[1:])
    for a in names[:-1]:
        cells = [figure(differences[a, b]) if (a, b) in differences else "" for b in names[1:]]
        table.add_row(a, *cells)
    console.print(table)


def converted(console: Console, data: dict[str, Any]) -> None:
    """The result of a conversion."""
    say(
        console,
        f"{plain(data['source'])} ({data['source_format']}) → "
        f"{plain(data['target'])} ({data['target_format']})",
    )
    say(
        console,
        f"[green]✓[/] {data['tensors']} arrays of {data['dtype']}, {data['bytes']:,} bytes; read "
        f"back bit for bit, SHA-256 {data['sha256']}",
    )
    if not data["unchanged"]:
        say(
            console,
            "The weights are others than the source's: the target's library needs these for the "
            "same function.",
        )
    _proven(console, data)
    say_plain(console, *data["notes"], before="Note: ")
    if data["lost"]:
        say(console, f"This format has no place for {join_words(data['lost'])}.")


def exported(console: Console, data: dict[str, Any]) -> None:
    """The result of an export."""
    say(console, f"{plain(data['source'])} → {plain(data['target'])}")
    version = f", operators of version {data['opset']}" if data["opset"] else ""
    say(
        console,
        f"[green]✓[/] {data['format']}{version}, {data['dtype']}, "
        f"{data['bytes']:,} bytes, written in {data['seconds']['export']:.2f} s",
    )
    _proven(console, data)
    for found in (data["quantized"] or {"held_out": ()})["held_out"]:
        low, high = (f"{100 * x:+.2f}" for x in found["loss_interval"])
        least, most = (f"{100 * x:.2f}" for x in found["agreement_interval"])
        say(
            console,
            f"{found['engine']} on {found['images']:,} held-out images: top-1 "
            f"{found['top1']:.2%}, {found['float_top1']:.2%} in float32 by "
            f"{found['float_engine']}: {100 * found['loss']:+.2f} points lost, 95 % between {low} "
            f"and {high}; the same class for {found['agreement']:.2%}, between {least} and {most}",
        )
    say_plain(console, *data["notes"], before="Note: ")


def _proven(console: Console, data: dict[str, Any]) -> None:
    """The certificate of a file that was written."""
    _checks(console, data["checks"])
    _assumed(console, data)
    if data["certificate"]:
        say(console, f"Judged by: {plain(data['judged_by'])}")
        say(console, f"Certificate: {plain(data['certificate'])}")
    if data["removed"]:
        say(console, f"Removed {plain(data['removed'])}: it certified what was there before.")


_TOLD = 10
_LONGEST = 80
"""Characters of a value in a file."""


def inspected(console: Console, data: dict[str, Any]) -> None:
    """What is in a file of weights."""
    arrays, numbers = (sum(group[key] for group in data["groups"]) for key in ("arrays", "numbers"))
    say(
        console,
        f"[bold]{plain(data['path'])}[/]: {plain(data['kind'])}, {data['bytes']:,} bytes, "
        f"{arrays:,} arrays of {numbers:,} numbers",
    )
    places = [group["place"] for group in data["groups"]]
    common = os.path.commonprefix(places)  # noqa: RUF071 - up to a slash or a dot, below
    above = common[: max(common.rfind("/"), common.rfind(".")) + 1] if len(places) > 1 else ""
    title = f"arrays of {plain(above)}" if above else "arrays of"
    table = grid([title, "dtype", "shape"], ["arrays", "numbers"], fold=16)
    for group in data["groups"][:ROWS]:
        shape = "" if group["shape"] is None else "×".join(map(str, group["shape"])) or "scalar"
        figures = [f"{group['arrays']:,}", f"{group['numbers']:,}"]
        place = group["place"].removeprefix(above).rstrip("/._") or "(the whole file)"
        table.add_row(plain(place), ", ".join(group["dtypes"]), shape, *figures)
    console.print(table)
    if len(data["groups"]) > ROWS:
        say(console, f"and {len(data['groups']) - ROWS:,} more (--json)")
    for title, found in (("Values", data["values"]), ("Objects, not made", data["opaque"])):
        told = [f"{key}: {_short(value)}" for key, value in list(found.items())[:_TOLD]]
        more = f" and {len(found) - _TOLD:,} more (--json)" if len(found) > _TOLD else ""
        if told:
            say(console, f"{title}: {plain('; '.join(told))}{more}")
    for net in data["nets"]:
        console.print()
        _net(console, net)
    if data["unseen"]:
        say(console, f"and {data['unseen']:,} more ResNets")
    if data["problem"]:
        say(console, f"\n[yellow]No ResNet[/]: {plain(data['problem'])}")
    if data["suggest"]:
        say(console, "Its kernels are those of a ResNet; this proposes a map for --names:")
        say(console, f"  {plain(data['suggest'])}")
    if data["suggested"]:
        say(console, f"Proposed: {plain(data['suggested']['names'])}; look through it, then:")
        say(console, f"  {plain(data['suggested']['command'])}")


def _net(console: Console, net: dict[str, Any]) -> None:
    """A place where a ResNet is, and what converts it."""
    what = net["model"] or "a ResNet"
    if net["differs"]:
        what += f" with {', '.join(f'{k} {_short(v)}' for k, v in net['differs'].items())}"
    if net["classes"] is not None:
        what += f"; {net['classes']} classes" if net["classes"] else "; no classifier"
    where = "" if net["part"] == "/" else f"at {net['part']}: "
    mark = "[yellow]?[/]" if net["problem"] else "[green]✓[/]"
    say(console, f"{mark} {plain(where + what)}")
    if net["recognised_by"]:
        say(console, f"  recognised by: {plain(net['recognised_by'])}")
    for note in [net["problem"], *net["notes"]]:
        if note:
            say(console, f"  {plain(note)}")
    if net["command"]:
        say(console, f"  {plain(net['command'])}")


def _short(value: object) -> str:
    return str(value) if len(str(value)) <= _LONGEST else f"{str(value)[:_LONGEST]}..."


def verified(console: Console, data: dict[str, Any]) -> None:
    """A converted file compared with its certificate."""
    source = data["source"]
    made = (
        f", converted from {plain(source.get('name', '?'))}" if data.get("converted", True) else ""
    )
    say(console, f"{plain(data['target'])}{made}; reference: {plain(data['reference'])} in float64")
    say(console, f"The source was judged by: {plain(data['judged_by'])}")
    _assumed(console, data)
    say_plain(console, *data["notes"], before="Note: ")
    _checks(console, data["checks"])


def _assumed(console: Console, data: dict[str, Any]) -> None:
    """What was taken for granted of the source's net."""
    if data["assumed"]:
        say(console, f"Assumed: {plain(data['assumed'])}")


def _checks(console: Console, checks: Sequence[dict[str, Any]]) -> None:
    """Logits of engines against the source's."""
    for check in checks:
        mark = "[green]✓[/]" if check["holds"] else "[red]✗[/]"
        error = "not a number" if check["error"] is None else f"{check['error']:.1e}"
        say(
            console,
            f"{mark} {plain(check['engine'])} in {check['dtype']}: logits {error} from the "
            f"source's (bound {check['bound']:.1e})",
        )


def predictions(console: Console, data: Sequence[dict[str, Any]]) -> None:
    """The most probable classes of each image."""
    for record in data:
        say(console, f"[bold]{plain(record['image'])}[/]")
        table = grid(("", "", ""), show_header=False)
        for entry in record["classes"]:
            bar = "█" * round(20 * entry["probability"])
            table.add_row(f"{entry['probability']:7.2%}", bar, plain(entry["label"]))
        console.print(table)
