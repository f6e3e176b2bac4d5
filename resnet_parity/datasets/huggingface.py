"""Data sets of the Hugging Face Hub, or saved by its library, which is an optional extra."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.datasets.bounded_read import why
from resnet_parity.datasets.dataset import check_labels, class_names
from resnet_parity.datasets.folder import decoded
from shared_spec.errors import DataError, ResNetError, framework_missing
from shared_spec.training.data_spec import DataSpec, Split

_HELD_OUT = ("validation", "val", "valid", "test")
"""Names of splits, the first of which is held out. The Hub's ImageNet has no labels in `test`."""


@dataclass(frozen=True, eq=False)
class HuggingFace:
    """Images that are decoded on demand."""

    rows: Any
    column: str
    labels: np.ndarray
    names: tuple[str, ...]
    channels: int

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, W, C].

        Raises:
            DataError: naming the row, if it cannot be decoded.
        """
        try:
            return decoded(self.rows[index][self.column], self.channels)
        # Pillow, Arrow and the library raise errors of many kinds.
        except Exception as error:
            ours = isinstance(error, ResNetError)
            what = error if ours else f"the image cannot be decoded ({why(error)})"
            raise DataError(f"{self.where(index)}: {what}") from None

    def where(self, index: int) -> str:
        """The column and the row."""
        return f"{self.column!r} of row {index}"


def read_huggingface(spec: DataSpec, split: Split) -> HuggingFace:
    """One split of a data set with a column of images and one of classes. No code that comes with
    a data set is run.

    Raises:
        FrameworkError: if `datasets` is not installed.
        DataError: if the data set, its split or its columns are not there, or labels are missing.
    """
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise framework_missing("A Hugging Face data set", "datasets", "data") from None
    source = spec.path or ""
    try:
        rows = _rows(datasets, spec, split)
    except ResNetError:
        raise
    # The library raises errors of many kinds: of the network, the Hub, Arrow, its own.
    except Exception as error:
        raise DataError(f"{source}: no data set that can be opened ({why(error)})") from None
    features = dict(rows.features)
    image = _column(features, spec.image_column, datasets.Image, "image", source)
    label = _column(features, spec.label_column, datasets.ClassLabel, "label", source)
    if not isinstance(features[image], datasets.Image):
        raise DataError(f"{source}: image_column: {image!r} holds no images")
    values = np.asarray(rows.with_format(None)[label][:])
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or not len(values):
        raise DataError(f"{source}: label_column: {label!r} does not hold a class for each image")
    labels = values.astype(np.int64)
    told = getattr(features[label], "names", None)
    found = told or spec.class_names or [str(i) for i in range(int(labels.max()) + 1)]
    names = class_names(spec.class_names, found, source)
    check_labels(labels, len(rows), names, f"{source}: {label}")
    return HuggingFace(rows, image, labels, names, spec.channels or 3)


def _rows(datasets: Any, spec: DataSpec, split: Split) -> Any:
    path = str(spec.path)
    if (Path(path) / "dataset_dict.json").is_file():
        saved = datasets.load_from_disk(path)
        return saved[_split(spec, split, list(saved))]
    if (Path(path) / "state.json").is_file():
        raise DataError(f"{path}: is a single split; save the DatasetDict of both")
    known = datasets.get_dataset_split_names(path)
    return datasets.load_dataset(path, split=_split(spec, split, known))


def _split(spec: DataSpec, split: Split, known: list[str]) -> str:
    wanted = spec.split(split)
    if wanted is None:
        wanted = next((name for name in _HELD_OUT if name in known), None)
    if wanted not in known:
        what = "no split to hold out" if wanted is None else f"no split {wanted!r}"
        raise DataError(f"{spec.path}: {split}_split: there is {what}; it has {', '.join(known)}")
    return wanted


def _column(
    features: dict[str, Any], given: str | None, kind: type[Any], what: str, source: str
) -> str:
    """The column that was told, or the only one of its kind, or the one that is called so."""
    has = f"it has {', '.join(features)}"
    if given is not None:
        if given not in features:
            raise DataError(f"{source}: {what}_column: there is no column {given!r}; {has}")
        return given
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) == 1:
        return found[0]
    if what in features and (what in found or not found):
        return what
    count = f"{len(found)} columns of that kind" if found else "no column of that kind"
    raise DataError(f"{source}: {what}_column: there is {count}; name one, {has}")
