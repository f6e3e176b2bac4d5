"""What `bench` is asked for, and what it found."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resnet_parity.bench.peers import Candidate
from resnet_parity.engines.bench_job import Rates
from resnet_parity.engines.registry import Device, Engine
from shared_spec.spec.resnet_spec import ResNetSpec


@dataclass(frozen=True)
class Request:
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
    peers: bool = True
    rounds: int = 5
    processes: int = 1
    """Of each side, one after another, among which its rounds are divided."""
    seconds: float = 0.5
    """Of a round, about."""
    tf32: bool = False
    seed: int = 0
    requested: bool = False
    """Whether engines were asked for by name, so that a missing one is a failure."""
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


@dataclass
class Row:
    """What was measured of a case; without speed if `refused` says why."""

    case: Case
    against: str | None = None
    seconds: list[float] = field(default_factory=list)
    """Of a pass, a figure a round."""
    bound: float | None = None
    """Images a second."""
    ratio: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    refused: str | None = None

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

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        case, speed = self.case, self.speed
        seconds = None
        if speed is not None:
            low, median, high = (float(np.quantile(self.seconds, q)) for q in (0.25, 0.5, 0.75))
            seconds = {"median": median, "low": low, "high": high, "passes": self.seconds}
        facts = {} if self.refused else self.facts
        peaks = facts.get("peaks", {})
        return {
            "side": case.side,
            "engine": case.engine.name,
            "peer": case.candidate.peer is not None,
            "net": case.candidate.net,
            "macs": case.candidate.macs,
            "note": case.candidate.note,
            "against": self.against,
            **{name: getattr(case, name) for name in ("mode", "batch", "dtype", "form", "layout")},
            "size": list(case.size),
            "compile": case.compile,
            "seconds": seconds,
            "images_per_second": speed,
            "bound_images_per_second": self.bound,
            "share": self.share,
            "ratio": self.ratio,
            **{name: facts.get(name) for name in ("import", "build", "load", "first_call")},
            "peak_host_bytes": peaks.get("host"),
            "peak_device_bytes": peaks.get("device"),
            "refused": self.refused,
        }


@dataclass(frozen=True)
class Point:
    """A row that belongs to a curve: over the batch, the depth or the size."""

    over: str
    x: int
    label: str
    row: Row

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        row = self.row.to_dict()
        kept = ["side", "engine", "mode", "batch", "dtype", "form", "compile", "images_per_second"]
        kept += ["bound_images_per_second", "share", "first_call", "refused"]
        return {"over": self.over, "x": self.x, "label": self.label} | {k: row[k] for k in kept}


@dataclass
class BenchReport:
    """The result of `bench`."""

    request: Request
    environment: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, Rates] = field(default_factory=dict)
    parity: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def judged(self) -> list[Row]:
        """All that was measured, for its own sake or for a curve."""
        return [*self.rows, *(point.row for point in self.points)]

    @property
    def holds(self) -> bool:
        """True if something was timed and nothing refused."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "kind": "bench",
            "name": self.request.name,
            "command": self.request.command,
            "holds": self.holds,
            "problems": self.problems,
            "spread": "low and high are the quartiles of the rounds",
            "environment": self.environment,
            "bounds": [rates.to_dict() for rates in self.rates.values()],
            "parity": self.parity,
            "rows": [row.to_dict() for row in self.rows],
            "scaling": [point.to_dict() for point in self.points],
            "missing": self.missing,
            "notes": self.notes,
        }
