"""Importing the libraries that judge ours."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from resnet_parity.engines.reference_libraries import PEERS
from resnet_parity.worker.reference_libraries import timm_model, torchvision_models


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


def transformers_model(kind: str, **options: Any) -> Any:
    """The image classifier of `kind` ResNet or Bit with random weights."""
    torchvision_models()
    import transformers

    config = getattr(transformers, f"{kind}Config")(**options)
    return getattr(transformers, f"{kind}ForImageClassification")(config)


__all__ = ["PEERS", "fetched", "timm_model", "torchvision_models", "transformers_model"]
