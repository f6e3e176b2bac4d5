"""What `aot` is asked to do, and what it found."""

from __future__ import annotations

from dataclasses import dataclass, field

from resnet_parity.aot.targets import Target
from resnet_parity.engines.registry import Engine
from resnet_parity.numerics.record import Count, Figure, JudgedRecord
from shared_spec.errors import some
from shared_spec.spec.resnet_spec import ResNetSpec

FORMS = {"infer": ("plain", "inference", "space_to_depth"), "train": ("plain", "remat")}
"""What is compiled, by mode."""


@dataclass(frozen=True)
class AotRequest:
    """What to compile."""

    name: str
    spec: ResNetSpec
    targets: tuple[Target, ...]
    engines: tuple[Engine, ...]
    modes: tuple[str, ...] = ("infer", "train")
    forms: tuple[str, ...] = ("plain",)
    """Of `FORMS`; a mode that has none of them is compiled plainly."""
    batch: int = 32
    """Images a device."""
    size: tuple[int, int] | None = None
    dtype: str = "bfloat16"
    largest: bool = False
    """Whether to look for the largest batch that fits."""

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.size or (self.spec.image_size, self.spec.image_size)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The least time of a step: of the compiler's operations and bytes at the device's published
    peak rates. Nothing was timed.
    """

    seconds: float
    images_per_second: float
    """On all devices."""
    bound_by: str
    rates: str
    """Where they are published."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A net for a target, in an engine and a mode. Bytes and operations are of one device."""

    engine: str
    target: str
    devices: Count
    mode: str
    form: str = "plain"
    batch: Count
    compile_seconds: float
    refused: str | None = None
    arguments: Count | None = None
    outputs: Count | None = None
    aliased: Count = 0
    """Bytes of arguments that results are written over."""
    temporary: Count | None = None
    code: Count = 0
    """Bytes of the program."""
    memory: Count | None = None
    """Bytes that have to be there at once, the program's own among them."""
    unpadded: Count | None = None
    """Of arguments and outputs, without what the device's layouts add."""
    device_memory: Count
    """Bytes that the device has."""
    largest_batch: Count | None = None
    """That was found to fit, within a sixteenth, or 8 images."""
    flops: Figure = None
    traffic: Figure = None
    cycles: Figure = None
    """Sum of what the compiler estimates for each operation."""
    collectives: dict[str, int] = field(default_factory=dict)
    """How many arrays of each kind."""
    collective_bytes: Count = 0
    stray: list[str] = field(default_factory=list)
    unsummed: list[str] = field(default_factory=list)
    """Parameters whose gradients nothing sums."""
    estimate: Estimate | None = None

    @property
    def what(self) -> str:
        """Its mode, and its form where it is not the plain one."""
        return self.mode if self.form == "plain" else f"{self.mode} ({self.form})"


@dataclass(kw_only=True)
class AotReport(JudgedRecord):
    """The result of `aot`."""

    kind: str = "aot"
    name: str
    dtype: str
    size: list[Count]
    command: str | None = None
    date: str = ""
    problems: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    """Variables that change what the compiler does."""
    rows: list[Compiled] = field(default_factory=list)


def problems_of(row: Compiled) -> list[str]:
    """What is wrong with a program, each in a sentence."""
    where = f"{row.engine}, {row.target}, {row.what}"
    if row.refused is not None:
        return [f"{where}: {row.refused}"]
    found = []
    if (row.memory or 0) > row.device_memory:
        needed, had = (f"{n / 2**30:,.2f} GiB" for n in (row.memory or 0, row.device_memory))
        found.append(f"{where}: needs {needed} of memory, and a device has {had}")
    if row.stray:
        found.append(f"{where}: data parallelism does not need {some(row.stray, 3)}")
    if row.unsummed:
        found.append(f"{where}: no all-reduce sums the gradients of {some(row.unsummed, 3)}")
    return found
