"""How speed and the time to compile go with the batch, the depth and the image size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from resnet_parity.bench.result import BenchRequest
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import ResNetError

OVER = ("batch", "depth", "size")
DEPTHS = (20, 32, 44, 56, 110)
"""Of the CIFAR nets of the paper; 1202 too, if requested."""

BATCHES = (1, 2, 4, 8, 16, 32)
SIZES = (96, 128, 160, 192, 224, 256)


@dataclass(frozen=True)
class ScalingAxis:
    """What is scaled, and over which values."""

    over: tuple[str, ...] = ()
    depths: tuple[int, ...] = DEPTHS
    batches: tuple[int, ...] = BATCHES
    sizes: tuple[int, ...] = SIZES

    def check(self) -> None:
        """Raise a `ResNetError` before anything is run, if it cannot be."""
        for over in self.over:
            if over not in OVER:
                raise ResNetError(f"--scaling: {over!r} is not one of {', '.join(OVER)}")
        for depth in self.depths if "depth" in self.over else ():
            resolve(f"resnet{depth}")


def points(
    request: BenchRequest, scale: ScalingAxis
) -> Iterator[tuple[str, int, str, BenchRequest]]:
    """Over what, the value, what to call it, and what to measure there: ours alone."""
    alone = replace(request, peers=False, batches=request.batches[:1])
    for over in scale.over:
        if over == "batch":
            for batch in scale.batches:
                yield over, batch, f"batch {batch}", replace(alone, batches=(batch,))
        elif over == "size":
            for side in scale.sizes:
                yield over, side, f"{side} px", replace(alone, size=(side, side))
        else:
            for depth in scale.depths:
                name = f"resnet{depth}"
                point = replace(alone, name=name, spec=resolve(name), size=None)
                yield over, depth, name, point
