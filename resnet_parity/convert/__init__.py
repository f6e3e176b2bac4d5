"""Weights from one framework's files to another's, with a proof."""

from resnet_parity.convert.conversion import convert

__all__ = ["convert"]
