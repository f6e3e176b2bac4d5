"""From an image file to a model's input: Pillow and numpy, no framework."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from shared_spec.errors import ImageError, SpecError, some
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.spec.validation import first_problem

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "Image | str | os.PathLike[str]"
"""A Pillow image, or the path of an image file."""
ImagesLike: TypeAlias = "ImageLike | Iterable[ImageLike]"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MODES = {1: "L", 3: "RGB"}


class Preprocessing(BaseModel):
    """How an image becomes an input: shorter side resized, centre cropped, scaled to 0..1, its
    channels put in order, normalised per channel.

    The pixels are those of timm's evaluation transform (crop mode "center"; all its ResNets have
    it) and of torchvision's, on images that were converted to grey or RGB first. The two differ in
    how they give the size before the crop: see `shorter_side`. Grey of 16 bits is scaled here,
    where Pillow's conversion, and so timm's, clips it to white.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image_size: Annotated[int, Field(ge=1, le=65_536)] = 224
    crop: Annotated[float, Field(ge=0.1, le=1)] = 0.875
    """The crop's side as a share of the resized shorter side."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Order of the input's channels, and of mean and std (bgr: Caffe, keras.applications' V1)."""
    whole: bool = False
    """Whether the resized image is not cropped, as torchvision's `SemanticSegmentation` has it:
    `image_size` is then its shorter side."""

    @property
    def shorter_side(self) -> int:
        """Of the resized image, in pixels: `image_size / crop`, its fraction cut off as in timm.

        torchvision names this side itself (232 for crops of 224). `crop=224 / 232` stands for it:
        a quotient is taken for the whole number that it misses by rounding alone.
        """
        return math.floor(self.image_size / self.crop + 1e-6)

    @model_validator(mode="after")
    def _check(self) -> Preprocessing:
        if len(self.mean) != len(self.std) or len(self.mean) not in _MODES:
            raise ValueError("mean and std need one entry per channel, 1 or 3 each")
        if self.whole and self.crop != 1:
            raise ValueError("crop: a whole image has none; give 1")
        return self

    @model_serializer(mode="wrap")
    def _without_later_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """As files are that earlier versions read, where they can say it."""
        data: dict[str, object] = handler(self)
        return data if self.whole else {k: x for k, x in data.items() if k != "whole"}

    @classmethod
    def parse(cls, data: object, where: str) -> Preprocessing:
        """Validate `data`; raises SpecError."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise SpecError(f"{where}: preprocessing {first_problem(error)}") from None

    @classmethod
    def default(cls, spec: ResNetSpec) -> Preprocessing:
        """What weights without a record most likely expect: ImageNet's statistics for 3 channels
        (torchvision's evaluation transform), 0.5 and 0.5 for 1.

        Raises:
            ImageError: for other numbers of channels, which no image file has.
        """
        if spec.in_channels not in _MODES:
            raise ImageError(
                f"the model takes {spec.in_channels} channels, and image files have 1 or 3; "
                f"in Python, predict() takes arrays"
            )
        colour = spec.in_channels == 3
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if colour else ((0.5,), (0.5,))
        if spec.segmentation != "none":
            return cls(image_size=spec.image_size, crop=1, mean=mean, std=std, whole=True)
        return cls(image_size=spec.image_size, mean=mean, std=std)

    def for_channels(self, count: int) -> Preprocessing | None:
        """The same for images of another number of channels, with the averages of mean and standard
        deviation, as timm has them; None where no image file has so many.
        """
        if count not in _MODES:
            return None
        mean, std = ((sum(told) / len(told),) * count for told in (self.mean, self.std))
        return self.model_copy(update={"mean": mean, "std": std})

    def __call__(self, images: ImagesLike) -> np.ndarray:
        """Pillow images or paths of image files, one or several, to float32 [N, H, W, C].

        Examples:
            >>> Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)("cat.jpg").shape
            (1, 224, 224, 3)

        Raises:
            ImageError: if a file is missing or no image, or an image is too narrow, or whole images
                have several sizes.
        """
        several: Any = images
        # Bytes and open files would give numbers and lines.
        one = isinstance(images, str | os.PathLike | bytes | bytearray) or hasattr(images, "read")
        if one or not isinstance(images, Iterable):
            several = [images]
        opened = open_images(list(several))
        if not opened:
            raise ImageError("images: expected at least one, got none")
        prepared = [self._one(image) for image in opened]
        sizes = list(dict.fromkeys(f"{x.shape[0]} x {x.shape[1]}" for x in prepared))
        if len(sizes) > 1:
            raise ImageError(
                f"images: they are taken whole, and would have {some(sizes)} pixels; give "
                f"those of one size together"
            )
        return np.stack(prepared)

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels in 0..1, [..., C] in the order RGB, to float32 inputs."""
        pixels = np.asarray(pixels)
        pixels = pixels[..., ::-1] if self.channel_order == "bgr" else pixels
        scaled: np.ndarray = (pixels - np.array(self.mean)) / np.array(self.std)
        return scaled.astype(np.float32)

    def _one(self, image: Image) -> np.ndarray:
        from PIL.Image import Resampling

        image = converted(image, _MODES[len(self.mean)])
        if not min(image.size) or max(image.size) > 100 * min(image.size):
            raise ImageError(
                f"an image of {image.width} x {image.height} pixels is too narrow to be resized"
            )
        side = self.shorter_side
        longer = side * max(image.size) // min(image.size)
        size = (side, longer) if image.width <= image.height else (longer, side)
        if size != image.size:
            image = image.resize(size, Resampling[self.interpolation.upper()])
        if self.whole:
            pixels = np.asarray(image, np.float64) / 255
            return self.normalise(pixels.reshape(image.height, image.width, -1))
        left = round((image.width - self.image_size) / 2)
        top = round((image.height - self.image_size) / 2)
        box = (left, top, left + self.image_size, top + self.image_size)
        pixels = np.asarray(image.crop(box), np.float64) / 255
        return self.normalise(pixels.reshape(self.image_size, self.image_size, -1))


def converted(image: Image, mode: str) -> Image:
    """A Pillow image in the mode L or RGB; grey of 16 bits is scaled to 8.

    Raises:
        ImageError: if the image's own mode does not allow it.
    """
    if image.mode in ("I", "F"):
        raise ImageError(
            f"an image of mode {image.mode} does not say what white is; save it with 8 or 16 bits"
        )
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip all but the darkest
        from PIL.Image import fromarray

        image = fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    try:
        return image.convert(mode)
    except ValueError:
        raise ImageError(
            f"an image of mode {image.mode} cannot be converted; save it as RGB or grey"
        ) from None


def open_images(paths: Sequence[ImageLike]) -> list[Image]:
    """Decode image files, turned upright as their EXIF data says; Pillow images stay as they are.

    Raises:
        ImageError: naming the first file that is missing or is no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    images: list[Image.Image] = []
    for path in paths:
        if isinstance(path, Image.Image):
            images.append(path)
            continue
        if not isinstance(path, str | os.PathLike):
            raise ImageError(
                f"images: expected Pillow images or paths, got {type(path).__name__}; arrays that "
                f"are normalised already go to predict()"
            )
        try:
            with Image.open(path) as image:
                images.append(ImageOps.exif_transpose(image).copy())
        except FileNotFoundError:
            raise ImageError(f"{path}: there is no such image file") from None
        except IsADirectoryError:
            raise ImageError(f"{path}: is a directory; name the image files in it") from None
        except UnidentifiedImageError:
            raise ImageError(f"{path}: not an image that Pillow can read") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ImageError(f"{path}: the image cannot be decoded ({error})") from None
    return images
