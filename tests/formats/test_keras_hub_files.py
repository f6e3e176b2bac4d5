"""Presets of KerasHub, in and out, with KerasHub itself as the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_parity.convert.conversion import convert
from shared_spec import (
    Checkpoint,
    Preprocessing,
    ResNetError,
    cast_weights,
    compile_plan,
    digest,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from shared_spec.formats.dialects.keras_hub import spec_of
from shared_spec.formats.read import read_checkpoint
from tests.conftest import Pool
from tests.formats.test_keras3_files import assert_near, call, ours, pooled, without_names

__all__ = ["pooled"]

SMALL = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 96],
    "stackwise_num_blocks": [1, 2],
    "stackwise_num_strides": [1, 2],
}
DEEP = {"input_conv_filters": [32, 32, 64], "input_conv_kernel_sizes": [3, 3, 3]}
AVG, MAX = {"num_classes": 5}, {"num_classes": 5, "pooling": "max", "dropout": 0.25}
NETS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "basic": ({"block_type": "basic_block"}, AVG),
    "bottleneck": ({"block_type": "bottleneck_block"}, MAX),
    "basic vd": ({"block_type": "basic_block_vd", **DEEP}, AVG),
    "bottleneck vd": ({"block_type": "bottleneck_block_vd", **DEEP}, None),
    "basic v2": ({"block_type": "basic_block", "use_pre_activation": True}, None),
    "bottleneck v2": ({"block_type": "bottleneck_block", "use_pre_activation": True}, AVG),
    "deep v2": ({"block_type": "basic_block", "use_pre_activation": True, **DEEP}, MAX),
    "strided vd": (
        {
            "block_type": "bottleneck_block_vd",
            "stackwise_num_strides": [2, 1],
            "input_conv_filters": [24, 32, 64],
            "input_conv_kernel_sizes": [3, 3, 3],
        },
        AVG,
    ),
}


def preset(pool: Pool, tmp_path: Path, name: str, **more: Any) -> tuple[Path, np.ndarray]:
    config, head = NETS[name]
    arguments = {"config": SMALL | config, "head": head, "folder": str(tmp_path / "theirs")}
    _, logits = call(pool, tmp_path, "keras_hub_files:write", **arguments | more)
    return tmp_path / "theirs", logits


def features(logits: np.ndarray) -> np.ndarray:
    """A backbone gives feature maps, and ours their mean."""
    return logits.mean((1, 2)) if logits.ndim == 4 else logits


@pytest.mark.parametrize("name", NETS)
def test_what_keras_hub_writes_is_read_and_what_we_write_it_loads(
    pool: Pool, tmp_path: Path, name: str
) -> None:
    theirs, logits = preset(pool, tmp_path, name)
    head = NETS[name][1]
    assert_near(features(logits), ours(theirs))
    found = read_checkpoint(theirs)
    assert found.spec is not None
    assert found.spec.num_classes == (5 if head else 0)
    # By way of our file, and back.
    convert(theirs, tmp_path / "ours.safetensors")
    done = convert(tmp_path / "ours.safetensors", tmp_path / "back", to="keras-hub")
    assert done.unchanged
    assert done.sha256 == digest(found.state)
    count, again = call(
        pool,
        tmp_path,
        "keras_hub_files:load",
        folder=str(tmp_path / "back"),
        classifier=head is not None,
    )
    assert count == len(found.state)
    assert_near(logits, again)
    # Its own files, but for those that say when and by whom.
    for file in ("config.json", "task.json"):
        if (theirs / file).exists() or (tmp_path / "back" / file).exists():
            assert json.loads((theirs / file).read_text()) == json.loads(
                (tmp_path / "back" / file).read_text()
            )
    # As Keras wrote it before 3.10.
    for file in theirs.glob("*.h5"):
        without_names(file)
    assert digest(read_checkpoint(theirs).state) == done.sha256


def test_a_whole_model_in_a_keras_file_is_read(pool: Pool, tmp_path: Path) -> None:
    _, logits = preset(pool, tmp_path, "basic", folder=str(tmp_path / "a.whole"))
    assert_near(logits, ours(tmp_path / "a.whole.keras"))
    convert(tmp_path / "a.whole.keras", tmp_path / "b", to="keras-hub")
    assert digest(read_checkpoint(tmp_path / "b").state) == digest(
        read_checkpoint(tmp_path / "a.whole").state
    )


@pytest.mark.parametrize("name", ["resnet18", "resnetv2_50", "resnet_vd_18", "resnet_vd_50"])
def test_nets_of_the_catalogue_have_presets(tmp_path: Path, name: str) -> None:
    spec = resolve(name, {"depths": [1, 1, 1, 1], "num_classes": 3})
    state = random_weights(compile_plan(spec))
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, spec))
    done = convert(tmp_path / "a.safetensors", tmp_path / "b", to="keras-hub")
    assert done.sha256 == digest(state)
    found = read_checkpoint(tmp_path / "b")
    assert found.spec == spec.override(norm_variance="biased")


def test_biases_and_eps_go_into_norms(pool: Pool, tmp_path: Path) -> None:
    fields = {"depths": [1, 1], "num_classes": 3, "conv_bias": True, "norm_eps": 2e-5}
    spec = resolve("resnet18", fields)
    state = cast_weights(random_weights(compile_plan(spec)), "float64")
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, spec))
    done = convert(tmp_path / "a.safetensors", tmp_path / "b", to="keras-hub")
    assert not done.unchanged
    _, logits = call(
        pool, tmp_path, "keras_hub_files:load", folder=str(tmp_path / "b"), classifier=True
    )
    assert_near(logits, ours(tmp_path / "a.safetensors"))


def test_bfloat16_is_kept(pool: Pool, tmp_path: Path) -> None:
    spec = resolve("resnet18", {"depths": [1, 1], "num_classes": 3})
    state = cast_weights(random_weights(compile_plan(spec)), "bfloat16")
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, spec))
    assert convert(tmp_path / "a.safetensors", tmp_path / "b", to="keras-hub").dtype == "bfloat16"
    assert digest(read_checkpoint(tmp_path / "b").state) == digest(state)
    _, logits = call(
        pool, tmp_path, "keras_hub_files:load", folder=str(tmp_path / "b"), classifier=True
    )
    wide = cast_weights(state, "float64")
    write_safetensors(tmp_path / "c.safetensors", Checkpoint(wide, spec))
    assert_near(logits, ours(tmp_path / "c.safetensors"))


def assert_same(found: Preprocessing | None, expected: Preprocessing) -> None:
    assert found is not None
    assert found.mean == pytest.approx(expected.mean)
    assert found.std == pytest.approx(expected.std)
    numbers = {"mean", "std"}
    assert found.model_dump(exclude=numbers) == expected.model_dump(exclude=numbers)


def test_preprocessing_travels(pool: Pool, tmp_path: Path) -> None:
    spec = resolve("resnet18", {"depths": [1], "num_classes": 3})
    prepare = Preprocessing(
        image_size=40, crop=1, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.5, 1, 2)
    )
    checkpoint = Checkpoint(random_weights(compile_plan(spec)), spec, prepare, ("a", "b", "c"))
    write_safetensors(tmp_path / "a.safetensors", checkpoint)
    done = convert(tmp_path / "a.safetensors", tmp_path / "b", to="keras-hub")
    assert done.lost == ("labels",)
    # Over a directory with every file that a preset can have.
    convert(tmp_path / "a.safetensors", tmp_path / "b", to="keras-hub")
    found = read_checkpoint(tmp_path / "b").preprocessing
    assert_same(found, prepare)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    write_safetensors(tmp_path / "p.safetensors", Checkpoint({"x": pixels.astype(np.float32)}))
    arguments = {k: str(tmp_path / f"{k[0]}.safetensors") for k in ("pixels", "output")}
    pool["keras:tensorflow"].call(
        "probe", function="keras_hub_files:prepare", folder=str(tmp_path / "b"), **arguments
    )
    expected = read_safetensors(tmp_path / "o.safetensors").state["x"]
    np.testing.assert_allclose(prepare([Image.fromarray(pixels)])[0], expected, atol=1e-6)


def test_what_keras_hubs_converter_says_is_read(pool: Pool, tmp_path: Path) -> None:
    converter = {"image_size": [48, 48], "scale": 1 / 127.5, "offset": -1.0}
    theirs, _ = preset(pool, tmp_path, "basic", converter=converter)
    half = Preprocessing(image_size=48, crop=1, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert_same(read_checkpoint(theirs).preprocessing, half)
    # Where the classifier does not say, the other files do.
    edit(theirs / "task.json", lambda task: task["config"].update(preprocessor=None))
    edit(theirs / "image_converter.json", lambda data: data["config"].update(scale=1.0))
    assert_same(read_checkpoint(theirs).preprocessing, half)
    (theirs / "preprocessor.json").unlink()
    found = read_checkpoint(theirs).preprocessing
    assert found is not None
    assert found.std == pytest.approx((1 / 255,) * 3)
    # Its older arguments.
    old = {"height": 48, "width": 48, "scale": 1 / 255, "mean": [0.5] * 3, "variance": [0.25] * 3}
    edit(theirs / "image_converter.json", lambda data: data.update(config=old))
    found = read_checkpoint(theirs).preprocessing
    assert_same(found, half)
    old["crop_to_aspect_ratio"] = False
    edit(theirs / "image_converter.json", lambda data: data.update(config=old))
    assert read_checkpoint(theirs).preprocessing is None


def edit(path: Path, change: Any) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spec = resolve("resnet18", {"depths": [1, 1], "num_classes": 3})
    source = tmp_path / "a.safetensors"
    write_safetensors(source, Checkpoint(random_weights(compile_plan(spec)), spec))
    convert(source, tmp_path / "preset", to="keras-hub")
    return tmp_path / "preset"


def refused(folder: Path) -> str:
    target = folder.parent / "out.safetensors"
    with pytest.raises(ResNetError) as caught:
        convert(folder, target)
    assert not target.exists()
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"include_rescaling": True}, "include_rescaling: extra inputs are not permitted"),
        ({"block_type": "cross_stage"}, "block_type: input should be 'basic_block'"),
        ({"stackwise_num_strides": [1, 2, 2]}, "_blocks and _strides differ in length"),
        ({"stackwise_num_filters": [32, 64]}, "begins with 32, and KerasHub only takes 64"),
        ({"input_conv_kernel_sizes": [5]}, r"input_conv_kernel_sizes [5] has no spec"),
        ({"input_conv_filters": [32]}, "begins without a projection"),
        ({"stackwise_num_filters": [64, 64], "stackwise_num_strides": [1, 1]}, "stack 1 of"),
        (
            {"block_type": "basic_block_vd", "use_pre_activation": True},
            "block_type 'basic_block_vd' excludes use_pre_activation",
        ),
    ],
)
def test_configurations_without_a_spec_are_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    (folder / "task.json").unlink()
    (folder / "task.weights.h5").unlink()
    edit(folder / "config.json", lambda data: data["config"].update(change))
    assert message in refused(folder)


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        ([None, None, 1], {"in_channels": 1}),
        ([1, None, None], {"in_channels": 1}),
        ([96, 96, 3], {"image_size": 96}),
    ],
)
def test_the_shape_of_images_is_told(
    folder: Path, shape: list[int | None], fields: dict[str, int]
) -> None:
    config = json.loads((folder / "config.json").read_text())
    plain = spec_of(config)
    config["config"]["image_shape"] = shape
    assert spec_of(config) == plain.override(**fields)


def test_files_that_contradict_one_another_are_refused(folder: Path) -> None:
    edit(folder / "config.json", lambda x: x["config"].update(stackwise_num_strides=[1, 1]))
    assert "has another backbone than config.json" in refused(folder)
    edit(folder / "config.json", lambda x: x["config"].update(stackwise_num_strides=[1, 2]))
    edit(folder / "task.json", lambda x: x["config"].update(activation="tanh"))
    assert "activation: input should be 'linear', 'softmax' or 'sigmoid'" in refused(folder)
    edit(folder / "task.json", lambda x: x["config"].update(activation="softmax"))
    assert read_checkpoint(folder).spec is not None
    edit(folder / "task.json", lambda x: x["config"].update(num_classes=4))
    assert "fc.weight has shape (3, 128), expected (4, 128)" in refused(folder)
    (folder / "task.weights.h5").unlink()
    assert "task.weights.h5: there is no such file" in refused(folder)
    edit(folder / "task.json", lambda x: x.update(class_name="ResNetObjectDetector"))
    assert "'ResNetObjectDetector' is not one of ResNetBackbone" in refused(folder)


def test_only_a_preset_is_replaced(folder: Path) -> None:
    source = folder.parent / "a.safetensors"
    convert(source, folder, to="keras-hub")
    (folder / "thesis.tex").write_text("")
    with pytest.raises(ResNetError, match="holds other files"):
        convert(source, folder, to="keras-hub")


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnet50", {"widths": [32, 64, 128, 256]}, "begins with 32, and KerasHub only takes 64"),
        ("resnext50_32x4d", {}, "would be"),
        ("resnet18d", {}, "would be"),
        ("resnet18", {"activation": "gelu"}, "function='gelu'"),
        ("resnet18", {"head_pool": "avgmax"}, "pooling: input should be 'avg' or 'max'"),
        ("resnet18", {"features_only": True}, "has other layers or outputs"),
        ("keras_resnet50", {}, "would be"),
    ],
)
def test_what_keras_hub_lacks_is_refused(
    tmp_path: Path, name: str, fields: dict[str, Any], message: str
) -> None:
    spec = resolve(name, {"depths": [1, 1, 1, 1], **fields})
    source = tmp_path / "a.safetensors"
    write_safetensors(source, Checkpoint(random_weights(compile_plan(spec)), spec))
    with pytest.raises(ResNetError, match="KerasHub has no such net") as caught:
        convert(source, tmp_path / "b", to="keras-hub")
    assert message in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_weights_alone_need_the_model(folder: Path, tmp_path: Path) -> None:
    (folder / "model.weights.h5").rename(tmp_path / "bare.weights.h5")
    spec = read_checkpoint(tmp_path / "a.safetensors").spec
    assert spec is not None
    found = read_checkpoint(tmp_path / "bare.weights.h5", spec.override(num_classes=0))
    assert "conv1.weight" in found.state
    assert len(found.state) + 2 == len(read_checkpoint(tmp_path / "a.safetensors").state)
    with pytest.raises(ResNetError, match="`spec`"):
        read_checkpoint(tmp_path / "bare.weights.h5")
