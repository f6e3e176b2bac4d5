"""The ResNets of timm's module `byobnet`.

A `t` in a name stands for a tiered stem of three convolutions, a `q` for one of four, an `s` for
SiLU. The RegNetZ of this module have another shape than those of `regnet`.
"""

from __future__ import annotations

from typing import Any

from shared_spec.catalogue.entry import Entry

Fields = dict[str, Any]
SOURCE = "timm.models.byobnet"
Z_SOURCE = "Dollár et al. 2021, arXiv:2103.06877; timm.models.byobnet"

BOTTLENECKS: Fields = {
    "names": "byobnet",
    "block": "bottleneck",
    "expansion": 1,
    "bottleneck_ratio": 0.25,
    "image_size": 256,
}
SILU: Fields = {"activation": "silu"}
TIERED: Fields = {"stem": "deep_tiered"}
STRIDED: Fields = {"stem_pool": "none", "stem_last_stride": 2}
"""The stem's last convolution in the place of its pool."""
QUAD: Fields = STRIDED | {"stem": "deep", "stem_widths": [16, 32, 64], "stem_width": 128}
ATTENTION: dict[str, Fields] = {
    "": {},
    "gc": {"attention": "gc", "attention_on": "middle", "se_ratio": 1 / 8, "se_divisor": 1},
    "se": {"attention": "se", "attention_on": "middle"},
    "eca_": {"attention": "eca", "attention_on": "middle"},
}
GC = ATTENTION["gc"]
Z: Fields = {
    "bottleneck_ratio": 4.0,
    "bottleneck_of": "input",
    "shortcut": "identity",
    "output_activation": False,
    "attention": "se",
    "attention_on": "middle",
    "se_ratio": 0.25,
    "stem_pool": "none",
}
SMALL: Fields = {"stem": "conv3x3", "stem_width": 32, "strides": [2, 2, 2, 2]}
EVO: Fields = {"norm": "evonorm_s0", "norm_group_width": 16, "norm_eps": 1e-3}
"""timm's EvoNorm-S0a; it holds the activation."""


def net(depths: list[int], widths: list[int], *parts: Fields, **fields: Any) -> Fields:
    """The fields of a net of bottlenecks; later parts win."""
    merged = BOTTLENECKS | {"depths": depths, "widths": widths}
    for part in (*parts, fields):
        merged |= part
    return merged


WIDTHS = [256, 512, 1024, 2048]
NEXT = {"group_width": 32}
X26 = ([2, 2, 2, 2], WIDTHS, TIERED, SILU, NEXT)
R33 = ([2, 3, 3, 2], [256, 512, 1536, 1536], TIERED, STRIDED, SILU)
Q: Fields = QUAD | SILU | {"bottleneck_ratio": [0.25, 0.25, 0.25, 1.0], "head_width": 2048}

RESNETS: dict[str, Fields] = {
    "resnet51q": net(
        [2, 4, 6, 4], [256, 512, 1536, 1536], Q, group_width=[32, 32, 32, 1], stem_linear=2
    ),
    "resnet61q": net(
        [1, 4, 6, 4],
        [256, 512, 1536, 1536],
        Q,
        block=["edge", "bottleneck", "bottleneck", "bottleneck"],
        bottleneck_ratio=[1.0, 0.25, 0.25, 1.0],
        group_width=[256, 32, 32, 1],
        extra_conv=True,
    ),
    **{f"{prefix}resnext26ts": net(*X26, fields) for prefix, fields in ATTENTION.items()},
    "resnet32ts": net(*R33),
    **{
        f"{prefix}resnet33ts": net(*R33, fields, head_width=1280)
        for prefix, fields in ATTENTION.items()
    },
    "gcresnet50t": net([3, 4, 6, 3], WIDTHS, TIERED, STRIDED, GC),
    "gcresnext50ts": net([3, 4, 6, 3], WIDTHS, TIERED, SILU, NEXT, GC),
}


C: Any = ([2, 6, 12, 2], [48, 96, 192, 288], Z, SMALL, {"group_width": 16, "head_width": 1536})
B: Any = (*C, {"bottleneck_ratio": 3.0, "image_size": 224})
D: Any = ([3, 6, 12, 3], [64, 128, 256, 384], Z, STRIDED, {"head_width": 1792})
E: Any = ([3, 8, 16, 3], [96, 192, 384, 512], Z, STRIDED, {"head_width": 2048})

REGNETZ: dict[str, Fields] = {
    "regnetz_b16": net(*B, SILU),
    "regnetz_c16": net(*C, SILU),
    "regnetz_d32": net(*D, TIERED, SILU, group_width=32),
    "regnetz_d8": net(*D, TIERED, SILU, group_width=8),
    "regnetz_e8": net(*E, TIERED, SILU, group_width=8),
    "regnetz_b16_evos": net(*B, EVO),
    "regnetz_c16_evos": net(*C, EVO),
    "regnetz_d8_evos": net(*D, EVO, stem="deep", stem_widths=[64, 64], group_width=8),
}
CLIP_PARTS: Fields = {"stem": "deep", "anti_alias": "avg", "shortcut_pool": "avg"}
ATTENTION_POOL: Fields = {"head_pool": "attention"}


def clip(depths: list[int], size: int, embedding: int, width: int = 64) -> Fields:
    """The fields of a net of CLIP's with so many channels after the stem."""
    widths = [n * width // 64 for n in WIDTHS]
    fields = {"stem_width": width, "num_classes": embedding, "image_size": size}
    return net(depths, widths, CLIP_PARTS, fields)


CLIP: dict[str, Fields] = {
    "resnet50": clip([3, 4, 6, 3], 224, 1024),
    "resnet101": clip([3, 4, 23, 3], 224, 512),
    "resnet50x4": clip([4, 6, 10, 6], 288, 640, 80),
    "resnet50x16": clip([6, 8, 18, 8], 384, 768, 96),
    "resnet50x64": clip([3, 15, 36, 10], 448, 1024, 128),
}
CLIPS: dict[str, Fields] = {
    **{f"{name}_clip": fields | ATTENTION_POOL for name, fields in CLIP.items()},
    **{f"{name}_clip_gap": fields | {"num_classes": 0} for name, fields in CLIP.items()},
    "resnet50_mlp": net([3, 4, 6, 3], WIDTHS, CLIP_PARTS, head_hidden=1024),
}
CLIP_SOURCE = "Radford et al. 2021, arXiv:2103.00020; timm.models.byobnet"
ENTRIES = (
    *(Entry(n, "timm_byob", f | {"zero_init_last": True}, CLIP_SOURCE) for n, f in CLIPS.items()),
    *(Entry(n, "timm_byob", f | {"zero_init_last": True}, SOURCE) for n, f in RESNETS.items()),
    *(Entry(name, "timm_byob", fields, Z_SOURCE) for name, fields in REGNETZ.items()),
)
