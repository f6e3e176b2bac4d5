"""Directories of Hugging Face transformers, in and out, with transformers itself as the judge."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.convert.conversion import convert
from resnet_parity.engines.process import Worker
from shared_spec import (
    Checkpoint,
    Preprocessing,
    ResNetError,
    ResNetSpec,
    compile_plan,
    digest,
    list_models,
    random_images,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from shared_spec.errors import SpecError, WeightsError
from shared_spec.formats.dialects.huggingface import config_of, spec_of
from shared_spec.formats.read import read_checkpoint
from tests.parity.test_transformers import BITS, RESNETS
from tests.peers import transformers_model

CONFIGS = {f"ResNet, {name}": ("ResNet", options) for name, options in RESNETS.items()}
CONFIGS |= {f"Bit, {name}": ("Bit", options) for name, options in BITS.items()}


def randomise(model: Any) -> Any:
    """Weights, biases and norm statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var") or name.endswith(("normalization.weight", "norm.weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return model.eval()


def theirs(model: Any, images: np.ndarray) -> np.ndarray:
    """transformers' logits, or its pooled features, in float64."""
    with torch.inference_mode():
        found = model.double()(torch.from_numpy(images).double().permute(0, 3, 1, 2))
    output = found.logits if "logits" in found else found.pooler_output.flatten(1)
    return np.asarray(output.numpy())


def near(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() / np.abs(a).max() <= 1e-12)


def ours(weights: Path) -> np.ndarray:
    checkpoint = read_checkpoint(weights)
    assert checkpoint.spec is not None
    state = {k: v.astype(np.float64) for k, v in checkpoint.state.items()}
    model = resnet_torch.create_model(checkpoint.spec, weights=state, dtype="float64")
    found: np.ndarray = resnet_torch.predict(model, images_for(checkpoint.spec))
    return found


def images_for(spec: ResNetSpec) -> np.ndarray:
    return random_images((2, 65, 64, spec.in_channels))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_transformers_writes_is_read_and_what_we_write_it_reads(
    tmp_path: Path, name: str
) -> None:
    kind, options = CONFIGS[name]
    model = randomise(transformers_model(kind, **options))
    model.save_pretrained(tmp_path / "theirs")
    read = read_checkpoint(tmp_path / "theirs")
    assert read.spec is not None
    reference = theirs(model, images_for(read.spec))
    assert near(reference, ours(tmp_path / "theirs"))
    # By way of our file, and back.
    convert(tmp_path / "theirs", tmp_path / "ours.safetensors")
    done = convert(tmp_path / "ours.safetensors", tmp_path / "back", to="huggingface")
    assert done.sha256 == digest(read.state)
    again, report = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values()), report
    assert near(reference, theirs(again.eval(), images_for(read.spec)))


@pytest.mark.parametrize("kind", ["ResNet", "Bit"])
def test_a_model_without_a_classifier(tmp_path: Path, kind: str) -> None:
    import transformers

    options = (RESNETS["bottleneck"], BITS["preactivation"])[kind == "Bit"]
    config = getattr(transformers, f"{kind}Config")(**options)
    model = randomise(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(tmp_path / "theirs")
    reference = theirs(model, random_images((2, 65, 64, 3)))
    assert near(reference, ours(tmp_path / "theirs"))
    convert(tmp_path / "theirs", tmp_path / "back", to="huggingface")
    again, report = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values()), report
    assert near(reference, theirs(again.eval(), random_images((2, 65, 64, 3))))


def test_every_backend_reads_a_directory(worker: Worker, tmp_path: Path) -> None:
    spec = resolve("resnet18", {"depths": [1, 1], "num_classes": 3})
    state = random_weights(compile_plan(spec))
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, spec))
    convert(tmp_path / "a.safetensors", tmp_path / "hf", to="huggingface")
    output = str(tmp_path / "b.safetensors")
    worker.call("read", source=str(tmp_path / "hf"), spec=None, output=output)
    assert digest(read_safetensors(output).state) == digest(state)


def test_labels_and_preprocessing_travel(tmp_path: Path) -> None:
    spec = resolve("resnet18", {"depths": [1], "num_classes": 3})
    prepare = Preprocessing(
        image_size=40, crop=0.8, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(1, 2, 3)
    )
    labels = ("ant", "bee", "кот")
    checkpoint = Checkpoint(random_weights(compile_plan(spec)), spec, prepare, labels)
    write_safetensors(tmp_path / "a.safetensors", checkpoint)
    done = convert(tmp_path / "a.safetensors", tmp_path / "hf", to="huggingface")
    assert done.lost == ()
    found = read_checkpoint(tmp_path / "hf")
    assert (found.labels, found.preprocessing) == (labels, prepare)
    convert(tmp_path / "hf", tmp_path / "b.safetensors")
    assert read_safetensors(tmp_path / "b.safetensors").labels == labels
    # Over a directory that was made so, and not over one that holds anything else.
    convert(tmp_path / "a.safetensors", tmp_path / "hf", to="huggingface")
    (tmp_path / "hf" / "thesis.tex").write_text("")
    with pytest.raises(ResNetError, match="holds other files"):
        convert(tmp_path / "a.safetensors", tmp_path / "hf", to="huggingface")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes_are_kept(tmp_path: Path, dtype: str) -> None:
    model = transformers_model("ResNet", **RESNETS["basic"]).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "theirs")
    found = read_checkpoint(tmp_path / "theirs").state
    assert {array.dtype.name for array in found.values()} == {dtype}
    convert(tmp_path / "theirs", tmp_path / "back", to="huggingface")
    assert digest(read_checkpoint(tmp_path / "back").state) == digest(found)
    again = type(model).from_pretrained(tmp_path / "back")
    assert again.dtype == getattr(torch, dtype)


def test_which_names_transformers_has() -> None:
    """Plain ResNets and BiT's; each can be read again."""
    found = []
    for name in list_models():
        spec = resolve(name)
        with contextlib.suppress(SpecError):
            again = spec_of(config_of(spec))
            assert [q.shape for q in compile_plan(again).parameters()] == [
                q.shape for q in compile_plan(spec).parameters()
            ]
            found.append(name)
    assert found == [
        *[f"resnet{d}" for d in (18, 34, 50, 101, 152)],
        "resnet26",
        "resnet200",
        *[f"resnetv2_{d}_bit" for d in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")],
    ]
    with pytest.raises(SpecError, match=r"transformers has no such net: Identity\(name='layer1"):
        config_of(resolve("resnet50d", {"stem": "conv7x7"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vit"}, "config.json: model_type 'vit' is not one of resnet, bit"),
        ({"layer_type": "wide"}, "layer_type 'wide' is neither basic nor bottleneck"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu': transformers keeps ReLU inside"),
        ({"depths": "many"}, "depths: input should be a valid list"),
        ({"depths": [1] * 9, "hidden_sizes": [8] * 9}, "depths: list should have at most 8"),
        ({"depths": [1]}, "depths and hidden_sizes have 1 and 3 entries"),
        ({"depths": [1, 2, -1]}, "depths.2: input should be greater than or equal to 1"),
        ({"embedding_size": 10**9}, "stem_width: input should be less than"),
        (
            {"model_type": "bit", "layer_type": "preactivation", "global_padding": "valid"},
            "no spec",
        ),
    ],
)
def test_a_configuration_without_a_spec_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    transformers_model("ResNet", **RESNETS["bottleneck"]).save_pretrained(tmp_path / "hf")
    file = tmp_path / "hf" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(SpecError) as caught:
        convert(tmp_path / "hf", tmp_path / "out.safetensors")
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_damaged_directories_are_refused(tmp_path: Path) -> None:
    transformers_model("ResNet", **RESNETS["basic"]).save_pretrained(tmp_path / "hf")
    weights, config = tmp_path / "hf" / "model.safetensors", tmp_path / "hf" / "config.json"
    whole, text = weights.read_bytes(), config.read_text()

    def refused(message: str) -> None:
        with pytest.raises(ResNetError, match=message):
            convert(tmp_path / "hf", tmp_path / "out.safetensors")
        assert not (tmp_path / "out.safetensors").exists()

    weights.write_bytes(whole[:-1])
    refused("not a readable safetensors file|cannot be read|not a safetensors")
    weights.unlink()
    (tmp_path / "hf" / "pytorch_model.bin").write_bytes(b"")
    refused(r"pytorch_model\.bin: not a readable PyTorch file")
    weights.write_bytes(whole)
    config.write_text(text[:-3])
    refused(r"config\.json: not readable as JSON")
    config.write_text("[" * 100_000)
    refused(r"config\.json: not readable as JSON")
    config.write_text("[]")
    refused("expected a mapping, got list")
    other = json.loads(text) | {"hidden_sizes": [16, 32, 48]}
    config.write_text(json.dumps(other))
    with pytest.raises(WeightsError, match="mismatches"):
        convert(tmp_path / "hf", tmp_path / "out.safetensors")
