"""Hugging Face transformers: its configurations as specs, by the tables of `docs/sources.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared_spec import ResNetSpec, compile_plan, resolve
from shared_spec.formats.dialects.huggingface import ACTIVATIONS, spec_of, transformers_name
from shared_spec.plan.layers import DropPath
from shared_spec.weights.state import State
from tests.conftest import Pool
from tests.judges import assert_engines_give, assert_torch_gives, images_of, weights_of
from tests.peers import transformers_model

SMALL = {"depths": [1, 2, 1], "num_labels": 10, "embedding_size": 16}
BASIC = SMALL | {"layer_type": "basic", "hidden_sizes": [16, 32, 64]}
BOTTLENECK = SMALL | {"layer_type": "bottleneck", "hidden_sizes": [32, 64, 128]}
RESNETS: dict[str, dict[str, Any]] = {
    "basic": BASIC,
    "bottleneck": BOTTLENECK,
    "downsample_in_first_stage": BASIC | {"downsample_in_first_stage": True},
    "downsample_in_bottleneck": BOTTLENECK | {"downsample_in_bottleneck": True},
    "both": BOTTLENECK | {"downsample_in_first_stage": True, "downsample_in_bottleneck": True},
    "an identity first": BOTTLENECK | {"hidden_sizes": [16, 64, 128]},
    "quarters with a rest": BOTTLENECK | {"hidden_sizes": [30, 61, 127]},
    "grey images": BASIC | {"num_channels": 1},
}
BIT = SMALL | {"layer_type": "preactivation", "hidden_sizes": [64, 128, 256], "num_groups": 8}
HYBRID = BIT | {
    "layer_type": "bottleneck",
    "global_padding": "same",
    "embedding_dynamic_padding": True,
}
BITS: dict[str, dict[str, Any]] = {
    "preactivation": BIT,
    "32 groups": BIT | {"hidden_sizes": [128, 256, 512], "num_groups": 32, "embedding_size": 64},
    "preactivation, output_stride": BIT | {"output_stride": 8, "depths": [1, 1, 2]},
    "projection of equal shapes": BIT | {"embedding_size": 64},
    "quarters with a rest": BIT | {"hidden_sizes": [48, 112, 336]},
    "bottleneck": HYBRID,
    "bottleneck, output_stride": HYBRID | {"output_stride": 4, "depths": [1, 2, 2]},
    "bottleneck, projection of equal shapes": HYBRID | {"embedding_size": 64},
}
FIVE = ["basic", "both", "preactivation", "bottleneck"]
"""These run in the five engines, the others in PyTorch, which the engines are held against too."""


def judged(model: Any) -> tuple[ResNetSpec, State, list[Any]]:
    """The spec of its configuration, random weights, and transformers' logits with them."""
    spec = spec_of(model.config.to_dict() | {"architectures": None})
    state = weights_of(spec)
    theirs = {}
    for name, array in state.items():
        renamed = transformers_name(name, model.config.model_type)
        flat = renamed == "classifier.1.weight" and array.ndim == 4
        theirs[renamed] = torch.from_numpy(array[:, :, 0, 0] if flat else array)
    assert len(theirs) == len(state)
    model = model.double().eval()
    missing, unexpected = model.load_state_dict(theirs, strict=False)
    assert [k for k in missing if not k.endswith("num_batches_tracked")] == []
    assert unexpected == []
    images = [torch.from_numpy(x).double().permute(0, 3, 1, 2) for x in images_of(spec)]
    with torch.inference_mode():
        return spec, state, [model(x).logits.numpy() for x in images]


def resnet(**options: Any) -> tuple[ResNetSpec, State, list[np.ndarray]]:
    return judged(transformers_model("ResNet", **options))


def bit(**options: Any) -> tuple[ResNetSpec, State, list[np.ndarray]]:
    return judged(transformers_model("Bit", **options))


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_agrees(pool: Pool, tmp_path: Path, name: str) -> None:
    judge(pool, tmp_path, name, *resnet(**RESNETS[name]))


@pytest.mark.parametrize("name", BITS)
def test_bit_agrees(pool: Pool, tmp_path: Path, name: str) -> None:
    judge(pool, tmp_path, name, *bit(**BITS[name]))


def judge(pool: Pool, folder: Path, name: str, *net: Any) -> None:
    if name in FIVE:
        assert_engines_give(pool, folder, *net)
    else:
        assert_torch_gives(*net)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_bit(name: str) -> None:
    assert_torch_gives(*bit(**BIT | {"hidden_act": name}))


def test_configurations_that_are_names_here() -> None:
    basic = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
    for name, net in {
        "resnet18": resnet(**basic, depths=[2, 2, 2, 2], num_labels=1000),
        "resnet50": resnet(num_labels=1000),
        "resnetv2_50x1_bit": bit(num_labels=1000),
    }.items():
        assert compile_plan(net[0]) == compile_plan(resolve(name))
        assert_torch_gives(*net)


@pytest.mark.parametrize("options", [BIT, HYBRID])
def test_drop_path_rates_are_those_of_bit(options: dict[str, Any]) -> None:
    model = transformers_model("Bit", **options | {"drop_path_rate": 0.3})
    layers = compile_plan(spec_of(model.config.to_dict())).layers()
    ours = [layer.rate for layer in layers if isinstance(layer, DropPath)]
    theirs = [m.drop_prob for m in model.modules() if type(m).__name__ == "BitDropPath"]
    assert len(ours) == len(theirs) == sum(options["depths"]) - 1
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)  # transformers' are float32


def test_what_transformers_itself_cannot_run() -> None:
    """`docs/sources.md` has no row for these."""
    for options in ({"global_padding": "valid"}, {"width_factor": 2}):
        model = transformers_model("Bit", **BIT | options).eval()
        with pytest.raises(RuntimeError):
            model(torch.zeros(1, 3, 64, 64))
