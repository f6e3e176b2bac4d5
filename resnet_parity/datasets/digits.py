"""The 1,797 handwritten digits that scikit-learn brings (Alpaydin and Kaynak 1998)."""

from __future__ import annotations

import numpy as np

from resnet_parity.datasets.dataset import InMemory, in_memory
from shared_spec.errors import framework_missing
from shared_spec.training.data_spec import DataSpec, Split

_SPLIT_SEED = 0


def read_digits(spec: DataSpec, split: Split) -> InMemory:
    """1,198 digits for training or 599 held out: float32 [N, 8, 8, 1] in 0..1, ink high; those of
    `examples/digits.py`.

    Raises:
        FrameworkError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise framework_missing("The digits", "scikit-learn", "examples") from None
    source = load_digits()
    pixels = (source.images / 16).astype(np.float32)[..., None]
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(pixels))
    held_out, training = np.split(order, [len(order) // 3])
    chosen = training if split == "train" else held_out
    return in_memory(spec, pixels[chosen], source.target[chosen], "0123456789", "digits")
