"""What `bench` is asked to do, and what it found."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import numpy as np
from pydantic import Field, FiniteFloat

from resnet_parity.bench.peers import Candidate
from resnet_parity.engines.registry import Device, Engine
from resnet_parity.numerics.record import Count, Figure, JudgedRecord
from shared_spec.spec.resnet_spec import ResNetSpec

FORMS = {"infer": ("plain", "inference", "int8"), "train": ("plain", "remat")}
"""What a net of ours is timed in, by mode."""


@dataclass(frozen=True)
class BenchRequest:
    """What to measure."""

    name: str
    spec: ResNetSpec
    engines: tuple[Engine, ...]
    modes: tuple[str, ...] = ("infer",)
    batches: tuple[int, ...] = (8,)
    size: tuple[int, int] | None = None
    dtypes: tuple[str, ...] = ("float32",)
    device: Device = "cpu"
    layouts: tuple[str, ...] = ("channels_last",)
    compiles: tuple[str, ...] = ("none",)
    forms: tuple[str, ...] = ("plain",)
    """Of `FORMS`; a mode that has none of them is timed plainly."""
    peers: bool = True
    rounds: int = 5
    processes: int = 1
    """Of each side, one after another, among which its rounds are divided."""
    seconds: float = 0.5
    """Of a round, about."""
    latency: int = 0
    """Single calls of each side in inference that are timed, divided among its rounds."""
    tf32: bool = False
    seed: int = 0
    requested: bool = False
    """Whether engines were requested by name, so that a missing one is a failure."""
    command: str = "resnet-parity bench"

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.size or (self.spec.image_size, self.spec.image_size)


@dataclass(frozen=True)
class Case:
    """One side in one setting."""

    candidate: Candidate
    mode: str
    batch: int
    size: tuple[int, int]
    dtype: str
    form: str
    layout: str
    compile: str

    @property
    def engine(self) -> Engine:
        """In whose process it runs."""
        return self.candidate.engine

    @property
    def side(self) -> str:
        """What it is called: the engine or the library, and what is not usual about it."""
        usual = {"channels_first" if self.candidate.peer else "channels_last", "none", "plain"}
        usual |= set() if self.engine.name == "torch" else {"channels_last"}
        given = {"default": "compiled", "jit": "none"}
        notes = [given.get(x, x) for x in (self.form, self.layout, self.compile)]
        return ", ".join([self.candidate.label, *(x for x in notes if x not in usual)])

    @property
    def key(self) -> str:
        """What a worker knows it by."""
        return f"{self.engine.name}/{self.side}/{self.mode}/{self.dtype}/{self.batch}/{self.size}"


@dataclass(frozen=True)
class Seconds:
    """Of a pass over a batch: the median, the quartiles, and all that were timed."""

    median: float
    low: float
    high: float
    passes: list[float] = field(default_factory=list)


P99_CALLS = 100
"""Of fewer calls than these, p99 would be the slowest one and no more."""


@dataclass(frozen=True)
class Latency:
    """Seconds of a single call, waited for: half of the calls took at most `p50`, 99 of 100 at most
    `p99`, which is None of fewer than `P99_CALLS`.
    """

    p50: float
    p99: Figure
    calls: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, calls: list[float]) -> Latency | None:
        """Of calls that were timed one by one; None if there were none."""
        if not calls:
            return None
        p50, p99 = (float(np.quantile(calls, q)) for q in (0.5, 0.99))
        return cls(p50, p99 if len(calls) >= P99_CALLS else None, calls)


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A side in one mode, batch, size and dtype; speeds are None where they were refused."""

    side: str
    engine: str = ""
    peer: bool = False
    net: str = ""
    macs: Figure = None
    note: str | None = None
    against: str | None = None
    mode: str
    batch: Count
    dtype: str
    form: str | None = None
    layout: str | None = None
    size: list[Count]
    compile: str | None = None
    seconds: Seconds | None = None
    latency: Latency | None = None
    images_per_second: Figure = None
    bound_images_per_second: Figure = None
    share: Figure = None
    """Of the bound."""
    ratio: Figure = None
    """To the speed of the side that it is held `against`."""
    imported: Annotated[Figure, Field(alias="import")] = None
    build: Figure = None
    load: Figure = None
    first_call: Figure = None
    peak_host_bytes: Figure = None
    peak_device_bytes: Figure = None
    refused: str | None = None

    @property
    def spread(self) -> tuple[float, float] | None:
        """Images a second in a slow pass and in a fast one."""
        if self.seconds is None or not 0 < self.seconds.low <= self.seconds.high < math.inf:
            return None
        return self.batch / self.seconds.high, self.batch / self.seconds.low


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A point of a curve over the batch, the depth or the size."""

    over: str
    x: int | FiniteFloat
    label: str = ""
    side: str
    engine: str = ""
    mode: str = ""
    batch: Count | None = None
    dtype: str = ""
    form: str | None = None
    compile: str | None = None
    images_per_second: Figure = None
    bound_images_per_second: Figure = None
    share: Figure = None
    first_call: Figure = None
    refused: str | None = None


@dataclass(frozen=True)
class Bound:
    """What the device was measured to do in a dtype."""

    dtype: str
    flops_per_second: Figure = None
    kernel: str | None = None
    copies: list[list[int | float]] = field(default_factory=list)
    """Bytes of an array, and bytes a second at which it is read and written."""
    bytes_per_second: Figure = None


@dataclass(frozen=True, kw_only=True)
class Parity:
    """A contender compared with a reference before it was timed."""

    side: str
    engine: str = ""
    net: str = ""
    mode: str | None = None
    batch: Count | None = None
    dtype: str | None = None
    form: str | None = None
    compile: str | None = None
    compared: str = ""
    """Which of its results is nearest to its bound."""
    reference: str
    error: Figure
    bound: Figure
    holds: bool


@dataclass(kw_only=True)
class BenchReport(JudgedRecord):
    """The result of `bench`."""

    kind: str = "bench"
    name: str
    command: str | None = None
    problems: list[str] = field(default_factory=list)
    spread: str = "low and high are the quartiles of the rounds"
    environment: dict[str, Any] = field(default_factory=dict)
    bounds: list[Bound] = field(default_factory=list)
    parity: list[Parity] = field(default_factory=list)
    rows: list[Timed] = field(default_factory=list)
    scaling: list[Scaled] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add to `notes` what is not there yet."""
        self.notes += [] if text in self.notes else [text]


@dataclass
class BenchRow:
    """What was measured of a case; without speed if `refused` says why."""

    case: Case
    against: str | None = None
    seconds: list[float] = field(default_factory=list)
    """Of a pass, a figure a round."""
    bound: float | None = None
    """Images a second."""
    ratio: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """Fields of `Timed`: what a worker says of its first call and of memory."""
    refused: str | None = None
    calls: list[float] = field(default_factory=list)
    """Seconds of single calls."""

    @property
    def speed(self) -> float | None:
        """Images a second, by the median."""
        if self.refused is not None or not self.seconds:
            return None
        return self.case.batch / statistics.median(self.seconds)

    @property
    def share(self) -> float | None:
        """Of the bound."""
        return self.speed / self.bound if self.speed and self.bound else None

    @property
    def timed(self) -> Timed:
        """As it is told."""
        case, speed, seconds = self.case, self.speed, None
        if speed is not None:
            low, median, high = (float(np.quantile(self.seconds, q)) for q in (0.25, 0.5, 0.75))
            seconds = Seconds(median, low, high, self.seconds)
        same = ("side", "mode", "batch", "dtype", "form", "layout", "compile")
        return Timed(
            engine=case.engine.name,
            peer=case.candidate.peer is not None,
            net=case.candidate.net,
            macs=case.candidate.macs,
            note=case.candidate.note,
            against=self.against,
            **{name: getattr(case, name) for name in same},
            size=list(case.size),
            seconds=seconds,
            latency=None if speed is None else Latency.of(self.calls),
            images_per_second=speed,
            bound_images_per_second=self.bound,
            share=self.share,
            ratio=self.ratio,
            refused=self.refused,
            **({} if self.refused else self.facts),
        )

    def scaled(self, over: str, x: int, label: str) -> Scaled:
        """As a point of a curve is told."""
        timed, own = self.timed, ("over", "x", "label")
        same = {f.name: getattr(timed, f.name) for f in fields(Scaled) if f.name not in own}
        return Scaled(over=over, x=x, label=label, **same)
