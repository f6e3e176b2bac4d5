"""What users of torchvision and timm do with a model: each judged by the same code on theirs."""

from __future__ import annotations

import pytest

from tests.conftest import Pool

SCRIPTED = [
    ["resnet18", {}],
    ["resnet18", {"norm_variance": "biased", "drop_path_rate": 0.1, "layer_scale": 0.1}],
    ["resnet18", {"drop_block_rate": 0.1, "drop_rate": 0.1}],
    ["resnet18", {"features_only": True}],
    ["resnet18", {"head_pool": "catavgmax"}],
    ["resnext50_32x4d", {}],
    ["seresnet50", {}],
    ["regnetz_005", {"strides": [2, 2]}],
    ["skresnet18", {}],
    ["res2net50_26w_4s", {"base_width": 64}],
    ["resnest50d", {}],
    ["nf_seresnet26", {}],
    ["ecaresnet26t", {}],
    ["resnetblur50d", {}],
    ["resnetaa50", {}],
    ["resnetv2_18d", {}],
    ["resnetv2_50x1_bit", {}],
    ["resnetv2_50d_evos", {}],
    ["resnetv2_50d_frn", {}],
    ["resnetv2_50d_gn", {"padding": "same"}],
    ["resnet20", {}],
]
SMALL = {"depths": [1, 2], "widths": [32, 64]}


@pytest.mark.parametrize(
    "habit",
    [
        "torchvision_attributes",
        "replacements",
        "pooled_maps",
        "taken_away",
        "hooks",
        "names_that_nothing_calls",
        "torchvision_extractors",
        "timm_extractors",
        "gradients_are_checkpointed",
        "a_new_classifier",
        "an_edited_model_is_not_saved",
        "other_libraries_keywords",
        "pretrained_by_place",
        "timm_config",
        "timm_optimizers",
        "quantized_sums",
        "wrapped_models",
        "devices",
        "devices_that_are_not_here",
        "default_dtype",
        "copies",
        "other_tools",
    ],
)
def test_habit(pool: Pool, habit: str) -> None:
    pool["torch"].call("probe", function=f"torch_habits:{habit}")


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50d", "seresnet50", "resnetv2_50", "regnety_002", "regnetz_005"]
)
def test_timms_methods(pool: Pool, name: str) -> None:
    pool["torch"].call("probe", function="torch_habits:timm_methods", name=name)


@pytest.mark.parametrize(("name", "options"), SCRIPTED, ids=lambda x: str(x))
def test_torchscript_and_symbolic_tracing(
    pool: Pool, name: str, options: dict[str, object]
) -> None:
    given = options if name == "resnet20" else SMALL | options
    pool["torch"].call("probe", function="torch_habits:recorded", name=name, options=given)
