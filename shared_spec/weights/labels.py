"""Names of classes, from a file, and the most probable classes of images."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared_spec.errors import SpecError, WeightsError
from shared_spec.spec.files import read_start


@dataclass(frozen=True)
class Classified:
    """One class of an image, with its probability."""

    label: str
    """The class's name; its number if the weights have no names."""
    index: int
    """Number of the class, from 0."""
    probability: float
    """From 0 to 1."""


def classified(
    logits: np.ndarray, labels: Sequence[str] | None = None, top: int = 5
) -> list[list[Classified]]:
    """The `top` most probable classes of each image, the best first.

    Examples:
        >>> classified(np.array([[0.0, 2.0]]), ["cat", "dog"], top=1)[0][0].label
        'dog'

    Args:
        logits: [N, classes].
        labels: names of the classes.
        top: how many, if there are so many classes.

    Raises:
        WeightsError: if a logit is not a finite number, or there are not as many labels.
    """
    wide = np.asarray(logits).astype(np.float64)
    if not np.isfinite(wide).all():
        raise WeightsError("the logits are not finite numbers")
    classes = wide.shape[1]
    if labels is not None and len(labels) != classes:
        raise WeightsError(f"there are {len(labels)} labels for {classes} classes")
    wide = np.exp(wide - wide.max(1, keepdims=True))
    wide /= wide.sum(1, keepdims=True)
    return [
        [
            Classified(str(i) if labels is None else labels[i], int(i), float(row[i]))
            for i in np.argsort(-row, kind="stable")[:top]
        ]
        for row in wide
    ]


_SIZE_LIMIT = 10 * 2**20
_FORMS = (
    'expected one name a line, or JSON: a list of names, {"0": name, ...}, or ImageNet\'s '
    '{"0": [synset, name], ...}'
)


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of classes, in the order of their numbers.

    A `.json` file holds a list of names, or a mapping from the numbers 0 to N - 1 to names or, as
    Keras's `imagenet_class_index.json`, to pairs of a synset and a name. Every other file is UTF-8
    text with a name on each line.

    Raises:
        SpecError: if the file cannot be read, is of another form, or lacks the name of a class.
    """
    text = _text(Path(path))
    if Path(path).suffix.lower() == ".json":
        labels = _from_json(text, path)
    else:
        labels = [line.strip() for line in text.rstrip().split("\n")]
    if not any(labels):
        raise SpecError(f"{path}: holds no labels; {_FORMS}")
    for number, label in enumerate(labels):
        if not label.strip():
            raise SpecError(f"{path}: class {number} has no name; {_FORMS}")
    return tuple(labels)


def _text(path: Path) -> str:
    try:
        path.stat()
    except (FileNotFoundError, ValueError):  # ValueError: a name that holds a NUL
        raise SpecError(f"{path}: there is no such file of labels") from None
    except OSError:
        pass  # reading says what it is
    content = read_start(path, _SIZE_LIMIT, SpecError)
    if len(content) > _SIZE_LIMIT:
        raise SpecError(f"{path}: is larger than 10 MB, as no file of labels is; {_FORMS}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{path}: is not UTF-8 text; {_FORMS}") from None


def _from_json(text: str, path: str | os.PathLike[str]) -> list[str]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise SpecError(f"{path}: is not valid JSON; {_FORMS}") from None
    if isinstance(data, dict):
        numbers = [str(i) for i in range(len(data))]
        missing = next((n for n in numbers if n not in data), None)
        if missing is not None:
            raise SpecError(f"{path}: has {len(data)} labels, none for class {missing}; {_FORMS}")
        data = [data[n] for n in numbers]
        if all(isinstance(x, list) and len(x) == 2 for x in data):
            data = [x[1] for x in data]
    if not isinstance(data, list) or not all(isinstance(x, str) for x in data):
        raise SpecError(f"{path}: is not a list of names; {_FORMS}")
    return data
