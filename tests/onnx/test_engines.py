"""Runtimes of ONNX beside the frameworks, in the commands."""

from __future__ import annotations

import pytest

from resnet_parity.check.forward import check
from resnet_parity.engines.registry import ENGINES, RUNTIMES
from resnet_parity.trace.compare import trace
from shared_spec import resolve
from shared_spec.weights.initialize import random_images
from tests.command import refused
from tests.conftest import Pool

SPEC = resolve(
    "resnetv2_50",
    {"depths": [1, 1], "widths": [16, 32], "num_classes": 7, "norm": "group", "norm_groups": 8},
)
TORCH = ENGINES["torch"]


@pytest.mark.parametrize("changes", [{}, {"features_only": True}, {"activation": "gelu"}])
def test_check(pool: Pool, changes: dict[str, object]) -> None:
    engines = [TORCH, *(e for e in RUNTIMES.values() if e.package == "resnet_onnx")]
    report = check(
        SPEC.override(**changes), engines, dtype="float32", sizes=[(33, 40)], start=pool.start
    )
    assert report.problems == []
    assert len(report.pairs) == 6


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_says_that_it_has_no_float64(pool: Pool, name: str) -> None:
    report = check(SPEC, [TORCH, RUNTIMES[name]], sizes=[(33, 40)], start=pool.start)
    assert f"{name} failed: {name} does not compute in float64" in report.problems[0]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("onnx:reference", "float64"), ("onnxruntime", "float32"), ("openvino", "float32")],
)
def test_trace(pool: Pool, name: str, dtype: str) -> None:
    images = random_images((2, 33, 40, 3))
    report = trace(SPEC, TORCH, RUNTIMES[name], images, dtype=dtype, start=pool.start)
    assert report.problems == []
    assert report.unseen == []


@pytest.mark.parametrize(
    "command",
    [
        ("train", "digits", "--engine", "onnxruntime"),
        ("check", "resnet20", "--training", "--engines", "torch,onnxruntime"),
        ("trace", "resnet20", "--engines", "torch,onnxruntime", "--gradients"),
    ],
)
def test_runtimes_do_not_train(command: tuple[str, ...]) -> None:
    assert "onnxruntime: runs models and does not train them; torch, " in refused(*command)
