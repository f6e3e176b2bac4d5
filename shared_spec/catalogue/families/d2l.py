"""ResNet-18 of "Dive into Deep Learning" (Zhang et al. 2021, d2l.ai, section 8.6).

It is made for Fashion-MNIST. Its convolutions have biases and its projections no norm. Its PyTorch
code pads symmetrically; its TensorFlow and JAX code says `same`, which at stride 2 is another
function. The JAX code has eps 1e-5 as here; for the TensorFlow code's add `norm_eps=1e-3`.
"""

from __future__ import annotations

from typing import Any

from shared_spec.catalogue.entry import Entry

SOURCE = "Zhang et al. 2021, d2l.ai, section 8.6"
FIELDS: dict[str, Any] = {
    "block": "basic",
    "depths": [2, 2, 2, 2],
    "conv_bias": True,
    "shortcut_norm": False,
    "in_channels": 1,
    "num_classes": 10,
    "image_size": 96,
}

ENTRIES = (
    Entry("d2l_resnet18", "d2l", FIELDS, SOURCE, "PyTorch padding"),
    Entry("d2l_resnet18_same", "d2l", FIELDS | {"padding": "same"}, SOURCE, "`same` padding"),
)
