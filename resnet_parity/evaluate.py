"""How right weights are on labelled images, in each engine, and whether the engines agree.

Images are decoded once, and each batch goes through one engine after the other; so all see the
same numbers, and memory and disk hold a few batches, however many images there are. The protocols:

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
The loss is the cross-entropy of the averaged probabilities.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnet_parity.check import Start, perturbed
from resnet_parity.compare import FLOAT64_TOLERANCE, ROUNDING_FACTOR, RULE, difference
from resnet_parity.convert import read_any
from resnet_parity.datasets import Dataset, Loader, open_dataset, pixel_mean
from resnet_parity.datasets.augment import shorter_side_to
from resnet_parity.engines import Device, Engine, EngineError, Worker
from resnet_parity.scores import Scores, losses, ranks, summed
from resnet_parity.train import RECIPE, WEIGHTS
from resnet_parity.train import prepare as prepare_training
from shared_spec.analysis import layer_rows
from shared_spec.api import fetched
from shared_spec.compiler import compile_plan
from shared_spec.data import DataSpec, Split
from shared_spec.durable import workspace
from shared_spec.errors import DataError, ResNetError, WeightsError
from shared_spec.preprocessing import Preprocessing
from shared_spec.recipe import Recipe, load_recipe
from shared_spec.spec import ResNetSpec
from shared_spec.weights import (
    Checkpoint,
    State,
    cast_weights,
    check_weights,
    numpy_dtype,
    read_safetensors,
    require_file,
    save_canonical,
)

CROPS = ("center", "10", "multi_scale")
PAPER_SCALES = (224, 256, 384, 480, 640)
"""Shorter sides in pixels, for nets of 224 pixels."""

_VIEWS = {"center": 1, "10": 10, "multi_scale": 2}
"""Of an image at one scale."""
_SAMPLE = 8
"""Views on which the effect of rounding is measured."""
_TRIALS = 3
_SHOWN = 5
"""Images that are named where two engines disagree."""
_LARGEST_SCALE = 8192


@dataclass(frozen=True)
class Prepared:
    """All that an evaluation needs and that no framework has a part in, opened and checked."""

    weights: str
    spec: ResNetSpec
    state: Mapping[str, np.ndarray]
    preprocessing: Preprocessing
    names: tuple[str, ...]
    """Of the classes, in the order of the logits."""
    data: str
    dataset: Dataset
    """What is evaluated; its labels are numbers of logits."""
    loader: Loader
    crops: str
    scales: tuple[int, ...]
    """Shorter sides in pixels; one, unless `crops` is multi_scale."""
    batch_size: int
    notes: tuple[str, ...]


@dataclass
class Evaluated:
    """What one engine made of the images.

    `seconds` are those of the net alone; `images_per_second` leaves out the first batch of each
    size, for which engines compile, and is None if that leaves nothing.
    """

    engine: str
    versions: dict[str, str]
    device: str
    parameters: int
    scores: Scores
    seconds: float
    images_per_second: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "engine": self.engine,
            "versions": self.versions,
            "device": self.device,
            "parameters": self.parameters,
            "top1": self.scores.top1,
            "top5": self.scores.top5,
            "top1_error": 1 - self.scores.top1,
            "top5_error": 1 - self.scores.top5,
            "loss": _finite(self.scores.loss),
            "images": self.scores.images,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }


@dataclass
class Agreement:
    """How two engines agree: the share of images, 0..1, with the same likeliest class; the largest
    difference of any logit of any view under `RULE`, the first engine being the reference, and
    NaN if either gave no number; the image where it is, if there is any; and some images on which
    they disagree.
    """

    same_top1: float
    logits: float
    worst: str | None
    disagreements: list[dict[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "same_top1": self.same_top1,
            "logits": _finite(self.logits),
            "worst": self.worst,
            "disagreements": self.disagreements,
        }


@dataclass
class Report:
    """The result of `evaluate`; `problems` is empty exactly if every engine ran and all agree."""

    prepared: Prepared
    dtype: str
    tolerance: float | None = None
    """Of the logits between two engines; None if there was nothing to compare."""
    rule: str = RULE
    ran: list[Evaluated] = field(default_factory=list)
    pairs: dict[tuple[str, str], Agreement] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """True if every engine ran and all agree."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        p = self.prepared
        return {
            "weights": p.weights,
            "data": p.data,
            "images": len(p.dataset),
            "classes": len(p.names),
            "crops": p.crops,
            "scales": list(p.scales),
            "image_size": p.preprocessing.image_size,
            "dtype": self.dtype,
            "holds": self.holds,
            "problems": self.problems,
            "notes": list(p.notes),
            "rule": self.rule,
            "tolerance": self.tolerance,
            "engines": [ran.to_dict() for ran in self.ran],
            "failed": self.failed,
            "pairs": [
                {"engines": list(names)} | found.to_dict() for names, found in self.pairs.items()
            ],
        }


def prepare(
    weights: str,
    spec: ResNetSpec | None = None,
    *,
    path: str | None = None,
    format: str | None = None,
    recipe: Recipe | None = None,
    labels: tuple[str, ...] | None = None,
    crops: str = "center",
    scales: Sequence[int] | None = None,
    limit: int | None = None,
    batch_size: int = 64,
    resize: bool = False,
) -> Prepared:
    """Read weights, open data, and check that they fit each other, before any engine starts.

    Args:
        weights: a checkpoint of any kind, a reference to the hub, or the folder of a run of
            `train`, which stands for the weights in it and, unless others are named, its data.
        spec: the net, for weights that do not tell it themselves.
        path: where the data are.
        format: of the data, as in a recipe. A folder without the parts train and val holds the
            classes itself, or in its val alone.
        recipe: whose held-out data to take, if there is no `format`.
        labels: names of the classes in the order of the logits, instead of those of the weights.
        crops: center, 10 or multi_scale: see the module.
        scales: shorter sides in pixels for multi_scale; None takes those of the paper, in
            proportion for nets whose images are not of 224 pixels.
        limit: how many images to take at most, spread evenly over the data.
        batch_size: views that a net is given at a time, of the size of `Preprocessing`; as many
            fewer as they are larger.
        resize: whether `spec` stands for a net of any number of channels and classes.

    Raises:
        ResNetError: if weights or data cannot be read, or do not fit each other.
    """
    scales = _checked_options(crops, scales, limit, batch_size)
    if recipe is not None and format is not None:
        raise DataError("recipe: it tells the format of the data itself; leave --format out")
    file, trained = _file_and_recipe(weights)
    if format is None and path is not None:
        if recipe is not None:
            recipe = _moved(recipe, path)
        elif trained is not None:
            trained = _moved(trained, path)
    told = recipe or trained
    if format is None and told is None:
        raise DataError("data: name what to evaluate on, by --data and --format, or by --recipe")
    checkpoint = _read(file, spec, resize)
    net = checkpoint.spec
    assert net is not None
    declared, split = _declared(path, format, told, net)
    dataset = open_dataset(declared, split)
    known = labels or checkpoint.labels
    numbers, names, notes = _matched(weights, net, known, dataset)
    preprocessing = checkpoint.preprocessing
    if preprocessing is None:
        preprocessing = _preprocessing(net, recipe, notes)
    if len(preprocessing.mean) != net.in_channels:
        raise WeightsError(
            f"{weights}: its preprocessing has {len(preprocessing.mean)} channels, and its net "
            f"{net.in_channels}"
        )
    mean_image = _mean_image(trained or recipe, crops)
    chosen = _View(dataset, _spread(len(dataset), limit), numbers, names)
    loader = Loader(chosen, (), preprocessing, batch_size, mean_image=mean_image)
    _ = loader.held_out_shape
    size = preprocessing.image_size
    if crops == "multi_scale":
        sides = scales or tuple(round(s * size / 224) for s in PAPER_SCALES)
    else:
        sides = (preprocessing.shorter_side,)
    if crops == "10" and preprocessing.shorter_side == size:
        notes.append(
            "the preprocessing cuts nothing off the shorter side, so that of the ten crops of a "
            "square image but two differ"
        )
    smallest = min(sides) if crops == "multi_scale" else size
    layer_rows(compile_plan(net), (smallest, smallest))
    return Prepared(
        weights,
        net,
        checkpoint.state,
        preprocessing,
        names,
        f"{declared.format} {declared.path or ''}".strip(),
        chosen,
        loader,
        crops,
        sides,
        batch_size,
        tuple(notes),
    )


def _checked_options(
    crops: str, scales: Sequence[int] | None, limit: int | None, batch_size: int
) -> tuple[int, ...] | None:
    if crops not in CROPS:
        raise ResNetError(f"crops: {crops!r} is not one of {', '.join(CROPS)}")
    if limit is not None and limit < 1:
        raise ResNetError(f"limit: {limit} is not a number of images; give at least 1")
    if batch_size < 1:
        raise ResNetError(f"batch_size: {batch_size} is not a number of images; give at least 1")
    if scales is None:
        return None
    if crops != "multi_scale":
        raise ResNetError("scales: only with the crops multi_scale")
    bad = [side for side in scales if not 1 <= side <= _LARGEST_SCALE]
    if bad or not scales or len(set(scales)) < len(scales):
        what = f"{bad[0]} is none" if bad else "each once, and at least one"
        raise ResNetError(f"scales: {what}; shorter sides of 1 to {_LARGEST_SCALE} pixels can be")
    return tuple(scales)


def _file_and_recipe(weights: str) -> tuple[Path, Recipe | None]:
    """The file of weights and, if it is that of a training, its recipe."""
    folder = Path(weights)
    if not (folder / RECIPE).is_file():
        file = fetched(weights)
        require_file(file)
        return file, None
    recipe = load_recipe(folder / RECIPE)
    if not (folder / WEIGHTS).exists():
        raise WeightsError(
            f"{folder}: the training has not come to its end, and has no {WEIGHTS}; go on with "
            f"`resnet-parity train --resume`"
        )
    return folder / WEIGHTS, recipe


def _moved(recipe: Recipe, path: str) -> Recipe:
    """The recipe with its data at another place."""
    fields = recipe.to_dict()
    return Recipe.parse(fields | {"data": fields["data"] | {"path": path}})


def _read(file: Path, spec: ResNetSpec | None, resize: bool) -> Checkpoint:
    with workspace() as folder:
        checkpoint = read_any(file, spec, folder, resize)
        net = checkpoint.spec
        if net is None:
            raise WeightsError(f"{file}: the file does not tell its model; name it (--model)")
        check_weights(compile_plan(net), checkpoint.state, "float64", file)
        if net.features_only or not net.num_classes:
            raise WeightsError(f"{file}: the model gives features and no classes")
        # What passed through a worker lies in the folder.
        return replace(checkpoint, state=dict(checkpoint.state))


def _declared(
    path: str | None, format: str | None, told: Recipe | None, net: ResNetSpec
) -> tuple[DataSpec, Split]:
    """The data set, and which part of it is evaluated."""
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
    """For weights that do not tell theirs."""
    if recipe is not None:
        notes.append("the weights tell no preprocessing: that of the recipe is taken")
        return prepare_training(recipe).preprocessing
    found = Preprocessing.default(net)
    whose = "ImageNet's" if net.in_channels == 3 else "a mean and standard deviation of 0.5"
    notes.append(f"the weights tell no preprocessing: {whose} is taken")
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


def _spread(count: int, limit: int | None) -> np.ndarray:
    """Indices of at most `limit` images: the first alone would often be of one class."""
    taken = min(count, limit or count)
    return np.arange(taken) * count // taken


class _View:
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


def mirrored_too(image: np.ndarray) -> np.ndarray:
    """[H, W, C] and its mirror image: [2, H, W, C]."""
    return np.stack([image, image[:, ::-1]])


def averaged(logits: np.ndarray) -> np.ndarray:
    """The logarithm of the mean probability over views: [N, V, classes] to float64 [N, classes].

    In logarithms throughout: of classes whose probabilities are too small for a float, the order
    counts too.
    """
    logs = _log_softmax(logits)
    highest = logs.max(1)
    mean = np.exp(logs - highest[:, None]).mean(1)
    found: np.ndarray = highest + np.log(mean)
    return found


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    found: np.ndarray = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return found


class _Part(NamedTuple):
    """What the nets are given at a time: views [n * views, H, W, C], those of an image one after
    the other; which images of the round they are of, [n]; and at which of the scales.
    """

    images: np.ndarray
    which: np.ndarray
    scale: int


_Round = tuple[np.ndarray, Iterator[_Part]]
"""Indices of some images, and all of their views."""


def _rounds(p: Prepared) -> Generator[_Round, None, None]:
    if p.crops != "center":
        yield from _view_rounds(p)
        return
    start = 0
    for images, labels in p.loader.held_out_batches():
        count = len(labels)
        yield np.arange(start, start + count), iter([_Part(images, np.arange(count), 0)])
        start += count


def _view_rounds(p: Prepared) -> Iterator[_Round]:
    """Decoded and resized in threads, a round ahead; as bytes, since that is where most memory
    would go.
    """
    at_once = max(1, p.batch_size // _VIEWS[p.crops])
    count = len(p.dataset)
    blocks = iter([np.arange(i, min(i + at_once, count)) for i in range(0, count, at_once)])
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="resnet-parity-data")
    pending: deque[tuple[np.ndarray, list[Future[list[np.ndarray]]]]] = deque()
    try:
        while True:
            for block in itertools.islice(blocks, 2 - len(pending)):
                pending.append((block, [pool.submit(_resized, p, i) for i in block.tolist()]))
            if not pending:
                return
            block, futures = pending.popleft()
            yield block, _parts(p, [future.result() for future in futures])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _resized(p: Prepared, index: int) -> list[np.ndarray]:
    """One image at every scale."""
    image = p.dataset.image(index)
    try:
        return [shorter_side_to(image, s, p.preprocessing.interpolation) for s in p.scales]
    except DataError as error:
        raise DataError(f"{p.dataset.where(index)}: {error}") from None


def _parts(p: Prepared, images: Sequence[Sequence[np.ndarray]]) -> Iterator[_Part]:
    """Views of images at every scale, those of one size together, as many as `batch_size` has
    pixels.
    """
    size, views = p.preprocessing.image_size, _VIEWS[p.crops]
    for scale in range(len(p.scales)):
        groups: dict[tuple[int, int], list[int]] = {}
        for i, sizes in enumerate(images):
            height, width = sizes[scale].shape[:2]
            groups.setdefault((size, size) if p.crops == "10" else (height, width), []).append(i)
        for (height, width), members in groups.items():
            room = max(1, p.batch_size * size * size // (views * height * width))
            for start in range(0, len(members), room):
                which = members[start : start + room]
                cut = [_cut(p, images[i][scale]) for i in which]
                yield _Part(np.concatenate(cut), np.array(which), scale)


def _cut(p: Prepared, image: np.ndarray) -> np.ndarray:
    size = p.preprocessing.image_size
    views = ten_crops(image, size) if p.crops == "10" else mirrored_too(image)
    return p.preprocessing.normalise(views / 255 if views.dtype == np.uint8 else views)


def evaluate(
    prepared: Prepared,
    engines: Sequence[Engine],
    *,
    dtype: str = "float32",
    device: Device = "cpu",
    step: Callable[[str], None] = lambda text: None,
    advance: Callable[[float], None] = lambda images: None,
    start: Start = Worker,
) -> Report:
    """Score the weights in each engine, and compare each engine with each.

    Every engine runs in a process of its own; all are there at the same time, and compute in turn.
    In float64, logits may differ by `FLOAT64_TOLERANCE`. In a narrower dtype they may by twice what
    `check` allows one engine from float64: the effect of rounding, measured on some of the views.

    Args:
        prepared: see `prepare`.
        engines: which engines.
        dtype: of parameters and computation.
        device: cpu, gpu or tpu.
        step: called with a few words as each part of the work begins.
        advance: called with the number of images that were dealt with, or a part of one.
        start: gives the worker of an engine on a device, as a context manager.

    Raises:
        ResNetError: if an image cannot be read.
    """
    numpy_dtype(dtype)
    report = Report(prepared, dtype)
    with ExitStack() as stack:
        folder = stack.enter_context(workspace())
        run = _Run(prepared, dtype, folder, report)
        # All processes at once: each takes seconds to import its framework.
        for engine in engines:
            with run.excusing(engine.name):
                run.add(engine, stack.enter_context(start(engine, device)))
        step("starting engines")
        run.load()
        step("evaluating")
        rounds = stack.enter_context(closing(_rounds(prepared)))
        for indices, parts in rounds:
            run.round(indices, parts, advance)
            if not run.alive:
                break
        run.finish()
        if len(report.ran) > 1 and dtype != "float64":
            step("float64 reference")
            run.measure_rounding(device, start)
    _judge(report, dtype)
    return report


@dataclass
class _Tally:
    """What is known of one engine so far."""

    engine: Engine
    worker: Worker
    facts: dict[str, Any] = field(default_factory=dict)
    parameters: int = 0
    ranks: list[np.ndarray] = field(default_factory=list)
    losses: list[np.ndarray] = field(default_factory=list)
    largest: float = 0.0
    """Magnitude of any logit."""
    strange: str | None = None
    """An image of which the logits are not finite."""
    seconds: float = 0.0
    timed: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Seconds and images at each scale, of batches for which nothing was compiled."""

    def speed(self, scales: int) -> float | None:
        """Images a second, each at all scales."""
        if len(self.timed) < scales:
            return None
        return 1 / max(sum(seconds / images for seconds, images in self.timed.values()), 1e-9)


@dataclass
class _Compared:
    """What is known of two engines so far."""

    same: int = 0
    farthest: float = 0.0
    """Largest difference of logits."""
    worst: int = 0
    disagreements: list[dict[str, str]] = field(default_factory=list)


class _Run:
    """An evaluation on its way."""

    def __init__(self, prepared: Prepared, dtype: str, folder: Path, report: Report) -> None:
        self._p, self._dtype, self._folder, self._report = prepared, dtype, folder, report
        self._tallies: dict[str, _Tally] = {}
        self._pairs: dict[tuple[str, str], _Compared] = {}
        self._sample: np.ndarray | None = None
        self._images = self._file("images")
        self._outputs = self._file("outputs")
        self._weights = self._file("weights")
        save_canonical(self._weights, Checkpoint(prepared.state))

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    @contextmanager
    def excusing(self, name: str) -> Iterator[None]:
        """Where an engine may fail, after which the others go on without it."""
        try:
            yield
        except (EngineError, ResNetError) as error:
            self._report.failed[name] = str(error)
            self._tallies.pop(name, None)
            self._pairs = {pair: found for pair, found in self._pairs.items() if name not in pair}

    @property
    def alive(self) -> bool:
        """Whether any engine is left."""
        return bool(self._tallies)

    def add(self, engine: Engine, worker: Worker) -> None:
        """An engine whose process has started."""
        self._tallies[engine.name] = _Tally(engine, worker)

    def load(self) -> None:
        """Wait for the engines, and for their models."""
        for name, tally in list(self._tallies.items()):
            with self.excusing(name):
                tally.facts = tally.worker.call("info")
                net = {
                    "spec": self._p.spec.to_dict(),
                    "weights": str(self._weights),
                    "dtype": self._dtype,
                }
                tally.parameters = tally.worker.call("classify", net=net)["parameters"]
        names = list(self._tallies)
        self._pairs = {pair: _Compared() for pair in itertools.combinations(names, 2)}

    def round(
        self, indices: np.ndarray, parts: Iterator[_Part], advance: Callable[[float], None]
    ) -> None:
        """Some images, in all engines."""
        p = self._p
        found: dict[str, list[list[np.ndarray]]] = {}
        for part in parts:
            save_canonical(self._images, Checkpoint({"images": part.images}))
            if self._sample is None:
                spread = _spread(len(part.images), _SAMPLE)
                self._sample = part.images[spread].copy()
            logits: dict[str, np.ndarray] = {}
            for name in list(self._tallies):
                with self.excusing(name):
                    logits[name] = self._classified(self._tallies[name], part)
                advance(len(part.which) / (len(p.scales) * max(len(self._tallies), 1)))
            self._compare(indices, part, logits)
            for name, array in logits.items():
                of_image = found.setdefault(name, [[] for _ in indices])
                for i, views in zip(part.which, array, strict=True):
                    of_image[i].append(views)
        scores = {name: _scores(arrays) for name, arrays in found.items() if name in self._tallies}
        self._score(indices, scores)

    def _classified(self, tally: _Tally, part: _Part) -> np.ndarray:
        """Logits [n, views, classes]."""
        answer = tally.worker.call("classify", images=str(self._images), outputs=str(self._outputs))
        logits = np.array(read_safetensors(self._outputs).state["logits"], np.float64)
        if logits.shape != (len(part.images), len(self._p.names)):
            raise EngineError(
                f"gave logits {list(logits.shape)} for {len(part.images)} images and "
                f"{len(self._p.names)} classes"
            )
        tally.seconds += answer["seconds"]
        if answer["warm"]:
            seconds, images = tally.timed.get(part.scale, (0.0, 0))
            tally.timed[part.scale] = seconds + answer["seconds"], images + len(part.which)
        return logits.reshape(len(part.which), -1, logits.shape[1])

    def _compare(self, indices: np.ndarray, part: _Part, logits: dict[str, np.ndarray]) -> None:
        for name, array in logits.items():
            tally = self._tallies[name]
            magnitudes = np.abs(array).max((1, 2))
            strange = np.flatnonzero(~np.isfinite(magnitudes))
            if len(strange) and tally.strange is None:
                tally.strange = self._p.dataset.where(int(indices[part.which[strange[0]]]))
            tally.largest = max(
                tally.largest, float(magnitudes[np.isfinite(magnitudes)].max(initial=0))
            )
        for (a, b), pair in self._pairs.items():
            if a not in logits or b not in logits:
                continue
            with np.errstate(invalid="ignore"):
                apart = np.abs(logits[a] - logits[b]).max((1, 2))
            apart[~np.isfinite(apart)] = math.inf
            place = int(apart.argmax())
            if apart[place] > pair.farthest:
                pair.farthest = float(apart[place])
                pair.worst = int(indices[part.which[place]])

    def _score(self, indices: np.ndarray, scores: dict[str, np.ndarray]) -> None:
        labels = self._p.dataset.labels[indices]
        first: dict[str, np.ndarray] = {}
        for name, array in scores.items():
            tally = self._tallies[name]
            tally.ranks.append(ranks(array, labels))
            with np.errstate(invalid="ignore"):
                tally.losses.append(losses(array, labels))
            first[name] = array.argmax(1)
        for (a, b), pair in self._pairs.items():
            different = np.flatnonzero(first[a] != first[b])
            pair.same += len(indices) - len(different)
            for i in different[: _SHOWN - len(pair.disagreements)].tolist():
                pair.disagreements.append(
                    {
                        "image": self._p.dataset.where(int(indices[i])),
                        "label": self._p.names[labels[i]],
                        a: self._p.names[first[a][i]],
                        b: self._p.names[first[b][i]],
                    }
                )

    def finish(self) -> None:
        """Put what was found into the report."""
        p, report = self._p, self._report
        for name, tally in self._tallies.items():
            report.ran.append(
                Evaluated(
                    name,
                    tally.facts["versions"],
                    tally.facts["device"],
                    tally.parameters,
                    summed(np.concatenate(tally.ranks), np.concatenate(tally.losses)),
                    tally.seconds,
                    tally.speed(len(p.scales)),
                )
            )
            if tally.strange is not None:
                report.problems.append(
                    f"{name} gives logits that are not finite numbers, first for {tally.strange}"
                )
        for (a, b), pair in self._pairs.items():
            largest = self._tallies[a].largest
            strange = self._tallies[a].strange or self._tallies[b].strange
            logits = math.nan if strange else _ratio(pair.farthest, largest)
            report.pairs[a, b] = Agreement(
                pair.same / len(p.dataset),
                logits,
                p.dataset.where(pair.worst) if pair.farthest else None,
                pair.disagreements,
            )

    def measure_rounding(self, device: Device, start: Start) -> None:
        """What rounding may do to these logits, as `check` measures it: in float64, by weights that
        are changed as much as rounding changes sums (see `resnet_parity.check.perturbed`).
        """
        p, report = self._p, self._report
        tally = next(iter(self._tallies.values()))
        exact = cast_weights(cast_weights(p.state, self._dtype), "float64")
        assert self._sample is not None
        save_canonical(self._images, Checkpoint({"images": self._sample}))
        # Not on an accelerator, which may have no float64.
        where: AbstractContextManager[Worker] = (
            nullcontext(tally.worker) if device == "cpu" else start(tally.engine, "cpu")
        )
        try:
            with where as worker:
                reference = self._in_float64(worker, exact)
                error = 0.0
                for trial in range(_TRIALS):
                    shaken = perturbed(compile_plan(p.spec), exact, self._dtype, trial)
                    found = difference(reference, self._in_float64(worker, shaken))
                    error = max(error, found.maximum)
        except (EngineError, ResNetError) as failure:
            report.problems.append(f"no float64 reference from {tally.engine.name}: {failure}")
            return
        report.tolerance = 2 * ROUNDING_FACTOR * error
        report.rule = (
            f"{RULE} ≤ {report.tolerance:.1e} between two engines, which is twice "
            f"{ROUNDING_FACTOR:g} times what {self._dtype} rounding is measured to cause"
        )

    def _in_float64(self, worker: Worker, state: State) -> np.ndarray:
        file = self._file("float64")
        save_canonical(file, Checkpoint(state))
        worker.call(
            "predict",
            spec=self._p.spec.to_dict(),
            weights=str(file),
            dtype="float64",
            images=str(self._images),
            outputs=str(self._outputs),
        )
        return np.array(read_safetensors(self._outputs).state["logits"])


def _scores(arrays: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Of images, each with its logits [views, classes] at every scale: float64 [N, classes]."""
    views = np.stack([np.concatenate(of_image) for of_image in arrays])
    if views.shape[1] == 1:
        return views[:, 0]
    with np.errstate(invalid="ignore"):
        return averaged(views)


def _judge(report: Report, dtype: str) -> None:
    for name, reason in report.failed.items():
        report.problems.append(f"{name} failed: {reason}")
    if not report.ran:
        report.problems.append("no engine ran")
    if len(report.ran) > 1 and dtype == "float64":
        report.tolerance = FLOAT64_TOLERANCE
        report.rule = f"{RULE} ≤ {FLOAT64_TOLERANCE:.0e}"
    if report.tolerance is None:
        return
    for (a, b), found in report.pairs.items():
        # Logits that are no numbers are a problem of their own.
        if not math.isnan(found.logits) and found.logits > report.tolerance:
            report.problems.append(
                f"{a} and {b} part by {found.logits:.1e}, over {report.tolerance:.1e}, most at "
                f"{found.worst}"
            )


def _ratio(apart: float, largest: float) -> float:
    if apart == 0:
        return 0.0
    return apart / largest if largest else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


__all__ = [
    "CROPS",
    "PAPER_SCALES",
    "Agreement",
    "Evaluated",
    "Prepared",
    "Report",
    "averaged",
    "evaluate",
    "mirrored_too",
    "prepare",
    "ten_crops",
]
