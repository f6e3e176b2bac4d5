"""Means and standard deviations of the pixels that are trained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from resnet_parity.datasets.dataset import Dataset, InMemory
from shared_spec.errors import DataError

_IMAGES = 4_096
"""Taken at once."""

Channels = tuple[float, ...]


def mean_std(dataset: Dataset) -> tuple[Channels, Channels]:
    """Mean and standard deviation of every channel over all pixels of all images, in units of
    0..1: what `Preprocessing` takes. Images of bytes are counted exactly; those that are not in
    memory are decoded one by one.

    Raises:
        ResNetError: if an image cannot be read.
    """
    if dataset.image(0).dtype == np.uint8:
        counts = sum(map(_counted, _pieces(dataset)), np.zeros((256, dataset.channels), np.int64))
        share = counts / counts.sum(axis=0)
        values = np.arange(256)[:, None] / 255
        mean = (share * values).sum(axis=0)
        variance = (share * (values - mean) ** 2).sum(axis=0)
    else:
        axes = (0, 1, 2)
        pixels = sum(piece[..., 0].size for piece in _pieces(dataset))
        totals = [piece.sum(axis=axes, dtype=np.float64) for piece in _pieces(dataset)]
        mean = np.sum(totals, axis=0) / pixels
        squares = [((piece - mean) ** 2).sum(axis=axes) for piece in _pieces(dataset)]
        variance = np.sum(squares, axis=0) / pixels
    return tuple(map(float, mean)), tuple(map(float, np.sqrt(variance)))


def pixel_mean(dataset: Dataset) -> np.ndarray:
    """The mean image, float64 [H, W, C] in units of 0..1.

    Raises:
        DataError: if images vary in size.
    """
    if not isinstance(dataset, InMemory):
        raise DataError("per_pixel_mean: images that vary in size have no mean image")
    pieces = [np.sum(piece, axis=0, dtype=np.float64) for piece in _pieces(dataset)]
    mean: np.ndarray = np.sum(pieces, axis=0) / len(dataset)
    return mean / 255 if dataset.pixels.dtype == np.uint8 else mean


def _pieces(dataset: Dataset) -> Iterator[np.ndarray]:
    """All images, [n, H, W, C] at a time."""
    if isinstance(dataset, InMemory):
        for start in range(0, len(dataset), _IMAGES):
            yield dataset.pixels[start : start + _IMAGES]
    else:
        for index in range(len(dataset)):
            yield dataset.image(index)[None]


def _counted(pixels: np.ndarray) -> np.ndarray:
    """How often each value of 256 is there, [256, C]."""
    flat = pixels.reshape(-1, pixels.shape[-1])
    return np.stack([np.bincount(column, minlength=256) for column in flat.T], axis=1)
