"""What a worker is asked to compile for devices that are not here, and what it says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resnet_parity.numerics.record import Count, Figure, JsonRecord
from shared_spec.spec.resnet_spec import ResNetSpec

PIECES = " /* pieces: "


@dataclass(frozen=True)
class AotJob(JsonRecord):
    """A net in one mode on devices of a topology."""

    spec: dict[str, Any]
    mode: str
    batch: int
    """Images a device."""
    size: tuple[int, int]
    dtype: str
    topology: dict[str, Any]
    """What JAX's `get_topology_desc` takes; empty for the worker's own devices, CPUs."""
    form: str = "plain"
    """plain; to infer, inference (batch norms are folded) or space_to_depth (with the stem on
    blocks); to train, remat (blocks are computed again in the backward pass).
    """

    @property
    def net(self) -> ResNetSpec:
        """The spec of the net."""
        return ResNetSpec.parse(self.spec)


@dataclass(frozen=True)
class Program(JsonRecord):
    """A compiled program; all figures are of one device. Without bytes it was refused, and
    `refused` says why.
    """

    devices: int
    seconds: float
    """That compiling took."""
    refused: str | None = None
    exceeds: Figure = None
    """Bytes that it needs, where it is refused for memory and the compiler says how many."""
    arguments: Count | None = None
    outputs: Count | None = None
    aliased: Count = 0
    """Bytes of outputs that lie where arguments lay."""
    temporary: Count = 0
    code: Count = 0
    unpadded: Count | None = None
    """Bytes of arguments and outputs without what the device's layouts add: a TPU keeps 16 channels
    in the place of 128."""
    flops: Figure = None
    traffic: Figure = None
    """Bytes that the program reads and writes, by the compiler's count."""
    cycles: Figure = None
    """Sum of what the compiler estimates for each operation, where it does."""
    text: tuple[str, ...] = ()
    """The lines of the optimised program that have a collective. Where it takes arrays laid end to
    end, as XLA's for GPUs do, `PIECES` and their types follow.
    """

    @property
    def memory(self) -> int | None:
        """Bytes that have to be there at once."""
        if self.arguments is None or self.outputs is None:
            return None
        return self.arguments + self.outputs - self.aliased + self.temporary + self.code
