"""The devices that `aot` compiles for, and what their makers say that they can do."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from resnet_parity.engines.bench_job import Rates
from resnet_parity.engines.registry import missing_modules
from shared_spec.errors import FrameworkError


@dataclass(frozen=True)
class Multiprocessors:
    """What XLA's compiler asks of a GPU: how many multiprocessors at how many GHz, each with so
    many units for float32 and bytes of shared memory; the bytes of the level-2 cache; and the
    compute capability.
    """

    count: int
    clock: float
    units: int
    shared: int
    cache: int
    capability: int


@dataclass(frozen=True)
class Chip:
    """A chip, as its maker has it: its peak rate of bfloat16 products (FLOP/s), the rate (bytes/s)
    and size (bytes) of its memory, and the dimensions of its networks.
    """

    name: str
    flops_per_second: float
    bytes_per_second: float
    memory: int
    dimensions: int = 1
    devices: int = 1
    """As which JAX sees a chip when it compiles for one that is not here."""
    pod: int = 0
    """How many chips a pod of TPUs has."""
    gpu: Multiprocessors | None = None
    """None for a TPU."""

    @property
    def platform(self) -> str:
        """Its kind: tpu or gpu."""
        return "tpu" if self.gpu is None else "gpu"

    @property
    def source(self) -> str:
        """Where its rates are published."""
        if self.gpu is None:
            return f"TPU {self.name}, {SOURCE}/{self.name}"
        return f"{self.name.upper()} SXM, NVIDIA's data sheet"


SOURCE = "https://cloud.google.com/tpu/docs"
"""The page of each generation of TPUs is called like it: `SOURCE/v5e`. Read on 2026-11-29."""

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 1200e9, 32 * 2**30, 3, devices=2, pod=4096),
        Chip("v5e", 197e12, 819e9, 16 * 2**30, 2, pod=256),
        Chip("v5p", 459e12, 2765e9, 95 * 2**30, 3, pod=8960),
        Chip("v6e", 918e12, 1638e9, 32 * 2**30, 2, pod=256),
    )
}
"""TPUs."""

_HOPPER = Multiprocessors(132, 1.98, 128, 228 * 2**10, 50 * 2**20, 9)
_AMPERE = Multiprocessors(108, 1.41, 64, 164 * 2**10, 40 * 2**20, 8)
_BLACKWELL = Multiprocessors(148, 1.965, 128, 228 * 2**10, 253 * 2**19, 10)
GPUS = {
    chip.name: chip
    for chip in (
        Chip("a100", 312e12, 2039e9, 85_100_068_864, gpu=_AMPERE),
        Chip("h100", 989e12, 3350e9, 84_942_979_072, gpu=_HOPPER),
        Chip("h200", 989e12, 4800e9, 151_397_597_184, gpu=_HOPPER),
        Chip("b200", 2250e12, 7700e9, 191_514_411_008, gpu=_BLACKWELL),
    )
}
"""NVIDIA's, the SXM form of each. Multiprocessors are those of the CUDA programming guide's table
of compute capabilities and of the white paper of each architecture; memory is what the driver of
such a card reports, as in XLA's target configurations."""

_A_BOARD = 8
"""GPUs of a host."""


def _as_xla_has_it(chip: Chip, gpu: Multiprocessors) -> str:
    """A GPU in the text format of XLA's target configurations."""
    numbers = {
        "core_count": gpu.count,
        "fpus_per_core": gpu.units,
        "clock_rate_ghz": gpu.clock,
        "memory_bandwidth": int(chip.bytes_per_second),
        "device_memory_size": chip.memory,
        "l2_cache_size": gpu.cache,
        "shared_memory_per_core": gpu.shared,
        # What a block can have of it: all but what the driver keeps.
        "shared_memory_per_block_optin": gpu.shared - 2**10,
        "shared_memory_per_block": 48 * 2**10,
        "threads_per_warp": 32,
        "threads_per_block_limit": 1024,
        "threads_per_core_limit": 2048,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
    }
    told = " ".join(f"{name}: {number}" for name, number in numbers.items())
    return (
        f"gpu_device_info {{ {told} cuda_compute_capability {{ major: {gpu.capability} }} }} "
        f'platform_name: "CUDA" device_description_str: "NVIDIA {chip.name.upper()}"'
    )


@dataclass(frozen=True)
class Target:
    """Chips of one kind: TPUs in a grid, such as 2x2, or so many GPUs."""

    chip: Chip
    grid: tuple[int, ...]

    @property
    def name(self) -> str:
        """As it is typed: `tpu:v5e:2x2`, `gpu:h100`, `gpu:h100:8`."""
        one_gpu = self.chip.gpu is not None and self.grid == (1,)
        kind = f"{self.chip.platform}:{self.chip.name}"
        return kind if one_gpu else f"{kind}:{_crossed(self.grid)}"

    @property
    def topology(self) -> dict[str, Any]:
        """What JAX's `get_topology_desc` takes for it."""
        chip, count = self.chip, math.prod(self.grid)
        if chip.gpu is not None:
            hosts = math.ceil(count / _A_BOARD)
            shape = _crossed((1, hosts, count // hosts))
            config = _as_xla_has_it(chip, chip.gpu)
            return {"platform": "cuda", "topology": shape, "target_config": config}
        # Where the chips of a host are not the usual 2x2x1.
        host = {"chips_per_host_bounds": [1, 1, 1]} if count == 1 else {}
        return {"platform": "tpu", "topology_name": f"{chip.name}:{_crossed(self.grid)}", **host}

    @property
    def devices(self) -> int:
        """How many JAX sees."""
        return math.prod(self.grid) * self.chip.devices

    @property
    def memory(self) -> int:
        """Bytes that a device has."""
        return self.chip.memory // self.chip.devices

    def rates(self, dtype: str) -> Rates | None:
        """What a device does at most. By JAX's default, a TPU multiplies float32 numbers in one
        pass of bfloat16, as fast as those; what a GPU does with them is not known here.
        """
        chip, n = self.chip, self.chip.devices
        if chip.gpu is not None and dtype != "bfloat16":
            return None
        where = f"published for {chip.source}"
        return Rates(dtype, chip.flops_per_second / n, where, ((1, chip.bytes_per_second / n),))


def _crossed(grid: tuple[int, ...]) -> str:
    return "x".join(map(str, grid))


def parse_targets(text: str) -> list[Target]:
    """Targets of a comma-separated list, each once.

    Raises:
        FrameworkError: naming the first that there is not, and what there is; or saying what has to
            be installed.
    """
    found = list(dict.fromkeys(_target(part.strip()) for part in text.split(",")))
    for platform in sorted({target.chip.platform for target in found}):
        absent = [missing_modules((name,), _EXTRAS[platform]) for name in _COMPILERS[platform]]
        if all(absent):
            raise FrameworkError(f"target: {absent[0]}")
    return found


_COMPILERS = {"tpu": ("libtpu",), "gpu": ("jax_cuda12_plugin", "jax_cuda13_plugin")}
"""Modules of which one compiles for a platform."""
_EXTRAS = {"tpu": "'resnet-parity[tpu-aot]'", "gpu": "'resnet-parity[gpu-aot]'"}


def _target(text: str) -> Target:
    platform, name, sizes = (*text.split(":", 2), "", "")[:3]
    chip = {"tpu": CHIPS, "gpu": GPUS}.get(platform, {}).get(name)
    if platform == "gpu" and text == f"gpu:{name}":
        sizes = "1"
    if chip is not None and re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3})*", sizes):
        grid = tuple(map(int, sizes.split("x")))
        if len(grid) == chip.dimensions and _is_whole(chip, grid):
            return Target(chip, grid)
    accepted = (
        f"tpu:{c.name}:{'x'.join('XYZ'[: c.dimensions])} (to {c.pod:,} chips)"
        for c in CHIPS.values()
    )
    raise FrameworkError(
        f"target: {text!r} is not one of {', '.join(accepted)}, where X and Y are even or all "
        f"numbers are 1, such as tpu:v5e:2x2, nor gpu:{'|'.join(GPUS)}, with :N for N of them "
        f"(to {_A_BOARD}, or a multiple), such as gpu:h100:8"
    )


def _is_whole(chip: Chip, grid: tuple[int, ...]) -> bool:
    """Whether hosts have so many."""
    if chip.gpu is not None:
        return grid[0] <= _A_BOARD or grid[0] % _A_BOARD == 0
    even = all(n % 2 == 0 for n in grid[:2])
    return math.prod(grid) == 1 or (even and math.prod(grid) <= chip.pod)
