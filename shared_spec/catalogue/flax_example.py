"""The ResNets of Flax's imagenet example (Linen).

They pad by TensorFlow's rule, the stem's pool too, but not the stem's convolution.
"""

from __future__ import annotations

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.timm_resnet import DEPTHS

SOURCE = "flax examples/imagenet"


def _entry(depth: int) -> Entry:
    fields = {
        "block": "basic" if depth < 50 else "bottleneck",
        "depths": DEPTHS[depth],
        "padding": "same",
        "stem_padding": "symmetric",
        "norm_variance": "biased",
        "zero_init_last": True,
    }
    return Entry(f"flax_resnet{depth}", "flax", fields, SOURCE, "`same` padding")


ENTRIES = tuple(map(_entry, (18, 34, 50, 101, 152, 200)))
