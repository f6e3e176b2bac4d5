"""What a trace found: a row for each layer, block and gradient, and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, computed_field

from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, ROUNDING_FACTOR, RULE
from resnet_parity.numerics.record import Count, Figure, JsonRecord

Verdict = Literal["holds", "parts", "undecided"]


@dataclass
class TraceRow:
    """One layer or block. Errors are None where nothing could be compared, NaN where a side is."""

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="strings")

    name: str
    kind: str
    propagated: Figure = None
    """Of its output, as each side computes it."""
    teacher_forced: Annotated[Figure, Field(alias="forced")] = None
    """Of its output on the reference's input."""
    entered: Figure = None
    """Of its input, as each side computes it; in a user's own model alone."""
    bound: float = FLOAT64_TOLERANCE
    """Of the teacher-forced error."""
    propagated_bound: float = FLOAT64_TOLERANCE
    note: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def errs(self) -> bool:
        """Whether it is off by itself."""
        return self.teacher_forced is not None and not self.teacher_forced <= self.bound

    @computed_field(alias="parts")  # type: ignore[prop-decorator]
    @property
    def diverges(self) -> bool:
        """Whether it is off, by itself or because of what entered it."""
        return self.propagated is not None and not self.propagated <= self.propagated_bound


@dataclass(frozen=True)
class EngineFacts:
    """What an engine ran with."""

    engine: str
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""


@dataclass
class TraceReport(JsonRecord):
    """The result of `trace`; `problems` says what differs, `undecided` what could not be decided.

    `first` names the layer or block that errs first, or those of which one does where a user's
    model does not tell them apart. `gradients` are in the order of the backward pass.
    """

    model: str
    reference: str
    other: str
    dtype: str
    input: list[Count]
    rule: str
    engines: list[EngineFacts] = field(default_factory=list)
    rows: list[TraceRow] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    errs: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    gradients: list[TraceRow] = field(default_factory=list)
    first_gradient: str | None = None
    gradient_rule: str | None = None
    problems: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    command: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Verdict:
        """`parts` if anything differs, else `undecided` if something could not be decided."""
        return "parts" if self.problems else "undecided" if self.undecided else "holds"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def holds(self) -> bool:
        """True if everything was compared and nothing differs."""
        return self.verdict == "holds"


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
