"""IDX files, plain or gzipped: MNIST (LeCun et al. 1998), Fashion-MNIST, KMNIST and their like.

Layout: http://yann.lecun.com/exdb/mnist. Two zeros, a byte for the type (8: unsigned bytes), one
for the number of axes, each axis in four bytes, the highest first; then the numbers.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from resnet_parity.datasets.bounded_read import LARGEST, directory, read_up_to, why
from resnet_parity.datasets.dataset import InMemory, in_memory
from shared_spec.errors import DataError
from shared_spec.training.data_spec import DataSpec, Split

_FOLDERS = (".", "raw", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw")
_UNSIGNED = 8


def read_idx(spec: DataSpec, split: Split) -> InMemory:
    """One split: uint8 [N, H, W, 1]. The labels of the training data say how many classes there
    are.

    Raises:
        DataError: if files are missing, damaged, cut off or do not fit one another.
    """
    folder = directory(spec.path or "")
    name = spec.split(split)
    images = _file(folder, f"{name}-images", 3)
    labels = read_idx_file(_file(folder, f"{name}-labels", 1), 1)
    training = labels
    if split != "train":
        training = read_idx_file(_file(folder, f"{spec.split('train')}-labels", 1), 1)
    pixels = read_idx_file(images, 3)
    source = str(images)
    if len(pixels) != len(labels):
        raise DataError(f"{source}: {len(pixels)} images, and {len(labels)} labels")
    if not len(training):
        raise DataError(f"{source}: there are no labels for training")
    found = [str(i) for i in range(int(training.max()) + 1)]
    if spec.class_names and len(spec.class_names) > len(found):
        found = list(spec.class_names)  # one of the classes may have no example
    return in_memory(spec, pixels[..., None], labels, found, source)


def read_idx_file(path: Path, axes: int) -> np.ndarray:
    """The unsigned bytes of an IDX file with so many axes; gzipped if its name ends in `.gz`.

    Raises:
        DataError: if it is damaged, or longer or shorter than its header says.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * axes)
            if len(header) < 4 + 4 * axes or header[:4] != bytes((0, 0, _UNSIGNED, axes)):
                raise DataError(
                    f"{path}: not an IDX file of unsigned bytes with {axes} axes; it begins with "
                    f"{header[:4].hex(' ') or 'nothing'}"
                )
            shape = struct.unpack(f">{axes}I", header[4:])
            size = math.prod(shape)
            data = read_up_to(file, min(size, LARGEST) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({why(error)})") from None
    if len(data) != size:
        more = "more" if len(data) > size else f"{len(data):,}"
        raise DataError(
            f"{path}: its header announces {size:,} bytes {list(shape)}, and {more} follow"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _file(folder: Path, stem: str, axes: int) -> Path:
    names = [f"{stem}{mark}idx{axes}-ubyte{end}" for end in ("", ".gz") for mark in ("-", ".")]
    for path in (folder / place / name for place in _FOLDERS for name in names):
        if path.is_file():
            return path
    raise DataError(f"{folder}: no {names[0]} or {names[2]} in it or its raw folder")
