"""What every format is read into: images, labels and the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shared_spec.errors import DataError
from shared_spec.training.data_spec import DataSpec


class Dataset(Protocol):
    """Images and the classes that they show. Image `i` may be asked for from several threads."""

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], each from 0 up to the number of classes."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in the order of the labels."""

    @property
    def channels(self) -> int:
        """1 or 3, RGB."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> np.ndarray:
        """[H, W, C]: uint8, or float32 in 0..1. It may be a view of what must not be changed.

        Raises:
            ResNetError: if it cannot be read.
        """

    def where(self, index: int) -> str:
        """What to call the image in an error: its file, or its number."""


@dataclass(frozen=True, eq=False)
class InMemory:
    """A data set whose images are in memory: `pixels` [N, H, W, C], uint8, or float32 in 0..1.

    Raises:
        DataError: if pixels, labels and names do not fit one another. `source` is what errors call
            the data.
    """

    pixels: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    source: str = "data"

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.ndim != 4 or pixels.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"{self.source}: pixels are {pixels.dtype} {list(pixels.shape)}; uint8 or float32 "
                f"[N, H, W, C] are accepted"
            )
        if pixels.shape[3] not in (1, 3):
            raise DataError(
                f"{self.source}: images of {pixels.shape[3]} channels; 1 or 3 are accepted"
            )
        if 0 in pixels.shape:
            raise DataError(f"{self.source}: there are no images in it")
        check_labels(self.labels, len(pixels), self.names, self.source)

    @property
    def channels(self) -> int:
        """1 or 3."""
        return int(self.pixels.shape[3])

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> np.ndarray:
        """A view, [H, W, C]."""
        image: np.ndarray = self.pixels[index]
        return image

    def where(self, index: int) -> str:
        """The source and the number."""
        return f"{self.source}: image {index}"


def check_labels(labels: np.ndarray, count: int, names: Sequence[str], source: str) -> None:
    """See that there is a label for each of `count` images, and a class for each label.

    Raises:
        DataError: naming the first label that is none.
    """
    if labels.dtype != np.int64 or labels.shape != (count,):
        raise DataError(
            f"{source}: labels are {labels.dtype} {list(labels.shape)}, and {count} images need "
            f"int64 [{count}]"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(wrong):
        raise DataError(
            f"{source}: image {wrong[0]} has the label {labels[wrong[0]]}, and the {len(names)} "
            f"classes have 0 to {len(names) - 1}"
        )


def class_names(given: Sequence[str], found: Sequence[str], source: str) -> tuple[str, ...]:
    """Names that the user gave, or else those `found`.

    Raises:
        DataError: if there are not as many as classes.
    """
    if given and len(given) != len(found):
        raise DataError(
            f"{source}: class_names: {len(given)} names are given for {len(found)} classes"
        )
    return tuple(given or found)


def in_memory(
    spec: DataSpec, pixels: np.ndarray, labels: np.ndarray, found: Sequence[str], source: str
) -> InMemory:
    """Pixels [N, H, W, C] and labels as `spec` wants them: with zeros around, to height and width
    `image_size`, an odd pixel going to the right and to the bottom; with so many `channels`, grey
    being repeated; and with the user's names of classes, or else those `found`.

    Raises:
        DataError: if the images are larger, colour would have to become grey, or there are not as
            many names as classes.
    """
    size = spec.image_size
    height, width = pixels.shape[1:3]
    if size is not None and (height, width) != (size, size):
        if max(height, width) > size:
            raise DataError(
                f"{source}: image_size: images of {width} x {height} pixels cannot be padded to "
                f"{size} x {size}; give at least {max(height, width)}"
            )
        top, left = (size - height) // 2, (size - width) // 2
        margins = ((0, 0), (top, size - height - top), (left, size - width - left), (0, 0))
        pixels = np.pad(pixels, margins)
    if spec.channels not in (None, pixels.shape[3]):
        if spec.channels == 1:
            raise DataError(f"{source}: channels: the images are in colour; 1 is for grey ones")
        pixels = np.repeat(pixels, 3, axis=3)
    names = class_names(spec.class_names, found, source)
    return InMemory(np.ascontiguousarray(pixels), labels.astype(np.int64), names, source)
