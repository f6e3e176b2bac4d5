"""The nets of He et al. 2015 beyond torchvision's: CIFAR-10 (section 4.2) and the plain twins."""

from __future__ import annotations

from typing import Any

from shared_spec.catalogue.entry import Entry

PAPER = "He et al. 2015, arXiv:1512.03385"
DEPTHS = (20, 32, 44, 56, 110, 1202)


def _cifar(name: str, depth: int, shortcut: str, note: str) -> Entry:
    fields: dict[str, Any] = {
        "block": "basic",
        "depths": [(depth - 2) // 6] * 3,
        "widths": [16, 32, 64],
        "stem": "conv3x3",
        "stem_width": 16,
        "stem_stride": 1,
        "stem_pool": "none",
        "shortcut": shortcut,
        "num_classes": 10,
        "image_size": 32,
    }
    return Entry(name, "cifar", fields, f"{PAPER}, section 4.2", note)


def _plain(name: str, depths: list[int]) -> Entry:
    fields = {"block": "basic", "depths": depths, "shortcut": "none"}
    return Entry(name, "plain", fields, f"{PAPER}, section 4.1", "no shortcuts")


ENTRIES = (
    *(_cifar(f"resnet{n}", n, "zero_pad", "option A: zero padding") for n in DEPTHS),
    *(_cifar(f"resnet{n}_b", n, "projection", "option B: projection") for n in DEPTHS),
    *(_cifar(f"resnet{n}_c", n, "projection_all", "option C: all projections") for n in DEPTHS),
    *(_cifar(f"plain{n}", n, "none", "no shortcuts") for n in DEPTHS),
    _plain("plain18", [2, 2, 2, 2]),
    _plain("plain34", [3, 4, 6, 3]),
)
