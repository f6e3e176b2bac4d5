"""The ResNets of Flax's imagenet example (Linen).

They pad by TensorFlow's rule, the stem's pool too, but not the stem's convolution.
"""

from __future__ import annotations

from shared_spec.catalogue.entry import Entry

SOURCE = "flax examples/imagenet"
NETS = {
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
    101: ("bottleneck", [3, 4, 23, 3]),
    152: ("bottleneck", [3, 8, 36, 3]),
    200: ("bottleneck", [3, 24, 36, 3]),
}


def _entry(depth: int, block: str, depths: list[int]) -> Entry:
    fields = {
        "block": block,
        "depths": depths,
        "padding": "same",
        "stem_padding": "symmetric",
        "norm_variance": "biased",
        "zero_init_last": True,
    }
    return Entry(f"flax_resnet{depth}", "flax", fields, SOURCE, "`same` padding")


ENTRIES = tuple(_entry(depth, *net) for depth, net in NETS.items())
