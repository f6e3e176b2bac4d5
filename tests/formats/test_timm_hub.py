"""The configurations of timm's repositories, as timm writes and reads them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from shared_spec import CATALOGUE, SpecError, random_images
from shared_spec.formats.dialects.timm_config import FAMILIES, is_timm_config, timm_config
from tests.peers import timm_model, torchvision_models

NAMES = [name for name, entry in CATALOGUE.items() if entry.family in FAMILIES]
BASE: dict[str, Any] = {"architecture": "resnet50", "num_classes": 3, "pretrained_cfg": {}}


def timm(module: str) -> Any:
    torchvision_models()
    return importlib.import_module(f"timm.{module}")


def published() -> dict[str, dict[str, Any]]:
    """What the `config.json` holds of every set of weights of timm's ResNets."""
    registry, configs = timm("models._registry"), {}
    for name, config in registry._model_pretrained_cfgs.items():
        architecture = name.partition(".")[0]
        if architecture in NAMES:
            told = config.to_dict(remove_source=True)
            told.pop("architecture", None)
            configs[name] = {
                "architecture": architecture,
                "num_classes": told["num_classes"],
                "num_features": 2048,
                "pretrained_cfg": told,
            }
    return configs


def test_every_published_configuration_is_read_as_timm_reads_it() -> None:
    configs, resolve = published(), timm("data").resolve_data_config
    assert len(configs) > 250
    assert {config["architecture"] for config in configs.values()} == set(NAMES)
    for name, config in configs.items():
        data = json.loads(json.dumps(config))
        assert is_timm_config(data)
        spec, prepare, labels = timm_config(data, name)
        theirs, architecture, _ = timm("models._hub")._parse_model_cfg(data, {})
        expected = resolve(pretrained_cfg=theirs)
        assert prepare is not None
        assert labels is None
        assert spec == CATALOGUE[architecture].spec.override(
            num_classes=theirs["num_classes"], image_size=expected["input_size"][1]
        )
        assert expected["crop_mode"] == "center"
        assert {
            "input_size": [spec.in_channels, prepare.image_size, prepare.image_size],
            "interpolation": prepare.interpolation,
            "crop_pct": prepare.crop,
            "mean": list(prepare.mean),
            "std": list(prepare.std),
        } == {k: v for k, v in expected.items() if k != "crop_mode"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {}),
        ("test_resnet", {"num_classes": 5, "in_chans": 1, "global_pool": "avgmax"}),
        ("test_resnet", {"act_layer": "swish", "output_stride": 16, "zero_init_last": False}),
        ("resnet10t", {"act_layer": "hard_swish", "drop_rate": 0.1, "drop_path_rate": 0.1}),
        ("resnetv2_18", {"num_classes": 0, "in_chans": 5, "zero_init_last": True}),
        ("resnetv2_18d", {"global_pool": "catavgmax", "num_classes": 4}),
    ],
)
def test_a_saved_model_is_built_again(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs = timm_model(name, **options).eval().double()
    timm("models._hub").save_config_for_hf(theirs, tmp_path / "config.json")
    data = json.loads((tmp_path / "config.json").read_text())
    spec, prepare, _ = timm_config(data, "config.json")
    channels = options.get("in_chans", 3)
    assert spec.in_channels == channels
    assert (prepare is None) == (channels == 5)
    if prepare is not None:
        told = timm("data.model_config").resolve_input_data_config(theirs)
        assert (prepare.mean, prepare.std) == (tuple(told["mean"]), tuple(told["std"]))
    ours = resnet_torch.create_model(spec).eval().double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = random_images((2, 64, 64, channels)).astype(np.float64)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    found = resnet_torch.predict(ours, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * abs(expected).max())


def test_a_configuration_of_one_level_is_read() -> None:
    data = {
        "architecture": "resnet18",
        "num_classes": 2,
        "input_size": [1, 96, 96],
        "mean": [0.4],
        "std": [0.2],
        "crop_pct": 1.0,
        "labels": ["cat", "dog"],
    }
    assert is_timm_config(data)
    spec, prepare, labels = timm_config(data, "config.json")
    assert (spec.num_classes, spec.in_channels, spec.image_size) == (2, 1, 96)
    assert labels == ("cat", "dog")
    assert prepare is not None
    assert (prepare.image_size, prepare.crop, prepare.mean) == (96, 1.0, (0.4,))
    assert prepare.interpolation == "bicubic"


def test_statistics_are_adapted_to_the_channels() -> None:
    grey = BASE | {"pretrained_cfg": {"input_size": [1, 64, 64], "mean": [0.2, 0.3, 0.7]}}
    prepare = timm_config(grey, "config.json")[1]
    assert prepare is not None
    assert prepare.mean == pytest.approx((0.4,))
    one = timm_config(BASE | {"pretrained_cfg": {"std": [0.5]}}, "config.json")[1]
    assert one is not None
    assert one.std == (0.5, 0.5, 0.5)


def test_the_outer_number_of_classes_and_timms_defaults_hold() -> None:
    data = BASE | {"pretrained_cfg": {"num_classes": 1000}}
    spec, prepare, labels = timm_config(data, "config.json")
    assert (spec, labels) == (CATALOGUE["resnet50"].spec.override(num_classes=3), None)
    assert prepare is not None
    theirs = timm("data").resolve_data_config(pretrained_cfg={"num_classes": 1000})
    assert prepare.crop == theirs["crop_pct"]
    assert prepare.interpolation == theirs["interpolation"]
    assert (prepare.mean, prepare.std) == (theirs["mean"], theirs["std"])


def test_labels_are_descriptions_where_there_are_some() -> None:
    names = {"label_names": ["n01", "n02", "n03"], "label_descriptions": {"n02": "dog"}}
    for data in (BASE | names, BASE | {"pretrained_cfg": names}):
        assert timm_config(data, "config.json")[2] == ("n01", "dog", "n03")
    gaps = BASE | {"label_names": {"0": "cat", "2": "dog"}}
    assert timm_config(gaps, "config.json")[2] == ("cat", "1", "dog")


@pytest.mark.parametrize(
    "told",
    [
        {"crop_mode": "squash"},
        {"crop_mode": "border"},
        {"interpolation": "lanczos"},
        {"input_size": [3, 224, 160]},
        {"input_size": [5, 224, 224]},
    ],
)
def test_preprocessing_of_another_kind_is_left_out(told: dict[str, Any]) -> None:
    _, prepare, _ = timm_config(BASE | {"pretrained_cfg": told}, "config.json")
    assert prepare is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "vit_base_patch16_224"}, "no ResNet for timm's architecture 'vit_base_p"),
        ({"architecture": "resnet51"}, "architecture 'resnet51'; did you mean 'resnet"),
        ({"architecture": "keras_resnet50"}, "no ResNet for timm's architecture 'keras_resnet50'"),
        ({"architecture": "resnet20"}, "no ResNet for timm's architecture 'resnet20'"),
        ({"model_args": {"stem_type": "deep"}}, "timm's argument 'stem_type' has no counterpart"),
        ({"model_args": {"act_layer": "prelu"}}, "spec override: activation"),
        ({"model_args": {"act_layer": ["relu"]}}, "spec override: activation"),
        ({"model_args": {"global_pool": ""}}, "spec override: head_pool"),
        ({"model_args": []}, "timm's model_args: Input should be a valid dict"),
        ({"num_classes": "many"}, "timm's num_classes: Input should be a valid integer"),
        ({"pretrained_cfg": None}, "timm's pretrained_cfg: "),
        ({"pretrained_cfg": {"input_size": [224, 224]}}, "timm's pretrained_cfg.input_size"),
        ({"pretrained_cfg": {"input_size": [3, -1, -1]}}, "spec override: image_size"),
        ({"pretrained_cfg": {"crop_pct": 7}}, "preprocessing crop: "),
        ({"pretrained_cfg": {"std": [0, 0, 0]}}, "preprocessing std"),
        ({"label_names": 3}, "timm's label_names"),
    ],
)
def test_other_configurations_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        timm_config(BASE | changes, "me/config.json")
    assert str(caught.value).startswith("me/config.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_configurations_of_transformers_are_not_timms() -> None:
    assert is_timm_config(BASE | {"model_type": "timm_wrapper"})
    for data in ({"model_type": "resnet"}, {"model_type": "x", "architecture": "y"}, {}, [], None):
        assert not is_timm_config(data)
    assert not is_timm_config({"architecture": 3, "pretrained_cfg": {}})
