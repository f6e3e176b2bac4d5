"""Training data in the formats in which they are published, and the batches made of them.

numpy and Pillow alone: every engine trains on the same numbers.
"""

from resnet_parity.datasets.dataset import Dataset, InMemory
from resnet_parity.datasets.loader import Batch, Loader
from resnet_parity.datasets.registry import open_dataset
from resnet_parity.datasets.statistics import mean_std, pixel_mean

__all__ = ["Batch", "Dataset", "InMemory", "Loader", "mean_std", "open_dataset", "pixel_mean"]
