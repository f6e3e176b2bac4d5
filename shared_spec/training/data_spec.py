"""What a training reads: where the images are, and how they are varied, declared and validated.

`resnet_parity.datasets` opens and applies it. Normalisation is not declared here: mean and standard
deviation travel with the weights, as `Preprocessing`.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from shared_spec.errors import DataError, did_you_mean
from shared_spec.spec.resnet_spec import Flag
from shared_spec.training.optimization import ByName, Declared

Split = Literal["train", "held_out"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Pixels = Annotated[int, Field(strict=True, ge=1, le=65_536)]
Area = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(ge=0.01, le=100)]
Margin = Annotated[int, Field(strict=True, ge=1, le=1_024)]
Text = Annotated[str, Field(min_length=1, max_length=4_096)]

_SPLITS = {"idx": ("train", "t10k"), "folder": ("train", "val"), "huggingface": ("train", None)}
"""What the splits of a format are called unless something else is said."""
_PADDED = ("cifar10", "cifar100", "idx", "digits")
"""Formats whose images have one size in all their files."""


class DataSpec(Declared):
    """A data set in one of the formats in which they are published."""

    origin, refusal = "data", DataError

    format: Literal["cifar10", "cifar100", "idx", "folder", "huggingface", "digits"]
    """cifar10, cifar100: the binary or the Python version. idx: MNIST's files, plain or gzipped.
    folder: a folder of images for each class. huggingface: a data set of the Hub or one saved by
    it. digits: scikit-learn's 1,797 digits of 8x8 pixels."""
    path: Text | None = None
    """The directory; for CIFAR the .tar.gz as published too; for huggingface owner/name or a
    directory. digits has none."""
    train_split: Text | None = None
    """Which part is trained on: how the names of idx files begin (train), the subfolder (train), or
    the split of huggingface (train)."""
    held_out_split: Text | None = None
    """Which part is held out: t10k, val, or validation or test, as train_split."""
    labels: Literal["fine", "coarse"] = "fine"
    """cifar100: its 100 classes, or their 20 groups."""
    image_column: Text | None = None
    """huggingface: left out where only one column has images."""
    label_column: Text | None = None
    """huggingface: left out where only one column has classes."""
    class_names: Annotated[tuple[Text, ...], Field(max_length=1_000_000)] = ()
    """Of the classes, in the order of the labels; left out: those of the files, or numbers."""
    channels: Literal[1, 3] | None = None
    """Left out: as stored, and 3 for folder and huggingface. 3 repeats grey."""
    image_size: Pixels | None = None
    """Height and width up to which smaller images are padded evenly with zeros (28 to 32 for
    LeNet's MNIST). Not for folder and huggingface, whose images vary in size."""
    per_pixel_mean: Flag = False
    """Subtract the mean image of the training data in place of one mean a channel (the CIFAR recipe
    of He et al. 2015)."""

    @model_validator(mode="after")
    def _check(self) -> DataSpec:
        if self.format == "digits" and self.path is not None:
            raise ValueError("path: digits come with scikit-learn; leave it out")
        if self.format != "digits" and self.path is None:
            raise ValueError(f"path: the format {self.format!r} needs one")
        for field, formats in (
            ("train_split", tuple(_SPLITS)),
            ("held_out_split", tuple(_SPLITS)),
            ("labels", ("cifar100",)),
            ("image_column", ("huggingface",)),
            ("label_column", ("huggingface",)),
            ("image_size", _PADDED),
            ("per_pixel_mean", _PADDED),
        ):
            given = getattr(self, field) != type(self).model_fields[field].default
            if given and self.format not in formats:
                raise ValueError(
                    f"{field}: the format {self.format!r} has none; {', '.join(formats)} "
                    f"{'do' if len(formats) > 1 else 'does'}"
                )
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("class_names: two classes have one name")
        if self.split("train") == self.split("held_out") is not None:
            raise ValueError(
                f"held_out_split: {self.split('train')!r} is used for training; name another"
            )
        return self

    def split(self, split: Split) -> str | None:
        """What the format calls this split; None where its files leave no choice, or the data set
        has to be asked.
        """
        train, held_out = _SPLITS.get(self.format, (None, None))
        if split == "train":
            return self.train_split or train
        return self.held_out_split or held_out


class PadCrop(Declared):
    """Zeros on all sides, then a crop at a uniformly drawn place (He et al. 2015, section 4.2)."""

    name: Literal["pad_crop"] = "pad_crop"
    padding: Margin = 4
    """Pixels of zeros on each side."""
    size: Pixels | None = None
    """Height and width of the crop; left out: those of the image."""


class Shift(Declared):
    """Moved by up to so many whole pixels in each direction, uniformly; zeros move in."""

    name: Literal["shift"] = "shift"
    pixels: Margin = 1


class Flip(Declared):
    """Left and right exchanged."""

    name: Literal["flip"] = "flip"
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5


class Resize(Declared):
    """The shorter side to `size`, the longer one in proportion."""

    name: Literal["resize"] = "resize"
    size: Pixels
    interpolation: Interpolation = "bilinear"


class CenterCrop(Declared):
    """The square in the middle."""

    name: Literal["center_crop"] = "center_crop"
    size: Pixels


class ScaleCrop(Declared):
    """The shorter side resized to a length drawn uniformly from `shorter_side`, both ends included,
    then a square at a uniformly drawn place: the scale augmentation of Simonyan and Zisserman 2014
    and He et al. 2015, section 3.4.
    """

    name: Literal["scale_crop"] = "scale_crop"
    size: Pixels = 224
    shorter_side: tuple[Pixels, Pixels] = (256, 480)
    interpolation: Interpolation = "bilinear"

    @model_validator(mode="after")
    def _check(self) -> ScaleCrop:
        low, high = self.shorter_side
        if not self.size <= low <= high:
            raise ValueError(
                f"shorter_side: {low} to {high} has to ascend, and to begin at the size "
                f"{self.size} or above"
            )
        return self


class RandomResizedCrop(Declared):
    """A rectangle with a uniform share of the area and a log-uniform ratio of width to height,
    resized to a square (Szegedy et al. 2014; the rule is torchvision's, which tries ten times and
    then takes the middle).
    """

    name: Literal["random_resized_crop"] = "random_resized_crop"
    size: Pixels = 224
    scale: tuple[Area, Area] = (0.08, 1.0)
    ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"

    @model_validator(mode="after")
    def _check(self) -> RandomResizedCrop:
        for field in ("scale", "ratio"):
            low, high = getattr(self, field)
            if low > high:
                raise ValueError(f"{field}: {low} to {high} has to ascend")
        return self


class ColorPCA(Declared):
    """AlexNet's lighting, the "standard color augmentation" of He et al. 2015: along each principal
    component of ImageNet's RGB values, a normal multiple of its eigenvalue is added to all pixels.
    The result is not clipped.
    """

    name: Literal["color_pca"] = "color_pca"
    std: Annotated[float, Field(gt=0, le=10)] = 0.1


_Augmentation = (
    PadCrop | Shift | Flip | Resize | CenterCrop | ScaleCrop | RandomResizedCrop | ColorPCA
)
_NAMES = tuple(kind.model_fields["name"].default for kind in get_args(_Augmentation))


def _known(value: object) -> object:
    if isinstance(value, dict) and value.get("name") not in _NAMES:
        near = did_you_mean(str(value.get("name")), _NAMES)
        raise ValueError(f"an augmentation needs a name, one of {', '.join(_NAMES)}{near}")
    return value


Augmentation = Annotated[
    Annotated[_Augmentation, Field(discriminator="name")],
    BeforeValidator(_known),
    ByName,
]
"""One step of an augmentation, told apart by `name`. Steps are applied in the order given."""

Augmentations = Annotated[tuple[Augmentation, ...], Field(max_length=32)]
