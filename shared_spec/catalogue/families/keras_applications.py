"""The ResNets of keras.applications. Its names are torchvision's too, for other functions, so that
here they begin with `keras_`.

V1 has the stride on the first 1x1 convolution, as the paper has; V2 is pre-activated, with the
stride in the last block of a stage. Both have biases and an eps of their own.
"""

from __future__ import annotations

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.families.timm_resnet import Fields, net

SOURCE = "keras.applications"
COMMON: Fields = {
    "norm_eps": 1.001e-5,
    "norm_momentum": 0.01,
    "norm_variance": "biased",
}
V1: Fields = COMMON | {"stride_on": "1x1", "conv_bias": True}
V2: Fields = COMMON | {
    "pre_activation": True,
    "conv_bias": "without_norm",
    "stride_block": "last",
    "strides": [2, 2, 2, 1],
    "stem_pool": "max_zero",
}

ENTRIES = tuple(
    Entry(f"keras_resnet{depth}{suffix}", "keras", net(depth, fields), SOURCE)
    for suffix, fields in (("", V1), ("v2", V2))
    for depth in (50, 101, 152)
)
