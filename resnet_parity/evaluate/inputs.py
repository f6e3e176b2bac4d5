"""What an evaluation is given: weights, images, classes and preprocessing; where each comes from,
and whether they fit each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.convert.read import read_classifier
from resnet_parity.datasets import Dataset, Loader, open_dataset, pixel_mean
from resnet_parity.evaluate.crops import CROPS, Views, paper_scales
from resnet_parity.train.recipes import changed
from resnet_parity.train.run import RECIPE
from resnet_parity.train.run import prepare as prepare_training
from shared_spec.atomic_write import workspace
from shared_spec.errors import DataError, ResNetError, WeightsError
from shared_spec.formats.containers.source import require_file
from shared_spec.formats.detect import RUN_WEIGHTS
from shared_spec.formats.read import WHOLE, Asked
from shared_spec.origin import completed, fetched
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.summary import layer_rows
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.training.data_spec import DataSpec, Split
from shared_spec.training.recipe import Recipe, load_recipe
from shared_spec.weights.preprocessing import Preprocessing

_LARGEST_SCALE = 8192


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be evaluated, as a user asks for it."""

    weights: str
    """A checkpoint of any kind, a reference to the hub, or the folder of a run of `train`, which
    stands for the weights in it and, unless others are named, its data.
    """
    spec: ResNetSpec | None = None
    """The net, for weights that do not identify it."""
    resize: bool = False
    """Whether `spec` stands for a net of any number of channels and classes."""
    asked: Asked = WHOLE
    """Which net of the weights' file is meant."""
    path: str | None = None
    """Where the data are."""
    format: str | None = None
    """Of the data, as in a recipe. A folder without the parts train and val holds the classes
    itself, or in its val alone.
    """
    recipe: Recipe | None = None
    """Whose held-out data to take, if there is no `format`."""
    labels: tuple[str, ...] | None = None
    """Names of the classes in the order of the logits, instead of those of the weights."""
    limit: int | None = None
    """How many images to take at most, spread evenly over the data."""
    crops: str = "center"
    """center, 10 or multi_scale: see `resnet_parity.evaluate.crops`."""
    scales: Sequence[int] | None = None
    """Shorter sides in pixels for multi_scale; None takes those of the paper, in proportion for
    nets whose images are not of 224 pixels.
    """
    batch_size: int = 64
    """Views that a net is given at a time, of the size of `Preprocessing`; as many fewer as they
    are larger.
    """


@dataclass(frozen=True)
class PreparedEvaluation:
    """All that an evaluation needs and that no framework has a part in, opened and checked."""

    weights: str
    spec: ResNetSpec
    state: Mapping[str, np.ndarray]
    names: tuple[str, ...]
    """Of the classes, in the order of the logits."""
    data: str
    dataset: Dataset
    """What is evaluated; its labels are numbers of logits."""
    loader: Loader
    views: Views
    notes: tuple[str, ...]


def prepare(request: EvaluationRequest) -> PreparedEvaluation:
    """Read weights, open data, and check that they fit each other, before any engine starts.

    Raises:
        ResNetError: if weights or data cannot be read, or do not fit each other.
    """
    _check_options(request)
    weights = request.weights
    file, trained = _file_and_recipe(weights)
    recipe = request.recipe and changed(request.recipe, request.path, ())
    if request.format is None and recipe is None:
        if trained is None:
            raise DataError(
                "data: name what to evaluate on, by --data and --format, or by --recipe"
            )
        trained = changed(trained, request.path, ())
    with workspace() as folder:
        read, net = read_classifier(file, request.spec, folder, request.resize, request.asked)
        checkpoint = completed(read, weights)
        # What passed through a worker lies in the folder.
        state = dict(checkpoint.state)
    declared, split = _declared(request, recipe or trained, net)
    dataset = open_dataset(declared, split)
    known = request.labels or checkpoint.labels
    numbers, names, notes = _matched(weights, net, known, dataset)
    preprocessing = checkpoint.preprocessing
    if preprocessing is None:
        preprocessing = _preprocessing(net, recipe, notes)
    if len(preprocessing.mean) != net.in_channels:
        raise WeightsError(
            f"{weights}: its preprocessing has {len(preprocessing.mean)} channels, and its net "
            f"{net.in_channels}"
        )
    mean_image = _mean_image(trained or recipe, request.crops)
    chosen = _Chosen(dataset, spread(len(dataset), request.limit), numbers, names)
    loader = Loader(chosen, (), preprocessing, request.batch_size, mean_image=mean_image)
    _ = loader.held_out_shape
    views = _views(request, preprocessing, net, notes)
    return PreparedEvaluation(
        weights=weights,
        spec=net,
        state=state,
        names=names,
        data=f"{declared.format} {declared.path or ''}".strip(),
        dataset=chosen,
        loader=loader,
        views=views,
        notes=tuple(notes),
    )


def _check_options(request: EvaluationRequest) -> None:
    crops, scales, limit = request.crops, request.scales, request.limit
    if crops not in CROPS:
        raise ResNetError(f"crops: {crops!r} is not one of {', '.join(CROPS)}")
    for name, number in (("limit", limit), ("batch_size", request.batch_size)):
        if number is not None and number < 1:
            raise ResNetError(f"{name}: {number} is not a number of images; give at least 1")
    if scales is not None:
        _check_scales(crops, scales)
    if request.recipe is not None and request.format is not None:
        raise DataError("recipe: it gives the format of the data itself; leave --format out")


def _check_scales(crops: str, scales: Sequence[int]) -> None:
    if crops != "multi_scale":
        raise ResNetError("scales: only with the crops multi_scale")
    bad = [side for side in scales if not 1 <= side <= _LARGEST_SCALE]
    if bad or not scales or len(set(scales)) < len(scales):
        what = f"{bad[0]} is none" if bad else "each once, and at least one"
        raise ResNetError(
            f"scales: {what}; shorter sides of 1 to {_LARGEST_SCALE} pixels are accepted"
        )


def _file_and_recipe(weights: str) -> tuple[Path, Recipe | None]:
    """The file of weights and, if it is that of a training, its recipe."""
    folder = Path(weights)
    if not (folder / RECIPE).is_file():
        file = fetched(weights)
        require_file(file)
        return file, None
    recipe = load_recipe(folder / RECIPE)
    if not (folder / RUN_WEIGHTS).exists():
        raise WeightsError(
            f"{folder}: the training has not come to its end, and has no {RUN_WEIGHTS}; go on with "
            f"`resnet-parity train --resume`"
        )
    return folder / RUN_WEIGHTS, recipe


def _declared(
    request: EvaluationRequest, told: Recipe | None, net: ResNetSpec
) -> tuple[DataSpec, Split]:
    """The data set, and which part of it is evaluated."""
    path, format = request.path, request.format
    if format is None:
        assert told is not None
        return told.data, "held_out"
    fields: dict[str, Any] = {"format": format}
    if path is not None:
        fields["path"] = path
    if net.in_channels in (1, 3):
        fields["channels"] = net.in_channels
    if format == "folder" and path is not None and not (Path(path) / "train").is_dir():
        inner = Path(path) / "val"
        fields |= {"path": str(inner if inner.is_dir() else path), "train_split": "."}
        return DataSpec.parse(fields), "train"
    return DataSpec.parse(fields), "held_out"


def _matched(
    weights: str, net: ResNetSpec, labels: tuple[str, ...] | None, dataset: Dataset
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """For each class of the data the number of its logit, [classes]; names in the order of the
    logits; and what to tell about it.
    """
    classes, names = net.num_classes, dataset.names
    if labels is not None and len(labels) != classes:
        raise WeightsError(f"{weights}: has {len(labels)} labels for {classes} classes")
    if len(names) != classes:
        raise DataError(
            f"{weights}: the net has {classes} classes, and the data {len(names)} "
            f"({_listed(names)})"
        )
    same_order = np.arange(classes)
    numbered = tuple(map(str, range(classes)))
    if labels is None or labels == names:
        return same_order, names, []
    if len(set(labels)) == classes and set(labels) == set(names):
        place = {label: number for number, label in enumerate(labels)}
        note = "the data's classes are in another order than the weights' labels: matched by name"
        return np.array([place[name] for name in names]), labels, [note]
    if numbered in (names, labels):
        without = "data" if names == numbered else "weights"
        note = f"the classes of the {without} have numbers for names: matched by number"
        return same_order, labels if names == numbered else names, [note]
    foreign = [name for name in names if name not in set(labels)]
    raise DataError(
        f"{weights}: the data's classes {_listed(foreign or names)} are not among the weights' "
        f"labels ({_listed(labels)}); --labels names a file with others"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(repr(name[:60]) for name in names[:3]) + more


def _preprocessing(net: ResNetSpec, recipe: Recipe | None, notes: list[str]) -> Preprocessing:
    """For weights that have none of their own."""
    if recipe is not None:
        notes.append("the weights have no preprocessing: the recipe's is used")
        return prepare_training(recipe).preprocessing
    found = Preprocessing.default(net)
    whose = "ImageNet's" if net.in_channels == 3 else "a mean and standard deviation of 0.5"
    notes.append(f"the weights have no preprocessing: {whose} is used")
    return found


def _mean_image(recipe: Recipe | None, crops: str) -> np.ndarray | None:
    """The mean image that the training subtracted, which weights have no place for."""
    if recipe is None or not recipe.data.per_pixel_mean:
        return None
    if crops != "center":
        raise DataError(
            f"crops: the recipe subtracts the mean image (per_pixel_mean), which has one size, and "
            f"{crops} has images of others; center can be"
        )
    return pixel_mean(open_dataset(recipe.data, "train"))


def _views(
    request: EvaluationRequest, preprocessing: Preprocessing, net: ResNetSpec, notes: list[str]
) -> Views:
    """Views of sizes that the net can take."""
    size, crops = preprocessing.image_size, request.crops
    sides: Sequence[int] = (preprocessing.shorter_side,)
    if crops == "multi_scale":
        sides = request.scales or paper_scales(size)
    if crops == "10" and preprocessing.shorter_side == size:
        notes.append(
            "the preprocessing cuts nothing off the shorter side, so that of the ten crops of a "
            "square image but two differ"
        )
    smallest = min(sides) if crops == "multi_scale" else size
    layer_rows(compile_plan(net), (smallest, smallest))
    return Views(crops, tuple(sides), preprocessing, request.batch_size)


def spread(count: int, limit: int | None) -> np.ndarray:
    """Indices of at most `limit` images: the first alone would often be of one class."""
    taken = min(count, limit or count)
    return np.arange(taken) * count // taken


def thinned(dataset: Dataset, limit: int) -> Dataset:
    """At most `limit` images, spread evenly over a data set."""
    same = np.arange(len(dataset.names))
    return _Chosen(dataset, spread(len(dataset), limit), same, dataset.names)


class _Chosen:
    """Some images of a data set, their labels those of the net."""

    def __init__(
        self, dataset: Dataset, indices: np.ndarray, numbers: np.ndarray, names: tuple[str, ...]
    ) -> None:
        self._dataset = dataset
        self._indices = indices
        self.labels: np.ndarray = numbers[dataset.labels[indices]]
        self.names = names
        self.channels = dataset.channels

    def __len__(self) -> int:
        return len(self._indices)

    def image(self, index: int) -> np.ndarray:
        return self._dataset.image(int(self._indices[index]))

    def where(self, index: int) -> str:
        return self._dataset.where(int(self._indices[index]))
