"""The names of timm's module `senet`: SE-ResNets, SE-ResNeXts and SENet-154 as their authors'
Caffe files have them (Hu et al. 2017, arXiv:1709.01507).
"""

from __future__ import annotations

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.timm_resnet import SE, X4, S, net

NETS = {
    "legacy_senet154": net(
        152,
        S,
        groups=64,
        base_width=4,
        shortcut_kernel=3,
        reduce_first=2,
    ),
    "legacy_seresnet18": net(18, branch_activation=True),
    "legacy_seresnet34": net(34, branch_activation=True),
    "legacy_seresnet50": net(50, stride_on="1x1"),
    "legacy_seresnet101": net(101, stride_on="1x1"),
    "legacy_seresnet152": net(152, stride_on="1x1"),
    "legacy_seresnext26_32x4d": net(26, X4),
    "legacy_seresnext50_32x4d": net(50, X4),
    "legacy_seresnext101_32x4d": net(101, X4),
}
_ALL = SE | {"se_divisor": 1, "stem_pool": "max_ceil", "drop_rate": 0.2, "names": "senet"}

ENTRIES = tuple(
    Entry(name, "senet", fields | _ALL, "timm.models.senet") for name, fields in NETS.items()
)
