"""What benchmarks found, as blocks: speed, ratios to peers, memory and starting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from resnet_parity.bench.result import BenchReport, Timed
from resnet_parity.render.charts import Bar, bars
from resnet_parity.render.svg import Chart, picture
from resnet_parity.report import commands, number_format
from resnet_parity.report.blocks import (
    Block,
    Cell,
    Missing,
    Notice,
    Picture,
    Pictures,
    Table,
    Text,
    over,
)

MODES = {"infer": "Inference", "train": "Training"}
Key = tuple[str, int, tuple[int, ...], str]


def blocks(name: str, benches: Sequence[BenchReport], ident: str) -> list[Block]:
    """Speed of a net, a chart for each mode, batch, size and dtype."""
    if not any(bench.rows for bench in benches):
        what = "Speed was" if benches else "Speed, memory and scaling were"
        return [Missing(f"{what} not measured.", commands.missing_bench(name))]
    found: list[Block] = []
    for i, bench in enumerate(benches, 1):
        found += _bench(bench, f"{ident}-{i}")
    return found


def memory(name: str, benches: Sequence[BenchReport], ident: str) -> list[Block]:
    """Peak memory of a net, host and device; nothing where nothing was timed."""
    if not benches:
        return []
    found: list[Block] = []
    for i, bench in enumerate(benches, 1):
        pictures = [
            picture
            for j, (key, rows) in enumerate(groups(bench).items(), 1)
            for picture in _memory(bench, key, rows, f"{ident}-{i}-{j}")
        ]
        found += [Pictures(pictures, keys=_sides(bench))] if pictures else []
    return found or [Missing("Memory was not measured.", commands.missing_bench(name))]


def starting(benches: Sequence[BenchReport]) -> list[Block]:
    """What comes before the steady state: in each mode first, then in all that was measured."""
    found: list[Block] = []
    columns = ["side", "mode", "batch", "dtype", "import", "build", "load", "first call"]
    for bench in benches:
        rows: list[list[str]] = []
        first: dict[tuple[str, str], list[str]] = {}
        for _, label, row in _all(bench):
            times = (row.imported, row.build, row.load, row.first_call)
            if any(time is not None for time in times):
                mode = MODES.get(row.mode, row.mode)
                cells = [label, mode, number_format.count(row.batch), row.dtype]
                rows.append([*cells, *map(number_format.seconds, times)])
                first.setdefault((label, mode), rows[-1])
        caption = f"{bench.name}: what comes before the steady state, compiling included"
        if rows:
            found.append(Table(caption, columns, list(first.values()), words=(1, 3)))
        if len(rows) > len(first):
            caption = f"{caption}, in every batch, size and dtype"
            found.append(Table(caption, columns, rows, words=(1, 3), kind="details"))
    return found


def groups(bench: BenchReport) -> dict[Key, list[Timed]]:
    """Rows that can be compared: of one mode, batch, size and dtype."""
    found: dict[Key, list[Timed]] = {}
    for row in bench.rows:
        found.setdefault((row.mode, row.batch, tuple(row.size), row.dtype), []).append(row)
    return found


def labelled(rows: Sequence[Timed]) -> Iterable[tuple[str, Timed]]:
    """Each row with its side's name, and with what distinguishes it from others of that side."""
    sides = [row.side for row in rows]
    for row in rows:
        label = row.side
        if sides.count(label) > 1:
            engines = [other.engine for other in rows if other.side == row.side]
            told: list[str | None] = [row.engine] if len(set(engines)) > 1 else []
            if engines.count(row.engine) > 1:
                compiled = None if row.compile == "none" else row.compile
                told += [row.form, row.layout, compiled]
            label = ", ".join([label, *[text for text in told if text]])
        yield label, row


def titled(key: Key) -> str:
    """`Inference, batch 8, 224 × 224, float32`."""
    mode, batch, size, dtype = key
    return f"{MODES.get(mode, mode)}, batch {batch:,}, {number_format.shape(size)}, {dtype}"


def best(bench: BenchReport) -> tuple[Key, str, Timed] | None:
    """The fastest row of ours in inference, or in what else there is."""
    ours = [each for each in _all(bench) if each[2].refused is None and not each[2].peer]
    rows = [each for each in ours if each[2].images_per_second is not None]
    inference = [each for each in rows if each[2].mode == "infer"]
    return max(inference or rows, key=lambda each: each[2].images_per_second or 0, default=None)


def _all(bench: BenchReport) -> list[tuple[Key, str, Timed]]:
    """Every row with its group and its label there."""
    found = groups(bench).items()
    return [(key, label, row) for key, rows in found for label, row in labelled(rows)]


def _bench(bench: BenchReport, ident: str) -> list[Block]:
    found: list[Block] = []
    if bench.bounds:
        told = []
        for bound in bench.bounds:
            text = f"{number_format.scaled(bound.flops_per_second, 'FLOP/s')} in {bound.dtype}"
            text += f" (the best of several kernels: {bound.kernel})" if bound.kernel else ""
            memory = number_format.scaled(bound.bytes_per_second, "B/s")
            told.append(f"{text} and {memory}" if bound.bytes_per_second else text)
        found.append(
            Text(
                f"The bound is what this device can do at most for this net, layer by layer, at "
                f"the rates measured on it: {'; '.join(told)}. A figure above it is a timing "
                f"error and is refused."
            )
        )
    refused = {row.refused for row in bench.rows if row.refused}
    # A problem that is a row's refusal is reported with the row.
    found += [Notice(text) for text in bench.problems if not any(r in text for r in refused)]
    found += [
        Notice(f"{label}, {titled(key)}: refused. {row.refused}")
        for key, label, row in _all(bench)
        if row.refused
    ]
    pictures = [
        _speed(bench, key, rows, f"{ident}-{i}")
        for i, (key, rows) in enumerate(groups(bench).items(), 1)
    ]
    whiskers = Cell(bench.spread or "from the low to the high figure", "whiskers")
    limit = Cell("the bound; an arrow if it lies beyond the axis", "bound-key")
    found.append(Pictures(pictures, keys=[*_sides(bench), whiskers, limit]))
    found += _ratios(bench)
    found += _latencies(bench)
    notes = {f"{row.side}: {row.note}": None for row in bench.rows if row.note}
    found += [Notice(text, "note", "i") for text in (*bench.notes, *notes)]
    found += [Notice(f"{k} is missing: {v}", "warn", "!") for k, v in bench.missing.items()]
    found += _parity(bench)
    return found


def _sides(bench: BenchReport) -> list[Cell]:
    peers = [Cell("a peer's", "bar-peer")] * any(row.peer for row in bench.rows)
    return [Cell("this package's", "bar-ours"), *peers]


def _named(label: str, row: Timed) -> str:
    return f"{label} (peer)" if row.peer else label


def _speed(bench: BenchReport, key: Key, rows: Sequence[Timed], ident: str) -> Picture:
    found, told = [], []
    for label, row in labelled(rows):
        name = _named(label, row)
        notes = [f"{number_format.rate(row.images_per_second)} img/s"]
        notes += [] if row.share is None else [f"{number_format.percent(row.share)} of bound"]
        against = "float" if row.form == "int8" else "peer"
        notes += [] if row.ratio is None else [f"{number_format.ratio(row.ratio)} {against}"]
        note = " · ".join(notes)
        bound = _finite(row.bound_images_per_second)
        value = None if row.refused else _finite(row.images_per_second)
        if value is None:
            found.append(Bar(name, None, "refused" if row.refused else "not measured", bound=bound))
        else:
            found.append(Bar(name, value, note, row.spread, bound, row.peer))
        told.append(f"{name}: {note if value is not None else 'refused'}.")
    title = f"{bench.name}: images a second. {titled(key)}"
    text = "Whiskers span the passes, a tick marks the bound. " + " ".join(told)
    svg = _bars(Chart(ident, title, text), found, "images a second")
    return Picture(titled(key), svg, _table(bench, key, rows))


def _bars(chart: Chart, rows: Sequence[Bar], unit: str, one: float = 1.0) -> Markup:
    height = 40.0 + 44 * len(rows)
    return picture(chart, lambda axis: bars(axis, rows, unit, one), None, height, (5, 14, 2, 38))


def _finite(value: float | None) -> float | None:
    """A length that can be drawn."""
    return value if value is not None and (value == 0 or 1e-30 < value < 1e30) else None


def _table(bench: BenchReport, key: Key, rows: Sequence[Timed]) -> Table:
    cells = []
    for label, row in labelled(rows):
        spread = "" if row.refused else " to ".join(map(number_format.rate, row.spread or ()))
        peaks = (row.peak_host_bytes, row.peak_device_bytes)
        settings = (spread, row.form, row.layout, row.compile)
        spread, *told = (text or number_format.ABSENT for text in settings)
        ratio = number_format.ratio(row.ratio)
        cells.append(
            [
                _named(label, row),
                "refused" if row.refused else number_format.rate(row.images_per_second),
                spread,
                number_format.rate(row.bound_images_per_second),
                number_format.percent(row.share),
                ratio if row.ratio is None else f"{ratio} of {row.against}",
                number_format.milliseconds(None if row.seconds is None else row.seconds.median),
                *(number_format.scaled(peak, "B") for peak in peaks),
                *told,
            ]
        )
    columns = ["side", "images/s", "low to high", "bound", "share", "ratio", "a batch"]
    columns += ["peak, host", "peak, device", "form", "layout", "compile"]
    return Table(f"{bench.name}. {titled(key)}", columns, cells, words=(9, 10, 11))


def _memory(bench: BenchReport, key: Key, rows: Sequence[Timed], ident: str) -> Iterable[Picture]:
    for where in ("host", "device"):
        peaks = [(_finite(getattr(row, f"peak_{where}_bytes")), row) for row in rows]
        one, unit = number_format.memory_unit([peak for peak, _ in peaks if peak is not None])
        found = [
            Bar(_named(label, row), peak, f"{peak / one:,.3g} {unit}", peer=row.peer)
            for (peak, row), (label, _) in zip(peaks, labelled(rows), strict=True)
            if peak is not None
        ]
        if found:
            title = f"{bench.name}: peak memory of the {where}. {titled(key)}"
            text = " ".join(f"{bar.label}: {bar.note}." for bar in found)
            chart = Chart(f"{ident}-{where}", title, text)
            svg = _bars(chart, found, f"peak memory of the {where}, {unit}", one)
            yield Picture(f"{titled(key)}: {where}", svg)


def _ratios(bench: BenchReport) -> list[Block]:
    """Speed over the peer's, a row for each group, a column for each side."""
    cells: dict[Key, dict[str, Cell]] = {}
    for key, label, row in _all(bench):
        if row.ratio is not None and not row.refused:
            mark, kind = ("▲", "up") if row.ratio >= 1 else ("▼", "down")
            against = f" {row.against}" if row.against else ""
            cell = Cell(f"{mark} {number_format.ratio(row.ratio)}", kind, against)
            cells.setdefault(key, {})[label] = cell
    if not cells:
        return []
    order = dict.fromkeys(label for _, label, _ in _all(bench))
    sides = [side for side in order if any(side in found for found in cells.values())]
    rows = [
        [titled(key), *[found.get(side, number_format.ABSENT) for side in sides]]
        for key, found in cells.items()
    ]
    what = "how many times as fast as the peer in the same mode (▲ faster, ▼ slower)"
    return [Table(f"{bench.name}: {what}", ["", *sides], rows)]


def _latencies(bench: BenchReport) -> list[Block]:
    """Calls that were timed one by one, where they were."""
    rows = []
    for key, label, row in _all(bench):
        if row.latency is not None:
            times = map(number_format.milliseconds, (row.latency.p50, row.latency.p99))
            calls = number_format.count(len(row.latency.calls))
            rows.append([_named(label, row), titled(key), *times, calls])
    caption = f"{bench.name}: a single call (p50: half take no longer; p99: 99 of 100)"
    columns = ["side", "in", "p50", "p99", "calls timed"]
    return [Table(caption, columns, rows, words=(1,))] if rows else []


def _parity(bench: BenchReport) -> list[Block]:
    if not bench.parity:
        return []
    rows: list[list[str | Cell]] = []
    for each in bench.parity:
        mode = MODES.get(each.mode or "", each.mode or number_format.ABSENT)
        where = f"{mode} in {each.dtype}" if each.dtype else mode
        error = number_format.error(each.error)
        verdict = "✓ holds" if each.holds else "✗ computes something else"
        figures = [error if each.holds else over(error), number_format.bound(each.bound)]
        rows.append([each.side, where, each.reference, *figures, verdict])
    caption = f"{bench.name}: each contender was compared with a reference before it was timed"
    return [
        Table(caption, ["side", "in", "reference", "error", "bound", ""], rows, words=(1, 2, 5))
    ]
