"""Preprocessing against the evaluation transforms of timm, torchvision and keras.applications."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared_spec import ImageError, Preprocessing, SpecError
from shared_spec.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from tests.peers import torchvision_models

# Width and height: landscape, portrait, square; smaller and larger than what they become; odd;
# already of the size before a crop; and narrow.
SHAPES = [
    (300, 200), (211, 333), (97, 97), (500, 375), (31, 47), (1, 1), (256, 256), (235, 341),
    (7, 640),
]  # fmt: skip
CROPS = [0.875, 0.9, 0.91, 0.94, 0.95, 1.0]
"""All that timm's ResNets have."""
WHOLE = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
"""Leaves the pixels 0 to 255."""


def picture(shape: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Coarse noise, so that neither a shift by a pixel nor another filter goes unnoticed."""
    rng = np.random.default_rng(sum(shape))
    width, height = shape
    small = rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 4), np.uint8)
    pixels = small.repeat(3, 0).repeat(3, 1)[:height, :width]
    image = Image.fromarray(pixels)
    if mode == "P":
        return image.convert("RGB").quantize(64)
    if mode in ("LA", "RGBA"):
        return image.convert(mode)
    return image.convert("RGB").convert(mode)


def timm_transform(**options: Any) -> Any:
    torchvision_models()
    data = importlib.import_module("timm.data")
    return data.create_transform(is_training=False, crop_mode="center", **options)


def ours(prepare: Preprocessing, image: Image.Image) -> np.ndarray:
    return prepare([image])[0].transpose(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [64, 97, 224])
def test_pixels_are_those_of_timm(interpolation: str, size: int) -> None:
    for crop in CROPS:
        theirs = timm_transform(
            input_size=(3, size, size), interpolation=interpolation, crop_pct=crop, normalize=False
        )
        prepare = Preprocessing(image_size=size, crop=crop, interpolation=interpolation, **WHOLE)
        for shape in SHAPES:
            image = picture(shape)
            expected = theirs(image).numpy()
            np.testing.assert_array_equal(np.round(ours(prepare, image), 3), expected, str(shape))


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr", "HSV"])
def test_inputs_are_those_of_timm(mode: str) -> None:
    """timm's datasets convert to RGB, or to grey if the model takes one channel."""
    for channels, target in ((3, "RGB"), (1, "L")):
        mean, std = IMAGENET_MEAN[:channels], IMAGENET_STD[:channels]
        options = {"interpolation": "bicubic", "mean": mean, "std": std}
        theirs = timm_transform(input_size=(channels, 97, 97), crop_pct=0.95, **options)
        prepare = Preprocessing(image_size=97, crop=0.95, **options)
        for shape in SHAPES:
            image = picture(shape, mode)
            assert image.mode == mode
            expected = theirs(image.convert(target)).numpy()
            found = ours(prepare, image)
            assert (found.dtype, found.shape) == (np.float32, (channels, 97, 97))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_are_scaled_and_not_clipped(mode: str) -> None:
    """Pillow's conversion, and so timm's, would make all but the darkest white."""
    grey = picture((300, 200), "L")
    kind = ">u2" if mode == "I;16B" else "<u2"
    wide = (np.asarray(grey).astype(np.uint16) * 257).astype(kind)
    image = Image.frombytes(mode, grey.size, wide.tobytes())
    prepare = Preprocessing(image_size=64, mean=(0.5,), std=(0.5,))
    np.testing.assert_array_equal(ours(prepare, image), ours(prepare, grey))


@pytest.mark.parametrize("version", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_inputs_are_those_of_torchvision(version: str) -> None:
    theirs = torchvision_models().ResNet50_Weights[version].transforms()
    resized = {"IMAGENET1K_V1": 256, "IMAGENET1K_V2": 232}[version]
    prepare = Preprocessing(crop=224 / resized, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    for shape in SHAPES:
        image = picture(shape)
        expected = theirs(image).numpy()
        np.testing.assert_allclose(ours(prepare, image), expected, rtol=0, atol=1e-6)


def test_whole_images_are_those_of_torchvision() -> None:
    theirs = torchvision_models().get_model_weights("fcn_resnet50").DEFAULT.transforms()
    prepare = Preprocessing(
        image_size=520, crop=1, mean=IMAGENET_MEAN, std=IMAGENET_STD, whole=True
    )
    for shape in SHAPES[:5]:
        image = picture(shape)
        np.testing.assert_allclose(ours(prepare, image), theirs(image).numpy(), rtol=0, atol=1e-6)
    assert "whole" not in Preprocessing(**WHOLE).model_dump(mode="json")
    assert Preprocessing.parse(prepare.model_dump(mode="json"), "here") == prepare
    with pytest.raises(ImageError, match="would have 520 x 780, 820 x 520 pixels"):
        prepare([picture((300, 200)), picture((211, 333))])
    with pytest.raises(SpecError, match="a whole image has none"):
        Preprocessing.parse({**WHOLE, "whole": True}, "here")


def test_every_whole_number_can_be_the_side_before_the_crop() -> None:
    for size in (1, 32, 97, 224, 448):
        for side in range(size, 4 * size + 1):
            prepare = Preprocessing(image_size=size, crop=size / side, **WHOLE)
            assert prepare.shorter_side == side


KERAS = """
import sys
import numpy as np
from keras.applications import resnet, resnet_v2
pixels = np.load(sys.argv[1]).astype(np.float32)
np.save(sys.argv[2], resnet.preprocess_input(pixels.copy()))
np.save(sys.argv[3], resnet_v2.preprocess_input(pixels.copy()))
"""


def test_inputs_are_those_of_keras_applications(tmp_path: Path) -> None:
    image = picture((224, 224))
    pixels, *found = (tmp_path / name for name in ("pixels.npy", "v1.npy", "v2.npy"))
    np.save(pixels, np.asarray(image))
    subprocess.run(
        [sys.executable, "-c", KERAS, pixels, *found],
        env=os.environ | {"KERAS_BACKEND": "numpy"}, check=True, timeout=120,
    )  # fmt: skip
    caffe = Preprocessing(
        crop=1.0,
        mean=tuple(x / 255 for x in (103.939, 116.779, 123.68)),
        std=WHOLE["std"],
        channel_order="bgr",
    )
    half = Preprocessing(crop=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    # Float32 has steps of 1.5e-5 below 255.
    for prepare, path, atol in zip((caffe, half), found, (2e-5, 1e-6), strict=True):
        np.testing.assert_allclose(prepare([image])[0], np.load(path), rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("mode", "size", "message"),
    [
        ("LAB", (32, 32), "mode LAB cannot be converted; save it as RGB or grey"),
        ("F", (32, 32), "mode F does not say what white is"),
        ("RGB", (1, 101), "1 x 101 pixels is too narrow"),
        ("RGB", (0, 0), "0 x 0 pixels is too narrow"),
    ],
)
def test_images_that_cannot_be_inputs_are_refused(
    mode: str, size: tuple[int, int], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        Preprocessing(image_size=32, mean=(0.5,), std=(0.5,))([Image.new(mode, size)])
