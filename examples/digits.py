"""The data of the examples: 1,797 real handwritten digits, 8x8 pixels, that scikit-learn brings.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998 (its test part, from 13 writers who are in both parts of the split below).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits

from shared_spec import Preprocessing

LABELS = tuple("0123456789")
# Mean and standard deviation of all training pixels, as `statistics(training)` gives them.
PREPROCESSING = Preprocessing(image_size=8, crop=1.0, mean=(0.305,), std=(0.376,))

# A generator, not just an iterator: Keras's `fit` takes no other.
Batches = Generator[tuple[np.ndarray, np.ndarray], None, None]

_SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits:
    """Images and what they show: pixels [N, 8, 8, 1] in 0..1, float32, ink high; labels [N] in
    0..9, int64.
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def load() -> tuple[Digits, Digits]:
    """1,198 digits for training and 599 held out: the same split on every call."""
    source = load_digits()
    pixels = (source.images / 16).astype(np.float32)[..., None]
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(pixels))
    held_out, training = np.split(order, [len(order) // 3])
    labels = source.target.astype(np.int64)
    return Digits(pixels[training], labels[training]), Digits(pixels[held_out], labels[held_out])


def statistics(digits: Digits) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, rounded as in `PREPROCESSING`."""
    pixels = digits.pixels.astype(np.float64)
    return round(float(pixels.mean()), 3), round(float(pixels.std()), 3)


def shifted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every image of [N, H, W, C] moved by -1, 0 or 1 pixels in each direction, zeros moved in."""
    n, height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)))
    top, left = rng.integers(0, 3, (2, n, 1))
    rows = top + np.arange(height)
    columns = left + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def batches(digits: Digits, batch_size: int, epochs: int, seed: int) -> Batches:
    """Inputs [batch_size, 8, 8, 1], shuffled, shifted and normalised, and labels [batch_size].

    The numbers depend on `seed` alone, so that every framework trains on the same ones. The last,
    smaller batch of an epoch is left out: compiled frameworks would compile a step for it alone.
    """
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(digits))
        for i in range(steps_per_epoch(digits, batch_size)):
            chosen = order[i * batch_size : (i + 1) * batch_size]
            pixels = shifted(digits.pixels[chosen], rng)
            yield PREPROCESSING.normalise(pixels), digits.labels[chosen]


def steps_per_epoch(digits: Digits, batch_size: int) -> int:
    """How many batches `batches` gives in one epoch."""
    return len(digits) // batch_size
