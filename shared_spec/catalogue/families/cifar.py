"""Nets for CIFAR: of He et al. 2015 (section 4.2), with its plain twins for ImageNet; ImageNet's
depths with a stem of 3x3, also with pre-activation, as github.com/kuangliu/pytorch-cifar has them;
wide nets; and the net of nine layers that David Page trained fastest on DAWNBench (2018), in the
form with a second convolution and a pool a stage that is taught as "ResNet9".
"""

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


STEM: dict[str, Any] = {
    "stem": "conv3x3",
    "stem_stride": 1,
    "stem_pool": "none",
    "num_classes": 10,
    "image_size": 32,
}
WIDE = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
PORT = "github.com/kuangliu/pytorch-cifar"
PRE = "He et al. 2016, arXiv:1603.05027"
IMAGENET_DEPTHS = {
    18: [2, 2, 2, 2],
    34: [3, 4, 6, 3],
    50: [3, 4, 6, 3],
    101: [3, 4, 23, 3],
    152: [3, 8, 36, 3],
}


def _port(name: str, depth: int, source: str, note: str, **fields: Any) -> Entry:
    block = "basic" if depth < 50 else "bottleneck"
    fields |= STEM | {"block": block, "depths": IMAGENET_DEPTHS[depth]}
    return Entry(name, "cifar", fields, f"{source}; {PORT}", note)


def _wide(depth: int, factor: int) -> Entry:
    fields = STEM | {
        "block": "basic",
        "depths": [(depth - 4) // 6] * 3,
        "widths": [16 * factor, 32 * factor, 64 * factor],
        "stem_width": 16,
        "pre_activation": True,
        "branch_drop_rate": 0.3,
    }
    note = f"{factor} times as wide"
    return Entry(f"wrn_{depth}_{factor}", "cifar", fields, WIDE, note)


RESNET9 = STEM | {
    "block": "basic",
    "depths": [2, 1, 2],
    "widths": [128, 256, 512],
    "strides": [2, 2, 2],
    "stage_start": "conv_pool",
    "branch_activation": True,
    "output_activation": False,
    "conv_bias": True,
    "head_pool": "max",
    "drop_rate": 0.2,
}


def _plain(name: str, depths: list[int]) -> Entry:
    fields = {"block": "basic", "depths": depths, "shortcut": "none"}
    return Entry(name, "plain", fields, f"{PAPER}, section 4.1", "no shortcuts")


ENTRIES = (
    *(_cifar(f"resnet{n}", n, "zero_pad", "option A: zero padding") for n in DEPTHS),
    *(_cifar(f"resnet{n}_b", n, "projection", "option B: projection") for n in DEPTHS),
    *(_cifar(f"resnet{n}_c", n, "projection_all", "option C: all projections") for n in DEPTHS),
    *(_cifar(f"plain{n}", n, "none", "no shortcuts") for n in DEPTHS),
    *(_port(f"cifar_resnet{n}", n, PAPER, "a stem of 3x3") for n in IMAGENET_DEPTHS),
    *(
        _port(
            f"preact_resnet{n}", n, PRE, "no norm at the end", pre_activation=True, final_norm=False
        )
        for n in IMAGENET_DEPTHS
    ),
    *(_wide(depth, factor) for depth, factor in ((16, 4), (16, 8), (28, 10), (40, 2))),
    Entry("resnet9", "cifar", RESNET9, "Page 2018, myrtle.ai", "convolution and pool a stage"),
    _plain("plain18", [2, 2, 2, 2]),
    _plain("plain34", [3, 4, 6, 3]),
)
