"""Files of Keras 3, `.weights.h5` and `.keras`: those of keras.applications, in and out, and what
their dtypes are.
"""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import resnet_torch
from resnet_parity.convert.conversion import convert
from resnet_parity.engines import job
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
from shared_spec.formats.dialects.keras_applications import layer_name
from shared_spec.formats.read import read_checkpoint
from shared_spec.formats.write import write_checkpoint
from shared_spec.weights.state import State
from tests.conftest import Pool

# keras.applications cannot be built smaller: each net, each form, with and without classes.
CASES = [
    ("keras_resnet50", ".weights.h5", 0),
    ("keras_resnet50", ".keras", 7),
    ("keras_resnet50v2", ".weights.h5", 7),
]
IMAGES = random_images((2, 64, 64, 3))


@pytest.fixture(autouse=True)
def pooled(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "Worker", pool.start)


def call(pool: Pool, tmp_path: Path, function: str, **arguments: Any) -> tuple[Any, np.ndarray]:
    """What a probe returns, and the logits of the library."""
    paths = {k: str(tmp_path / f"{k}.safetensors") for k in ("images", "logits")}
    write_safetensors(paths["images"], Checkpoint({"images": IMAGES}))
    answer = pool["keras:tensorflow"].call("probe", function=function, **paths, **arguments)
    return answer, read_safetensors(paths["logits"]).state["logits"]


def ours(path: Path) -> np.ndarray:
    found = read_checkpoint(path)
    assert found.spec is not None
    model = resnet_torch.create_model(found.spec, weights=dict(found.state), dtype="float64")
    result: np.ndarray = resnet_torch.predict(model, IMAGES)
    return result


def assert_near(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype == np.float64
    assert np.abs(a - b).max() / np.abs(a).max() <= 1e-12


def without_names(path: Path) -> None:
    """Turn a file of Keras 3 into one of Keras before 3.10, which names no layer."""
    if path.suffix == ".keras":
        weights = path.with_suffix(".weights.h5")
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json")
            weights.write_bytes(archive.read("model.weights.h5"))
        without_names(weights)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", config)
            archive.write(weights, "model.weights.h5")
        weights.unlink()
        return

    def strip(name: str, found: Any) -> None:
        found.attrs.pop("name", None)

    with h5py.File(path, "r+") as file:
        file.visititems(strip)


@pytest.mark.parametrize(("name", "suffix", "classes"), CASES)
def test_what_keras_writes_is_read(
    pool: Pool, tmp_path: Path, name: str, suffix: str, classes: int
) -> None:
    file = tmp_path / f"a{suffix}"
    function = "keras3_files:write"
    _, logits = call(pool, tmp_path, function, name=name, num_classes=classes, file=str(file))
    size = {"image_size": 64} if suffix == ".keras" else {}  # the model says it
    assert read_checkpoint(file).spec == resolve(name, {"num_classes": classes} | size)
    assert_near(logits, ours(file))
    done = convert(file, tmp_path / "b.safetensors")
    assert done.unchanged
    before = digest(read_checkpoint(file).state)
    assert done.sha256 == before
    without_names(file)
    if suffix == ".keras":  # its configuration lists the layers
        assert digest(read_checkpoint(file).state) == before
    else:
        with pytest.raises(ResNetError, match="does not name its layer"):
            read_checkpoint(file)


@pytest.mark.parametrize(("name", "suffix", "classes"), CASES)
def test_what_we_write_keras_loads(
    pool: Pool, tmp_path: Path, name: str, suffix: str, classes: int
) -> None:
    spec = resolve(name, {"num_classes": classes})
    state = cast_weights(random_weights(compile_plan(spec)), "float64")
    source, file = tmp_path / "a.safetensors", tmp_path / f"b{suffix}"
    write_safetensors(source, Checkpoint(state, spec))
    assert convert(source, file, to="keras-applications").sha256 == digest(state)
    layers, logits = call(
        pool, tmp_path, "keras3_files:load", name=name, num_classes=classes, file=str(file)
    )
    modules = {q.module for q in compile_plan(spec).parameters()}
    assert sorted(layers) == sorted(layer_name(module, spec) for module in modules)
    assert_near(logits, ours(source))
    found = read_checkpoint(file)
    assert (found.spec, digest(found.state)) == (spec, digest(state))


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_equal_weights_make_equal_files(tmp_path: Path, suffix: str) -> None:
    source, _ = small(tmp_path)
    files = [tmp_path / f"{name}{suffix}" for name in "bc"]
    for file in files:
        convert(source, file, to="keras-applications")
        time.sleep(1.1)  # a time would be kept in seconds
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_narrow_dtypes_are_kept(pool: Pool, tmp_path: Path, suffix: str, dtype: str) -> None:
    spec = resolve("resnet18", {"depths": [1, 1], "num_classes": 3, "drop_rate": 0.2})
    state = cast_weights(random_weights(compile_plan(spec)), dtype)
    source, file = tmp_path / "a.safetensors", tmp_path / f"b{suffix}"
    write_safetensors(source, Checkpoint(state, spec))
    assert convert(source, file).dtype == dtype
    found = read_checkpoint(file, spec)
    assert {array.dtype.name for array in found.state.values()} == {dtype}
    assert digest(found.state) == digest(state)
    if suffix == ".weights.h5":
        chunk(file)
        assert digest(read_checkpoint(file, spec).state) == digest(state)


def chunk(path: Path) -> None:
    """Keep the arrays of a weights file in pieces, so that h5py itself has to read them."""

    def again(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset) and found.shape:
            arrays[name] = found[()], dict(found.attrs)

    arrays: dict[str, Any] = {}
    with h5py.File(path, "r+") as file:
        file.visititems(again)
        for name, (array, attributes) in arrays.items():
            del file[name]
            made = file.create_dataset(name, data=array, chunks=True)
            for key, value in attributes.items():
                made.attrs[key] = value


def small(tmp_path: Path, **fields: Any) -> tuple[Path, State]:
    spec = resolve("keras_resnet50", {"depths": [1, 1, 1, 1], "num_classes": 3, **fields})
    state: State = random_weights(compile_plan(spec))
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, spec))
    return tmp_path / "a.safetensors", state


def test_a_model_that_keras_applications_lacks_is_refused(tmp_path: Path) -> None:
    source, _ = small(tmp_path)
    with pytest.raises(ResNetError, match=r"builds no ResNet of depths \[1, 1, 1, 1\]"):
        convert(source, tmp_path / "b.keras", to="keras-applications")
    assert not (tmp_path / "b.keras").exists()


def test_another_framework_says_who_writes_a_keras_model(tmp_path: Path) -> None:
    source, state = small(tmp_path)
    checkpoint = Checkpoint(state, read_safetensors(source).spec)
    with pytest.raises(ResNetError, match="needs a framework to be written, one of keras:"):
        write_checkpoint(tmp_path / "b.keras", checkpoint, "keras-applications")
