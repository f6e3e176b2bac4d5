"""The names of timm's module `resnet` that torchvision lacks, as timm defines them.

Letters: c a deep stem; d a deep stem and pooled shortcuts; s a deep stem of twice the width; t as
d with a tiered stem (He et al. 2018, arXiv:1812.01187, and timm). `blur` and `aa` anti-alias; `se`
and `eca` attend to channels; `rs` is ResNet-RS (Bello et al. 2021, arXiv:2103.07579).
"""

from __future__ import annotations

from typing import Any

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.families.pruned_widths import ECARESNET50D, ECARESNET101D

SOURCE = "timm.models.resnet"
Fields = dict[str, Any]

DEPTHS = {
    10: [1, 1, 1, 1],
    14: [1, 1, 1, 1],
    18: [2, 2, 2, 2],
    26: [2, 2, 2, 2],
    34: [3, 4, 6, 3],
    50: [3, 4, 6, 3],
    101: [3, 4, 23, 3],
    152: [3, 8, 36, 3],
    200: [3, 24, 36, 3],
    269: [3, 30, 48, 8],
}
C: Fields = {"stem": "deep"}
D: Fields = {"stem": "deep", "shortcut_pool": "avg"}
S: Fields = {"stem": "deep", "stem_width": 128}
T: Fields = {"stem": "deep_tiered", "shortcut_pool": "avg"}
X4: Fields = {"groups": 32, "base_width": 4}
X8: Fields = {"groups": 32, "base_width": 8}
SE: Fields = {"attention": "se"}
ECA: Fields = {"attention": "eca"}
BLUR: Fields = {"anti_alias": "blur"}
AA: Fields = {"anti_alias": "avg"}
RS: Fields = D | SE | {"stem_pool": "conv", "se_ratio": 0.25}


def net(depth: int, *parts: Fields, size: int = 224, **fields: Any) -> Fields:
    """The fields of a net whose depth number stands in the table above."""
    block = "basic" if depth in (10, 18, 34) else "bottleneck"
    whole: Fields = {"block": block, "depths": DEPTHS[depth], "image_size": size}
    for part in (*parts, fields):
        whole |= part
    return whole


NETS: dict[str, Fields] = {
    "resnet10t": net(10, T, size=176),
    "resnet14t": net(14, T, size=176),
    "resnet18d": net(18, D),
    "resnet34d": net(34, D),
    "resnet26": net(26),
    "resnet26t": net(26, T, size=256),
    "resnet26d": net(26, D),
    "resnet50c": net(50, C),
    "resnet50d": net(50, D),
    "resnet50s": net(50, S),
    "resnet50t": net(50, T),
    "resnet101c": net(101, C),
    "resnet101d": net(101, D, size=256),
    "resnet101s": net(101, S),
    "resnet152c": net(152, C),
    "resnet152d": net(152, D, size=256),
    "resnet152s": net(152, S),
    "resnet200": net(200),
    "resnet200d": net(200, D, size=256),
    "resnet50_gn": net(50, norm="group"),
    "resnext50d_32x4d": net(50, D, X4),
    "resnext101_32x4d": net(101, X4),
    "resnext101_32x16d": net(101, groups=32, base_width=16),
    "resnext101_32x32d": net(101, groups=32, base_width=32),
    "ecaresnet26t": net(26, T, ECA, size=256),
    "ecaresnet50d": net(50, D, ECA),
    "ecaresnet50d_pruned": net(50, D, ECA, block_widths=ECARESNET50D),
    "ecaresnet50t": net(50, T, ECA, size=256),
    "ecaresnetlight": net(50, ECA, depths=[1, 1, 11, 3], shortcut_pool="avg"),
    "ecaresnet101d": net(101, D, ECA),
    "ecaresnet101d_pruned": net(101, D, ECA, block_widths=ECARESNET101D),
    "ecaresnet200d": net(200, D, ECA, size=256),
    "ecaresnet269d": net(269, D, ECA, size=320),
    "ecaresnext26t_32x4d": net(26, T, ECA, X4),
    "ecaresnext50t_32x4d": net(50, T, ECA, X4),
    "seresnet18": net(18, SE),
    "seresnet34": net(34, SE),
    "seresnet50": net(50, SE),
    "seresnet50t": net(50, T, SE),
    "seresnet101": net(101, SE),
    "seresnet152": net(152, SE),
    "seresnet152d": net(152, D, SE, size=256),
    "seresnet200d": net(200, D, SE, size=256),
    "seresnet269d": net(269, D, SE, size=256),
    "seresnext26d_32x4d": net(26, D, SE, X4),
    "seresnext26t_32x4d": net(26, T, SE, X4),
    "seresnext50_32x4d": net(50, SE, X4),
    "seresnext101_32x4d": net(101, SE, X4),
    "seresnext101_32x8d": net(101, SE, X8),
    "seresnext101d_32x8d": net(101, D, SE, X8),
    "seresnext101_64x4d": net(101, SE, groups=64, base_width=4),
    "senet154": net(152, S, SE, groups=64, base_width=4, shortcut_kernel=3, reduce_first=2),
    "resnetblur18": net(18, BLUR),
    "resnetblur50": net(50, BLUR),
    "resnetblur50d": net(50, D, BLUR),
    "resnetblur101d": net(101, D, BLUR),
    "resnetaa34d": net(34, D, AA),
    "resnetaa50": net(50, AA),
    "resnetaa50d": net(50, D, AA),
    "resnetaa101d": net(101, D, AA),
    "seresnetaa50d": net(50, D, SE, AA),
    "seresnextaa101d_32x8d": net(101, D, SE, AA, X8, size=288),
    "seresnextaa201d_32x8d": net(200, D, S, SE, AA, X8, depths=[3, 24, 36, 4], size=384),
    "resnetrs50": net(50, RS, size=160),
    "resnetrs101": net(101, RS, size=192),
    "resnetrs152": net(152, RS, size=256),
    "resnetrs200": net(200, RS, size=256),
    "resnetrs270": net(50, RS, depths=[4, 29, 53, 4], size=256),
    "resnetrs350": net(50, RS, depths=[4, 36, 72, 4], size=288),
    "resnetrs420": net(50, RS, depths=[4, 44, 87, 4], size=320),
    "test_resnet": net(
        10,
        D,
        block=["basic", "basic", "bottleneck", "basic"],
        widths=[32, 48, 48, 96],
        stem_width=32,
        size=160,
    ),
}


ENTRIES = tuple(
    Entry(name, "timm", fields | {"zero_init_last": True}, SOURCE) for name, fields in NETS.items()
)
