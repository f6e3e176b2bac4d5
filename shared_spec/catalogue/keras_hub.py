"""KerasHub's `vd` ResNets: a deep stem and pooled shortcuts (He et al. 2018, arXiv:1812.01187).

The names are those of its presets without the data set at their end. Other than in timm's `d` nets,
the first stage of a basic net begins with a projection too.
"""

from __future__ import annotations

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.timm_resnet import DEPTHS

SOURCE = "keras_hub.models.ResNetBackbone"
VD_DEPTHS = DEPTHS | {200: [3, 12, 48, 3]}
"""Its net of 200 layers has other stages than timm's."""


def _entry(depth: int) -> Entry:
    fields = {
        "block": "basic" if depth < 50 else "bottleneck",
        "depths": VD_DEPTHS[depth],
        "stem": "deep",
        "shortcut": "projection_stage",
        "shortcut_pool": "avg",
        "norm_variance": "biased",
    }
    return Entry(f"resnet_vd_{depth}", "keras_hub", fields, SOURCE)


ENTRIES = tuple(map(_entry, (18, 34, 50, 101, 152, 200)))
