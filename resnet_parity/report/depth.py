"""What traces found, as blocks: errors along depth of each engine against one reference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

from markupsafe import Markup

from resnet_parity.numerics.record import Figure
from resnet_parity.render import charts
from resnet_parity.render.charts import Group, Series
from resnet_parity.render.svg import Chart, picture
from resnet_parity.render.text import severity
from resnet_parity.report import commands, number_format
from resnet_parity.report.blocks import (
    Block,
    Cell,
    Heading,
    Missing,
    Notice,
    Picture,
    Pictures,
    Styles,
    Table,
    Text,
    legend,
    over,
)
from resnet_parity.trace.result import TraceReport, TraceRow


def blocks(name: str, traces: Sequence[TraceReport], styles: Styles, ident: str) -> list[Block]:
    """All traces of a net; those on one reference and in one dtype share their charts."""
    if not traces:
        return [Missing("Errors along depth were not measured.", commands.missing_trace(name))]
    groups: dict[tuple[object, ...], list[TraceReport]] = {}
    for trace in traces:
        places = tuple(row.name for row in outline(trace.rows))
        groups.setdefault((trace.reference, trace.dtype, *trace.input, places), []).append(trace)
    found: list[Block] = []
    for i, members in enumerate(groups.values(), 1):
        if len(groups) > 1:
            found.append(Heading(f"In {members[0].dtype}, against {members[0].reference}"))
        found += _group(members, styles, f"{ident}-{i}")
    return found


def outline(rows: Sequence[TraceRow]) -> list[TraceRow]:
    """The chain of a net: the stem's layers, the blocks, and the head's layers."""
    whole = {row.name for row in rows if row.kind == "block"}

    def inside(name: str) -> bool:
        words = name.split(".")
        return any(".".join(words[:n]) in whole for n in range(1, len(words)))

    return [row for row in rows if row.kind == "block" or not inside(row.name)]


def _group(traces: Sequence[TraceReport], styles: Styles, ident: str) -> list[Block]:
    first = traces[0]
    given = number_format.shape(first.input)
    found: list[Block] = [
        Text(
            f"In {first.dtype}, against {first.reference}, on images of {given}. First, outputs as "
            f"each side computes them from the images, so errors propagate. Then each layer and "
            f"block on the reference's own input: what is off there is itself at fault."
        )
    ]
    for trace in traces:
        found += map(Notice, trace.problems)
        found += [Notice(f"{trace.other}: {what}", "warn", "?") for what in trace.undecided]
        found += [Notice(f"{trace.other}: {note}", "note", "i") for note in trace.notes]
    kinds = [
        ("as computed", "a", "propagated", "propagated_bound"),
        ("on the reference's input", "b", "teacher_forced", "bound"),
    ]
    rows = [row for trace in traces for row in outline(trace.rows)]
    pictures = [
        _picture(f"{ident}{letter}", traces, styles, what, error, bound)
        for what, letter, error, bound in kinds
        if any(getattr(row, error) is not None for row in rows)
    ]
    if pictures:
        swatches = legend(styles, [trace.other for trace in traces])
        found.append(Pictures(pictures, swatches, _table(traces)))
    for i, trace in enumerate(traces):
        found += _gradients(trace, styles, f"{ident}-g{i}") + _inside(trace)
    return found


def _picture(
    ident: str, traces: Sequence[TraceReport], styles: Styles, what: str, error: str, limit: str
) -> Picture:
    first = traces[0]
    rows = outline(first.rows)
    title = f"{first.model}: error of each block {what}, against {first.reference}"
    lines = [_series(trace.other, styles, outline(trace.rows), error) for trace in traces]
    told = [f"Logarithmic; {len(rows)} places from {rows[0].name} to {rows[-1].name}."]
    for line in lines:
        if line.points:
            _, y, name = max(line.points, key=lambda point: severity(point[1]))
            told.append(f"{line.label}: at most {number_format.error(y)}, at {name}.")
    # Bounds of float32 are measured anew in each trace, on the same net: the widest stands for all.
    places = zip(*(outline(trace.rows) for trace in traces), strict=True)
    bounds = [max(getattr(row, limit) or 0.0 for row in place) for place in places]
    chart = Chart(ident, title, " ".join(told))
    return Picture(f"Error {what}", _drawn(chart, lines, bounds, _stages(rows)))


def _series(label: str, styles: Styles, rows: Sequence[TraceRow], error: str) -> Series:
    known = [(i, getattr(row, error), row.name) for i, row in enumerate(rows)]
    return Series(label, styles[label], [(i, y, name) for i, y, name in known if y is not None])


def _drawn(
    chart: Chart, lines: Sequence[Series], bounds: Sequence[float], groups: Sequence[Group]
) -> Markup:
    draw = partial(charts.depth, series=lines, bounds=bounds, groups=groups)
    return picture(chart, draw, charts.titles(lines, number_format.error), 260, (56, 14, 14, 36))


def _stages(rows: Sequence[TraceRow]) -> list[Group]:
    """Consecutive blocks of one stage; before the first one the stem, after the last the head."""
    first = next((i for i, row in enumerate(rows) if row.kind == "block"), len(rows))
    labels = [
        row.name.rpartition(".")[0] or row.name
        if row.kind == "block"
        else ("stem" if i < first else "head")
        for i, row in enumerate(rows)
    ]
    found = []
    for label, members in itertools.groupby(range(len(rows)), labels.__getitem__):
        places = list(members)
        found.append(Group(label, places[0], places[-1]))
    return found


def _table(traces: Sequence[TraceReport]) -> Table:
    first = traces[0]
    cells: list[list[str | Cell]] = []
    for rows in zip(*(outline(trace.rows) for trace in traces), strict=True):
        errors = [cell for row in rows for cell in _errors(row)]
        bounds = map(number_format.bound, (rows[0].propagated_bound, rows[0].bound))
        cells.append([rows[0].name, *errors, *bounds])
    others = [column for trace in traces for column in (trace.other, "forced")]
    return Table(
        f"{first.model} in {first.dtype}: errors along depth against {first.reference}; forced: on "
        f"the reference's input",
        ["layer or block", *others, "bound", "bound, forced"],
        cells,
    )


def _errors(row: TraceRow) -> tuple[str | Cell, str | Cell]:
    return _marked(row.propagated, row.diverges), _marked(row.teacher_forced, row.errs)


def _marked(value: Figure, off: bool) -> str | Cell:
    text = number_format.ABSENT if value is None else number_format.error(value)
    return over(text) if off else text


def _inside(trace: TraceReport) -> list[Block]:
    """The layers that are off: the chart shows blocks alone."""

    def why(row: TraceRow) -> str:
        if not row.errs:
            return "inherits"
        own = row.name in trace.errs or row.kind != "block"
        return "at fault" if own else "contains one at fault"

    off = [row for row in trace.rows if row.errs or row.diverges]
    shown = off[:40]
    if not off:
        return []
    rows = [
        [row.name, row.kind, *_errors(row), number_format.bound(row.bound), row.note or why(row)]
        for row in shown
    ]
    rest = f" (the first {len(shown)} of {len(off)})" if len(off) > len(shown) else ""
    caption = f"{trace.model}: layers and blocks of {trace.other} that are off{rest}"
    columns = ["name", "kind", "as computed", "forced", "bound", ""]
    return [Table(caption, columns, rows, words=(1, 5))]


def _gradients(trace: TraceReport, styles: Styles, ident: str) -> list[Block]:
    if not trace.gradients:
        return []
    rows = trace.gradients
    line = _series(trace.other, styles, rows, "propagated")
    title = f"{trace.model}: error of each parameter's gradient, {trace.other}"
    text = f"From {rows[0].name}, where the backward pass begins, to {rows[-1].name}."
    group = Group("in the order of the backward pass", 0, len(rows) - 1)
    svg = _drawn(Chart(ident, title, text), [line], [row.bound for row in rows], [group])
    sides = f"{trace.other} against {trace.reference}"
    table = Table(
        f"{trace.model} in {trace.dtype}: gradients of {sides}",
        ["parameter", "error", "bound", ""],
        [[row.name, *_errors(row)[:1], number_format.bound(row.bound), row.note] for row in rows],
        words=(3,),
    )
    caption = f"Error of each parameter's gradient against {trace.reference}"
    return [Pictures([Picture(caption, svg)], legend(styles, [trace.other]), table)]
