"""torchvision's ten ResNets (v1.5: the stride is on the 3×3 convolution), and its nets on them that
give classes of pixels.
"""

from __future__ import annotations

from typing import Any

from shared_spec.catalogue.entry import Entry

RESNET = "He et al. 2015, arXiv:1512.03385; torchvision and timm.models.resnet"
RESNEXT = "Xie et al. 2016, arXiv:1611.05431; torchvision and timm.models.resnet"
FCN = "Long et al. 2014, arXiv:1411.4038; torchvision.models.segmentation"
DEEPLAB = "Chen et al. 2017, arXiv:1706.05587; torchvision.models.segmentation"
WIDE = "Zagoruyko and Komodakis 2016, arXiv:1605.07146; torchvision and timm.models.resnet"


def _entry(name: str, source: str, block: str, depths: list[int], **fields: Any) -> Entry:
    return Entry(name, "torchvision", {"block": block, "depths": depths, **fields}, source)


def _segmenter(name: str, source: str, head: str, depths: list[int]) -> Entry:
    fields = {"block": "bottleneck", "depths": depths, "output_stride": 8, "segmentation": head}
    fields |= {"auxiliary": True, "num_classes": 21, "image_size": 520}
    return Entry(name, "torchvision_segmentation", fields, source, "two maps of classes")


ENTRIES = (
    _entry("resnet18", RESNET, "basic", [2, 2, 2, 2]),
    _entry("resnet34", RESNET, "basic", [3, 4, 6, 3]),
    _entry("resnet50", RESNET, "bottleneck", [3, 4, 6, 3]),
    _entry("resnet101", RESNET, "bottleneck", [3, 4, 23, 3]),
    _entry("resnet152", RESNET, "bottleneck", [3, 8, 36, 3]),
    _entry("resnext50_32x4d", RESNEXT, "bottleneck", [3, 4, 6, 3], groups=32, base_width=4),
    _entry("resnext101_32x8d", RESNEXT, "bottleneck", [3, 4, 23, 3], groups=32, base_width=8),
    _entry("resnext101_64x4d", RESNEXT, "bottleneck", [3, 4, 23, 3], groups=64, base_width=4),
    _entry("wide_resnet50_2", WIDE, "bottleneck", [3, 4, 6, 3], base_width=128),
    _entry("wide_resnet101_2", WIDE, "bottleneck", [3, 4, 23, 3], base_width=128),
    _segmenter("fcn_resnet50", FCN, "fcn", [3, 4, 6, 3]),
    _segmenter("fcn_resnet101", FCN, "fcn", [3, 4, 23, 3]),
    _segmenter("deeplabv3_resnet50", DEEPLAB, "deeplab", [3, 4, 6, 3]),
    _segmenter("deeplabv3_resnet101", DEEPLAB, "deeplab", [3, 4, 23, 3]),
)
