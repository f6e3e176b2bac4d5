"""The spec: validation, errors, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_spec import (
    CATALOGUE,
    ResNetSpec,
    SpecError,
    UnknownModelError,
    compile_plan,
    load_spec,
    resolve,
    save_spec,
)
from tests.drawn import specs

BASE: dict[str, Any] = {"depths": [2, 2], "block": "bottleneck"}


def test_resnet50_is_two_lines(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("depths: [3, 4, 6, 3]\nblock: bottleneck\n")
    assert load_spec(file) == resolve("resnet50")
    assert resolve(file) == resolve("resnet50")
    assert resolve(str(file), {"num_classes": 3}).num_classes == 3


def test_specs_are_frozen_and_hashable() -> None:
    spec = resolve("resnet18")
    assert hash(spec) == hash(resolve("resnet18"))
    assert len({spec, resolve("resnet18"), resolve("resnet34")}) == 2
    with pytest.raises(ValueError, match="frozen"):
        spec.num_classes = 3  # type: ignore[misc]


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".toml", ".json"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_spec_survives_a_file(tmp_path: Path, name: str, suffix: str) -> None:
    spec = CATALOGUE[name].spec
    file = tmp_path / f"spec{suffix}"
    save_spec(file, spec)
    assert load_spec(file) == spec


@settings(deadline=None)
@given(specs(), st.sampled_from([".yaml", ".toml", ".json"]))
def test_drawn_specs_survive_a_file(
    tmp_path_factory: pytest.TempPathFactory, spec: ResNetSpec, suffix: str
) -> None:
    file = tmp_path_factory.mktemp("specs") / f"spec{suffix}"
    save_spec(file, spec)
    assert load_spec(file) == spec
    assert ResNetSpec.parse(spec.to_dict()) == spec
    assert ResNetSpec.parse(spec.model_dump()) == spec
    # What two layers are called alike is one in PyTorch, and an error in Keras.
    names = [layer.name for layer in compile_plan(spec).leaves()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blok": "basic"}, "blok: there is no such field; did you mean 'block"),
        ({"qqq": 1}, "qqq: there is no such field; known are depths, block,"),
        (
            {"block": "basis"},
            "block: input should be 'basic', 'bottleneck' or 'edge' (got 'basis')",
        ),
        ({"depths": []}, "depths: tuple should have at least 1 item"),
        ({"depths": "34"}, "depths:"),
        ({"depths": [1] * 30_000}, "depths: tuple should have at most 8 items"),
        ({"depths": [1] * 300_000}, "depths: has more than 40,000 values"),
        ({"widths": [["x"] * 9] * 5_000}, "widths: has more than 40,000 values"),
        ({"widths": []}, "widths: 0 entries for 2 stages"),
        ({"widths": [64]}, "widths: 1 entries for 2 stages; give one per stage"),
        ({"strides": [1, 2, 2]}, "strides: 3 entries for 2 stages"),
        ({"norm_eps": 0}, "norm_eps: input should be greater than 0 (got 0)"),
        ({"norm_eps": float("nan")}, "norm_eps:"),
        ({"num_classes": "many"}, "num_classes: input should be a valid integer"),
        ({"block": "basic", "groups": 2}, "groups: 2 needs block 'bottleneck'"),
        ({"block": "basic", "stride_on": "1x1"}, "stride_on: '1x1' needs block 'bottleneck'"),
        ({"base_width": 1, "widths": [32, 64]}, "base_width: 1 at 32 planes leaves"),
        (
            {"shortcut": "zero_pad", "widths": [64, 8]},
            "shortcut: 'zero_pad' can only add channels, and stage 2 goes from 256 to 32",
        ),
        ({"depths": [True, 2]}, "depths.0: input should be a valid integer (got True)"),
        ({"depths": [2.0, "2"]}, "depths.0: input should be a valid integer (got 2.0); depths.1:"),
        ({"pre_activation": "yes"}, "pre_activation: input should be a valid boolean (got 'yes')"),
        ({"conv_bias": "yes"}, "conv_bias: input should be True, False or 'without_norm'"),
        ({"activation": "swish"}, "activation: input should be 'relu', 'relu6',"),
        ({"num_classes": -1}, "num_classes: input should be greater than or equal to 0"),
        ({"drop_path_rate": 1}, "drop_path_rate: input should be less than 1 (got 1)"),
        (
            {"head_pool": "mean"},
            "head_pool: input should be 'avg', 'max', 'avgmax', 'catavgmax', 'flatten' or "
            "'attention'",
        ),
        ({"output_stride": 5}, "output_stride: 5 is not one that the net has: 4, 8"),
        (
            {"pre_activation": True, "stride_block": "last", "output_stride": 4},
            "output_stride: cannot be combined with stride_block 'last'",
        ),
        ({"stride_block": "last"}, "stride_block: 'last' needs pre_activation"),
        (
            {"pre_activation": True, "norm": "frn", "activation": "silu"},
            "activation: the norm 'frn' holds its own; leave it at 'relu'",
        ),
        (
            {"shortcut": "none", "zero_init_last": True},
            "zero_init_last: a net without shortcuts would start at zero everywhere",
        ),
        (
            {"shortcut": "none", "drop_path_rate": 0.1},
            "drop_path_rate: a net without shortcuts has no other path",
        ),
        (
            {"shortcut": "zero_pad", "shortcut_norm": False},
            "shortcut_norm: there is none to leave out with shortcut 'zero_pad'",
        ),
        ({"se_ratio": 0.5}, "se_ratio: needs attention 'se'"),
        ({"norm_groups": 8}, "norm_groups: the norm 'batch' has no groups"),
        ({"features_only": True, "drop_rate": 0.5}, "drop_rate: a features_only net has no head"),
        ({"out_indices": [0]}, "out_indices: needs features_only"),
        (
            {"features_only": True, "out_indices": [0, 3]},
            "out_indices: there is no feature map 3; the last is 2",
        ),
        ({"features_only": True, "out_indices": [1, 0]}, "out_indices: [1, 0] has to ascend"),
        ({"block": ["basic"]}, "block: 1 entries for 2 stages; give one per stage"),
        (
            {"block": ["basic", "wide"]},
            "block.1: input should be 'basic', 'bottleneck' or 'edge' (got 'wide')",
        ),
        ({"block": 3}, "block: input should be 'basic', 'bottleneck' or 'edge' (got 3)"),
        ({"block": ["bottleneck", "basic"], "groups": 2}, "groups: 2 needs block 'bottleneck'"),
        ({"anti_alias": "blur", "stride_on": "1x1"}, "stride_on has to be '3x3'"),
        (
            {"shortcut": "none", "shortcut_pool": "avg"},
            "shortcut_pool: 'avg' needs a projection, and shortcut is 'none'",
        ),
        ({"shortcut_pool": "avg", "shortcut_kernel": 3}, "exclude one another"),
        ({"stem": "deep", "stem_width": 4}, "stem_width: 4 is too narrow for a deep stem"),
        ({"reduce_first": 3, "groups": 32}, "do not divide into 32 groups"),
        ({"reduce_first": 500}, "leaves a convolution of width 0"),
        ({"group_width": 48}, "group_width: 48 does not divide the 64 channels inside"),
        ({"group_width": 8, "groups": 2}, "group_width: stands in the place of groups"),
        ({"block": "basic", "expansion": 2}, "expansion: needs block 'bottleneck'"),
        ({"bottleneck_ratio": 0.001}, "bottleneck_ratio: 0.001 at 64 planes leaves a convolution"),
        ({"attention_on": "middle"}, "attention_on: needs attention"),
        ({"se_activation": "silu", "attention": "eca"}, "se_activation: needs attention 'se'"),
        (
            {"attention": "se", "se_of": "input", "se_divisor": 4},
            "se_divisor: cannot be combined with se_of 'input'",
        ),
        ({"norm_group_width": 8}, "norm_group_width: the norm 'batch' has no groups"),
        ({"identity_from": "pre"}, "identity_from: 'pre' needs pre_activation"),
        ({"pre_activation": True, "head_width": 8}, "head_width: 8 cannot be combined with pre_"),
        ({"shortcut": "identity", "zero_init_last": True}, "a block without a shortcut would"),
        ({"block_widths": [[1, 2, 3]]}, "block_widths: 1 entries for 4 blocks"),
        ({"block_widths": [[1, 2]] * 4}, "block_widths.0: 2 entries for 3 convolutions"),
    ],
)
def test_an_error_names_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        ResNetSpec.parse({**BASE, **fields}, "mine.yaml")
    assert str(error.value).startswith("mine.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_channels_that_do_not_divide_are_refused() -> None:
    spec = ResNetSpec.parse({**BASE, "norm": "group", "norm_groups": 24})
    with pytest.raises(SpecError, match="24 does not divide the 64 channels of"):
        compile_plan(spec)
    fields = {"attention": "se", "se_of": "input", "se_ratio": 0.001}
    with pytest.raises(SpecError, match="64 channels that enter stage 1 leaves none"):
        compile_plan(ResNetSpec.parse(BASE | fields))


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SpecError) as error:
        ResNetSpec.parse({"block": "x", "stem": "y"})
    for field in ("depths", "block", "stem"):
        assert f"{field}: " in str(error.value)


@pytest.mark.parametrize("data", [None, 3, [], "resnet50"])
def test_a_spec_is_a_mapping(data: object) -> None:
    with pytest.raises(SpecError, match="expected a mapping of fields"):
        ResNetSpec.parse(data)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "depths: [2\n", "not valid YAML"),
        ("a.toml", "depths = [2\n", "not valid TOML"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", '{"block": "basic", "block": "basic"}', "the key 'block' appears twice"),
        ("a.yaml", "block: basic\nblock: basic\n", "the key 'block' appears twice"),
        ("a.yaml", "a: &a [1]\nb: *a\n", "aliases are not accepted"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a.yaml", "[" * 100_000, "not valid YAML"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.yaml", "", "expected a mapping"),
        ("a.yaml", 'depths: !!int ""', "not valid YAML"),
        ("a.yaml", "depths: !!bool maybe", "not valid YAML"),
        ("a.yaml", "1: 2", "the key 1 is not a string"),
        ("a.yaml", "? [1, 2]\n: 3\n", "is not a string"),
        ("a.txt", "", "a spec file ends in one of .yaml, .yml, .toml, .json"),
        ("a.yaml", "#" * 100_001, "larger than 100,000 bytes"),
        ("a.yaml", "depths: [2, 2]\nblock: basic\nnum_classes: 99999999999999999999", "less than"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(SpecError) as error:
        load_spec(file)
    assert str(error.value).startswith(str(file))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(SpecError, match="not valid YAML"):
        load_spec(file)


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean .*'resnet50'"):
        resolve("resnet5O")
    with pytest.raises(UnknownModelError, match="resnet-parity list"):
        resolve("zzz")


def test_overrides_keep_what_was_chosen_and_derive_the_rest() -> None:
    spec = resolve("resnet50", {"depths": [1, 1]})
    assert spec.widths == (64, 128)
    assert spec.strides == (1, 2)
    chosen = spec.override(widths=[32, 48]).override(num_classes=3)
    assert chosen.widths == (32, 48)
    with pytest.raises(SpecError, match="widths: 2 entries for 3 stages"):
        chosen.override(depths=[1, 1, 1])


def test_the_json_schema_describes_every_field() -> None:
    schema = json.loads(json.dumps(ResNetSpec.json_schema()))
    assert set(schema["properties"]) == set(ResNetSpec.model_fields)
    assert schema["required"] == ["depths", "block"]
    assert schema["additionalProperties"] is False
    for name, field in schema["properties"].items():
        assert field["description"], name
