"""KerasHub as the judge of its `vd` names, and of its presets that are names of torchvision's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared_spec import CATALOGUE, ResNetSpec, compile_plan, list_models, resolve
from shared_spec.weights.state import State
from tests.conftest import Pool
from tests.judges import assert_engines_give, assert_torch_gives, logits_in, weights_of
from tests.tiers import selected

VD = list_models("resnet_vd_*")
# KerasHub's presets of other names, and what they are here.
OTHERS = {
    "resnet_18": "resnet18",
    "resnet_50": "resnet50",
    "resnet_101": "resnet101",
    "resnet_152": "resnet152",
    "resnet_v2_50": "resnetv2_50",
    "resnet_v2_101": "resnetv2_101",
}


def config_of(name: str, depths: list[int] | None = None) -> dict[str, Any]:
    """Arguments of `ResNetBackbone` for one of our names, by KerasHub's documentation of them."""
    spec = resolve(name)
    vd = name in VD
    return {
        "input_conv_filters": [32, 32, 64] if vd else [64],
        "input_conv_kernel_sizes": [3, 3, 3] if vd else [7],
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": depths or list(spec.depths),
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": f"{spec.block}_block{'_vd' if vd else ''}",
        "use_pre_activation": name.startswith("resnetv2"),
    }


def judged(
    pool: Pool, folder: Path, name: str, depths: list[int] | None
) -> tuple[ResNetSpec, State, list[np.ndarray]]:
    """The net, perhaps less deep, random weights, and KerasHub's logits with them."""
    spec = resolve(name, {"num_classes": 10, **({"depths": depths} if depths else {})})
    state = weights_of(spec)
    arguments = {"config": config_of(name, depths), "num_classes": 10}
    worker = pool["keras:tensorflow"]
    references = logits_in(worker, "libraries.keras_hub:logits", folder, spec, state, **arguments)
    return spec, state, references


@pytest.mark.parametrize(
    ("name", "depths"),
    [("resnet_vd_18", None), ("resnet_vd_34", [1, 2, 1, 1]), ("resnet_vd_50", [1, 2, 1, 1])],
)
def test_five_engines_agree_with_keras_hub(
    pool: Pool, tmp_path: Path, name: str, depths: list[int] | None
) -> None:
    assert_engines_give(pool, tmp_path, *judged(pool, tmp_path, name, depths))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnetv2_18", "resnetv2_50"])
def test_names_of_others_agree_with_keras_hub(pool: Pool, tmp_path: Path, name: str) -> None:
    assert_torch_gives(*judged(pool, tmp_path, name, [1, 2, 1, 1]))


FEW = ["resnet_vd_18", "resnet_vd_50", "resnet50", "resnetv2_50"]


@pytest.mark.parametrize("name", selected(FEW, [*VD, *OTHERS.values()]))
def test_parameter_counts_are_keras_hubs(pool: Pool, name: str) -> None:
    worker, p = pool["keras:tensorflow"], compile_plan(resolve(name))
    trainable, total = worker.call(
        "probe", function="libraries.keras_hub:parameters", config=config_of(name)
    )
    assert p.parameter_count() == trainable
    assert sum(q.size for q in p.parameters()) == total


def test_every_preset_has_a_name_here(pool: Pool) -> None:
    presets = pool["keras:tensorflow"].call("probe", function="libraries.keras_hub:published")
    nets = {preset.removesuffix("_imagenet").partition("_ssld")[0] for preset in presets}
    assert nets == {*VD, *OTHERS}
    for name in VD:
        # The depths of the presets are not in the package. It states their parameters, norm
        # statistics and classifier included. (For its v2 presets it states those of v1.)
        parameters = compile_plan(resolve(name)).parameters()
        assert sum(q.size for q in parameters) == presets[f"{name}_imagenet"]
        assert CATALOGUE[name].family == "keras_hub"
