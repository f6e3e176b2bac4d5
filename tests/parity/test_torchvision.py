"""torchvision as a further opinion on its ten names: same keys, strict loads, same logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import resnet_torch
from shared_spec import cast_weights, compile_plan, random_images, random_weights, resolve
from tests.peers import torchvision_models
from tests.tiers import selected

# Parameters as published in torchvision's documentation of the pretrained weights.
PUBLISHED = {
    "resnet18": 11689512,
    "resnet34": 21797672,
    "resnet50": 25557032,
    "resnet101": 44549160,
    "resnet152": 60192808,
    "resnext50_32x4d": 25028904,
    "resnext101_32x8d": 88791336,
    "resnext101_64x4d": 83455272,
    "wide_resnet50_2": 68883240,
    "wide_resnet101_2": 126886696,
}


@pytest.mark.parametrize(("name", "count"), list(PUBLISHED.items()))
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    assert compile_plan(resolve(name)).parameter_count() == count


# The others are deeper or wider.
FEW = ["resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2"]


@pytest.mark.parametrize("name", selected(FEW, PUBLISHED))
def test_torchvision_agrees(name: str) -> None:
    p = compile_plan(resolve(name))
    theirs = torchvision_models().get_model(name).double().eval()
    state = cast_weights(random_weights(p, 1), "float64")
    ours = resnet_torch.create_model(name, weights=state, dtype="float64").eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for size in ((64, 64), (65, 65), (97, 64)):
        images = random_images((2, *size, 3))
        with torch.inference_mode():
            reference = theirs(torch.from_numpy(images).double().permute(0, 3, 1, 2)).numpy()
        logits = resnet_torch.predict(ours, images)
        assert np.abs(logits - reference).max() / np.abs(reference).max() <= 1e-12
    ours.load_state_dict(theirs.state_dict(), strict=True)


def test_a_fresh_torchvision_state_dict_loads_by_our_verb() -> None:
    theirs = torchvision_models().resnet18()
    state = {k: v.numpy() for k, v in theirs.state_dict().items() if "num_batches" not in k}
    model = resnet_torch.create_model("resnet18", weights=state)
    for name, array in resnet_torch.export_weights(model).items():
        np.testing.assert_array_equal(array, state[name])
