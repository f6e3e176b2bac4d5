"""Other forms of transformers' checkpoints than a directory with one file: shards, timm's nets,
Flax's files, files without their directory. transformers itself judges; its Flax models, which
version 5 no longer has, judged when the files in `tests/kept` were made.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from shared_spec import (
    ResNetError,
    SpecError,
    WeightsError,
    digest,
    random_images,
    read_safetensors,
    resolve,
)
from shared_spec.formats.read import read_checkpoint
from tests.conftest import ROOT
from tests.formats.test_huggingface import near, ours, randomise, theirs
from tests.parity.test_transformers import BITS, RESNETS
from tests.peers import torchvision_models, transformers_model

KEPT = ROOT / "tests" / "kept"
IMAGES = random_images((2, 65, 64, 3))
INDEX = "model.safetensors.index.json"
MODELS = {
    "basic": ("ResNet", RESNETS["basic"]),
    "bottleneck": ("ResNet", RESNETS["both"]),
    "BiT": ("Bit", BITS["preactivation"]),
}


def saved(folder: Path, name: str = "basic", **options: Any) -> Any:
    """A model of transformers, and what it saves."""
    kind, config = MODELS[name]
    model = randomise(transformers_model(kind, **config))
    model.save_pretrained(folder, **options)
    return model


def as_bin(folder: Path) -> None:
    """What transformers before version 5 wrote with `safe_serialization=False`."""
    from safetensors.torch import load_file

    for file in folder.glob("*.safetensors"):
        name = file.stem.replace("model", "pytorch_model") + ".bin"
        torch.save(load_file(file), folder / name)
        file.unlink()
    if (folder / INDEX).is_file():
        text = (folder / INDEX).read_text()
        text = text.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        (folder / INDEX).unlink()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("name", MODELS)
def test_shards(tmp_path: Path, name: str, form: str) -> None:
    model = saved(tmp_path, name, max_shard_size="60KB")
    if form == "bin":
        as_bin(tmp_path)
    assert len(list(tmp_path.glob(f"*-of-*.{form}"))) > 2
    again, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert near(theirs(again.eval(), IMAGES), ours(tmp_path))


def test_one_file_of_pytorch(tmp_path: Path) -> None:
    model = saved(tmp_path)
    as_bin(tmp_path)
    assert [path.name for path in tmp_path.glob("*.bin")] == ["pytorch_model.bin"]
    assert near(theirs(type(model).from_pretrained(tmp_path).eval(), IMAGES), ours(tmp_path))


def index_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / INDEX).read_text())
    return found


def put(folder: Path, index: object) -> None:
    (folder / INDEX).write_text(json.dumps(index))


ARRAY = "resnet.encoder.stages.2.layers.0.layer.0.convolution.weight"


def elsewhere(name: object) -> Any:
    def change(folder: Path) -> None:
        index = index_of(folder)
        index["weight_map"][ARRAY] = name
        put(folder, index)

    return change


def without_a_shard(folder: Path) -> None:
    (folder / index_of(folder)["weight_map"][ARRAY]).unlink()


def an_array_in_two_shards(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    places = index_of(folder)["weight_map"]
    other = next(file for file in places.values() if file != places[ARRAY])
    arrays = load_file(folder / other) | {ARRAY: load_file(folder / places[ARRAY])[ARRAY]}
    save_file(arrays, folder / other)


def an_array_that_no_shard_has(folder: Path) -> None:
    index = index_of(folder)
    index["weight_map"]["a"] = index["weight_map"][ARRAY]
    put(folder, index)


def an_index_as_shard(folder: Path) -> None:
    place = folder / index_of(folder)["weight_map"][ARRAY]
    shutil.copy(folder / INDEX, place)


def a_shard_of_another_kind(folder: Path) -> None:
    place = folder / index_of(folder)["weight_map"][ARRAY]
    torch.save({"a": torch.zeros(1)}, place)


def a_folder_as_shard(folder: Path) -> None:
    without_a_shard(folder)
    (folder / index_of(folder)["weight_map"][ARRAY]).mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (elsewhere("../../etc/passwd"), "is in '../../etc/passwd'; expected the name of a "),
        (elsewhere("/etc/passwd.safetensors"), "is in '/etc/passwd.safetensors'; expected the"),
        (elsewhere("a/../../b.safetensors"), "expected the name of a .safetensors file beside it"),
        (elsewhere("..\\b.safetensors"), "expected the name of a .safetensors file beside it"),
        (elsewhere(".hidden.safetensors"), "expected the name of a .safetensors file beside it"),
        (elsewhere(INDEX), f"is in '{INDEX}'; expected the name of a .safetensors file"),
        (elsewhere(["a"]), "expected the name of a .safetensors file beside it"),
        (elsewhere(None), "expected the name of a .safetensors file beside it"),
        (elsewhere("b.safetensors"), "b.safetensors: there is no such file, and model.safeten"),
        (without_a_shard, "there is no such file, and model.safetensors.index.json names it"),
        (an_array_in_two_shards, f"holds '{ARRAY}', which model.safetensors.index.json does not"),
        (an_array_that_no_shard_has, "lacks 'a', which model.safetensors.index.json places there"),
        (an_index_as_shard, "not a readable safetensors file"),
        (a_shard_of_another_kind, "not a readable safetensors file"),
        (a_folder_as_shard, "there is no such file, and model.safetensors.index.json names it"),
        (lambda f: put(f, {}), "expected a mapping of arrays to files under 'weight_map'"),
        (lambda f: put(f, {"weight_map": []}), "expected a mapping of arrays to files under"),
        (lambda f: put(f, []), "expected a mapping, got list"),
        (lambda f: put(f, {"weight_map": {f"{i}": "a" for i in range(60_000)}}), "60,000 arrays"),
        (
            lambda f: put(f, {"weight_map": {f"{i}": f"{i}.safetensors" for i in range(2_000)}}),
            "names 2,000 files, expected at most 1,000",
        ),
        (
            lambda f: put(f, {"weight_map": {f"{i}": "a" for i in range(400_000)}}),
            "values in its JSON, more than any model's",
        ),
        (lambda f: (f / INDEX).write_bytes(b'{"a":1,' * 10_000_000), "bytes"),
    ],
)
def test_an_index_that_is_not_true_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    saved(tmp_path, max_shard_size="60KB")
    change(tmp_path)
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["basic", "bottleneck", "model"])
def test_flax_models_of_transformers(name: str) -> None:
    folder = KEPT / f"flax_{name}"
    logits = read_safetensors(folder / "logits.safetensors").state["logits"]
    assert near(logits, ours(folder))
    labels = read_checkpoint(folder).labels
    assert labels == (("cat", "dog", "eel") if name == "basic" else None)


def test_what_flax_models_of_transformers_leave_out_of_account(tmp_path: Path) -> None:
    shutil.copytree(KEPT / "flax_bottleneck", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    text = json.dumps(config | {"downsample_in_bottleneck": True})
    (tmp_path / "a" / "config.json").write_text(text)
    with pytest.raises(SpecError, match="downsample_in_bottleneck, which transformers' Flax"):
        read_checkpoint(tmp_path / "a")


def test_weights_of_tensorflow_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "tf_model.h5")
    with pytest.raises(WeightsError, match=r"tf_model\.h5: weights of transformers' TensorFlow"):
        read_checkpoint(tmp_path)
    (tmp_path / "tf_model.h5").unlink()
    with pytest.raises(WeightsError, match=r"no such file of weights, nor any of model\.safet"):
        read_checkpoint(tmp_path)


def wrapper(headless: bool = False, **config: Any) -> Any:
    torchvision_models()
    import transformers

    kind = (
        transformers.TimmWrapperModel
        if headless
        else (transformers.TimmWrapperForImageClassification)
    )
    torch.manual_seed(0)
    return randomise(kind(transformers.TimmWrapperConfig(**config)))


WRAPPED: dict[str, dict[str, Any]] = {
    "a ResNet": {"architecture": "test_resnet", "num_labels": 3},
    "arguments": {
        "architecture": "test_resnet",
        "num_labels": 5,
        "model_args": {"in_chans": 1, "act_layer": "silu", "global_pool": "max"},
    },
    "labels": {"architecture": "resnet10t.c3_in1k", "id2label": {0: "cat", 1: "dog"}},
    "pre-activation": {"architecture": "resnetv2_18", "num_labels": 4},
}


@pytest.mark.parametrize("form", ["prefixed", "timm's names", "sharded"])
@pytest.mark.parametrize("name", WRAPPED)
def test_timms_nets_in_transformers(tmp_path: Path, name: str, form: str) -> None:
    model = wrapper(**WRAPPED[name])
    model.save_pretrained(tmp_path, max_shard_size="400KB" if form == "sharded" else "1GB")
    if form == "timm's names":  # as transformers before version 5 did
        from safetensors.torch import load_file, save_file

        arrays = load_file(tmp_path / "model.safetensors")
        arrays = {name.removeprefix("timm_model."): array for name, array in arrays.items()}
        save_file(arrays, tmp_path / "model.safetensors", {"format": "pt"})
    assert (tmp_path / INDEX).is_file() == (form == "sharded")
    again = type(model).from_pretrained(tmp_path).eval()
    found = read_checkpoint(tmp_path)
    assert found.spec is not None
    images = random_images((2, 65, 64, found.spec.in_channels))
    assert near(theirs(again, images), ours(tmp_path))
    assert found.labels == (("cat", "dog") if name == "labels" else None)
    assert found.preprocessing is None  # it has no `pretrained_cfg`


def test_a_net_of_timms_without_a_classifier(tmp_path: Path) -> None:
    model = wrapper(headless=True, architecture="test_resnet")
    model.save_pretrained(tmp_path)
    assert near(theirs(type(model).from_pretrained(tmp_path).eval(), IMAGES), ours(tmp_path))


def test_the_wrapper_takes_its_net_from_its_own_fields_alone(tmp_path: Path) -> None:
    """`pretrained_cfg` may say another pool, number of classes and of channels."""
    model = wrapper(architecture="test_resnet", num_labels=3)
    model.save_pretrained(tmp_path)
    told = {
        "num_classes": 9,
        "global_pool": "max",
        "input_size": [1, 64, 64],
        "crop_pct": 0.9,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.2, 0.3],
    }
    file = tmp_path / "config.json"
    config = json.loads(file.read_text()) | {"pretrained_cfg": told}
    file.write_text(json.dumps(config))
    assert near(theirs(type(model).from_pretrained(tmp_path).eval(), IMAGES), ours(tmp_path))
    prepare = read_checkpoint(tmp_path).preprocessing
    assert prepare is not None
    assert (prepare.image_size, prepare.crop) == (64, 0.9)
    assert (prepare.mean, prepare.std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    del config["num_classes"]
    file.write_text(json.dumps(config))
    with pytest.raises(TypeError):
        type(model).from_pretrained(tmp_path)
    with pytest.raises(SpecError, match="expected a number of classes as num_classes, got None"):
        read_checkpoint(tmp_path)


def test_an_old_repository_of_timms(tmp_path: Path) -> None:
    """With a configuration of one level, and PyTorch's file alone."""
    torchvision_models()
    import timm

    model = randomise(timm.create_model("resnet10t", num_classes=4))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    config = {"architecture": "resnet10t", "num_classes": 4, "mean": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval().double()
    with torch.inference_mode():
        expected = again(torch.from_numpy(IMAGES).double().permute(0, 3, 1, 2)).numpy()
    assert near(expected, ours(tmp_path))


ALONE = {
    "basic": RESNETS["basic"],
    "a stride in the first stage": RESNETS["downsample_in_first_stage"],
    "grey images": RESNETS["grey images"],
}


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("name", ALONE)
def test_a_file_without_its_directory(tmp_path: Path, name: str, suffix: str) -> None:
    model = randomise(transformers_model("ResNet", **ALONE[name]))
    model.save_pretrained(tmp_path)
    if suffix == "bin":
        as_bin(tmp_path)
    (tmp_path / "config.json").unlink()
    (file,) = tmp_path.iterdir()
    spec = read_checkpoint(file).spec
    assert spec is not None
    assert near(theirs(model, random_images((2, 65, 64, spec.in_channels))), ours(file))


@pytest.mark.parametrize("headless", [False, True])
def test_names_without_a_prefix(tmp_path: Path, headless: bool) -> None:
    import transformers

    kind = "ResNetModel" if headless else "ResNetForImageClassification"
    model = randomise(getattr(transformers, kind)(transformers.ResNetConfig(**RESNETS["basic"])))
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert near(theirs(model, IMAGES), ours(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("ResNet", RESNETS["bottleneck"], "convolutions have the strides (downsample_in_bottlen"),
        (
            "ResNet",
            RESNETS["basic"] | {"hidden_sizes": [24, 32, 64]},
            "whether the first stage has a stride (downsample_in_first_stage)",
        ),
        ("Bit", BITS["preactivation"], "how it pads, nor its groups, activation and output"),
        ("Bit", BITS["bottleneck"], "how it pads, nor its groups, activation and output stride"),
    ],
)
def test_what_names_do_not_say_is_asked_for(
    tmp_path: Path, kind: str, options: dict[str, Any], message: str
) -> None:
    """And taken from the configuration beside the file, or from the user."""
    model = randomise(transformers_model(kind, **options))
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    reference = theirs(model, IMAGES)
    assert near(reference, ours(file))
    found = read_checkpoint(file)
    (tmp_path / "config.json").rename(tmp_path / "away.json")
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(file)
    assert message in str(caught.value)
    assert str(caught.value).endswith("put its config.json beside it or name the model (`spec`)")
    assert digest(read_checkpoint(file, found.spec).state) == digest(found.state)
    # A configuration of something else is none.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(WeightsError, match="without their configuration"):
        read_checkpoint(file)


def test_a_state_dict_of_transformers_is_loaded_by_hand() -> None:
    model = randomise(transformers_model("ResNet", **RESNETS["basic"]))
    spec = resolve(
        "resnet18",
        {"depths": [1, 2, 1], "widths": [16, 32, 64], "stem_width": 16, "num_classes": 10},
    )
    made = resnet_torch.create_model(spec, weights=model.state_dict()).double()
    assert near(theirs(model, IMAGES), np.asarray(resnet_torch.predict(made, IMAGES)))


@pytest.mark.parametrize("shape", [(), (0,), (4,), (4, 3, 7), (4, 3, 7, 7)])
def test_odd_files_with_such_names(tmp_path: Path, shape: tuple[int, ...]) -> None:
    from safetensors.numpy import save_file

    names = (
        "resnet.embedder.embedder.convolution.weight",
        "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight",
        "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight",
    )
    for count in (1, 3):
        arrays = {name: np.zeros(shape, np.float32) for name in names[:count]}
        arrays |= {"classifier.1.weight": np.zeros((10**9, 0), np.float32)} if count == 3 else {}
        save_file(arrays, tmp_path / "a.safetensors")
        with pytest.raises(ResNetError) as caught:
            read_checkpoint(tmp_path / "a.safetensors")
        assert "\n" not in str(caught.value)
