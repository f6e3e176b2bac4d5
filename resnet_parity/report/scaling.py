"""Scaling curves, as blocks: over batch, depth and image size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from resnet_parity.bench.result import BenchReport, Scaled
from resnet_parity.render.charts import Series, curve, titles
from resnet_parity.render.svg import Chart, picture
from resnet_parity.report import commands, number_format
from resnet_parity.report.blocks import (
    Block,
    Missing,
    Notice,
    Picture,
    Pictures,
    Styles,
    Table,
    legend,
)
from resnet_parity.report.speed import MODES

_OVER = {"batch": "images in a batch", "depth": "layers", "size": "height and width in pixels"}


def blocks(name: str, benches: Sequence[BenchReport], styles: Styles, ident: str) -> list[Block]:
    """A chart for each quantity and mode, and one for the first call where that grows."""
    points = [point for bench in benches for point in bench.scaling]
    if not benches:
        return []
    if not points:
        return [Missing("Scaling was not measured.", commands.missing_scaling(name))]
    groups: dict[tuple[str, str, str], list[Scaled]] = {}
    for point in points:
        groups.setdefault((point.over, point.mode, point.dtype), []).append(point)
    pictures, tables = [], []
    for i, ((over, mode, dtype), members) in enumerate(groups.items(), 1):
        told = [text for text in (MODES.get(mode, mode).lower(), dtype) if text]
        table: Table | None = _table(", ".join([f"{name} over {over}", *told]), over, members)
        kinds = [
            ("images a second", "a", "images_per_second", number_format.rate),
            ("seconds of the first call", "b", "first_call", number_format.seconds),
        ]
        for unit, letter, key, figure in kinds:
            lines, text = _lines(members, key, figure, styles)
            if any(len(line.points) > 1 for line in lines):
                chart = Chart(f"{ident}-{i}{letter}", f"{name}: {unit} over {over}", text)
                draw = partial(curve, series=lines, over=_OVER.get(over, over))
                svg = picture(chart, draw, titles(lines, figure))
                caption = ", ".join([f"{unit[0].upper()}{unit[1:]} over {over}", *told])
                pictures.append(Picture(caption, svg, table))
                table = None
        # Where no two points make a curve.
        tables += [table] if table is not None else []
    sides = list(dict.fromkeys(point.side for point in points))
    found: list[Block] = [
        Notice(f"{point.side} over {point.over}, {point.label}: refused. {point.refused}")
        for point in points
        if point.refused
    ]
    found += [Pictures(pictures, legend(styles, sides))] if pictures else []
    return [*found, *tables]


def _lines(
    points: Sequence[Scaled], key: str, figure: Callable[[float], str], styles: Styles
) -> tuple[list[Series], str]:
    """A line for each side that has such figures, and in words where they begin and end."""
    lines, told = [], []
    for side in dict.fromkeys(point.side for point in points):
        known = sorted(
            (point.x, y, point.label)
            for point in points
            if point.side == side and not point.refused
            if (y := getattr(point, key)) is not None and 1e-30 < y < 1e30
        )
        if known:
            named = [(x, y, label or f"{x:,.6g}") for x, y, label in known]
            lines.append(Series(side, styles[side], named))
            (a, first, _), (b, last, _) = known[0], known[-1]
            told.append(f"{side}: {figure(first)} at {a:,.6g}, {figure(last)} at {b:,.6g}.")
    return lines, " ".join(told)


def _table(caption: str, over: str, points: Sequence[Scaled]) -> Table:
    rows = [
        [
            point.side,
            point.label or number_format.ABSENT,
            f"{point.x:,.6g}",
            "refused" if point.refused else number_format.rate(point.images_per_second),
            number_format.percent(point.share),
            number_format.seconds(point.first_call),
        ]
        for point in points
    ]
    columns = ["side", "", over, "images/s", "share of bound", "first call"]
    return Table(caption, columns, rows, words=(1,))
