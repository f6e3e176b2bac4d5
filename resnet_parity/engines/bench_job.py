"""What one contender of a bench is asked to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import computed_field

from resnet_parity.numerics.record import JsonRecord
from shared_spec.formats.canonical_file import read_safetensors
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.initialize import generator, random_images
from shared_spec.weights.state import State, cast_weights

DISTINCT = 4
"""So many images differ, and a batch repeats them. Its batch norms then see what a batch of these
alone has, and a float64 reference of these says what every row of the timed batch has to be."""


@dataclass(frozen=True)
class BenchJob(JsonRecord):
    """One side of a comparison, as the parent process asks for it."""

    peer: str | None
    name: str
    """Of the catalogue, which a library may know it by."""
    spec: dict[str, Any]
    weights: str
    mode: str
    batch: int
    size: tuple[int, int]
    dtype: str
    form: str
    layout: str
    compile: str
    tf32: bool
    seed: int

    @property
    def net(self) -> ResNetSpec:
        """The spec of the net that this side computes."""
        return ResNetSpec.parse(self.spec)

    @property
    def state(self) -> State:
        """The weights, widened to float32: libraries round to what they compute in."""
        return cast_weights(read_safetensors(self.weights).state, "float32")

    @property
    def images(self) -> np.ndarray:
        """[N, H, W, C]."""
        found = distinct_images(self.net, self.size, self.batch, self.seed)
        return np.tile(found, (self.batch // len(found), 1, 1, 1))

    @property
    def labels(self) -> np.ndarray:
        """[N]."""
        found = distinct_labels(self.net, self.batch, self.seed)
        return np.tile(found, self.batch // len(found))


def distinct(batch: int) -> int:
    """How many images of a batch differ."""
    return max(n for n in range(1, DISTINCT + 1) if batch % n == 0)


def distinct_images(spec: ResNetSpec, size: tuple[int, int], batch: int, seed: int) -> np.ndarray:
    """The images that a batch repeats."""
    return random_images((distinct(batch), *size, spec.in_channels), seed)


def distinct_labels(spec: ResNetSpec, batch: int, seed: int) -> np.ndarray:
    """Their labels."""
    return generator(seed, "labels").integers(0, spec.num_classes, distinct(batch))


BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Rates(JsonRecord):
    """What a device was measured to do in a dtype: `copies` are bytes of an array and bytes a
    second, read and written; small arrays stay in caches.
    """

    dtype: str
    flops_per_second: float
    kernel: str
    copies: tuple[tuple[int, float], ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bytes_per_second(self) -> float:
        """To and from memory: with the largest arrays."""
        return max(self.copies)[1]

    def seconds(self, flops: float, arrays: Iterable[float]) -> float:
        """The larger of the time for the arithmetic and that for passing over arrays (bytes)."""
        traffic = sum(size / self._rate(size) for size in arrays if size)
        return max(flops / self.flops_per_second, traffic)

    def _rate(self, size: float) -> float:
        """That of arrays of this size or, between two that were measured, of the smaller; what a
        larger array reaches, it reaches too.
        """
        below = [measured for measured, _ in self.copies if measured <= size]
        least = max(below, default=0)
        return max(rate for measured, rate in self.copies if measured >= least)

    def or_better(self, other: Rates) -> Rates:
        """The best of two measurements."""
        first = max(self, other, key=lambda rates: rates.flops_per_second)
        mine, theirs = dict(self.copies), dict(other.copies)
        sizes = sorted(mine.keys() | theirs.keys())
        copies = tuple((n, max(mine.get(n, 0.0), theirs.get(n, 0.0))) for n in sizes)
        return Rates(self.dtype, first.flops_per_second, first.kernel, copies)
