"""The table of a sweep as a Markdown document."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from typing import Any

from resnet_parity.check.record_file import SweepRecord
from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, ROUNDING_FACTOR, RULE
from resnet_parity.render.text import pairs

Row = Sequence[str]
_RECAST = (
    "¹ timm takes the statistics of EvoNorm and FRN, and the positions that it resamples, in "
    "float32 whatever the input; its cast was turned into float64 for this comparison."
)


def summary(records: Sequence[SweepRecord]) -> dict[str, Any]:
    """As plain JSON data: the records, and how many comparisons there were and held.

    `judged` counts pairs of a name and a library, `alone` names that no installed library has.
    """
    judged = [r.holds_for(name) for r in records for name in r.references]
    alone = [r.holds for r in records if not r.references]
    return {
        "holds": all(r.holds for r in records),
        "rows": {"judged": len(judged), "alone": len(alone)},
        "held": {"judged": sum(judged), "alone": sum(alone)},
        "records": [r.to_dict() for r in records],
    }


def markdown(records: Sequence[SweepRecord]) -> str:
    """The document: what was run, the rule, one row for each name and library, and what failed."""
    facts = summary(records)
    held, rows = facts["held"], facts["rows"]
    parts = [
        "# The catalogue at full depth",
        _conditions(records),
        _rule(records),
        f"**{held['judged']} of {rows['judged']}** comparisons with a library hold"
        + (
            f", and {held['alone']} of {rows['alone']} names without one." if rows["alone"] else "."
        ),
    ]
    if rows["judged"]:
        parts += ["## Against the libraries", _judged_table(records)]
        recast = any(judged.recast for r in records for judged in r.references.values())
        parts += [_RECAST] if recast else []
    if rows["alone"]:
        parts += ["## Engine against engine", _alone_table(records)]
    missing = dict(item for r in records for item in r.missing.items())
    parts += [f"Without {name}: {_cell(text)}." for name, text in missing.items()]
    problems = [f"- `{r.name}`: {_cell(p)}" for r in records for p in r.all_problems()]
    if problems:
        parts += ["## What does not hold", "\n".join(problems)]
    return "\n\n".join(parts) + "\n"


def _conditions(records: Sequence[SweepRecord]) -> str:
    versions = dict(sorted({item for r in records for item in r.versions.items()}))
    dates = sorted({r.date for r in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    devices = ", ".join(sorted({r.device for r in records}))
    return (
        f"Written by `resnet-parity check --all --report`, {when}, on {devices} "
        f"({platform.machine()}, {os.cpu_count()} cores): {pairs(versions)}."
    )


def _rule(records: Sequence[SweepRecord]) -> str:
    text = (
        f"Each net has the same random float32 weights everywhere, norm statistics included. A "
        f"figure is {RULE} of the logits; in float64 it has to be at most "
        f"{FLOAT64_TOLERANCE:.0e}. The columns of engines are each engine against the library; "
        f"*engines* is the worst pair of engines."
    )
    bounds = [f"`{r.name}` {_figure(r.tolerance)}" for r in records if r.dtype == "float32"]
    if bounds:
        text += (
            f" What runs in float32 has to stay within {2 * ROUNDING_FACTOR:g} times what "
            f"perturbing the weights as rounding does is measured to do: {', '.join(bounds)}."
        )
    return text


def _judged_table(records: Sequence[SweepRecord]) -> str:
    engines = list(dict.fromkeys(e for r in records for e in r.engines))
    head = ["name", "reference", "parameters", "dtype", "input", *engines, "engines", ""]
    rows = []
    for record in records:
        for name, judged in record.references.items():
            mark = "¹" if judged.recast else ""
            figures = [
                _figure(judged.differences[e]) if e in judged.differences else "–" for e in engines
            ]
            end = [*figures, _between(record), _verdict(record.holds_for(name))]
            rows.append([f"`{record.name}`", f"{name}{mark}", *_net(record), *end])
    return _table(head, rows, "llrll" + "r" * (len(engines) + 1) + "l")


def _alone_table(records: Sequence[SweepRecord]) -> str:
    head = ["name", "parameters", "dtype", "input", "engines", "worst pair", ""]
    rows = [
        [f"`{r.name}`", *_net(r), _between(r), ", ".join(r.pair), _verdict(r.holds)]
        for r in records
        if not r.references
    ]
    return _table(head, rows, "lrllrll")


def _between(record: SweepRecord) -> str:
    return _figure(record.between) if record.pair else "–"


def _net(record: SweepRecord) -> list[str]:
    """Its parameters, and on what it ran."""
    sizes = ", ".join(f"{record.batch}×{h}×{w}" for h, w in record.sizes)
    return [f"{record.parameters:,}", record.dtype, sizes]


def _verdict(holds: bool) -> str:
    return "holds" if holds else "**fails**"


def _figure(value: float | None) -> str:
    return "NaN" if value is None else f"{value:.1e}" if value else "0"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(head: Row, rows: Iterable[Row], alignment: str) -> str:
    rules = ["---:" if side == "r" else "---" for side in alignment]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rules, *rows))
