"""The ResNets of Flax's imagenet example (Linen).

They pad by TensorFlow's rule, the stem's pool too, but not the stem's convolution.
"""

from __future__ import annotations

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.families.timm_resnet import Fields, net

SOURCE = "flax examples/imagenet"


COMMON: Fields = {
    "padding": "same",
    "stem_padding": "symmetric",
    "norm_variance": "biased",
    "zero_init_last": True,
}

ENTRIES = tuple(
    Entry(f"flax_resnet{depth}", "flax", net(depth, COMMON), SOURCE, "`same` padding")
    for depth in (18, 34, 50, 101, 152, 200)
)
