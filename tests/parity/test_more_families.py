"""Families beyond timm's `resnet` and `resnetv2`, each against its judge: same keys, strict loads
both ways, same logits at an even, an odd and a non-square size, and narrow nets in five engines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.check.forward import check
from shared_spec import (
    ResNetSpec,
    cast_weights,
    compile_plan,
    list_models,
    random_images,
    random_weights,
    resolve,
)
from tests.conftest import Pool
from tests.peers import timm_model
from tests.tiers import choice, engines

DEPTHS = (1, 2, 1, 2)
SENETS = (
    "legacy_senet154", "legacy_seresnet18", "legacy_seresnet50", "legacy_seresnext26_32x4d",
)  # fmt: skip
SIZES = [(64, 64), (65, 65), (97, 66)]


def ours(spec: ResNetSpec) -> Any:
    """Our model in float64 with random weights, statistics included."""
    state = cast_weights(random_weights(compile_plan(spec), 3), "float64")
    return resnet_torch.create_model(spec, weights=state, dtype="float64").eval()


def compare(model: Any, judge: Any, sizes: list[tuple[int, int]]) -> None:
    """Keys, strict loads both ways, and results at each size."""
    judge.double().eval()
    assert list(model.state_dict()) == list(judge.state_dict())
    judge.load_state_dict(model.state_dict(), strict=True)
    model.load_state_dict(judge.state_dict(), strict=True)
    for size in sizes:
        images = random_images((2, *size, 3))
        with torch.inference_mode():
            expected = judge(torch.from_numpy(images).double().permute(0, 3, 1, 2)).numpy()
        found = resnet_torch.predict(model, images)
        assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-12


@pytest.mark.parametrize("name", SENETS)
def test_timms_senets_agree(name: str) -> None:
    judge = timm_model(name, layers=DEPTHS)
    compare(ours(resolve(name, {"depths": DEPTHS})), judge, SIZES)


@pytest.mark.parametrize("name", list_models("legacy_*"))
def test_counts_and_settings_are_timms(name: str) -> None:
    with torch.device("meta"):
        judge = timm_model(name)
    spec = resolve(name)
    count = sum(p.numel() for p in judge.parameters())
    assert compile_plan(spec).parameter_count() == count
    assert spec.drop_rate == judge.drop_rate
    assert spec.image_size == judge.default_cfg["input_size"][1]
    # All options but depth are compared.
    assert any(resolve(other, {"depths": spec.depths}) == spec for other in SENETS)


def test_timms_methods_of_a_senet() -> None:
    judge = timm_model("legacy_seresnet18", layers=DEPTHS).eval()
    model = ours(resolve("legacy_seresnet18", {"depths": DEPTHS})).float()
    judge.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        _, expected = judge.forward_intermediates(x)
        _, found = model.forward_intermediates(x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert model.feature_info.channels() == judge.feature_info.channels()
    assert model.feature_info.reduction() == judge.feature_info.reduction()
    for key in ("first_conv", "classifier", "input_size", "pool_size"):
        assert model.pretrained_cfg[key] == judge.pretrained_cfg[key]
    assert model.get_classifier() is model.last_linear
    model.reset_classifier(5)
    assert model(x).shape == (1, 5)


NARROW: dict[str, Any] = {"depths": [1, 1], "widths": [16, 32], "stem_width": 16, "num_classes": 7}
SPECS = {
    "senet": resolve("legacy_seresnet18", NARROW),
    "senet154": resolve(
        "legacy_senet154", NARROW | {"groups": 2, "base_width": 64, "activation": "silu"}
    ),
}
"""One spec for each set of options that is new, narrow and short."""


@pytest.mark.parametrize("name", SPECS)
def test_five_engines_agree(pool: Pool, name: str) -> None:
    sizes = [(32, 32), (45, 33)] if choice.tier == "all" else [(45, 33)]
    ran = engines()
    report = check(SPECS[name], ran, sizes=sizes, compiled=False, start=pool.start)
    assert report.problems == []
    assert len(report.pairs) == len(ran) * (len(ran) - 1) // 2
