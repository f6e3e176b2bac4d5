"""timm as the judge of its own names: same keys, strict loads both ways, same logits."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from shared_spec import (
    CATALOGUE,
    ImageError,
    ResNetSpec,
    cast_weights,
    compile_plan,
    list_models,
    random_images,
    random_weights,
    resolve,
)
from tests.peers import timm_model
from tests.tiers import selected

# At full depth: the small names, and those whose depth cannot be cut.
WHOLE = [
    "test_resnet", "resnet10t", "resnet14t", "ecaresnet50d_pruned", "ecaresnet101d_pruned",
    "resnetv2_50x1_bit",
]  # fmt: skip
# timm's names with the same options as one of these but for depth are left to the counts.
CUT = [
    "resnet18d", "resnet26", "resnet26t", "resnet50c", "resnet50s", "resnet50_gn",
    "resnext50d_32x4d", "resnext101_32x16d", "ecaresnet26t", "ecaresnetlight",
    "ecaresnext26t_32x4d", "seresnet18", "seresnet50", "seresnet50t", "seresnext26d_32x4d",
    "seresnext50_32x4d", "seresnext101_64x4d", "senet154", "resnetblur18", "resnetblur50",
    "resnetblur50d", "resnetaa34d", "resnetaa50", "resnetaa50d", "seresnetaa50d",
    "seresnextaa101d_32x8d", "seresnextaa201d_32x8d", "resnetrs50", "wide_resnet50_2",
]  # fmt: skip
CUT_DEPTHS = [1, 2, 1, 2]
CUT += [
    "resnetv2_18", "resnetv2_18d", "resnetv2_50", "resnetv2_50d", "resnetv2_50t",
    "resnetv2_50d_gn", "resnetv2_50d_evos", "resnetv2_50d_frn",
]  # fmt: skip
CUT += [
    "skresnet18", "skresnet50", "skresnet50d", "skresnext50_32x4d",
    "res2net50_26w_4s", "res2net50_26w_6s", "res2net50_26w_8s", "res2net50_48w_2s",
    "res2net50_14w_8s", "res2next50", "res2net50d",
    "resnest50d", "resnest50d_4s2x40d", "resnest50d_1s4x24d",
]  # fmt: skip
TIMM = ("timm", "timm_v2", "torchvision")
FLOAT32 = ["resnetv2_50d_evos", "resnetv2_50d_frn"]
SIZES = selected([(64, 64), (97, 65)], [(64, 64), (65, 65), (97, 64), (97, 65)])


def pair(name: str, **options: Any) -> tuple[Any, Any]:
    """timm's model and ours in float64, with the same random weights."""
    cut = name in CUT
    spec = resolve(name, {"depths": CUT_DEPTHS} if cut else {})
    theirs = timm_model(name, **({"layers": tuple(CUT_DEPTHS)} if cut else {}), **options)
    state = cast_weights(random_weights(compile_plan(spec), 3), "float64")
    ours = resnet_torch.create_model(spec, weights=state, dtype="float64").eval()
    return theirs.double().eval(), ours


@pytest.mark.parametrize("name", WHOLE + CUT)
def test_timm_agrees(name: str) -> None:
    compare(name, 1e-5 if name in FLOAT32 else 1e-12)


def compare(name: str, tolerance: float) -> None:
    """Keys, strict loads, and logits within `tolerance`."""
    theirs, ours = pair(name)
    res2net = name.startswith("res2")
    inner = r"conv2\.paths\.(\d)\.(conv|bn)\."
    named = {
        re.sub(inner, r"\2s.\1.", k) if res2net else k: v for k, v in ours.state_dict().items()
    }
    keys, expected = list(named), list(theirs.state_dict())
    if ours.spec.pre_activation or res2net:
        # timm's resnetv2 registers a block's shortcut before its branch.
        keys, expected = sorted(keys), sorted(expected)
    assert keys == expected
    theirs.load_state_dict(named, strict=True)
    if res2net:
        resnet_torch.load_weights(ours, {k: v.numpy() for k, v in theirs.state_dict().items()})
    else:
        ours.load_state_dict(theirs.state_dict(), strict=True)
    for size in SIZES:
        images = random_images((2, *size, 3))
        with torch.inference_mode():
            x = torch.from_numpy(images).double().permute(0, 3, 1, 2)
            try:
                reference = theirs(x).numpy()
            except RuntimeError:
                # An average without padding and a shortcut with it part at odd sizes.
                assert ours.spec.anti_alias == "avg"
                with pytest.raises(ImageError, match="the shortcut gives"):
                    resnet_torch.predict(ours, images)
                continue
        logits = resnet_torch.predict(ours, images)
        assert np.abs(logits - reference).max() / np.abs(reference).max() <= tolerance


@pytest.mark.parametrize("name", [n for n in list_models() if CATALOGUE[n].family in TIMM])
def test_parameter_counts_are_timms(name: str) -> None:
    with torch.device("meta"):
        theirs = timm_model(name)
    count = sum(p.numel() for p in theirs.parameters())
    assert compile_plan(resolve(name)).parameter_count() == count
    assert CATALOGUE[name].spec.image_size == theirs.default_cfg["input_size"][1]


@pytest.mark.parametrize("name", FLOAT32)
def test_norms_without_timms_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm takes these norms' statistics in float32 always; in float64 they agree as the others."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    compare(name, 1e-12)


def test_timms_layer_scale() -> None:
    """timm's ResNet takes any module in the place of its attention: here its LayerScale2d."""
    spec = resolve("resnet50", {"depths": CUT_DEPTHS, "layer_scale": 0.1})
    theirs = timm_model("resnet50", layers=tuple(CUT_DEPTHS))
    from timm.layers import LayerScale2d

    theirs = timm_model(
        "resnet50", layers=tuple(CUT_DEPTHS), block_args={"attn_layer": LayerScale2d}
    )
    state = cast_weights(random_weights(compile_plan(spec), 3), "float64")
    ours = resnet_torch.create_model(spec, weights=state, dtype="float64").eval()
    named = {k.replace(".layer_scale.", ".se."): v for k, v in ours.state_dict().items()}
    theirs.double().eval().load_state_dict(named, strict=True)
    images = random_images((2, 64, 64, 3))
    with torch.inference_mode():
        reference = theirs(torch.from_numpy(images).double().permute(0, 3, 1, 2)).numpy()
    logits = resnet_torch.predict(ours, images)
    assert np.abs(logits - reference).max() / np.abs(reference).max() <= 1e-12


def options(spec: ResNetSpec) -> dict[str, Any]:
    """What tells one net from another but for depth, size and widths."""
    skip = {
        "depths",
        "image_size",
        "widths",
        "block_widths",
        "strides",
        "zero_init_last",
        "stem_width",
    }
    return {k: v for k, v in spec.to_dict().items() if k not in skip}


def test_every_option_set_is_compared() -> None:
    compared = [options(resolve(name)) for name in WHOLE + CUT]
    # torchvision's names are compared with torchvision.
    for entry in CATALOGUE.values():
        if entry.family in ("timm", "timm_v2"):
            seen = {"groups", "base_width"}
            mine = {k: v for k, v in options(entry.spec).items() if k not in seen}
            others = [{k: v for k, v in c.items() if k not in seen} for c in compared]
            assert mine in others, entry.name
