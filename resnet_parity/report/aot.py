"""What was compiled ahead of time, as blocks."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_parity.aot.result import AotReport, Compiled
from resnet_parity.render.text import pairs
from resnet_parity.report import number_format
from resnet_parity.report.blocks import Block, Notice, Table, Text
from resnet_parity.report.speed import MODES


def blocks(reports: Sequence[AotReport]) -> list[Block]:
    """A table for each report: what its programs need, send and can reach. Nothing where nothing
    was compiled.
    """
    found: list[Block] = []
    for report in reports:
        settings = f", with {pairs(report.settings)}" if report.settings else ""
        date = f" on {report.date}" if report.date else ""
        found.append(
            Text(
                f"Compiled{date} for devices that were not there, by {pairs(report.versions)}"
                f"{settings}. Nothing ran: images a second are an estimate, the larger of the "
                f"times for arithmetic and for traffic by the compiler's count (for GPUs, layer by "
                f"layer by the spec's) and the makers' published peak rates, without the time that "
                f"chips take to reach one another."
            )
        )
        found += [Notice(text) for text in report.problems]
        size = number_format.shape(report.size)
        caption = f"{report.name} in {report.dtype}, images of {size}"
        columns = ["engine and target", "mode", "devices", "batch", "memory", "of", "fits"]
        columns += ["arithmetic", "traffic", "all-reduces", "sent", "images/s", "compiled in"]
        rows = [_cells(row) for row in report.rows]
        found.append(Table(f"{caption}: batch and figures of one device", columns, rows, (1,)))
    return found


def _cells(row: Compiled) -> list[str]:
    speed = None if row.estimate is None else row.estimate.images_per_second
    return [
        f"{row.engine}, {row.target}",
        MODES.get(row.mode, row.mode) + ("" if row.form == "plain" else f", {row.form}"),
        number_format.count(row.devices),
        number_format.count(row.batch),
        "refused" if row.refused else number_format.scaled(row.memory, "B"),
        number_format.scaled(row.device_memory, "B"),
        number_format.count(row.largest_batch),
        number_format.scaled(row.flops, "FLOP"),
        number_format.scaled(row.traffic, "B"),
        number_format.count(row.collectives.get("all-reduce", 0)),
        number_format.scaled(row.collective_bytes, "B"),
        number_format.rate(speed),
        number_format.seconds(row.compile_seconds),
    ]
