"""What an evaluation found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, computed_field

from resnet_parity.numerics.difference import RULE
from resnet_parity.numerics.record import Figure, JudgedRecord
from resnet_parity.numerics.top_k import Scores


@dataclass(frozen=True)
class EngineScores(Scores):
    """What one engine made of the images.

    `seconds` are those of the net alone; `images_per_second` leaves out the first batch of each
    size, for which engines compile, and is None if that leaves nothing.
    """

    engine: str
    versions: dict[str, str]
    device: str
    parameters: int
    seconds: float
    images_per_second: Figure

    @computed_field  # type: ignore[prop-decorator]
    @property
    def top1_error(self) -> float:
        """Share of images whose class is not the likeliest one."""
        return 1 - self.top1

    @computed_field  # type: ignore[prop-decorator]
    @property
    def top5_error(self) -> float:
        """Share of images whose class is not among the five likeliest."""
        return 1 - self.top5


@dataclass(frozen=True)
class Agreement:
    """How two engines agree: the share of images, 0..1, with the same likeliest class; the largest
    difference of any logit of any view under `RULE`, the first engine being the reference, and
    NaN if either gave no number; the image where it is, if there is any; and some images on which
    they disagree.
    """

    engines: tuple[str, str]
    same_top1: float
    logits: float
    worst: str | None
    disagreements: list[dict[str, str]]


@dataclass
class EvaluationReport(JudgedRecord):
    """The result of `evaluate`; `problems` is empty exactly if every engine ran and all agree."""

    weights: str
    data: str
    images: int
    classes: int
    crops: str
    scales: tuple[int, ...]
    image_size: int
    dtype: str
    notes: tuple[str, ...]
    tolerance: Figure = None
    """Of the logits between two engines; None if there was nothing to compare."""
    rule: str = RULE
    ran: Annotated[list[EngineScores], Field(alias="engines")] = field(default_factory=list)
    pairs: list[Agreement] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
