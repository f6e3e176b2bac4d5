"""The devices that `aot` compiles for, and what their makers say that they can do."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from resnet_parity.engines.bench_job import Rates
from resnet_parity.engines.registry import missing_modules
from shared_spec.errors import FrameworkError


@dataclass(frozen=True)
class Chip:
    """A generation, as its page under `SOURCE` has it: a chip's peak rate of bfloat16 products
    (FLOP/s), the rate (bytes/s) and size (bytes) of its memory, and the dimensions of its networks.
    """

    name: str
    flops_per_second: float
    bytes_per_second: float
    memory: int
    dimensions: int
    devices: int = 1
    """As which JAX sees a chip when it compiles for one that is not here."""


SOURCE = "https://cloud.google.com/tpu/docs"
"""The page of each generation is called like it: `SOURCE/v5e`. Read on 2026-11-29."""

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 1200e9, 32 * 2**30, 3, devices=2),
        Chip("v5e", 197e12, 819e9, 16 * 2**30, 2),
        Chip("v5p", 459e12, 2765e9, 95 * 2**30, 3),
        Chip("v6e", 918e12, 1638e9, 32 * 2**30, 2),
    )
}


@dataclass(frozen=True)
class Target:
    """Chips of one generation in a grid, such as 2x2."""

    chip: Chip
    grid: tuple[int, ...]

    @property
    def name(self) -> str:
        """As it is typed: `tpu:v5e:2x2`."""
        return f"tpu:{self.topology}"

    @property
    def topology(self) -> str:
        """What libtpu calls it."""
        return f"{self.chip.name}:{'x'.join(map(str, self.grid))}"

    @property
    def host(self) -> tuple[int, ...] | None:
        """The chips of a host, where they are not the usual 2x2x1."""
        return (1, 1, 1) if math.prod(self.grid) == 1 else None

    @property
    def devices(self) -> int:
        """How many JAX sees."""
        return math.prod(self.grid) * self.chip.devices

    @property
    def memory(self) -> int:
        """Bytes that a device has."""
        return self.chip.memory // self.chip.devices

    def rates(self, dtype: str) -> Rates:
        """What a device does at most. By JAX's default, float32 numbers are multiplied in one pass
        of bfloat16, as fast as those.
        """
        chip, n = self.chip, self.chip.devices
        where = f"published for TPU {chip.name}, {SOURCE}/{chip.name}"
        return Rates(dtype, chip.flops_per_second / n, where, ((1, chip.bytes_per_second / n),))


def parse_targets(text: str) -> list[Target]:
    """Targets of a comma-separated list, each once.

    Raises:
        FrameworkError: naming the first that there is not, and what there is; or saying what has to
            be installed.
    """
    found = [_target(part.strip()) for part in dict.fromkeys(text.split(","))]
    absent = missing_modules(("libtpu",), "'resnet-parity[tpu-aot]'")
    if absent is not None:
        raise FrameworkError(f"target: {absent}")
    return found


def _target(text: str) -> Target:
    platform, _, topology = text.partition(":")
    if platform == "gpu":
        raise FrameworkError(
            f"target: {text!r} is a GPU, and nothing is compiled for one that is not here; on a "
            "machine that has one, run `make gpu`"
        )
    name, _, sizes = topology.partition(":")
    chip = CHIPS.get(name) if platform == "tpu" else None
    if chip is not None and re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3})*", sizes):
        grid = tuple(map(int, sizes.split("x")))
        whole = math.prod(grid) == 1 or all(n % 2 == 0 for n in grid[:2])
        if len(grid) == chip.dimensions and whole:
            return Target(chip, grid)
    accepted = (f"tpu:{c.name}:{'x'.join('XYZ'[: c.dimensions])}" for c in CHIPS.values())
    raise FrameworkError(
        f"target: {text!r} is not one of {', '.join(accepted)}, where X and Y are even or all "
        f"numbers are 1, such as tpu:v5e:2x2"
    )
