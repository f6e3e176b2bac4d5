"""KerasHub's `vd` ResNets: a deep stem and pooled shortcuts (He et al. 2018, arXiv:1812.01187).

The names are those of its presets without the data set at their end. Other than in timm's `d` nets,
the first stage of a basic net begins with a projection too.
"""

from __future__ import annotations

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.families.timm_resnet import DEPTHS, D, net

SOURCE = "keras_hub.models.ResNetBackbone"
VD_DEPTHS = DEPTHS | {200: [3, 12, 48, 3]}
"""Its net of 200 layers has other stages than timm's."""


VD = D | {"shortcut": "projection_stage", "norm_variance": "biased"}

ENTRIES = tuple(
    Entry(f"resnet_vd_{depth}", "keras_hub", net(depth, VD, depths=VD_DEPTHS[depth]), SOURCE)
    for depth in (18, 34, 50, 101, 152, 200)
)
