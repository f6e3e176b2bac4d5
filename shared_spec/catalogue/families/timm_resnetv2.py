"""The names of timm's module `resnetv2`: pre-activation nets (He et al. 2016, arXiv:1603.05027).

`bit` are Big Transfer's (Kolesnikov et al. 2019, arXiv:1912.11370): standardised convolutions,
group norm, and widths times the factor after the depth. Letters are as in `timm_resnet`.
"""

from __future__ import annotations

from typing import Any

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.families.timm_resnet import D, Fields, T, net

SOURCE = "timm.models.resnetv2"


def _entry(name: str, depth: int, *parts: Fields, **fields: Any) -> Entry:
    return Entry(name, "timm_v2", net(depth, *parts, pre_activation=True, **fields), SOURCE)


def _bit(name: str, depth: int, factor: int, size: int) -> Entry:
    return _entry(
        name,
        depth,
        widths=[64 * factor * 2**i for i in range(4)],
        stem_width=64 * factor,
        stem_pool="max_zero",
        standardize=1e-8,
        norm="group",
        size=size,
    )


ENTRIES = (
    _entry("resnetv2_18", 18),
    _entry("resnetv2_18d", 18, D),
    _entry("resnetv2_34", 34),
    _entry("resnetv2_34d", 34, D),
    _entry("resnetv2_50", 50),
    _entry("resnetv2_50d", 50, D),
    _entry("resnetv2_50t", 50, T),
    _entry("resnetv2_101", 101),
    _entry("resnetv2_101d", 101, D),
    _entry("resnetv2_152", 152),
    _entry("resnetv2_152d", 152, D),
    _entry("resnetv2_50d_gn", 50, D, norm="group"),
    _entry("resnetv2_50d_evos", 50, D, norm="evonorm_s0"),
    _entry("resnetv2_50d_frn", 50, D, norm="frn"),
    _bit("resnetv2_50x1_bit", 50, 1, 224),
    _bit("resnetv2_50x3_bit", 50, 3, 448),
    _bit("resnetv2_101x1_bit", 101, 1, 448),
    _bit("resnetv2_101x3_bit", 101, 3, 448),
    _bit("resnetv2_152x2_bit", 152, 2, 224),
    _bit("resnetv2_152x4_bit", 152, 4, 480),
)
