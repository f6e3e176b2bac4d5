"""The networks that the parity tests run, by a short name."""

from __future__ import annotations

from shared_spec import ResNetSpec, resolve

SPECS: dict[str, ResNetSpec] = {
    "resnet18": resolve("resnet18"),
    "resnet50": resolve("resnet50"),
    "resnext50_32x4d": resolve("resnext50_32x4d"),
    "wide_resnet50_2": resolve("wide_resnet50_2"),
    "resnet20 (A)": resolve("resnet20"),
    "resnet20 (B)": resolve("resnet20_b"),
    "resnet20 (C)": resolve("resnet20_c"),
    "plain20": resolve("plain20"),
    "plain18": resolve("plain18"),
    "d2l_resnet18": resolve("d2l_resnet18"),
    "d2l_resnet18_same": resolve("d2l_resnet18_same"),
    "resnet50 v1": resolve("resnet50", {"stride_on": "1x1"}),
    "LayerScale": resolve("resnetv2_50", {"depths": [1, 2], "layer_scale": 0.1, "attention": "se"}),
}

SMALL = resolve(
    "resnet50", {"depths": [1, 2, 1], "widths": [16, 16, 32], "stem_width": 16, "num_classes": 7}
)
"""A bottleneck net of 100,000 parameters, for what depth does not matter to."""
