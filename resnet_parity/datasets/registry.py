"""From the declaration of a data set to its images."""

from __future__ import annotations

from collections.abc import Callable

from resnet_parity.datasets.cifar import read_cifar
from resnet_parity.datasets.dataset import Dataset
from resnet_parity.datasets.digits import read_digits
from resnet_parity.datasets.folder import read_folder
from resnet_parity.datasets.huggingface import read_huggingface
from resnet_parity.datasets.mnist_idx import read_idx
from shared_spec.training.data_spec import DataSpec, Split

_READERS: dict[str, Callable[[DataSpec, Split], Dataset]] = {
    "cifar10": read_cifar,
    "cifar100": read_cifar,
    "idx": read_idx,
    "folder": read_folder,
    "huggingface": read_huggingface,
    "digits": read_digits,
}


def open_dataset(spec: DataSpec, split: Split) -> Dataset:
    """Open one split of a data set. All but folders and Hugging Face's are read into memory whole;
    of those, images are decoded on demand.

    Raises:
        DataError: if files are missing, damaged, or do not fit what was declared.
        FrameworkError: if a library that the format needs is not installed.
    """
    return _READERS[spec.format](spec, split)
