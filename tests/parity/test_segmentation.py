"""Classes for each pixel; torchvision's FCN and DeepLabV3 are the judge."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.check.forward import check
from resnet_parity.engines.registry import ALL_ENGINES
from shared_spec import (
    Checkpoint,
    ResNetError,
    SpecError,
    cast_weights,
    compile_plan,
    optimization,
    random_images,
    random_weights,
    read_safetensors,
    resolve,
    write_checkpoint,
    write_safetensors,
)
from shared_spec.plan.resampling import linear
from tests.conftest import Pool
from tests.peers import torchvision_models
from tests.tiers import engines, selected

NARROW: dict[str, Any] = {"depths": [1, 1, 1], "widths": [8, 16, 16], "stem_width": 8}
FIELDS: dict[str, Any] = {"auxiliary": True, "num_classes": 5, "output_stride": 8}
# Torchvision's names of its functions, too; the deeper ones are alike.
NAMES = [f"{kind}_resnet{depth}" for kind in ("fcn", "deeplabv3") for depth in (50, 101)]


@pytest.mark.parametrize("name", selected(["fcn_resnet50", "deeplabv3_resnet50"], NAMES))
def test_torchvision_agrees(name: str, tmp_path: Path) -> None:
    torchvision_models()
    from torchvision.models import segmentation

    kind, _, body = name.partition("_")
    fields = FIELDS | {"segmentation": kind.removesuffix("v3"), "num_classes": 21}
    spec = resolve(body, fields)
    p = compile_plan(spec)
    state = cast_weights(random_weights(p, 1), "float64")
    ours = resnet_torch.create_model(spec, weights=state, dtype="float64").eval()
    options = {"weights": None, "weights_backbone": None, "aux_loss": True, "num_classes": 21}
    theirs = getattr(segmentation, name)(**options).double().eval()
    assert sum(q.numel() for q in theirs.parameters()) == p.parameter_count()
    renamed = {
        k if "classifier." in k else f"backbone.{k}": v for k, v in ours.state_dict().items()
    }
    assert list(renamed) == list(theirs.state_dict())
    theirs.load_state_dict(renamed, strict=True)
    for size in ((64, 64), (65, 65), (97, 64)):
        images = random_images((1, *size, 3))
        with torch.inference_mode():
            reference = theirs(torch.from_numpy(images).double().permute(0, 3, 1, 2))
        for a, key in zip(resnet_torch.predict(ours, images), ("out", "aux"), strict=True):
            b = reference[key].permute(0, 2, 3, 1).numpy()
            assert np.abs(a - b).max() / np.abs(b).max() <= 1e-12
    file = tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), file)
    read = resnet_torch.create_model(spec, weights=file, dtype="float64")
    found = resnet_torch.export_weights(read)
    assert all(np.array_equal(array, state[k]) for k, array in found.items())
    write_checkpoint(tmp_path / "ours.pth", Checkpoint(found, spec), to="torchvision")
    theirs.load_state_dict(torch.load(tmp_path / "ours.pth"), strict=True)


@pytest.mark.parametrize("kind", ["fcn", "deeplab"])
def test_engines_agree(pool: Pool, kind: str) -> None:
    spec = resolve("resnet50", NARROW | FIELDS | {"segmentation": kind})
    chosen = [*engines(), ALL_ENGINES["onnx:reference"]]
    report = check(spec, chosen, sizes=((67, 45),), compiled=False, start=pool.start)
    assert report.problems == []
    assert len(report.pairs) == len(chosen) * (len(chosen) - 1) // 2


@pytest.mark.parametrize("engine", selected(["flax"], ["keras:torch", "keras:tensorflow", "flax"]))
def test_steps_leave_the_same_weights(pool: Pool, engine: str, tmp_path: Path) -> None:
    # In evaluation mode, as no two engines drop the same.
    fields = {"segmentation": "deeplab", "norm": "frozen_batch", "output_stride": 8}
    spec = resolve("resnet18", NARROW | fields | {"num_classes": 3})
    state = cast_weights(random_weights(compile_plan(spec), 4), "float64")
    weights = tmp_path / "weights.safetensors"
    write_safetensors(weights, Checkpoint(state))
    found = []
    for name in ("torch", engine):
        outputs = tmp_path / f"{name.replace(':', '-')}.safetensors"
        arguments = {"spec": spec.to_dict(), "weights": str(weights), "outputs": str(outputs)}
        pool[name].call("probe", function="pyramids:descend", training=False, **arguments)
        found.append(read_safetensors(outputs).state)
    for q in compile_plan(spec).parameters():
        before, a, b = state[q.name], found[0][q.name], found[1][q.name]
        if q.trainable:
            moved = np.abs(a - before).max()
            assert moved > 0, q.name
            assert np.abs(a - b).max() / moved <= 1e-9, q.name


def test_places_are_those_that_torch_takes() -> None:
    for side, length in ((1, 9), (9, 67), (6, 45), (8, 64), (13, 97), (5, 5)):
        row = torch.arange(side, dtype=torch.float64) ** 2
        taken = torch.nn.functional.interpolate(
            row[None, None, None], size=(1, length), mode="bilinear"
        )
        low, high, part, whole = linear(np, side, length)
        x = row.numpy()
        between = x[low] + (x[high] - x[low]) * (part / whole)
        np.testing.assert_allclose(between, taken[0, 0, 0].numpy(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auxiliary": True}, "auxiliary: needs segmentation"),
        ({"segmentation": "fcn", "num_classes": 0}, "num_classes: segmentation needs at least 1"),
        (
            {"segmentation": "fcn", "features_only": True},
            "features_only: True cannot be combined with segmentation",
        ),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        resolve("resnet18", fields)


def test_a_trainer_takes_none() -> None:
    net = resnet_torch.create_model(resolve("resnet18", NARROW | {"segmentation": "fcn"}))
    with pytest.raises(ResNetError, match="no classes to learn for whole images"):
        resnet_torch.Trainer(net, optimization(learning_rate=0.1), 5)
