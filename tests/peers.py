"""Importing the libraries that judge ours."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def torchvision_models() -> ModuleType:
    """`torchvision.models`, also where torchvision's compiled operators do not load.

    A CUDA build of torchvision beside a CPU build of torch has none, and its import then fails
    while it registers fakes for two of them. Their schemas are enough for the models.
    """
    import torch

    try:
        import torchvision.models as models
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)
        import torchvision.models as models
    return models


def timm_model(name: str, **options: Any) -> Any:
    """A timm model with random weights."""
    torchvision_models()
    import timm

    return timm.create_model(name, pretrained=False, **options)


KEPT: list[object] = []  # a Library drops its definitions when it is collected
