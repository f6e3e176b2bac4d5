"""Folders of images, one for each class: ImageNet's layout and torchvision's `ImageFolder`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.Image import Image

from resnet_parity.datasets.bounded_read import directory, why
from resnet_parity.datasets.dataset import class_names
from shared_spec.errors import DataError
from shared_spec.training.data_spec import DataSpec, Split
from shared_spec.weights.preprocessing import converted, open_images

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Files that are taken for images; others are passed over."""


@dataclass(frozen=True, eq=False)
class Folder:
    """Images that are decoded on demand, turned upright as their EXIF data say."""

    files: Sequence[str]
    labels: np.ndarray
    names: tuple[str, ...]
    channels: int

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, W, C].

        Raises:
            ImageError: naming the file, if it cannot be decoded.
        """
        return decoded(open_images([self.files[index]])[0], self.channels)

    def where(self, index: int) -> str:
        """The file."""
        return self.files[index]


def read_images(path: str, channels: int) -> Folder:
    """All images in a folder and in those in it, of no class.

    Raises:
        DataError: if there is none, or a link leads out of the folder.
    """
    root = directory(path)
    files = list(_images(root, root))
    if not files:
        raise DataError(f"{root}: no image in it; {', '.join(SUFFIXES)} are accepted")
    return Folder(files, np.zeros(len(files), np.int64), ("",), channels)


def decoded(image: Image, channels: int) -> np.ndarray:
    """A Pillow image as uint8 [H, W, C], RGB or grey."""
    pixels = np.asarray(converted(image, "RGB" if channels == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], channels)


def read_folder(spec: DataSpec, split: Split) -> Folder:
    """One split: the folders in `path/train` are the classes, in the order of their names, and
    those in `path/val` some of them.

    Raises:
        DataError: if folders or images are missing, or a link leads out of the data set.
    """
    root = directory(spec.path or "")
    training = directory(str(root / str(spec.split("train"))))
    found = _classes(root, training)
    folder = directory(str(root / str(spec.split(split))))
    present = found if split == "train" else _classes(root, folder)
    unknown = [name for name in present if name not in set(found)]
    if unknown:
        raise DataError(
            f"{folder / unknown[0]}: there is no such class in {training}; the classes of training "
            f"are the ones accepted"
        )
    files: list[str] = []
    labels: list[int] = []
    for name in present:
        images = list(_images(root, folder / name))
        if not images:
            raise DataError(f"{folder / name}: no image in it; {', '.join(SUFFIXES)} are accepted")
        files += images
        labels += [found.index(name)] * len(images)
    names = class_names(spec.class_names, found, str(root))
    return Folder(files, np.array(labels, np.int64), names, spec.channels or 3)


def _classes(root: Path, folder: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({why(error)})") from None
    if not names:
        raise DataError(f"{folder}: no folders in it; each class needs one")
    for path in (folder, *(folder / name for name in names)):
        _within(root, path)
    return names


def _images(root: Path, folder: Path) -> Iterator[str]:
    """The files of a class, and of folders in it, in the order of their names."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({why(error)})")

    for parent, folders, names in sorted(os.walk(folder, onerror=refuse)):
        for name in folders:
            if os.path.islink(os.path.join(parent, name)):
                raise DataError(
                    f"{os.path.join(parent, name)}: is a link to a folder, which none of a class "
                    f"may be"
                )
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES):
                path = os.path.join(parent, name)
                if os.path.islink(path):
                    _within(root, Path(path))
                yield path


def _within(root: Path, path: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{path}: is a link that leads out of {root}, which is not followed")
