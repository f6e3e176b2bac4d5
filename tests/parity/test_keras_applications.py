"""keras.applications.ResNet50 is a v1 (stride on the first 1x1) with biases and its own eps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import resnet_torch
from shared_spec import (
    Checkpoint,
    cast_weights,
    compile_plan,
    random_images,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from tests.conftest import Pool


@pytest.mark.parametrize("size", [(64, 64), (65, 65), (97, 64)])
def test_v1_agrees_with_keras_applications(
    pool: Pool, tmp_path: Path, size: tuple[int, int]
) -> None:
    spec = resolve("resnet50", {"stride_on": "1x1", "conv_bias": True, "norm_eps": 1.001e-5})
    state = cast_weights(random_weights(compile_plan(spec), 4), "float64")
    images = random_images((2, *size, 3))
    paths = {k: str(tmp_path / f"{k}.safetensors") for k in ("weights", "images", "output")}
    write_safetensors(paths["weights"], Checkpoint(state))
    write_safetensors(paths["images"], Checkpoint({"images": images}))
    # On the TensorFlow engine keras.applications computes in float64 throughout.
    used = pool["keras:tensorflow"].call("probe", function="applications:logits", **paths)
    assert sorted(used) == sorted(state)
    reference = read_safetensors(paths["output"]).state["logits"]
    model = resnet_torch.create_model(spec, weights=state, dtype="float64")
    logits = resnet_torch.predict(model, images)
    assert np.abs(logits - reference).max() / np.abs(reference).max() <= 1e-12
