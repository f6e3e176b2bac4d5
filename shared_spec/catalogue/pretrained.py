"""Published weights by name: where they lie, and what their publishers say of them.

`pretrained.csv` has a line for each set of weights, with what the libraries' own registries tell:
timm's modules `resnet`, `resnetv2` and `regnet`, torchvision's enumerations, keras.applications,
KerasHub's presets, and repositories of transformers, which has no registry. `make pretrained`
writes it anew.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import UnknownModelError, WeightsError, did_you_mean, some
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

TABLE = Path(__file__).with_name("pretrained.csv")
LABELS = Path(__file__).with_name("imagenet1k.txt")
"""torchvision's names of the 1,000 classes of ImageNet, in the usual order."""
VOC = (
    "__background__", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat",
    "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep",
    "sofa", "train", "tvmonitor",
)  # fmt: skip
"""torchvision's names of the 21 classes of Pascal VOC's pixels."""
COLUMNS = (
    "model", "tag", "library", "where", "hash", "license", "image_size", "crop", "interpolation",
    "statistics", "classes", "labels", "top1", "top5", "test_image_size", "test_crop", "test_top1",
    "test_top5",
)  # fmt: skip
_HALF = (0.5, 0.5, 0.5)
STATISTICS: Mapping[
    str, tuple[tuple[float, ...], tuple[float, ...], Literal["rgb", "bgr"]]
] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD, "rgb"),
    "half": (_HALF, _HALF, "rgb"),
    "clip": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        "rgb",
    ),
    "caffe": (tuple(x / 255 for x in (103.939, 116.779, 123.68)), (1 / 255,) * 3, "bgr"),
}  # fmt: skip
"""Mean, standard deviation and order of channels by the names that the table has for them."""
_SYNONYMS = {"DEFAULT": "", "imagenet": ""}
"""Names that torchvision and keras.applications have for the default weights of a net."""


@dataclass(frozen=True)
class Pretrained:
    """One set of published weights."""

    model: str
    """The net, by its name in the catalogue."""
    tag: str
    """Which weights of that net, as their publisher calls them."""
    library: str
    """Whose they are."""
    where: str
    """What `shared_spec.download` fetches."""
    hash: str | None
    """`sha256:` or `md5:` and the digest, or its start, as far as it is published with the place;
    that of files on the Hugging Face Hub is asked of the hub.
    """
    license: str | None
    """As the registry gives it, which most do not."""
    classes: int
    """Number of classes; 0 without a classifier."""
    preprocessing: Preprocessing | None
    """Of an evaluation. None: the files alone tell it."""
    labels: str | None
    """`imagenet-1k` if the classes are those of ImageNet, in the usual order; `pascal-voc`: VOC's
    classes of pixels.
    """
    top1: float | None
    """ImageNet accuracy in percent that the publisher gives, with this preprocessing."""
    top5: float | None
    """The same for the best five."""
    test_preprocessing: Preprocessing | None
    """For images of the size with which timm tests, where it is another."""
    test_top1: float | None
    """Accuracy with `test_preprocessing`."""
    test_top5: float | None
    """The same for the best five."""

    @property
    def name(self) -> str:
        """The net and the tag: `resnet50.a1_in1k`."""
        return f"{self.model}.{self.tag}"

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the classes, if the labels say them."""
        return {"imagenet-1k": imagenet_labels(), "pascal-voc": VOC}.get(self.labels or "")

    @cached_property
    def spec(self) -> ResNetSpec:
        """The net that the weights are for."""
        size = {} if self.preprocessing is None else {"image_size": self.preprocessing.image_size}
        return CATALOGUE[self.model].spec.override(num_classes=self.classes, **size)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        prepared = {
            key: value.model_dump(mode="json")
            for key in ("preprocessing", "test_preprocessing")
            if (value := getattr(self, key)) is not None
        }
        return {"name": self.name, **asdict(self), **prepared}


def _preprocessing(row: Mapping[str, str], begin: str = "") -> Preprocessing | None:
    if not row["statistics"] or not row[f"{begin}image_size"]:
        return None
    mean, std, order = STATISTICS[row["statistics"]]
    told = {"crop": row[f"{begin}crop"], "interpolation": row["interpolation"]}
    fields: dict[str, object] = {key: value for key, value in told.items() if value}
    if told["crop"] == "whole":
        fields |= {"crop": 1, "whole": True}
    elif "crop" in fields:
        fields["crop"] = float(Fraction(told["crop"]))
    fields |= {"image_size": int(row[f"{begin}image_size"]), "channel_order": order}
    return Preprocessing.parse(fields | {"mean": mean, "std": std}, TABLE.name)


def _entry(row: Mapping[str, str]) -> Pretrained:
    def number(column: str) -> float | None:
        return float(row[column]) if row[column] else None

    return Pretrained(
        **{key: row[key] for key in ("model", "tag", "library", "where")},
        hash=row["hash"] or None,
        license=row["license"] or None,
        classes=int(row["classes"]),
        preprocessing=_preprocessing(row),
        labels=row["labels"] or None,
        top1=number("top1"),
        top5=number("top5"),
        test_preprocessing=_preprocessing(row, "test_"),
        test_top1=number("test_top1"),
        test_top5=number("test_top5"),
    )


@cache
def published() -> Mapping[str, Pretrained]:
    """All sets of weights by their names, those of a net together, its default first."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {entry.name: entry for entry in map(_entry, csv.DictReader(file))}


@cache
def _by_place() -> Mapping[str, Pretrained]:
    return {entry.where: entry for entry in published().values()}


def published_at(where: str) -> Pretrained | None:
    """The weights that lie at a place, as `download` takes it, if the table has them."""
    return _by_place().get(where)


def list_pretrained(pattern: str = "*") -> list[str]:
    """Names of published weights, such as `resnet50.a1_in1k`, for which the name or the net matches
    a shell-style pattern.
    """
    found = published().values()
    return [e.name for e in found if fnmatchcase(e.name, pattern) or fnmatchcase(e.model, pattern)]


def find_pretrained(model: str, tag: str | None = None) -> Pretrained:
    """The weights of a net of the catalogue under a tag; without a tag the default ones.

    Args:
        model: `resnet50`, or with its tag `resnet50.a1_in1k`.
        tag: `a1_in1k`, or the whole name `resnet50.a1_in1k`. `DEFAULT` and `imagenet` stand for the
            default weights.

    Raises:
        UnknownModelError: if there are no such weights; it names those of the net.
    """
    name, dot, told = model.partition(".")
    if dot and tag is None:
        tag = told
    tag = None if tag is None else tag.removeprefix(f"{name}.")
    entries = {e.tag: e for e in published().values() if e.model == name}
    if not entries:
        near = did_you_mean(name, dict.fromkeys(e.model for e in published().values())) or ""
        raise UnknownModelError(f"{model}: no published weights of such a net are known{near}")
    if tag in entries:
        return entries[tag]
    if tag is None or tag in _SYNONYMS:
        return next(iter(entries.values()))
    raise UnknownModelError(
        f"{model}: there are no weights {tag!r} for it; expected one of {some(list(entries))}"
    )


def torchvision_weights(name: str) -> Pretrained:
    """The weights that torchvision calls `name`: `ResNet50_Weights.IMAGENET1K_V1`,
    `ResNet50_Weights.DEFAULT`, or `resnet50` for the default; `torchvision:` may stand before it.

    Raises:
        WeightsError: naming the nearest.
    """
    name = name.removeprefix("torchvision:")
    net, dot, tag = name.partition(".")
    found = [e for e in published().values() if e.library == "torchvision"]
    entries = {e.tag: e for e in found if e.model in (net, net.removesuffix("_Weights").lower())}
    if entries and (not dot or tag == "DEFAULT"):
        return next(iter(entries.values()))
    if tag in entries:
        return entries[tag]
    near = did_you_mean(net, {e.model for e in found}) or "; expected a name such as 'resnet50'"
    if entries:
        near = f"; expected one of DEFAULT, {', '.join(entries)} of {net}"
    raise WeightsError(f"torchvision has no ResNet weights named {name!r}{near}")


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes."""
    return tuple(LABELS.read_text(encoding="utf-8").splitlines())
