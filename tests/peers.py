"""Importing the libraries that judge ours."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PEERS = Path(sys.prefix) / "share" / "peers"
"""Where `tests/fetch_peers.py` puts the judges that cannot be installed beside the rest."""


def fetched(module: str) -> ModuleType:
    """A module of `PEERS`: `keras_hub`, or `flax_imagenet.models`."""
    folder = PEERS / module.partition(".")[0]
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is missing, and it is a judge of these tests; `make install` fetches it"
        )
    if str(PEERS) not in sys.path:
        sys.path.insert(0, str(PEERS))
    return importlib.import_module(module)


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


def transformers_model(kind: str, **options: Any) -> Any:
    """The image classifier of `kind` ResNet or Bit with random weights."""
    torchvision_models()
    import transformers

    config = getattr(transformers, f"{kind}Config")(**options)
    return getattr(transformers, f"{kind}ForImageClassification")(config)


KEPT: list[object] = []  # a Library drops its definitions when it is collected
