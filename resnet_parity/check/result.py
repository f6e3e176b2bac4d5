"""What checks found: of the forward pass, of training, and of the same net run in other ways."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PlainSerializer, computed_field

from resnet_parity.engines.registry import Precision
from resnet_parity.numerics.difference import RULE, Difference
from resnet_parity.numerics.record import Count, Figure, JudgedRecord, Measured

Outputs = dict[str, np.ndarray]
"""`<index of the input>/logits` (or `<index>/features<i>`) and `<index>/<block>` to array."""


@dataclass(frozen=True)
class Ran:
    """What one engine gave."""

    engine: str
    outputs: Annotated[Any, Field(exclude=True)] = None
    """`Outputs`; None in what was read."""
    parameters: Count = 0
    seconds: Figure = None
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""


@dataclass(frozen=True)
class Pair:
    """Two engines, the first being the reference: logits, and the block that differs most."""

    engines: tuple[str, str]
    logits: Difference
    worst_block: str
    blocks: Difference


@dataclass
class CheckReport(JudgedRecord):
    """The result of `check`; `problems` is empty exactly if everything agrees."""

    model: str
    dtype: str
    inputs: list[tuple[Count, ...]]
    parameters: Count
    tolerance: float
    rule: str
    precision: Precision = "highest"
    coarse: Annotated[str | None, Field(exclude=True)] = None
    """What the device's products of float32 numbers may be rounded to, where that is coarser."""
    ran: Annotated[list[Ran], Field(alias="engines")] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    against_float64: dict[str, Difference] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    command: str | None = None


def _placed(found: tuple[str, float]) -> dict[str, Any]:
    where, most = found
    return {"where": where, "maximum": most if math.isfinite(most) else None}


Located = dict[str, Annotated[tuple[str, float], PlainSerializer(_placed)]]
"""For each quantity of a training the largest difference and where it is."""


def _pairs(pairs: dict[tuple[str, str], Located]) -> list[dict[str, Any]]:
    return [
        {"engines": list(pair)} | {quantity: _placed(where) for quantity, where in found.items()}
        for pair, found in pairs.items()
    ]


@dataclass
class TrainingReport(JudgedRecord):
    """The result of `check_training`; `problems` is empty exactly if everything agrees.

    `curves` holds for each engine the distance of its losses and statistics from float64, step by
    step.
    """

    model: str
    dtype: str
    steps: int
    batch: tuple[int, ...]
    recipe: dict[str, Any]
    rule: str = RULE
    tolerances: dict[str, float] = field(default_factory=dict)
    ran: Annotated[list[Ran], Field(exclude=True)] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    pairs: Annotated[dict[tuple[str, str], Located], PlainSerializer(_pairs)] = field(
        default_factory=dict
    )
    against_float64: dict[str, Located] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    command: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def engines(self) -> list[dict[str, Any]]:
        """What ran, each with its loss at every step."""
        losses, keys = self.losses(), ("engine", "seconds", "versions", "device")
        return [
            {key: getattr(ran, key) for key in keys} | {"losses": losses[ran.engine]}
            for ran in self.ran
        ]

    def losses(self) -> dict[str, list[float]]:
        """Every engine's loss at every step."""
        return {
            r.engine: [r.outputs[f"loss/{i}"].item() for i in range(self.steps)] for r in self.ran
        }


@dataclass(frozen=True)
class Rerun:
    """One engine's results once more, another way, beside those of the same images before."""

    engine: str
    dtype: str
    form: str
    """`layers`: layer by layer; `predict`; `compiled`; `channels_first`; or `strict`."""
    variation: str
    equal: bool
    """Whether all bits are."""
    largest: Measured
    """max|a - b|."""
    relative: Measured
    """max|a - b| / max|reference|."""
    first: str | None = None
    """The first layer whose outputs differ, or, of forms that compile the net, the first stage's
    last block."""
    alone: tuple[str, ...] = ()
    """The layers whose outputs differ on the very same input."""


@dataclass(frozen=True)
class StrictPrice:
    """Seconds for the same images, medians of rounds by turns: all at once on all cores, and one
    image at a time on one thread.
    """

    engine: str
    dtype: str
    usual: float
    strict: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> float:
        """How many times as long the strict form takes."""
        return self.strict / self.usual


@dataclass
class DeterminismReport(JudgedRecord):
    """Which changes of a run change bits. `problems` are engines that failed, and a strict form
    whose bits changed.
    """

    model: str
    input: list[Count]
    processor: str
    instructions: list[str]
    """Sets of instructions that the processor has, of those that kernels are chosen by."""
    threads: Count
    ran: Annotated[list[Ran], Field(alias="engines")] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    reruns: list[Rerun] = field(default_factory=list)
    prices: list[StrictPrice] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    command: str | None = None
