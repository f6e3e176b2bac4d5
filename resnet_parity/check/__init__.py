"""Whether engines compute the same: in inference, in training and over the whole catalogue."""

from resnet_parity.check.forward import check

__all__ = ["check"]
