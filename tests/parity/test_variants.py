"""Features, output stride and heads, with timm's own `features_only`, `output_stride` and pools."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.check.forward import check
from resnet_parity.engines.reference_libraries import names_there
from shared_spec import (
    ResNetSpec,
    cast_weights,
    compile_plan,
    random_images,
    random_weights,
    resolve,
)
from tests.conftest import Pool
from tests.parity.test_options import cut
from tests.peers import timm_model
from tests.tiers import choice, selected, without_keras_jax

NAMES = [
    "resnet18", "resnet50", "resnet26t", "resnet50d", "seresnext26d_32x4d", "ecaresnetlight",
    "senet154", "resnetblur50", "resnetaa50d", "resnetrs50", "resnet50_gn", "test_resnet",
    "resnetv2_18d", "resnetv2_50", "resnetv2_50d", "resnetv2_50x1_bit",
]  # fmt: skip
# What we call it, and what timm does.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stride 16": ({"output_stride": 16}, {"output_stride": 16}),
    "stride 8": ({"output_stride": 8}, {"output_stride": 8}),
    "stride 32": ({"output_stride": 32}, {"output_stride": 32}),
    "max": ({"head_pool": "max"}, {"global_pool": "max"}),
    "avgmax": ({"head_pool": "avgmax"}, {"global_pool": "avgmax"}),
    "catavgmax": ({"head_pool": "catavgmax"}, {"global_pool": "catavgmax"}),
    "pooled": ({"num_classes": 0}, {"num_classes": 0}),
    "pooled twice": (
        {"num_classes": 0, "head_pool": "catavgmax"},
        {"num_classes": 0, "global_pool": "catavgmax"},
    ),
    "features": ({"features_only": True}, {}),
    "features 1, 3": ({"features_only": True, "out_indices": [1, 3]}, {}),
    "features at stride 8": ({"features_only": True, "output_stride": 8}, {"output_stride": 8}),
}
SIZES = [(64, 64), (97, 65)]


def models(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[Any, Any]:
    """Both in float64 with the same random weights; timm's as its own list of features if asked."""
    depths = None if name in ("test_resnet", "resnetv2_50x1_bit") else [1, 2, 1, 2]
    spec = resolve(name, ours | ({"depths": depths} if depths else {}))
    model = timm_model(name, **theirs, **({"layers": tuple(depths)} if depths else {}))
    state = cast_weights(random_weights(compile_plan(spec), 3), "float64")
    native = resnet_torch.create_model(spec, weights=state, dtype="float64").eval()
    model = model.double().eval()
    model.load_state_dict(native.state_dict(), strict=not spec.features_only)
    if not spec.features_only:
        native.load_state_dict(model.state_dict(), strict=True)
        return native, model
    # Not before timm_model, which makes timm importable.
    from timm.models._features import FeatureListNet

    indices = spec.out_indices or (0, 1, 2, 3, 4)
    flatten = spec.pre_activation
    features = FeatureListNet(model, out_indices=indices, flatten_sequential=flatten).eval()
    assert sum(p.numel() for p in features.parameters()) == resnet_torch.parameter_count(native)
    return native, features


ACTIVATIONS = [
    "relu6", "leaky_relu", "elu", "selu", "silu", "mish", "gelu", "gelu_tanh", "hardswish",
]  # fmt: skip


# Each variant on two nets, each net in its turn.
SOME = [
    (NAMES[(2 * i + j) % len(NAMES)], variant)
    for i, variant in enumerate(VARIANTS)
    for j in range(2)
]


@pytest.mark.parametrize(("name", "variant"), selected(SOME, itertools.product(NAMES, VARIANTS)))
def test_timm_agrees(name: str, variant: str) -> None:
    compare(name, *VARIANTS[variant])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "name", selected(["seresnet50"], ["resnet18", "seresnet50", "resnetv2_50d"])
)
def test_timms_activations_agree(name: str, activation: str) -> None:
    compare(name, {"activation": activation}, {"act_layer": activation})


def compare(name: str, fields: dict[str, Any], options: dict[str, Any]) -> None:
    """Logits, pooled features or feature maps, to 1e-12."""
    ours, theirs = models(name, fields, options)
    # Averages of anti-aliasing and of shortcuts part at sizes that do not halve evenly.
    for size in SIZES[:1] if ours.spec.anti_alias == "avg" else SIZES:
        images = random_images((2, *size, 3))
        with torch.inference_mode():
            reference = theirs(torch.from_numpy(images).double().permute(0, 3, 1, 2))
        found = resnet_torch.predict(ours, images)
        if not isinstance(reference, list):
            found, reference = [found], [reference]
        assert len(found) == len(reference)
        for a, b in zip(found, reference, strict=True):
            expected = (b.movedim(1, -1) if b.ndim == 4 else b).numpy()
            assert a.shape == expected.shape
            assert np.abs(a - expected).max() / np.abs(expected).max() <= 1e-12


LATER = [
    "skresnet18", "res2net50_26w_4s", "resnest14d", "nf_resnet26", "regnety_002", "regnetv_040",
    "regnetz_005", "resnext26ts", "gcresnet33ts", "resnet51q", "regnetz_b16", "resnet50_clip",
    "resnet50_clip_gap", "legacy_seresnet18",
]  # fmt: skip


@pytest.mark.parametrize("name", selected(LATER[::3], LATER))
def test_features_of_later_families_are_timms(name: str) -> None:
    """As `timm.create_model(name, features_only=True)` gives them, which renames its layers."""
    spec = resolve(name, {"features_only": True})
    state = cast_weights(random_weights(compile_plan(spec), 3), "float64")
    theirs = timm_model(name, features_only=True).double().eval()
    there = {key.replace(".", "_"): key for key in theirs.state_dict()}
    named = {
        there[at.replace(".", "_")]: torch.from_numpy(state[ours])
        for ours, at in names_there("timm", spec, state).items()
    }
    counted = theirs.load_state_dict(named, strict=False).missing_keys
    assert [key for key in counted if not key.endswith("num_batches_tracked")] == []
    images = random_images((2, 97, 65, 3))
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(images).double().permute(0, 3, 1, 2))
    model = resnet_torch.create_model(spec, weights=state, dtype="float64")
    found = resnet_torch.predict(model, images)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b.movedim(1, -1).numpy(), rtol=0, atol=1e-12 * abs(b).max())


# Three narrow stages end at stride 16, so that strides are half of the above.
ENGINE_VARIANTS: dict[str, dict[str, Any]] = {
    "stride 4": {"output_stride": 4},
    "stride 8": {"output_stride": 8},
    "same padding at stride 4": {"output_stride": 4, "padding": "same"},
    "max": {"head_pool": "max"},
    "avgmax": {"head_pool": "avgmax"},
    "catavgmax": {"head_pool": "catavgmax"},
    "pooled": {"num_classes": 0},
    "features": {"features_only": True},
    "the stem alone": {"features_only": True, "out_indices": [0]},
    "features at stride 4": {"features_only": True, "output_stride": 4},
}
ENGINE_NAMES = ["seresnet50t", "resnetblur50d", "resnetv2_50d", "resnetv2_50x1_bit"]


EVERY = list(itertools.product(ENGINE_NAMES, ENGINE_VARIANTS))
# Each variant on one net, each net in its turn.
FEW = [(ENGINE_NAMES[i % 4], variant) for i, variant in enumerate(ENGINE_VARIANTS)]


@pytest.mark.parametrize(("name", "variant"), selected(FEW, EVERY))
def test_five_engines_agree(pool: Pool, name: str, variant: str) -> None:
    # One of them compiled as a whole; layer by layer is quicker.
    compiled = name == "resnetv2_50d"
    agree(pool, cut(resolve(name)).override(**ENGINE_VARIANTS[variant]), compiled)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", selected(["resnet50"], ["resnet50", "resnetv2_50"]))
def test_activations_agree(pool: Pool, name: str, activation: str) -> None:
    small = {"depths": [1], "widths": [8], "stem_width": 8, "num_classes": 5}
    spec = cut(resolve(name)) if choice.tier == "all" else resolve("resnet18", small)
    agree(pool, spec.override(activation=activation))


def agree(pool: Pool, spec: ResNetSpec, compiled: bool = False) -> None:
    report = check(spec, without_keras_jax(), sizes=[(45, 32)], compiled=compiled, start=pool.start)
    assert report.problems == []
    assert report.pairs
