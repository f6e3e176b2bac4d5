"""What the public verbs of the three backends share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from shared_spec.catalogue import CATALOGUE, Entry
from shared_spec.catalogue.resolve import ModelLike, resolve
from shared_spec.download import download, is_reference
from shared_spec.errors import ImageError, SpecError, WeightsError
from shared_spec.formats.detect import Opener
from shared_spec.formats.read import read_checkpoint
from shared_spec.plan.network import Plan
from shared_spec.plan.summary import layer_rows
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.adapt import ASKED
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.state import WeightsLike

Model = TypeVar("Model")


def resolve_both(model: ModelLike, overrides: Mapping[str, Any]) -> tuple[ResNetSpec, ResNetSpec]:
    """The spec that `model` stands for, with all `overrides`, and with those alone that do not ask
    for weights to be adapted.
    """
    rest = {name: value for name, value in overrides.items() if name not in ASKED}
    return resolve(model, overrides), resolve(model, rest)


def read_weights(
    weights: WeightsLike, openers: Mapping[str, Opener], spec: ResNetSpec | None
) -> Checkpoint:
    """Canonical weights from a dict or a checkpoint of any kind that needs no framework, or of
    those that `openers` open with one.

    Raises:
        WeightsError: if the file is missing, damaged, or of a kind that needs another framework.
    """
    if isinstance(weights, Mapping):
        return Checkpoint(dict(weights))
    if not isinstance(weights, str | os.PathLike):
        raise WeightsError(
            f"weights: expected a path or a dict of arrays, got {type(weights).__name__}"
        )
    return read_checkpoint(fetched(weights), spec, openers)


def fetched(
    weights: str | os.PathLike[str], progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """The path of a checkpoint, downloaded first if it is on the hub or at a URL.

    Raises:
        WeightsError: if it cannot be had.
    """
    if is_reference(weights):
        return download(str(weights), progress=progress)
    return Path(weights)


def as_images(images: object, p: Plan) -> np.ndarray:
    """Check a batch of images for a model: a real array [N, H, W, C] with the model's channels.

    Raises:
        ImageError: saying what was given and what the model takes.
    """
    try:
        array = np.asarray(images)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    except (ValueError, TypeError) as error:
        raise ImageError(f"images: expected an array of numbers ({error})") from None
    numeric = array.dtype.kind in "fiu" and array.dtype.itemsize <= 8
    if not numeric and array.dtype.name != "bfloat16":
        raise ImageError(f"images: expected an array of numbers, got dtype {array.dtype}")
    if array.ndim != 4 or array.shape[0] == 0 or array.shape[3] != p.in_channels:
        raise ImageError(
            f"images: expected shape [N, height, width, {p.in_channels}] with N of at least 1, "
            f"got {list(array.shape)}"
        )
    try:
        layer_rows(p, (array.shape[1], array.shape[2]))
    except SpecError as error:
        raise ImageError(f"images: {error}") from None
    return array


def concatenate_outputs(
    outputs: Sequence[Any], to_array: Callable[[Any], np.ndarray] = np.asarray
) -> Any:
    """A model's outputs for the parts of a batch, joined: an array, or a list of arrays for a
    features-only model.
    """
    if isinstance(outputs[0], list):
        return [concatenate_outputs(level, to_array) for level in zip(*outputs, strict=True)]
    return np.concatenate([to_array(part) for part in outputs])


def batches(images: object, p: Plan, size: int) -> list[np.ndarray]:
    """Checked images in parts of at most `size`.

    Raises:
        ImageError: as `as_images`, and if `size` is less than 1.
    """
    if not isinstance(size, int) or size < 1:
        raise ImageError(f"batch_size: {size} is not a number of images; give at least 1")
    array = as_images(images, p)
    return [array[i : i + size] for i in range(0, len(array), size)]


def activation_names(p: Plan, names: object) -> list[str]:
    """The names asked of `activations`: all blocks if None.

    Raises:
        SpecError: naming one that the plan lacks, or if there are none.
    """
    known = {block.name for block in p.blocks()} | {layer.name for layer in p.layers()}
    if names is None:
        return [block.name for block in p.blocks()]
    if not isinstance(names, Iterable) or isinstance(names, str):
        raise SpecError("activations: expected the names of layers and blocks in a list")
    wanted = [str(name) for name in names]
    if not wanted:
        raise SpecError("activations: name at least one layer or block")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SpecError(f"activations: the model has no layer or block named {unknown[0]!r}")
    return wanted


def entry_points(create_model: Callable[..., Model]) -> dict[str, Callable[..., Model]]:
    """One function for every catalogue name: `resnet50(**fields)` is
    `create_model("resnet50", **fields)`.
    """

    def make(entry: Entry) -> Callable[..., Model]:
        def build(**options: Any) -> Model:
            return create_model(entry.name, **options)

        build.__name__ = build.__qualname__ = entry.name
        build.__module__ = create_model.__module__
        note = f" ({entry.note})" if entry.note else ""
        build.__doc__ = f"`create_model({entry.name!r}, ...)`{note}. Source: {entry.source}."
        return build

    return {name: make(entry) for name, entry in CATALOGUE.items()}
