"""One narrow net for each family of the catalogue, which every format is tried on."""

from __future__ import annotations

from typing import Any

from shared_spec import ResNetSpec, resolve

_CUT = {"depths": [1, 1], "widths": [16, 32], "num_classes": 5, "stem_width": 16}
_REGNET: dict[str, Any] = {"strides": [2, 2], "group_width": 8}


def _net(name: str, **more: Any) -> ResNetSpec:
    return resolve(name, _CUT | more)


FAMILIES: dict[str, ResNetSpec] = {
    "basic": _net("resnet18"),
    "bottleneck": _net("resnet50"),
    "ResNeXt": _net("resnext50_32x4d", groups=4, base_width=16),
    "deep stem, average shortcut": _net("resnet50d"),
    "SE": _net("seresnet50"),
    "ECA": _net("ecaresnet50t"),
    "blur": _net("resnetblur50"),
    "average anti-aliasing": _net("resnetaa50"),
    "group norm": _net("resnet50_gn", norm_groups=8),
    "features": _net("resnet50", features_only=True),
    "features, same padding": _net(
        "resnet50", features_only=True, padding="same", activation="gelu"
    ),
    "pre-activation": _net("resnetv2_50"),
    "BiT": _net("resnetv2_50x1_bit", norm_groups=8),
    "EvoNorm": _net("resnetv2_50d_evos", norm_group_width=8),
    "FRN": _net("resnetv2_50d_frn"),
    "SKNet": _net("skresnet18"),
    "Res2Net": _net("res2net50_26w_4s"),
    "ResNeSt": _net("resnest14d"),
    "NF-ResNet": _net("nf_resnet26"),
    "RegNet": _net("regnety_002", **_REGNET),
    "RegNet of torchvision": _net("regnet_y_400mf", **_REGNET),
    "RegNetZ": _net("regnetz_005", **_REGNET),
    "RegNetZ of byobnet": _net("regnetz_b16", **_REGNET, head_width=32),
    "RegNetZ, EvoNorm": _net("regnetz_b16_evos", **_REGNET, head_width=32),
    "byobnet": _net("resnet33ts"),
    "byobnet, tiered stem": _net(
        "resnet51q", strides=[2, 2], bottleneck_ratio=0.25, group_width=16, head_width=32
    ),
    "global context": _net("gcresnet33ts", se_divisor=4),
    "CLIP, attention pool": _net("resnet50_clip", widths=[32, 64], image_size=64),
    "CLIP, average": _net("resnet50_clip_gap", widths=[32, 64]),
    "legacy SENet": _net("legacy_senet154", groups=4, base_width=16),
    "Keras": _net("keras_resnet50v2", strides=[2, 1]),
    "KerasHub": _net("resnet_vd_50"),
    "Flax": _net("flax_resnet50"),
    "zeros on the shortcut": _net("resnet20"),
    "no shortcut": _net("plain20"),
    "CIFAR": _net("cifar_resnet18"),
    "CIFAR, pre-activation": _net("preact_resnet18"),
    "wide, dropout": _net("wrn_16_4"),
    "resnet9": _net("resnet9", depths=[1, 1, 1], widths=[16, 24, 32], stem_width=8),
    "iresnet": _net("iresnet18", strides=[2, 2], image_size=32),
    "d2l, same padding": _net("d2l_resnet18_same"),
    "feature pyramid": _net("resnet50", features_only=True, pyramid=8, pyramid_extra="p6p7"),
    "FCN": _net("fcn_resnet50", auxiliary=False),
    "DeepLab": _net("deeplabv3_resnet50"),
}

EVERY_LAYER = (
    "ResNeSt",
    "BiT",
    "RegNetZ",
    "CLIP, attention pool",
    "iresnet",
    "features, same padding",
    "ECA",
    "blur",
    "zeros on the shortcut",
    "EvoNorm",
    "FRN",
    "SKNet",
    "Res2Net",
    "NF-ResNet",
    "global context",
    "legacy SENet",
    "feature pyramid",
    "FCN",
    "DeepLab",
)
"""Those that together have every kind of layer that any has."""
