"""One recipe, trained in any engine; a run that was killed goes on bit for bit."""

from resnet_parity.train.run import train

__all__ = ["train"]
