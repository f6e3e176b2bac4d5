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
from resnet_parity.check.training import check_training
from shared_spec import (
    ImageError,
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
from tests.probes.libraries.ports import FaceNet, Nine, PortNet, PreActivated
from tests.tiers import choice, engines, only, without_compilers

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
    for key in ("num_chs", "reduction"):
        assert [x[key] for x in model.feature_info] == [x[key] for x in judge.feature_info]
    for key in ("first_conv", "classifier", "input_size", "pool_size"):
        assert model.pretrained_cfg[key] == judge.pretrained_cfg[key]
    assert model.get_classifier() is model.last_linear
    model.reset_classifier(5)
    assert model(x).shape == (1, 5)


PORT_WORDS = ("layer", "shortcut", "linear")


def by_hand(name: str, spec: ResNetSpec) -> torch.nn.Module:
    """The judge of a net for CIFAR: modules written from the published structure."""
    kind, depths, widths = spec.blocks[0], spec.depths, spec.widths
    if name.startswith("cifar_resnet"):
        return PortNet(PORT_WORDS, kind, depths, widths, "B")
    if name == "resnet9":
        return Nine([spec.stem_width, *widths])
    drop = 0.3 if name.startswith("wrn") else None
    return PreActivated(kind, depths, widths, spec.stem_width, drop)


CIFAR = ("cifar_resnet*", "preact_resnet*", "wrn_*", "resnet9")
CIFAR_CUTS = {
    "cifar_resnet18": {"depths": [1, 2], "widths": [16, 32], "stem_width": 16},
    "cifar_resnet50": {"depths": [1, 2], "widths": [16, 32], "stem_width": 16},
    "preact_resnet18": {"depths": [1, 2], "widths": [16, 32], "stem_width": 16},
    "preact_resnet50": {"depths": [1, 2], "widths": [16, 32], "stem_width": 16},
    "wrn_16_4": {"depths": [2, 1], "widths": [16, 32]},
    "resnet9": {"widths": [16, 24, 32], "stem_width": 8},
}


def loaded(judge: torch.nn.Module, model: Any) -> torch.nn.Module:
    """A judge under names of its own, with the arrays of `model` in their order; the published
    names are those of `tests/formats/test_ports.py`.
    """
    ours_, theirs = model.state_dict(), judge.state_dict()
    for a, b in zip(ours_.values(), theirs.values(), strict=True):
        assert a.shape == b.shape or (a.shape[:2] == b.shape and a.shape[2:] == (1, 1))
    state = {k: a.reshape(theirs[k].shape) for k, a in zip(theirs, ours_.values(), strict=True)}
    judge.double().load_state_dict(state, strict=True)
    return judge.eval()


@pytest.mark.parametrize("name", ["nf_resnet26", "regnetx_002", "resnext26ts"])
def test_a_classifier_starts_as_in_timm(name: str) -> None:
    torch.manual_seed(0)
    judge = timm_model(name).head.fc
    ours = resnet_torch.create_model(name).head.fc
    torch.testing.assert_close(ours.weight.std(), judge.weight.std(), rtol=0.02, atol=0)
    assert abs(ours.weight.mean()) < 1e-4
    assert not judge.bias.any()
    assert not ours.bias.any()


@pytest.mark.parametrize("name", CIFAR_CUTS)
def test_nets_for_cifar_agree(name: str) -> None:
    spec = resolve(name, CIFAR_CUTS[name])
    model = ours(spec)
    judge = loaded(by_hand(name, spec), model)
    for size in [(32, 32), (33, 33), (45, 32)]:
        images = random_images((2, *size, 3))
        with torch.inference_mode():
            expected = judge(torch.from_numpy(images).double().permute(0, 3, 1, 2)).numpy()
        found = resnet_torch.predict(model, images)
        assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-12


@pytest.mark.parametrize("name", [n for pattern in CIFAR for n in list_models(pattern)])
def test_counts_are_those_of_nets_by_hand(name: str) -> None:
    spec = resolve(name)
    with torch.device("meta"):
        judge = by_hand(name, spec)
    assert compile_plan(spec).parameter_count() == sum(p.numel() for p in judge.parameters())


@pytest.mark.parametrize("name", CIFAR_CUTS)
def test_nets_for_cifar_train_as_their_judges(name: str) -> None:
    """Gradients, and what dropout does where it stands: PyTorch's generator drops the same in both,
    as they draw in one order.
    """
    spec = resolve(name, CIFAR_CUTS[name])
    model = ours(spec)
    judge = loaded(by_hand(name, spec), model)
    x = torch.from_numpy(random_images((4, 32, 32, 3))).double().permute(0, 3, 1, 2)
    results = []
    for net in (model.train(), judge.train()):
        torch.manual_seed(0)
        results.append(net(x))
        results[-1].square().sum().backward()
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)
    pairs = zip(model.parameters(), judge.parameters(), strict=True)
    for a, b in pairs:
        assert a.grad is not None
        torch.testing.assert_close(a.grad.reshape(b.shape), b.grad, rtol=1e-8, atol=1e-8)


FACE = {
    "depths": [1, 2, 1],
    "widths": [8, 16, 16],
    "strides": [2, 2, 2],
    "stem_width": 8,
    "num_classes": 12,
}


@pytest.mark.parametrize("side", [32, 45])
def test_nets_for_faces_agree(side: int) -> None:
    """Each size is a net of its own, and square: that is what its last layer flattens."""
    spec = resolve("iresnet18", FACE | {"image_size": side})
    judge = FaceNet(spec.depths, spec.widths, 8, side, 12)
    compare(ours(spec), judge, [(side, side)])


@pytest.mark.parametrize("name", list_models("iresnet*"))
def test_counts_of_nets_for_faces(name: str) -> None:
    spec = resolve(name)
    with torch.device("meta"):
        judge = FaceNet(spec.depths, [64, 128, 256, 512], 64, 112, 512)
    assert compile_plan(spec).parameter_count() == sum(p.numel() for p in judge.parameters())
    assert {q.name: q.shape for q in compile_plan(spec).parameters()} == {
        k: (*v.shape,) for k, v in judge.state_dict().items() if "num_batches" not in k
    }


def test_another_size_is_refused() -> None:
    model = resnet_torch.create_model("iresnet18", **FACE, image_size=32)
    with pytest.raises(ImageError, match=r"4 × 4 pixels are flattened, and these would have 5 × 4"):
        resnet_torch.predict(model, random_images((1, 40, 32, 3)))


def test_one_step_of_a_net_for_faces_is_the_judge_s() -> None:
    """Gradients and running statistics, those over features too."""
    spec = resolve("iresnet18", FACE | {"image_size": 32})
    model, judge = ours(spec).train(), FaceNet(spec.depths, spec.widths, 8, 32, 12).double()
    judge.load_state_dict(model.state_dict())
    x = torch.from_numpy(random_images((4, 32, 32, 3))).double().permute(0, 3, 1, 2)
    for net in (model, judge):
        net(x).square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), judge.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9, msg=name)
    for name, a in judge.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], a, rtol=1e-12, atol=1e-12)


NARROW: dict[str, Any] = {"depths": [1, 1], "widths": [16, 32], "stem_width": 16, "num_classes": 7}
SPECS = {
    "senet": resolve("legacy_seresnet18", NARROW),
    "senet154": resolve(
        "legacy_senet154", NARROW | {"groups": 2, "base_width": 64, "activation": "silu"}
    ),
    "preact": resolve("preact_resnet18", CIFAR_CUTS["preact_resnet18"]),
    "wide": resolve("wrn_16_4", CIFAR_CUTS["wrn_16_4"]),
    "nine": resolve("resnet9", CIFAR_CUTS["resnet9"]),
    "face": resolve("iresnet18", FACE | {"image_size": 32}),
}
"""One spec for each set of options that is new, narrow and short."""


@pytest.mark.parametrize("name", SPECS)
def test_other_forms_agree(name: str) -> None:
    """For inference, where norms go into convolutions, and for features."""
    spec = SPECS[name]
    state = cast_weights(random_weights(compile_plan(spec), 3), "float64")
    images = random_images((2, spec.image_size, spec.image_size, 3))
    model = resnet_torch.create_model(spec, weights=state, dtype="float64")
    folded = resnet_torch.create_model(spec, weights=state, dtype="float64", inference=True)
    expected, found = (resnet_torch.predict(net, images) for net in (model, folded))
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-12
    body = resnet_torch.create_model(
        spec, weights=state, dtype="float64", features_only=True, out_indices=(1, 2)
    )
    maps = resnet_torch.predict(body, images)
    blocks = [stage.blocks[-1].name for stage in model.plan.stages[:2]]
    for a, b in zip(maps, resnet_torch.activations(model, images, blocks).values(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", SPECS)
def test_five_engines_agree(pool: Pool, name: str) -> None:
    sizes = [(32, 32), (45, 33)] if choice.tier == "all" else [(45, 33)]
    sizes = [(32, 32)] if SPECS[name].one_size else sizes
    ran = engines()
    report = check(SPECS[name], ran, sizes=sizes, compiled=False, start=pool.start)
    assert report.problems == []
    assert len(report.pairs) == len(ran) * (len(ran) - 1) // 2


def test_a_net_for_faces_trains_alike(pool: Pool) -> None:
    """Slopes, and the norm over features, with gradients and statistics."""
    ran = [*without_compilers(), *only("flax", wanted=True)]
    report = check_training(SPECS["face"], ran, steps=3, start=pool.start)
    assert report.holds, report.problems
    assert len(report.ran) == len(ran)
