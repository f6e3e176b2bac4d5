"""Augmentation as arithmetic on an image and its own random numbers.

An image's numbers depend on the seed, the epoch and its index in the data set, and on nothing else:
neither on the engine, nor on the number of threads or processes, nor on where a training was
interrupted. An epoch has one stream of the Philox generator (Salmon et al. 2011), of which every
image owns a fixed stretch that can be reached without drawing those before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any, assert_never, cast

import numpy as np
from PIL import Image

from shared_spec.errors import DataError
from shared_spec.training.data_spec import (
    Augmentation,
    CenterCrop,
    ColorPCA,
    Flip,
    Interpolation,
    PadCrop,
    RandomResizedCrop,
    Resize,
    ScaleCrop,
    Shift,
)
from shared_spec.weights.initialize import generator

_BLOCK = 4
"""Numbers that Philox makes at once; stretches are whole blocks."""
_TRIES = 10
_NARROWEST = 100

# Principal components of ImageNet's RGB values in 0..1, as published with fb.resnet.torch
# (datasets/imagenet.lua): a column of _COMPONENTS has the component of each of _EIGENVALUES.
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_COMPONENTS = np.array(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)


def draws(augmentation: Sequence[Augmentation], seed: int, epoch: int, index: int) -> np.ndarray:
    """The numbers of one image in one epoch: float64, uniform in [0, 1)."""
    rng = _stream(seed, epoch)
    width = _width(augmentation)
    cast(np.random.Philox, rng.bit_generator).advance(index * width // _BLOCK)
    return rng.random(width)


def epoch_draws(
    augmentation: Sequence[Augmentation], seed: int, epoch: int, count: int
) -> np.ndarray:
    """The numbers of images 0 to `count` - 1, a row each: those of `draws`."""
    return _stream(seed, epoch).random((count, _width(augmentation)))


def augmented(
    image: np.ndarray, augmentation: Sequence[Augmentation], numbers: np.ndarray
) -> np.ndarray:
    """Apply augmentations in their order.

    Args:
        image: [H, W, C], uint8 or float32 in 0..1.
        augmentation: what to apply.
        numbers: the image's `draws`.

    Returns:
        [H', W', C] of the same type; float32 after `color_pca`.

    Raises:
        DataError: if the image is too small or narrow, or not in colour where that is needed.
    """
    for step, own in _shared(augmentation, numbers):
        image = _applied(step, image, own)
    return image


def is_vectorised(augmentation: Sequence[Augmentation]) -> bool:
    """Whether `augmented_batch` has them all."""
    return all(isinstance(step, PadCrop | Shift | Flip) for step in augmentation)


def augmented_batch(
    images: np.ndarray, augmentation: Sequence[Augmentation], numbers: np.ndarray
) -> np.ndarray:
    """`augmented` for many images of one size at once: [N, H, W, C], with a row of numbers each.

    Only for what `is_vectorised`.
    """
    for step, own in _shared(augmentation, numbers):
        if isinstance(step, Flip):
            chosen = own[:, 0] < step.probability
            images = images.copy()
            images[chosen] = images[chosen, :, ::-1]
        else:
            assert isinstance(step, PadCrop | Shift)
            images = _cropped_batch(step, images, own)
    return images


def fixes_size(augmentation: Sequence[Augmentation]) -> bool:
    """Whether images of all sizes come out in one."""
    return any(
        isinstance(step, CenterCrop | ScaleCrop | RandomResizedCrop)
        or (isinstance(step, PadCrop) and step.size is not None)
        for step in augmentation
    )


def resized(image: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """[H, W, C] to height and width `size` with Pillow's filters, which average where they shrink.

    Bytes are rounded as Pillow does; floats are not.
    """
    if image.shape[:2] == size:
        return image
    method = Image.Resampling[interpolation.upper()]
    shape = (size[1], size[0])
    if image.dtype == np.uint8:
        whole = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        return np.asarray(whole.resize(shape, method)).reshape(*size, -1)
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, 2, 0)]
    return np.stack([np.asarray(plane.resize(shape, method)) for plane in planes], axis=2)


def shorter_side_to(image: np.ndarray, side: int, interpolation: Interpolation) -> np.ndarray:
    """[H, W, C] with its shorter side so many pixels long, and the longer one in proportion, its
    fraction cut off.

    Raises:
        DataError: if it is more than a hundred times as long as wide.
    """
    height, width = image.shape[:2]
    if max(height, width) > _NARROWEST * min(height, width):
        raise DataError(f"an image of {width} x {height} pixels is too narrow to be resized")
    longer = side * max(height, width) // min(height, width)
    size = (longer, side) if width <= height else (side, longer)
    return resized(image, size, interpolation)


def _stream(seed: int, epoch: int) -> np.random.Generator:
    return generator(seed, f"data/augmentation/{epoch}")


def _width(augmentation: Sequence[Augmentation]) -> int:
    needed = sum(map(_needs, augmentation))
    return -(-needed // _BLOCK) * _BLOCK


def _needs(step: Augmentation) -> int:
    """How many numbers an augmentation takes of each image."""
    counts = {PadCrop: 2, Shift: 2, Flip: 1, ScaleCrop: 3, ColorPCA: 3}
    return 2 * _TRIES + 2 if isinstance(step, RandomResizedCrop) else counts.get(type(step), 0)


def _shared(
    augmentation: Sequence[Augmentation], numbers: np.ndarray
) -> Iterator[tuple[Augmentation, np.ndarray]]:
    """Each augmentation with its own of the numbers [..., n] of an image or many."""
    start = 0
    for step in augmentation:
        stop = start + _needs(step)
        yield step, numbers[..., start:stop]
        start = stop


def _choice(number: Any, count: Any) -> Any:
    """A whole number of 0 to `count` - 1 from a uniform one, or an array of them."""
    return np.floor(number * count).astype(np.int64)


def _applied(step: Augmentation, image: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    match step:
        case PadCrop() | Shift():
            (image,) = _cropped_batch(step, image[None], numbers[None])
            return image
        case Flip():
            return image[:, ::-1] if numbers[0] < step.probability else image
        case Resize():
            return shorter_side_to(image, step.size, step.interpolation)
        case CenterCrop(size=size):
            height, width = image.shape[:2]
            if min(height, width) < size:
                raise DataError(_too_small(width, height, size, size))
            top, left = round((height - size) / 2), round((width - size) / 2)
            return image[top : top + size, left : left + size]
        case ScaleCrop(size=size):
            low, high = step.shorter_side
            side = low + int(_choice(numbers[0], high - low + 1))
            image = shorter_side_to(image, side, step.interpolation)
            top = int(_choice(numbers[1], image.shape[0] - size + 1))
            left = int(_choice(numbers[2], image.shape[1] - size + 1))
            return image[top : top + size, left : left + size]
        case RandomResizedCrop():
            top, left, height, width = _rectangle(step, image.shape[0], image.shape[1], numbers)
            part = np.ascontiguousarray(image[top : top + height, left : left + width])
            return resized(part, (step.size, step.size), step.interpolation)
        case ColorPCA():
            return _lit(step, image, numbers)
        case _:
            assert_never(step)


def _lit(step: ColorPCA, image: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    if image.shape[2] != 3:
        raise DataError("color_pca: a grey image has no colours to vary; channels: 3 repeats grey")
    # 0 has no quantile; the smallest number above it that can be drawn is 2^-53.
    normal = NormalDist(0, step.std)
    alpha = np.array([normal.inv_cdf(max(float(u), 2.0**-54)) for u in numbers])
    shift = _COMPONENTS @ (alpha * _EIGENVALUES)
    pixels = image / 255 if image.dtype == np.uint8 else image
    lit: np.ndarray = (pixels + shift).astype(np.float32)
    return lit


def _window(step: PadCrop | Shift, height: int, width: int) -> tuple[int, int, int]:
    """Zeros on each side, and the height and width that are cut out."""
    if isinstance(step, Shift):
        return step.pixels, height, width
    size = (height, width) if step.size is None else (step.size, step.size)
    margin = step.padding
    if height + 2 * margin < size[0] or width + 2 * margin < size[1]:
        raise DataError(_too_small(width + 2 * margin, height + 2 * margin, size[1], size[0]))
    return margin, *size


def _cropped_batch(step: PadCrop | Shift, images: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    margin, *size = _window(step, images.shape[1], images.shape[2])
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    top = _choice(numbers[:, 0], padded.shape[1] - size[0] + 1).tolist()
    left = _choice(numbers[:, 1], padded.shape[2] - size[1] + 1).tolist()
    out = np.empty((len(images), *size, images.shape[3]), images.dtype)
    # Slices are copied row by row; indices of pixels would be followed one by one.
    for i in range(len(images)):
        out[i] = padded[i, top[i] : top[i] + size[0], left[i] : left[i] + size[1]]
    return out


def _rectangle(
    step: RandomResizedCrop, height: int, width: int, numbers: np.ndarray
) -> tuple[int, int, int, int]:
    """Top, left, height and width, by the rule of torchvision's RandomResizedCrop."""
    low, high = step.scale
    narrow, wide = map(math.log, step.ratio)
    for area, shape in numbers[: 2 * _TRIES].reshape(_TRIES, 2).tolist():
        target = height * width * (low + area * (high - low))
        ratio = math.exp(narrow + shape * (wide - narrow))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(_choice(numbers[-2], height - h + 1))
            left = int(_choice(numbers[-1], width - w + 1))
            return top, left, h, w
    w, h = width, height
    if width / height < step.ratio[0]:
        h = min(height, round(width / step.ratio[0]))
    elif width / height > step.ratio[1]:
        w = min(width, round(height * step.ratio[1]))
    return (height - h) // 2, (width - w) // 2, max(h, 1), max(w, 1)


def _too_small(width: int, height: int, wanted_width: int, wanted_height: int) -> str:
    return (
        f"an image of {width} x {height} pixels is too small for a crop of {wanted_width} x "
        f"{wanted_height}; resize before it, or pad more"
    )
