"""timm's ResNets with another layer in the place of a block's 3x3 convolution."""

from __future__ import annotations

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.families.timm_resnet import X4, D, Fields, net

SELECTIVE: Fields = {"convolution": "selective"}
HALVES: Fields = SELECTIVE | {"split_input": True}
BASIC: Fields = HALVES | {"se_ratio": 1 / 8, "se_divisor": 16}
E: Fields = D | {"stem_width": 128}
SPLIT: Fields = {"convolution": "split_attention", "se_ratio": 0.25, "stride_pool": "last"}

SKNET: dict[str, Fields] = {
    "skresnet18": net(18, BASIC),
    "skresnet34": net(34, BASIC),
    "skresnet50": net(50, HALVES),
    "skresnet50d": net(50, D, HALVES),
    "skresnext50_32x4d": net(50, X4, SELECTIVE, se_divisor=32),
}


def res2net(depth: int, width: int, scale: int, *parts: Fields, groups: int = 1) -> Fields:
    """Convolutions of this width at 64 planes, in so many parts."""
    how = {"convolution": "hierarchical", "base_width": width, "scale": scale, "groups": groups}
    return net(depth, how, *parts)


RES2NET: dict[str, Fields] = {
    "res2net50_26w_4s": res2net(50, 26, 4),
    "res2net101_26w_4s": res2net(101, 26, 4),
    "res2net50_26w_6s": res2net(50, 26, 6),
    "res2net50_26w_8s": res2net(50, 26, 8),
    "res2net50_48w_2s": res2net(50, 48, 2),
    "res2net50_14w_8s": res2net(50, 14, 8),
    "res2next50": res2net(50, 4, 4, groups=8),
    "res2net50d": res2net(50, 26, 4, D),
    "res2net101d": res2net(101, 26, 4, D),
}


RESNEST: dict[str, Fields] = {
    "resnest14d": net(14, D, SPLIT),
    "resnest26d": net(26, D, SPLIT),
    "resnest50d": net(50, D, SPLIT),
    "resnest101e": net(101, E, SPLIT, size=256),
    "resnest200e": net(200, E, SPLIT, size=320),
    "resnest269e": net(269, E, SPLIT, size=416),
    "resnest50d_4s2x40d": net(50, D, SPLIT, radix=4, groups=2, base_width=40, stride_pool="first"),
    "resnest50d_1s4x24d": net(50, D, SPLIT, radix=1, groups=4, base_width=24, stride_pool="first"),
}
ENTRIES = (
    *(
        Entry(name, "timm", fields, "Li et al. 2019, arXiv:1903.06586; timm.models.sknet")
        for name, fields in SKNET.items()
    ),
    *(
        Entry(name, "timm", fields | {"zero_init_last": True}, source)
        for nets, source in (
            (RES2NET, "Gao et al. 2019, arXiv:1904.01169; timm.models.res2net"),
            (RESNEST, "Zhang et al. 2020, arXiv:2004.08955; timm.models.resnest"),
        )
        for name, fields in nets.items()
    ),
)
