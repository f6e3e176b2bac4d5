"""Feature pyramids and frozen norms; torchvision's detectors are the judge."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.check.forward import check
from resnet_parity.engines.registry import ALL_ENGINES, ENGINES
from resnet_parity.render.drawing.kinds import taken_apart
from shared_spec import (
    Checkpoint,
    ResNetSpec,
    SpecError,
    cast_weights,
    compile_plan,
    random_images,
    random_weights,
    read_checkpoint,
    read_safetensors,
    resolve,
    write_checkpoint,
    write_safetensors,
)
from shared_spec.plan.resampling import nearest
from tests.conftest import ROOT, Pool
from tests.peers import torchvision_models
from tests.tiers import choice, engines, selected

NARROW: dict[str, Any] = {"depths": [1, 1, 1], "widths": [8, 16, 16], "stem_width": 8}
FPN: dict[str, Any] = {"features_only": True, "pyramid": 12}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "frozen, pool": ("resnet18", {"norm": "frozen_batch", "pyramid_extra": "pool"}),
    "norms, from P5": ("resnet50", {"pyramid_norm": True, "pyramid_extra": "p6p7"}),
    "frozen norms, from C5": (
        "resnet50",
        {
            "norm": "frozen_batch",
            "pyramid_norm": True,
            "out_indices": [2, 3, 4],
            "pyramid_extra": "p6p7_of_stage",
        },
    ),
    "one level": ("resnet18", {"out_indices": [4]}),
}
IN_FIVE = {
    "frozen norms": resolve(
        "resnet50",
        NARROW | FPN | {"norm": "frozen_batch", "pyramid_norm": True, "pyramid_extra": "p6p7"},
    ),
    "pre-activation, dilated": resolve(
        "resnetv2_50",
        NARROW | FPN | {"output_stride": 8, "pyramid_extra": "pool", "out_indices": [1, 3]},
    ),
}


def spec_of(name: str) -> ResNetSpec:
    base, fields = NETS[name]
    return resolve(base, FPN | fields)


def theirs_of(spec: ResNetSpec, norm: Any) -> Any:
    """torchvision's net, its `body` cut at the levels, with its pyramid."""
    models = torchvision_models()
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops import feature_pyramid_network as fpn

    name = "resnet18" if spec.block == "basic" else "resnet50"
    body = models.get_model(name, norm_layer=norm)
    levels = spec.out_indices or (1, 2, 3, 4)
    widths = [spec.out_channels[i - 1] for i in levels]
    assert spec.pyramid is not None
    extra = {
        "none": lambda: None,
        "pool": fpn.LastLevelMaxPool,
        "p6p7": lambda: fpn.LastLevelP6P7(spec.pyramid, spec.pyramid),
        "p6p7_of_stage": lambda: fpn.LastLevelP6P7(widths[-1], spec.pyramid),
    }[spec.pyramid_extra]()
    returned = {f"layer{i}": str(n) for n, i in enumerate(levels)}
    net = BackboneWithFPN(body, returned, widths, spec.pyramid, extra)
    pyramid = fpn.FeaturePyramidNetwork(
        widths, spec.pyramid, extra, norm if spec.pyramid_norm else None
    )
    # `BackboneWithFPN` would take "no extra" for its pool.
    net.fpn = pyramid
    return net


@pytest.mark.parametrize("name", NETS)
def test_torchvision_agrees(name: str) -> None:
    spec = spec_of(name)
    p = compile_plan(spec)
    state = cast_weights(random_weights(p, 1), "float64")
    ours = resnet_torch.create_model(spec, weights=state, dtype="float64").eval()
    torchvision_models()
    from torchvision.ops import FrozenBatchNorm2d

    theirs = theirs_of(spec, FrozenBatchNorm2d if spec.norm == "frozen_batch" else None)
    if spec.pyramid_norm and spec.norm == "batch":
        theirs = theirs_of(spec, torch.nn.BatchNorm2d)
    theirs = theirs.double().eval()
    renamed = OrderedDict(
        (k if k.startswith("fpn.") else f"body.{k}", v) for k, v in ours.state_dict().items()
    )
    assert list(renamed) == list(theirs.state_dict())
    theirs.load_state_dict(renamed, strict=True)
    for net in (ours, theirs):
        assert sum(q.numel() for q in net.parameters()) == p.parameter_count()
    for size in ((64, 64), (65, 65), (97, 64)):
        images = random_images((2, *size, 3))
        with torch.inference_mode():
            reference = theirs(torch.from_numpy(images).double().permute(0, 3, 1, 2))
        maps = resnet_torch.predict(ours, images)
        for a, b in zip(maps, reference.values(), strict=True):
            b = b.permute(0, 2, 3, 1).numpy()
            assert np.abs(a - b).max() / np.abs(b).max() <= 1e-12
    back = OrderedDict((k.removeprefix("body."), v) for k, v in theirs.state_dict().items())
    ours.load_state_dict(back, strict=True)


def test_a_frozen_norm_is_torchvisions() -> None:
    torchvision_models()
    from torchvision.ops import FrozenBatchNorm2d

    spec = resolve("resnet18", NARROW | {"norm": "frozen_batch", "norm_eps": 1e-3})
    state = random_weights(compile_plan(spec), 2)
    ours = resnet_torch.create_model(spec, weights=state).train().bn1
    theirs = FrozenBatchNorm2d(8, eps=1e-3)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 8, 5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x))
    plain = torch.nn.BatchNorm2d(8)
    ours.load_state_dict(plain.state_dict(), strict=True)
    assert bool((ours.running_var == 1).all())
    assert not list(ours.parameters())


def test_weights_are_those_of_ordinary_norms() -> None:
    spec = resolve("resnet18", NARROW)
    state = random_weights(compile_plan(spec), 2)
    images = random_images((1, 32, 32, 3))
    frozen = resnet_torch.create_model(spec, weights=state, norm="frozen_batch")
    plain = resnet_torch.create_model(spec, weights=resnet_torch.export_weights(frozen))
    np.testing.assert_array_equal(*(resnet_torch.predict(m, images) for m in (frozen, plain)))
    norms = sum(q.size for q in compile_plan(spec).parameters() if q.role.startswith("norm_"))
    left = resnet_torch.parameter_count(plain) - resnet_torch.parameter_count(frozen)
    assert left == norms // 2


@pytest.mark.parametrize("name", IN_FIVE)
def test_engines_agree(pool: Pool, name: str) -> None:
    chosen = [*engines(), ALL_ENGINES["onnx:reference"]]
    report = check(IN_FIVE[name], chosen, sizes=((67, 45),), compiled=False, start=pool.start)
    assert report.problems == []
    assert len(report.pairs) == len(chosen) * (len(chosen) - 1) // 2


@pytest.mark.parametrize("name", IN_FIVE)
def test_the_form_for_inference_is_the_same(name: str) -> None:
    spec = IN_FIVE[name]
    weights = random_weights(compile_plan(spec), 1)
    images = random_images((1, 67, 45, 3))
    both = [
        resnet_torch.create_model(
            spec, weights=cast_weights(weights, "float64"), dtype="float64", inference=inference
        )
        for inference in (False, True)
    ]
    kinds = {type(layer).__name__ for layer in both[1].plan.leaves()}
    assert name != "frozen norms" or "BatchNorm" not in kinds
    for a, b in zip(*(resnet_torch.predict(model, images) for model in both), strict=True):
        assert np.abs(a - b).max() / np.abs(a).max() <= 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript itself is deprecated
        scripted = torch.jit.script(both[0].eval())
    again = scripted(torch.from_numpy(images).double().permute(0, 3, 1, 2))
    for a, c in zip(resnet_torch.predict(both[0], images), again, strict=True):
        np.testing.assert_allclose(c.detach().permute(0, 2, 3, 1).numpy(), a, rtol=1e-12)


# Of Keras's, PyTorch's engine gathers as the others do.
@pytest.mark.parametrize("engine", selected(["keras:torch", "flax"], list(ENGINES)[1:5]))
def test_steps_leave_the_same_weights(pool: Pool, engine: str, tmp_path: Path) -> None:
    fields = {"norm": "frozen_batch", "pyramid_extra": "p6p7", "out_indices": [1, 3]}
    spec = resolve("resnet18", NARROW | FPN | fields)
    state = cast_weights(random_weights(compile_plan(spec), 4), "float64")
    weights = tmp_path / "weights.safetensors"
    write_safetensors(weights, Checkpoint(state))
    found = []
    for name in ("torch", engine):
        outputs = tmp_path / f"{name.replace(':', '-')}.safetensors"
        arguments = {"spec": spec.to_dict(), "weights": str(weights), "outputs": str(outputs)}
        pool[name].call("probe", function="pyramids:descend", **arguments)
        found.append(read_safetensors(outputs).state)
    for q in compile_plan(spec).parameters():
        before, a, b = state[q.name], found[0][q.name], found[1][q.name]
        assert np.array_equal(before, a) is (not q.trainable), q.name
        assert np.array_equal(before, b) is (not q.trainable), q.name
        if q.trainable:
            moved = np.abs(a - before).max()
            assert np.abs(a - b).max() / moved <= 1e-10, q.name


def test_files_of_detectors(tmp_path: Path) -> None:
    torchvision_models()
    from torchvision.models.detection import retinanet_resnet50_fpn

    torch.manual_seed(0)
    detector = retinanet_resnet50_fpn(weights=None, weights_backbone=None).eval()
    torch.save(detector.state_dict(), tmp_path / "detector.pth")
    fields = {"norm": "frozen_batch", "features_only": True, "out_indices": [2, 3, 4]}
    fields |= {"pyramid": 256, "pyramid_extra": "p6p7"}
    with pytest.warns(match="left out, beside the net: head"):
        net = resnet_torch.create_model("resnet50", weights=tmp_path / "detector.pth", **fields)
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for a, b in zip(net.eval()(images), detector.backbone(images).values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    back = tmp_path / "back.pth"
    found = Checkpoint(resnet_torch.export_weights(net), net.spec)
    write_checkpoint(back, found, to="torchvision")
    names = torch.load(back)
    assert {f"backbone.{k}" for k in names} == {
        k for k in detector.state_dict() if k.startswith("backbone.")
    }
    again = read_checkpoint(back, net.spec).state
    assert all(np.array_equal(array, again[k]) for k, array in found.state.items())


def test_a_classifiers_weights_get_a_new_pyramid() -> None:
    spec = resolve("resnet18", NARROW | {"num_classes": 3})
    state = random_weights(compile_plan(spec), 2)
    net = resnet_torch.create_model(spec, weights=state, seed=5, **FPN)
    found = resnet_torch.export_weights(net)
    fresh = resnet_torch.export_weights(resnet_torch.create_model(net.spec, seed=5))
    assert any(name.startswith("fpn.") for name in found)
    for name, array in found.items():
        np.testing.assert_array_equal(array, (fresh if name.startswith("fpn.") else state)[name])


def test_the_pyramid_starts_as_torchvisions() -> None:
    p = compile_plan(resolve("resnet18", {"features_only": True, "pyramid": 256}))
    found = resnet_torch.export_weights(resnet_torch.create_model(resolve("resnet18", FPN)))
    assert not found["fpn.layer_blocks.0.0.bias"].any()
    kernel = resnet_torch.export_weights(
        resnet_torch.create_model("resnet18", features_only=True, pyramid=256)
    )["fpn.layer_blocks.0.0.weight"]
    bound = np.sqrt(3 / (256 * 9))  # of kaiming_uniform_ with a = 1
    assert kernel.shape == next(
        q.shape for q in p.parameters() if q.name == "fpn.layer_blocks.0.0.weight"
    )
    assert 0.999 * bound < np.abs(kernel).max() <= bound
    assert abs(kernel.std() / (bound / np.sqrt(3)) - 1) < 0.01


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pyramid": 8}, "pyramid: needs features_only"),
        ({"pyramid_norm": True}, "pyramid_norm: needs pyramid, the number of its channels"),
        (FPN | {"out_indices": [0, 1]}, "0 is the stem's map"),
        (
            FPN | {"pyramid_norm": True, "norm": "frn", "pyramid_extra": "pool"},
            "pyramid_norm: cannot be combined with norm 'frn'",
        ),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], message: str) -> None:
    base = "resnetv2_50" if fields.get("norm") == "frn" else "resnet18"
    with pytest.raises(SpecError, match=re.escape(message)):
        resolve(base, fields)


def test_places_are_those_that_torch_takes() -> None:
    for length in (*range(1, 60), 333, 1000):
        for side in {-(-length // stride) for stride in range(1, 9)}:
            row = torch.arange(side, dtype=torch.float64)
            taken = torch.nn.functional.interpolate(row[None, None], size=length, mode="nearest")
            np.testing.assert_array_equal(nearest(np, side, length), taken[0, 0].numpy())


def test_a_pyramid_is_not_drawn() -> None:
    with pytest.raises(SpecError, match="a feature pyramid is not drawn"):
        taken_apart(compile_plan(IN_FIVE["frozen norms"]), (64, 64))


def test_a_join_does_not_run_alone() -> None:
    net = resnet_torch.create_model(resolve("resnet18", NARROW | FPN))
    found = resnet_torch.activations(net, random_images((1, 32, 32, 3)), ["fpn.sum0"])
    assert found["fpn.sum0"].shape == (1, 8, 8, 12)
    with pytest.raises(SpecError, match=r"fpn\.sum0 takes several maps"):
        resnet_torch.run_parts(net, found)


@pytest.mark.skipif(choice.tier != "all", reason="tier all: three frameworks in one process")
def test_the_example_of_a_detector() -> None:
    command = [sys.executable, str(ROOT / "examples" / "detector.py"), "--steps", "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the maps are the same" in done.stdout
