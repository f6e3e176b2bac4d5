"""What a check found, as blocks: every two engines, and what they ran on."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_parity.check.result import CheckReport
from resnet_parity.numerics.difference import Difference
from resnet_parity.render.text import pairs, severity
from resnet_parity.report import commands, number_format
from resnet_parity.report.blocks import Block, Cell, Heading, Missing, Notice, Table, Text, over

_LEVELS = (
    (0.0, "equal", "0: equal bit for bit"),
    (0.01, "far", "under a hundredth of the bound"),
    (0.1, "below", "under a tenth of the bound"),
    (1.0, "near", "under the bound"),
)


def blocks(name: str, checks: Sequence[CheckReport]) -> list[Block]:
    """All checks of a net, float64 first."""
    if not checks:
        return [Missing("Parity was not measured.", commands.missing_check(name))]
    found: list[Block] = []
    for check in sorted(checks, key=lambda check: check.dtype != "float64"):
        found += [Heading(f"In {check.dtype}")] * (len(checks) > 1)
        found += _check(check)
    return found


def pair_bound(check: CheckReport) -> float:
    """Two engines that are each within the bound of float64 may differ by twice as much."""
    return check.tolerance * (1 if check.dtype == "float64" else 2)


def worst(check: CheckReport) -> Difference | None:
    """The largest difference of logits between any two engines."""
    found = [pair.logits for pair in check.pairs]
    return max(found, key=lambda difference: severity(difference.maximum), default=None)


def _check(check: CheckReport) -> list[Block]:
    sizes = ", ".join(number_format.shape(shape) for shape in check.inputs)
    limit = number_format.bound(pair_bound(check))
    bound = f"; the bound is {limit}" if check.dtype == "float64" else ""
    found: list[Block] = [
        Text(
            f"In {check.dtype}, on random images of {sizes} (images × height × width × channels). "
            f"Figures are {check.rule}{bound}."
        ),
        *map(Notice, check.problems),
    ]
    if check.pairs:
        found += [_matrix(check), _pairs(check)]
    if check.against_float64:
        found.append(_float64_table(check))
    found.append(_engines(check))
    for state, reasons in (("is missing", check.missing), ("failed", check.failed)):
        found += [Notice(f"{k} {state}: {v}", "warn", "!") for k, v in reasons.items()]
    return found


def _matrix(check: CheckReport) -> Table:
    """Logits above the diagonal, the worst block below it."""
    bound = pair_bound(check)
    cells: dict[tuple[str, str], Cell] = {}
    for pair in check.pairs:
        a, b = pair.engines
        cells[a, b] = _cell(pair.logits.maximum, bound)
        cells[b, a] = _cell(pair.blocks.maximum, bound)
    paired = [name for pair in check.pairs for name in pair.engines]
    names = list(dict.fromkeys([*(ran.engine for ran in check.ran), *paired]))
    empty = Cell(number_format.ABSENT, "self")
    rows: list[list[str | Cell]] = [[a, *[cells.get((a, b), empty) for b in names]] for a in names]
    legend = [Cell(text, kind) for _, kind, text in _LEVELS]
    return Table(
        f"{check.model} in {check.dtype}, engine against engine: above the diagonal the logits, "
        f"below it the block in which the two differ most",
        ["", *names],
        rows,
        legend=[*legend, over("over the bound")],
        kind="matrix",
    )


def _cell(value: float, bound: float) -> Cell:
    if not value <= bound:
        return over(number_format.error(value))
    kind = next(kind for share, kind, _ in _LEVELS if value <= share * bound)
    return Cell(number_format.error(value), kind)


def _pairs(check: CheckReport) -> Table:
    rows = [
        [" and ".join(pair.engines), *_told(pair.logits), *_told(pair.blocks), pair.worst_block]
        for pair in check.pairs
    ]
    told = ["largest", "mean", "99th percentile", "at index"]
    columns = ["engines", *(f"logits: {text}" for text in told)]
    columns += [*(f"block: {text}" for text in told), "block"]
    caption = f"{check.model} in {check.dtype}, pair by pair"
    return Table(caption, columns, rows, words=(9,), kind="details")


def _told(d: Difference) -> list[str]:
    index = ", ".join(map(str, d.worst)) or number_format.ABSENT
    return [*map(number_format.error, (d.maximum, d.mean, d.p99)), index]


def _float64_table(check: CheckReport) -> Table:
    bound = number_format.error(check.tolerance)
    rows: list[list[str | Cell]] = [
        [name, _cell(d.maximum, check.tolerance), *_told(d)[1:], bound]
        for name, d in check.against_float64.items()
    ]
    caption = f"{check.model} in {check.dtype}: distance of logits from the float64 result"
    columns = ["engine", "largest", "mean", "99th percentile", "at index", "bound"]
    return Table(caption, columns, rows)


def _engines(check: CheckReport) -> Table:
    rows: list[list[str | Cell]] = []
    for ran in check.ran:
        count: str | Cell = number_format.count(ran.parameters)
        if ran.parameters != check.parameters:
            count = Cell(f"{count} ✗ not the plan's", "over")
        ran_on = [pairs(ran.versions), ran.device or number_format.ABSENT]
        rows.append([ran.engine, count, number_format.seconds(ran.seconds), *ran_on])
    planned = number_format.plural(check.parameters, "parameter")
    caption = f"{check.model} in {check.dtype}: what ran; the plan has {planned}"
    columns = ["engine", "parameters", "time", "versions", "on"]
    return Table(caption, columns, rows, words=(3, 4))
