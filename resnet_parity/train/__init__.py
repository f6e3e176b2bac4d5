"""One recipe, trained in any engine; a run that was killed resumes bit for bit."""

from resnet_parity.train.run import train

__all__ = ["train"]
