"""Families of a few names each: of timm's module `senet`, SE-ResNets, SE-ResNeXts and SENet-154 as
their authors' Caffe files have them (Hu et al. 2017, arXiv:1709.01507); and insightface's nets for
face recognition, which give embeddings (Deng et al. 2018, arXiv:1801.07698).
"""

from __future__ import annotations

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.families.timm_resnet import SE, X4, Fields, S, net

SENETS = {
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
_SENET = SE | {"se_divisor": 1, "stem_pool": "max_ceil", "drop_rate": 0.2, "names": "senet"}

FACES = {
    18: [2, 2, 2, 2],
    34: [3, 4, 6, 3],
    50: [3, 4, 14, 3],
    100: [3, 13, 30, 3],
    200: [6, 26, 60, 6],
}
_FACE: Fields = {
    "block": "basic",
    "strides": [2, 2, 2, 2],
    "stem": "conv3x3",
    "stem_stride": 1,
    "stem_pool": "none",
    "pre_norm": True,
    "stride_on": "last",
    "activation": "prelu",
    "output_activation": False,
    "final_norm": True,
    "head_pool": "flatten",
    "output_norm": True,
    "num_classes": 512,
    "image_size": 112,
    "names": "iresnet",
}
FACE_SOURCE = "github.com/deepinsight/insightface; Duta et al. 2020, arXiv:2004.04989"

ENTRIES = (
    *(
        Entry(name, "senet", fields | _SENET, "timm.models.senet")
        for name, fields in SENETS.items()
    ),
    *(
        Entry(f"iresnet{n}", "iresnet", _FACE | {"depths": depths}, FACE_SOURCE, "112 pixels alone")
        for n, depths in FACES.items()
    ),
)
