"""RegNet (Radosavovic et al. 2020, arXiv:2003.13678), with the names of timm and of torchvision.

X has bottlenecks without a bottleneck, their groups as wide as one another; Y attends to channels
after the 3x3 convolution; V (timm's) is Y with pre-activation; Z has inverted bottlenecks and no
activation after sums (Dollár et al. 2021, arXiv:2103.06877).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

from shared_spec.catalogue.entry import Entry
from shared_spec.plan.compiler.pieces import divisible

TIMM = "timm.models.regnet"
TORCHVISION = "torchvision.models.regnet"
Fields = dict[str, Any]
Rule = tuple[int, float, float, int, int]
"""Width of the first block (w_0), by how much the widths of blocks would grow from one to the next
(w_a), the factor between those of stages before they are rounded to multiples of 8 (w_m), number of
blocks, and width of groups.
"""
Rounding = Literal["nearest", "nine_tenths"]

SE: Fields = {"attention": "se", "attention_on": "middle", "se_of": "input", "se_ratio": 0.25}
SILU: Fields = {"activation": "silu", "se_activation": "silu"}
GROUP_NORM: Fields = {"norm": "group", "norm_group_width": 16}
PRE: Fields = {"pre_activation": True, "identity_from": "pre", "final_norm": False}
PRE |= {"final_activation": True}
V: Fields = SE | SILU | PRE
Z: Fields = (
    SE
    | SILU
    | {"bottleneck_ratio": 4.0, "shortcut": "identity", "output_activation": False}
    | {"final_activation": True}
)


def stages(rule: Rule, ratio: float = 1.0, rounding: Rounding = "nearest") -> Fields:
    """Depths and widths by the quantised linear rule of the paper's section 3.3.

    Args:
        rule: the numbers of a net.
        ratio: of inner widths to widths.
        rounding: of inner widths to a multiple of the groups' width: the nearest one, or one that
            is not below nine tenths (torchvision).
    """
    first, slope, factor, depth, group_width = rule
    widths: Counter[int] = Counter()
    for block in range(depth):
        step = round(math.log((first + slope * block) / first) / math.log(factor))
        widths[round(first * factor**step / 8) * 8] += 1

    def adapted(width: int) -> int:
        inner = int(width * ratio)
        group = min(group_width, inner)
        nearest = rounding == "nearest"
        inner = round(inner / group) * group if nearest else divisible(inner, group)
        return int(inner / ratio)

    return {"depths": list(widths.values()), "widths": [adapted(width) for width in widths]}


def net(
    *rule: *Rule,
    parts: Fields | None = None,
    rounding: Rounding = "nearest",
    size: int = 224,
) -> Fields:
    """The fields of a net whose widths follow from the rule."""
    more = parts or {}
    ratio = more.get("bottleneck_ratio", 1.0)
    made = stages(rule, ratio, rounding)
    return {
        "names": "regnet",
        "block": "bottleneck",
        **made,
        "strides": [2] * len(made["depths"]),
        "expansion": 1,
        "bottleneck_ratio": ratio,
        "group_width": rule[-1],
        "stem": "conv3x3",
        "stem_width": 32,
        "stem_pool": "none",
        "image_size": size,
        **more,
    }


X400 = (24, 24.48, 2.54, 22, 16)
X800 = (56, 35.73, 2.28, 16, 16)
X1600 = (80, 34.01, 2.25, 18, 24)
X3200 = (88, 26.31, 2.25, 25, 48)
X8000 = (80, 49.56, 2.88, 23, 120)
X16000 = (216, 55.59, 2.1, 22, 128)
X32000 = (320, 69.86, 2.0, 23, 168)
Y400 = (48, 27.89, 2.09, 16, 8)
Y800 = (56, 38.84, 2.4, 14, 16)
Y1600 = (48, 20.71, 2.65, 27, 24)
Y3200 = (80, 42.63, 2.66, 21, 24)
Y4000 = (96, 31.41, 2.24, 22, 64)
Y6400 = (112, 33.22, 2.27, 25, 72)
Y8000 = (192, 76.82, 2.19, 17, 56)
Y16000 = (200, 106.23, 2.48, 18, 112)
Y32000 = (232, 115.89, 2.53, 20, 232)
Y128000 = (456, 160.83, 2.52, 27, 264)
Z4000 = (48, 14.5, 2.226, 28, 8)

TIMMS: dict[str, Fields] = {
    "regnetx_002": net(24, 36.44, 2.49, 13, 8),
    "regnetx_004": net(*X400),
    "regnetx_004_tv": net(*X400, rounding="nine_tenths"),
    "regnetx_006": net(48, 36.97, 2.24, 16, 24),
    "regnetx_008": net(*X800),
    "regnetx_016": net(*X1600),
    "regnetx_032": net(*X3200),
    "regnetx_040": net(96, 38.65, 2.43, 23, 40),
    "regnetx_064": net(184, 60.83, 2.07, 17, 56),
    "regnetx_080": net(*X8000),
    "regnetx_120": net(168, 73.36, 2.37, 19, 112),
    "regnetx_160": net(*X16000),
    "regnetx_320": net(*X32000),
    "regnety_002": net(24, 36.44, 2.49, 13, 8, parts=SE),
    "regnety_004": net(*Y400, parts=SE),
    "regnety_006": net(48, 32.54, 2.32, 15, 16, parts=SE),
    "regnety_008": net(*Y800, parts=SE),
    "regnety_008_tv": net(*Y800, parts=SE, rounding="nine_tenths"),
    "regnety_016": net(*Y1600, parts=SE),
    "regnety_032": net(*Y3200, parts=SE),
    "regnety_040": net(*Y4000, parts=SE),
    "regnety_064": net(*Y6400, parts=SE),
    "regnety_080": net(*Y8000, parts=SE),
    "regnety_080_tv": net(*Y8000, parts=SE, rounding="nine_tenths"),
    "regnety_120": net(168, 73.36, 2.37, 19, 112, parts=SE),
    "regnety_160": net(*Y16000, parts=SE),
    "regnety_320": net(*Y32000, parts=SE),
    "regnety_640": net(352, 147.48, 2.4, 20, 328, parts=SE, size=384),
    "regnety_1280": net(*Y128000, parts=SE, size=384),
    "regnety_2560": net(640, 230.83, 2.53, 27, 373, parts=SE, size=384),
    "regnety_040_sgn": net(*Y4000, parts=SE | SILU | GROUP_NORM),
    "regnetv_040": net(*Y4000, parts=V),
    "regnetv_064": net(*Y6400, parts=V | {"shortcut_pool": "avg"}),
    "regnetz_005": net(16, 10.7, 2.51, 21, 4, parts=Z | {"head_width": 1024}),
    "regnetz_040": net(*Z4000, parts=Z, size=256),
    "regnetz_040_h": net(*Z4000, parts=Z | {"head_width": 1536}, size=256),
}
TORCHVISIONS: dict[str, Fields] = {
    "regnet_y_400mf": net(*Y400, parts=SE, rounding="nine_tenths"),
    "regnet_y_800mf": net(*Y800, parts=SE, rounding="nine_tenths"),
    "regnet_y_1_6gf": net(*Y1600, parts=SE, rounding="nine_tenths"),
    "regnet_y_3_2gf": net(*Y3200, parts=SE, rounding="nine_tenths"),
    "regnet_y_8gf": net(*Y8000, parts=SE, rounding="nine_tenths"),
    "regnet_y_16gf": net(*Y16000, parts=SE, rounding="nine_tenths"),
    "regnet_y_32gf": net(*Y32000, parts=SE, rounding="nine_tenths"),
    "regnet_y_128gf": net(*Y128000, parts=SE, rounding="nine_tenths", size=384),
    "regnet_x_400mf": net(*X400, rounding="nine_tenths"),
    "regnet_x_800mf": net(*X800, rounding="nine_tenths"),
    "regnet_x_1_6gf": net(*X1600, rounding="nine_tenths"),
    "regnet_x_3_2gf": net(*X3200, rounding="nine_tenths"),
    "regnet_x_8gf": net(*X8000, rounding="nine_tenths"),
    "regnet_x_16gf": net(*X16000, rounding="nine_tenths"),
    "regnet_x_32gf": net(*X32000, rounding="nine_tenths"),
}


def _timm(name: str, fields: Fields) -> Entry:
    # Pre-activation branches end in no norm, and some of Z's blocks have no other path.
    starts_at_zero = not name.startswith(("regnetv", "regnetz"))
    more = {"zero_init_last": True} if starts_at_zero else {}
    return Entry(name, "timm_regnet", fields | more, TIMM)


ENTRIES = (
    *(_timm(name, fields) for name, fields in TIMMS.items()),
    *(Entry(name, "torchvision_regnet", f, TORCHVISION) for name, f in TORCHVISIONS.items()),
)
