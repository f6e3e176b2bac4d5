"""Things of a wrong kind are refused in one sentence that says what would be taken."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared_spec import (
    ImageError,
    Preprocessing,
    ResNetError,
    SpecError,
    compile_plan,
    list_models,
    resolve,
)
from shared_spec.backend import as_images
from shared_spec.origin import origin_of

SHAPE = (1, 32, 32, 3)
PLAN = compile_plan(resolve("resnet20"))
PREPARE = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (b"abc", "got bytes"),
        ("cat.jpg", "got str"),
        (Path("cat.jpg"), f"got {type(Path()).__name__}"),
        (None, "got NoneType"),
        ({"a": 1}, "got dict"),
        (["cat.jpg"], "got list of texts"),
        (np.array([b"abc"]), "got an array of bytes"),
        (np.zeros(SHAPE, bool), "got an array of truth values"),
        (np.zeros(SHAPE, complex), "got an array of complex128"),
        (np.zeros(SHAPE, "M8[s]"), r"got an array of datetime64\[s\]"),
        (np.zeros(SHAPE, [("a", "f4")]), "got an array of records"),
        (np.full(SHAPE, None), "got an array of objects"),
        ([[1], [1, 2]], r"got list that numpy does not take \(setting an array element"),
        (torch.zeros(SHAPE, dtype=torch.bfloat16), r"got Tensor that numpy .*BFloat16\)"),
        (torch.zeros(SHAPE, requires_grad=True), r"got Tensor that numpy .* requires grad\)"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_images_that_are_none(images: Any, told: str) -> None:
    with pytest.raises(ImageError) as caught:
        as_images(images, PLAN)
    message = str(caught.value)
    assert re.match(f"images: expected an array of numbers, {told}", message), message
    assert len(message) < 140
    assert "\n" not in message


@pytest.mark.parametrize(
    "images", [np.zeros(SHAPE), np.zeros(SHAPE, ">u2"), np.zeros(SHAPE).tolist(), torch.ones(SHAPE)]
)
def test_images_of_any_numbers(images: Any) -> None:
    assert as_images(images, PLAN).shape == SHAPE


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (b"abc", "got bytes"),
        (bytearray(b"abc"), "got bytearray"),
        (io.BytesIO(b"abc\n"), "got BytesIO"),
        (np.zeros((8, 8, 3), np.uint8), "got ndarray"),
        (None, "got NoneType"),
        ([["cat.jpg"]], "got list"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_files_that_are_none(images: Any, told: str) -> None:
    with pytest.raises(ImageError, match=f"images: expected Pillow images or paths, {told};"):
        PREPARE(images)


def test_a_directory_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a directory; name the image files in it"):
        PREPARE(tmp_path)


@pytest.mark.parametrize("pattern", [["resnet18"], ("resnet18",), b"resnet18", 18, None, {}])
@pytest.mark.parametrize("pretrained", [False, True])
def test_patterns_that_are_no_text(pattern: Any, pretrained: bool) -> None:
    with pytest.raises(SpecError, match=f"pattern: .* got {type(pattern).__name__}"):
        list_models(pattern, pretrained=pretrained)


@pytest.mark.parametrize("pretrained", [["a1_in1k"], b"a1_in1k", 1, {}])
def test_tags_that_are_no_text(pretrained: Any) -> None:
    """And not the default weights for whatever is true."""
    with pytest.raises(ResNetError, match=f"pretrained: .* got {type(pretrained).__name__}"):
        origin_of("resnet18", None, pretrained)
