"""The views of an image that a net is given, and what its scores are made of.

    center       The view that `Preprocessing` describes: its logits are the scores.
    10           Ten crops (Krizhevsky et al. 2012, section 4.1; the "standard 10-crop testing" of
                 He et al. 2015, section 3.4): the shorter side is resized as for `center`; then the
                 four corners and the middle of it and of its mirror image are cut out.
    multi_scale  Fully convolutional (He et al. 2015, section 3.4): the shorter side is resized to
                 224, 256, 384, 480 and 640, and the net is applied to the whole image and to its
                 mirror image. Nothing is cut off. Engines on XLA compile for each size of image
                 anew; PyTorch does not.

What is averaged, with equal weights, over the views of an image are the probabilities behind the
softmax: so do Krizhevsky et al. 2012 for the ten crops, and Simonyan and Zisserman 2014 (section
3.2), whose dense evaluation He et al. adopt, over mirror images. He et al. say "scores" and no
more. Within one view the dense evaluation averages the logits of all places: the average pool
before the last layer, which is linear, does that. A net with another pool takes that instead.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from resnet_parity.datasets import Dataset, Loader
from resnet_parity.datasets.augment import shorter_side_to
from resnet_parity.numerics.top_k import log_softmax
from shared_spec.errors import DataError
from shared_spec.weights.preprocessing import Preprocessing

CROPS = ("center", "10", "multi_scale")
PAPER_SCALES = (224, 256, 384, 480, 640)
"""Shorter sides in pixels, for nets of 224 pixels."""


@dataclass(frozen=True)
class Views:
    """Which views of each image a net is given, how they are prepared, and how many at a time."""

    crops: str
    scales: tuple[int, ...]
    """Shorter sides in pixels; one, unless `crops` is multi_scale."""
    preprocessing: Preprocessing
    batch_size: int
    """Views of the size of `preprocessing`; as many fewer as they are larger."""

    @property
    def per_scale(self) -> int:
        """Views of an image at one scale."""
        return {"center": 1, "10": 10, "multi_scale": 2}[self.crops]

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The views of an image at one scale, normalised: [views, H, W, C]."""
        size = self.preprocessing.image_size
        both = (image, image[:, ::-1])
        views = ten_crops(image, size) if self.crops == "10" else np.stack(both)
        return self.preprocessing.normalise(views / 255 if views.dtype == np.uint8 else views)


def paper_scales(image_size: int) -> tuple[int, ...]:
    """`PAPER_SCALES`, in proportion for nets whose images are not of 224 pixels."""
    return tuple(round(side * image_size / 224) for side in PAPER_SCALES)


class Chunk(NamedTuple):
    """What the nets are given at a time: views [n * views, H, W, C], those of an image one after
    the other; which images of the round they are of, [n]; and at which of the scales.
    """

    images: np.ndarray
    which: np.ndarray
    scale: int


Round = tuple[np.ndarray, Iterator[Chunk]]
"""Indices of some images, and all of their views."""


def rounds(views: Views, dataset: Dataset, loader: Loader) -> Generator[Round, None, None]:
    """All images in turn; `loader` makes the middle views of `dataset`.

    Raises:
        ResNetError: if an image cannot be read.
    """
    if views.crops != "center":
        yield from _view_rounds(views, dataset)
        return
    start = 0
    for images, labels in loader.held_out_batches():
        count = len(labels)
        yield np.arange(start, start + count), iter([Chunk(images, np.arange(count), 0)])
        start += count


def _view_rounds(views: Views, dataset: Dataset) -> Iterator[Round]:
    """Decoded and resized in threads, a round ahead; as bytes, since that is where most memory
    would go.
    """
    at_once = max(1, views.batch_size // views.per_scale)
    count = len(dataset)
    blocks = iter([np.arange(i, min(i + at_once, count)) for i in range(0, count, at_once)])
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="resnet-parity-data")
    pending: deque[tuple[np.ndarray, list[Future[list[np.ndarray]]]]] = deque()
    try:
        while True:
            for block in itertools.islice(blocks, 2 - len(pending)):
                resizing = [pool.submit(_resized, views, dataset, i) for i in block.tolist()]
                pending.append((block, resizing))
            if not pending:
                return
            block, futures = pending.popleft()
            yield block, _chunks(views, [future.result() for future in futures])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _resized(views: Views, dataset: Dataset, index: int) -> list[np.ndarray]:
    """An image at every scale."""
    image = dataset.image(index)
    try:
        how = views.preprocessing.interpolation
        return [shorter_side_to(image, side, how) for side in views.scales]
    except DataError as error:
        raise DataError(f"{dataset.where(index)}: {error}") from None


def _chunks(views: Views, images: Sequence[Sequence[np.ndarray]]) -> Iterator[Chunk]:
    """Views of images at every scale, those of one size together, as many as `batch_size` has
    pixels.
    """
    size = views.preprocessing.image_size
    for scale in range(len(views.scales)):
        groups: dict[tuple[int, int], list[int]] = {}
        for i, sizes in enumerate(images):
            height, width = sizes[scale].shape[:2] if views.crops != "10" else (size, size)
            groups.setdefault((height, width), []).append(i)
        for (height, width), members in groups.items():
            room = max(1, views.batch_size * size * size // (views.per_scale * height * width))
            for start in range(0, len(members), room):
                which = members[start : start + room]
                cut = [views.cut(images[i][scale]) for i in which]
                yield Chunk(np.concatenate(cut), np.array(which), scale)


def ten_crops(image: np.ndarray, size: int) -> np.ndarray:
    """The four corners and the middle of [H, W, C], and of its mirror image: [10, size, size, C],
    as torchvision's TenCrop.
    """
    return np.stack([*_five_crops(image, size), *_five_crops(image[:, ::-1], size)])


def _five_crops(image: np.ndarray, size: int) -> list[np.ndarray]:
    bottom, right = image.shape[0] - size, image.shape[1] - size
    middle = round(bottom / 2), round(right / 2)  # as `Preprocessing` has it
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), middle]
    return [image[top : top + size, left : left + size] for top, left in places]


def averaged(logits: np.ndarray) -> np.ndarray:
    """The logarithm of the mean probability over views: [N, V, classes] to float64 [N, classes].

    In logarithms throughout: of classes whose probabilities are too small for a float, the order
    counts too.
    """
    logs = log_softmax(logits)
    highest = logs.max(1)
    mean = np.exp(logs - highest[:, None]).mean(1)
    found: np.ndarray = highest + np.log(mean)
    return found


def image_logits(arrays: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Of images, each with its logits [views, classes] at every scale: float64 [N, classes]."""
    views = np.stack([np.concatenate(of_image) for of_image in arrays])
    if views.shape[1] == 1:
        return views[:, 0]
    with np.errstate(invalid="ignore"):
        return averaged(views)
