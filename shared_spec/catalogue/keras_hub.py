"""KerasHub's `vd` ResNets: a deep stem and pooled shortcuts (He et al. 2018, arXiv:1812.01187).

The names are those of its presets without the data set at their end. Other than in timm's `d` nets,
the first stage of a basic net begins with a projection too.
"""

from __future__ import annotations

from shared_spec.catalogue.entry import Entry

SOURCE = "keras_hub.models.ResNetBackbone"
NETS = {
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
    101: ("bottleneck", [3, 4, 23, 3]),
    152: ("bottleneck", [3, 8, 36, 3]),
    200: ("bottleneck", [3, 12, 48, 3]),
}


def _entry(depth: int, block: str, depths: list[int]) -> Entry:
    fields = {
        "block": block,
        "depths": depths,
        "stem": "deep",
        "shortcut": "projection_stage",
        "shortcut_pool": "avg",
        "norm_variance": "biased",
    }
    return Entry(f"resnet_vd_{depth}", "keras_hub", fields, SOURCE)


ENTRIES = tuple(_entry(depth, *net) for depth, net in NETS.items())
