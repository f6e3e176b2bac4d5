"""keras.applications' own weights files, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import resnet_torch
from resnet_parity.convert.conversion import convert
from shared_spec import (
    Checkpoint,
    ResNetError,
    cast_weights,
    compile_plan,
    digest,
    random_images,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from shared_spec.formats.read import read_checkpoint
from shared_spec.formats.write import write_checkpoint
from tests.conftest import Pool

# keras.applications cannot be built smaller: two of its nets whole, and narrow ones of our own.
NETS = ["keras_resnet50", "keras_resnet50v2"]
FAMILY = [f"keras_resnet{d}{v}" for v in ("", "v2") for d in (50, 101, 152)]


def call(pool: Pool, function: str, **arguments: Any) -> Any:
    return pool["keras:tensorflow"].call(
        "probe", function=f"applications_files:{function}", **arguments
    )


@pytest.mark.parametrize("whole", [False, True], ids=["weights", "model"])
@pytest.mark.parametrize("name", NETS)
def test_what_keras_writes_is_read(pool: Pool, tmp_path: Path, name: str, whole: bool) -> None:
    file, logits = str(tmp_path / "a.h5"), str(tmp_path / "logits.safetensors")
    images = random_images((2, 64, 64, 3))
    write_safetensors(tmp_path / "images.safetensors", Checkpoint({"images": images}))
    call(
        pool,
        "write",
        name=name,
        file=file,
        images=str(tmp_path / "images.safetensors"),
        logits=logits,
        whole=whole,
    )
    done = convert(file, tmp_path / "b.safetensors")
    found = read_safetensors(tmp_path / "b.safetensors")
    assert found.spec == resolve(name, {"num_classes": 7})
    assert done.sha256 == digest(found.state)
    state = cast_weights(found.state, "float64")
    model = resnet_torch.create_model(found.spec, weights=state, dtype="float64")
    reference = read_safetensors(logits).state["logits"].astype(np.float64)
    difference = np.abs(resnet_torch.predict(model, images) - reference).max()
    # Keras computed in float32 here; in float64 the nets are compared in tests/parity.
    assert difference / np.abs(reference).max() < 1e-5


@pytest.mark.parametrize("fields", [{"num_classes": 7}, {"num_classes": 0}], ids=["top", "no top"])
@pytest.mark.parametrize("name", NETS)
def test_what_we_write_keras_loads(
    pool: Pool, tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    spec = resolve(name, fields)
    state = random_weights(compile_plan(spec))
    source = tmp_path / "a.safetensors"
    write_safetensors(source, Checkpoint(state, spec))
    assert convert(source, tmp_path / "b.h5").sha256 == digest(state)
    # The probe loads the file into keras.applications and compares each array by its layer's name.
    count = call(
        pool, "load", name=name, file=str(tmp_path / "b.h5"), weights=str(source), **fields
    )
    assert count == len(state)
    convert(tmp_path / "b.h5", tmp_path / "c.safetensors")
    assert digest(read_safetensors(tmp_path / "c.safetensors").state) == digest(state)


@pytest.mark.parametrize("name", FAMILY)
def test_the_net_follows_from_the_file(tmp_path: Path, name: str) -> None:
    spec = resolve(name, {"num_classes": 3, "in_channels": 1})
    write_checkpoint(tmp_path / "a.h5", Checkpoint(random_weights(compile_plan(spec)), spec))
    assert read_checkpoint(tmp_path / "a.h5").spec == spec


def test_preprocessing_is_kerass(pool: Pool, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    for name in NETS:
        spec = resolve(name, {"depths": [1, 1, 1, 1] if name == "keras_resnet50" else [2, 2, 2, 2]})
        write_checkpoint(tmp_path / "a.h5", Checkpoint(random_weights(compile_plan(spec)), spec))
        prepare = read_checkpoint(tmp_path / "a.h5").preprocessing
        assert prepare is not None
        output = str(tmp_path / "x.safetensors")
        write_safetensors(tmp_path / "p.safetensors", Checkpoint({"x": pixels.astype(np.float32)}))
        call(pool, "prepare", name=name, pixels=str(tmp_path / "p.safetensors"), output=output)
        expected = read_safetensors(output).state["x"]
        found = prepare.model_copy(update={"crop": 1.0})([Image.fromarray(pixels)])[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    spec = resolve("keras_resnet50", {"depths": [1, 1, 1, 1], "num_classes": 3})
    path = tmp_path / "a.h5"
    write_checkpoint(path, Checkpoint(random_weights(compile_plan(spec)), spec))
    return path


def refused(file: Path) -> str:
    target = file.parent / "out.safetensors"
    with pytest.raises(ResNetError) as caught:
        convert(file, target)
    assert not target.exists()
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_links_are_not_followed(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as other:
        other["x"] = np.ones((3,), np.float32)
    for link in (h5py.ExternalLink(str(secret), "/x"), h5py.SoftLink("/conv1_bn/conv1_bn/beta:0")):
        with h5py.File(file, "r+") as handle:
            group = handle["predictions/predictions"]
            del group["bias:0"]
            group["bias:0"] = link
        assert "a link, which is not followed" in refused(file)
    with h5py.File(file, "r+") as handle:
        group = handle["predictions/predictions"]
        del group["bias:0"]
        raw = tmp_path / "raw.bin"
        raw.write_bytes(np.ones(3, np.float32).tobytes())
        group.create_dataset("bias:0", (3,), "f4", external=[(str(raw), 0, 12)])
    assert "no array in the file itself" in refused(file)


def test_a_bomb_is_not_read(file: Path) -> None:
    with h5py.File(file, "r+") as handle:
        group = handle["conv1_conv/conv1_conv"]
        del group["bias:0"]
        group.create_dataset("bias:0", (10**12,), "f4", chunks=(1024,), compression="gzip")
    assert "conv1_conv/bias:0' is compressed, which Keras does not do" in refused(file)


def test_damaged_and_other_files_are_refused(file: Path) -> None:
    whole = file.read_bytes()
    for cut in (0, 10, 100, 2000, len(whole) // 2):
        file.write_bytes(whole[:cut])
        assert "a.h5: " in refused(file)
    file.write_bytes(whole)
    with h5py.File(file, "r+") as handle:
        handle["extra/extra/kernel:0"] = np.ones(3, np.float32)
        handle["extra"].attrs["weight_names"] = [b"extra/kernel:0"]
        names = np.char.decode(np.asarray(handle.attrs["layer_names"], "S"))
        handle.attrs["layer_names"] = [*names.tolist(), "extra"]
    assert "1 mismatch): extra/kernel is not in the model" in refused(file)
    with h5py.File(file, "w") as handle:
        handle["x"] = np.ones(3)
    assert "has no list of layers" in refused(file)


def test_what_keras_applications_lacks_is_refused(tmp_path: Path) -> None:
    for name in ("resnet50", "resnetv2_50", "resnet18"):
        spec = resolve(name, {"depths": [1, 1, 1, 1]})
        write_safetensors(
            tmp_path / "a.safetensors", Checkpoint(random_weights(compile_plan(spec)), spec)
        )
        with pytest.raises(ResNetError, match=r"keras\.applications has no such net"):
            convert(tmp_path / "a.safetensors", tmp_path / "b.h5")
        assert not (tmp_path / "b.h5").exists()
