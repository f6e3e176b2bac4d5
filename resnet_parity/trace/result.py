"""What a trace found: a row for each layer, block and gradient, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, ROUNDING_FACTOR, RULE

Verdict = Literal["holds", "parts", "undecided"]


@dataclass
class Row:
    """One layer or block. Errors are None where nothing could be compared, NaN where a side is."""

    name: str
    kind: str
    propagated: float | None = None
    """Of its output, as each side computes it."""
    forced: float | None = None
    """Of its output on the reference's input."""
    entered: float | None = None
    """Of its input, as each side computes it; in a user's own model alone."""
    bound: float = FLOAT64_TOLERANCE
    """Of the forced error."""
    propagated_bound: float = FLOAT64_TOLERANCE
    note: str = ""

    @property
    def errs(self) -> bool:
        """Whether it is off by itself."""
        return self.forced is not None and not self.forced <= self.bound

    @property
    def parts(self) -> bool:
        """Whether it is off, by itself or because of what entered it."""
        return self.propagated is not None and not self.propagated <= self.propagated_bound

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data, where NaN and infinity become their names."""
        return {
            "name": self.name,
            "kind": self.kind,
            "propagated": _told(self.propagated),
            "forced": _told(self.forced),
            "entered": _told(self.entered),
            "bound": self.bound,
            "propagated_bound": self.propagated_bound,
            "errs": self.errs,
            "parts": self.parts,
            "note": self.note,
        }


@dataclass
class TraceReport:
    """The result of `trace`; `problems` tells what parts, `undecided` what could not be told.

    `first` names the layer or block that errs first, or those of which one does where a user's
    model does not tell them apart. `gradients` are in the order of the backward pass.
    """

    model: str
    reference: str
    other: str
    dtype: str
    input: list[int]
    rule: str
    engines: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    errs: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    gradients: list[Row] = field(default_factory=list)
    first_gradient: str | None = None
    gradient_rule: str | None = None
    problems: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """`parts` if anything was found to, else `undecided` if something could not be told."""
        return "parts" if self.problems else "undecided" if self.undecided else "holds"

    @property
    def holds(self) -> bool:
        """True if all was compared and nothing parts."""
        return self.verdict == "holds"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "model": self.model,
            "holds": self.holds,
            "verdict": self.verdict,
            "problems": self.problems,
            "undecided": self.undecided,
            "notes": self.notes,
            "reference": self.reference,
            "other": self.other,
            "dtype": self.dtype,
            "input": self.input,
            "rule": self.rule,
            "gradient_rule": self.gradient_rule,
            "engines": self.engines,
            "first": self.first,
            "errs": self.errs,
            "unseen": self.unseen,
            "rows": [row.to_dict() for row in self.rows],
            "first_gradient": self.first_gradient,
            "gradients": [row.to_dict() for row in self.gradients],
        }


def rule_in(dtype: str, tolerance: float) -> str:
    """What is allowed: a tolerance in float64, else what rounding is measured to do."""
    if dtype == "float64":
        return f"{RULE} ≤ {tolerance:.0e}"
    return f"{RULE} within {2 * ROUNDING_FACTOR:g} times what {dtype} rounding causes there"


def shown(value: float | None) -> str:
    """An error in a sentence."""
    if value is None:
        return "an unknown amount"
    return "NaN" if math.isnan(value) else f"{value:.1e}"


def _told(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity"


def rows_of(data: Mapping[str, Any], key: str) -> Iterator[tuple[int, float]]:
    """Place and size of an error of each row of a report's JSON that has one."""
    for i, row in enumerate(data["rows"]):
        if row[key] is not None:
            yield i, float(row[key])
