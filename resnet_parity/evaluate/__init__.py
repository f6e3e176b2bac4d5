"""Weights scored on labelled images, in every engine on the same batches."""

from resnet_parity.evaluate.scoring import evaluate

__all__ = ["evaluate"]
