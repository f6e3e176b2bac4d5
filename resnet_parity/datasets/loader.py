"""Batches: shuffled, augmented and normalised in other threads than the one that trains.

What a batch holds depends on its number, the seed and the data set alone. So all engines train on
the same numbers, a resumed training run gets those that it would have had, and the number of
threads changes nothing.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from resnet_parity.datasets.augment import (
    augmented,
    augmented_batch,
    draws,
    epoch_draws,
    fixes_size,
    is_vectorised,
)
from resnet_parity.datasets.dataset import Dataset, InMemory
from shared_spec.errors import DataError
from shared_spec.training.data_spec import Augmentation, CenterCrop, Resize
from shared_spec.weights.initialize import generator
from shared_spec.weights.preprocessing import Preprocessing

Batch = tuple[np.ndarray, np.ndarray]
"""Images, float32 [N, H, W, C], and labels, int64 [N]."""
Batches = Generator[Batch, None, None]
Shape = tuple[int, ...]

PREFETCH = 2
"""Batches that are made ahead."""
_CHUNKS = 4
"""Of a batch for each thread, so that none waits long for the last."""


class Loader:
    """The batches of a data set.

    Args:
        dataset: what to read.
        augmentation: what to apply to training images, in order. Held-out ones are resized and
            cropped in the middle instead, as `preprocessing` says.
        preprocessing: mean and standard deviation, the order of channels, and the size of held-out
            images.
        batch_size: of a step, over all processes together.
        seed: of the order and the augmentation.
        shard: (rank, count): this process' part of every batch. The parts of all ranks, one after
            the other, are the batch of one process.
        threads: that decode and augment; left out: as many as there are cores, up to 8.
        mean_image: float64 [H, W, C] in 0..1 in RGB, to be subtracted in place of
            `preprocessing.mean` (see `pixel_mean`).

    Raises:
        DataError: if the arguments do not fit one another or the data set.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentation: Sequence[Augmentation],
        preprocessing: Preprocessing,
        batch_size: int,
        seed: int = 0,
        *,
        shard: tuple[int, int] = (0, 1),
        threads: int | None = None,
        mean_image: np.ndarray | None = None,
    ) -> None:
        rank, count = shard
        if not 0 <= rank < count:
            raise DataError(f"shard: there is no part {rank} of {count}; they start at 0")
        if batch_size < 1 or batch_size % count:
            raise DataError(
                f"batch_size: {batch_size} does not divide into {count} equal parts of one image "
                f"or more"
            )
        if dataset.channels != len(preprocessing.mean):
            raise DataError(
                f"{dataset.where(0)}: has {dataset.channels} channels, and preprocessing.mean "
                f"{len(preprocessing.mean)}; the data's 'channels: 3' repeats grey"
            )
        self._dataset = dataset
        self._augmentation = tuple(augmentation)
        self._batch_size = batch_size
        self._seed = seed
        self._shard = shard
        self._threads = threads or min(8, os.cpu_count() or 1)
        self.mean_image = mean_image
        self._normalise = _Normaliser(preprocessing, mean_image)
        self._view = _held_out_view(dataset, preprocessing)
        self._last_epoch: _Epoch | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of training in the data set.

        Raises:
            DataError: if there is none.
        """
        steps = len(self._dataset) // self._batch_size
        if not steps:
            raise DataError(
                f"batch_size: {self._batch_size} is more than the {len(self._dataset)} images that "
                f"there are"
            )
        return steps

    @cached_property
    def image_shape(self) -> Shape:
        """[H, W, C] of a training image. The first image is read for it.

        Raises:
            ResNetError: if it cannot be read or augmented, or images will come out in several
                sizes.
        """
        in_memory = isinstance(self._dataset, InMemory)
        if not in_memory and not fixes_size(self._augmentation):
            raise DataError(
                "augmentation: images vary in size; end it in a crop, such as scale_crop or "
                "random_resized_crop"
            )
        return self._probed(self._augmentation, 0)

    @cached_property
    def held_out_shape(self) -> Shape:
        """[H, W, C] of a held-out image. The first image is read for it.

        Raises:
            ResNetError: if it cannot be read or resized.
        """
        return self._probed(self._view, None)

    def batches(self, start_step: int = 0, steps: int | None = None) -> Batches:
        """The batches of training steps `start_step`, `start_step` + 1, ...: `steps` of them, or
        without end. Every epoch is shuffled anew, and the images that fill no batch are left out.

        Problems that the first image shows are raised here, others by the iterator. Its threads
        end when it does or is closed.

        Raises:
            ResNetError: as `image_shape` and `steps_per_epoch`.
        """
        numbers: Iterable[int] = itertools.count(start_step)
        if steps is not None:
            numbers = range(start_step, start_step + steps)
        length = self.steps_per_epoch
        work = (self._training_step(*divmod(number, length)) for number in numbers)
        return self._made(work, self.image_shape)

    def held_out_batches(self) -> Batches:
        """All images once, in their order, resized and cropped in the middle; the last batch may be
        smaller, and a part of it empty.

        Raises:
            ResNetError: as `held_out_shape`; others come from the iterator.
        """
        size, total = self._batch_size, len(self._dataset)
        batches = (np.arange(i, min(i + size, total)) for i in range(0, total, size))
        work = (_Work(self._part(batch), self._view, None) for batch in batches)
        return self._made(work, self.held_out_shape)

    def _probed(self, augmentation: Sequence[Augmentation], epoch: int | None) -> Shape:
        shape = self._image(0, augmentation, epoch).shape
        if self.mean_image is not None and self.mean_image.shape != shape:
            raise DataError(
                f"per_pixel_mean: the mean image is {list(self.mean_image.shape)}, and images "
                f"come out as {list(shape)}"
            )
        return shape

    def _training_step(self, number: int, step: int) -> _Work:
        """The batch of a step of an epoch, both counted from 0."""
        epoch = self._last_epoch
        if epoch is None or epoch.number != number:
            order = generator(self._seed, f"data/order/{number}").permutation(len(self._dataset))
            epoch = self._last_epoch = _Epoch(number, order)
        start = step * self._batch_size
        batch = epoch.order[start : start + self._batch_size]
        return _Work(self._part(batch), self._augmentation, epoch)

    def _part(self, batch: np.ndarray) -> np.ndarray:
        """The indices of a batch that are for this process."""
        rank, count = self._shard
        return batch[len(batch) * rank // count : len(batch) * (rank + 1) // count]

    def _made(self, work: Iterator[_Work], shape: Shape) -> Batches:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="resnet-parity-data")
        pending: deque[tuple[np.ndarray, np.ndarray, list[Future[None]]]] = deque()
        try:
            while True:
                for item in itertools.islice(work, PREFETCH + 1 - len(pending)):
                    images = np.empty((len(item.indices), *shape), np.float32)
                    futures = self._submitted(pool, item, images)
                    pending.append((images, self._dataset.labels[item.indices], futures))
                if not pending:
                    return
                images, labels, futures = pending.popleft()
                for future in futures:
                    future.result()
                yield images, labels
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _submitted(
        self, pool: ThreadPoolExecutor, item: _Work, out: np.ndarray
    ) -> list[Future[None]]:
        if isinstance(self._dataset, InMemory) and is_vectorised(item.augmentation):
            return [pool.submit(self._fill_at_once, self._dataset.pixels, item, out)]
        size = -(-len(out) // (self._threads * _CHUNKS)) or 1
        chunks = [slice(i, i + size) for i in range(0, len(out), size)]
        return [
            pool.submit(self._fill, item._replace(indices=item.indices[chunk]), out[chunk])
            for chunk in chunks
        ]

    def _fill_at_once(self, pixels: np.ndarray, item: _Work, out: np.ndarray) -> None:
        images = pixels[item.indices]
        if item.epoch is not None and item.augmentation:
            numbers = item.epoch.numbers(item.augmentation, self._seed)
            images = augmented_batch(images, item.augmentation, numbers[item.indices])
        self._normalise(images, out)

    def _fill(self, item: _Work, out: np.ndarray) -> None:
        epoch = None if item.epoch is None else item.epoch.number
        for i, index in enumerate(item.indices.tolist()):
            image = self._image(index, item.augmentation, epoch)
            if image.shape != out.shape[1:]:
                raise DataError(
                    f"{self._dataset.where(index)}: comes out as {list(image.shape)}, and the "
                    f"first image as {list(out.shape[1:])}; all have to have one shape"
                )
            self._normalise(image, out[i])

    def _image(
        self, index: int, augmentation: Sequence[Augmentation], epoch: int | None
    ) -> np.ndarray:
        image = self._dataset.image(index)
        if image.dtype not in (np.uint8, np.float32) or image.ndim != 3:
            raise DataError(
                f"{self._dataset.where(index)}: is {image.dtype} {list(image.shape)}; uint8 or "
                f"float32 [H, W, C] are accepted"
            )
        numbers = np.empty(0) if epoch is None else draws(augmentation, self._seed, epoch, index)
        try:
            return augmented(image, augmentation, numbers)
        except DataError as error:
            raise DataError(f"{self._dataset.where(index)}: {error}") from None


@dataclass(eq=False)
class _Epoch:
    """One pass over the data: its number and the order of the images, and, once they are asked for,
    the random numbers of all of them.
    """

    number: int
    order: np.ndarray
    _numbers: np.ndarray | None = None

    def numbers(self, augmentation: Sequence[Augmentation], seed: int) -> np.ndarray:
        """A row for each image. Two threads may both draw them, and draw the same."""
        if self._numbers is None:
            self._numbers = epoch_draws(augmentation, seed, self.number, len(self.order))
        return self._numbers


class _Work(NamedTuple):
    """Which images to make a batch of, and how; in training, of which epoch."""

    indices: np.ndarray
    augmentation: Sequence[Augmentation]
    epoch: _Epoch | None


class _Normaliser:
    """`Preprocessing.normalise` in one look-up a byte, or with a mean image in its place."""

    def __init__(self, preprocessing: Preprocessing, mean_image: np.ndarray | None) -> None:
        self._preprocessing = preprocessing
        self._mean_image = mean_image
        channels = len(preprocessing.mean)
        self._reverse = preprocessing.channel_order == "bgr"
        levels = np.repeat(np.arange(256)[:, None] / 255, channels, axis=1)
        self._table = np.ascontiguousarray(preprocessing.normalise(levels).T)

    def __call__(self, images: np.ndarray, out: np.ndarray) -> None:
        """[..., C] into float32 `out` of the same shape."""
        if self._mean_image is not None:
            pixels = images / (255.0 if images.dtype == np.uint8 else 1.0)
            pixels = np.subtract(pixels, self._mean_image, dtype=np.float64)
            pixels = pixels[..., ::-1] if self._reverse else pixels
            pixels /= self._preprocessing.std
            out[...] = pixels
        elif images.dtype == np.uint8:
            images = images[..., ::-1] if self._reverse else images
            for channel, table in enumerate(self._table):
                out[..., channel] = table[images[..., channel]]
        else:
            out[...] = self._preprocessing.normalise(images)


def _held_out_view(dataset: Dataset, preprocessing: Preprocessing) -> tuple[Augmentation, ...]:
    """What brings an image to the size of `preprocessing`: nothing, where all have it."""
    side = preprocessing.shorter_side
    size = preprocessing.image_size
    if isinstance(dataset, InMemory) and dataset.pixels.shape[1:3] == (side, side) == (size, size):
        return ()
    return Resize(size=side, interpolation=preprocessing.interpolation), CenterCrop(size=size)
