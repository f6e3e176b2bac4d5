"""Every value of every dtype, bit for bit through every format, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.convert.conversion import convert
from resnet_parity.engines import job
from shared_spec import (
    Checkpoint,
    ResNetError,
    ResNetSpec,
    WeightsError,
    compile_plan,
    random_weights,
    read_checkpoint,
    resolve,
    write_checkpoint,
)
from shared_spec.formats.containers.safetensors import save_safetensors
from shared_spec.weights.initialize import generator
from shared_spec.weights.state import DTYPES
from tests.conftest import Pool
from tests.specs import SMALL

V1 = resolve("keras_resnet50", {"depths": [1, 1, 1, 1], "num_classes": 3})
BIT = resolve("resnetv2_50x1_bit", {"depths": [1, 1, 1, 1], "num_classes": 3})
TARGETS: dict[str, tuple[str, ResNetSpec, str | None]] = {
    "safetensors": ("a.safetensors", SMALL, None),
    "torch": ("a.pth", SMALL, None),
    "msgpack": ("a.msgpack", SMALL, None),
    "keras": ("a.keras", SMALL, None),
    "keras weights": ("a.weights.h5", SMALL, None),
    "orbax": ("a", SMALL, None),
    "keras.applications": ("a.h5", V1, None),
    "keras.applications, Keras 3": ("a.weights.h5", V1, "keras-applications"),
    "transformers": ("a", SMALL, "huggingface"),
    "transformers BiT": ("a", BIT, "huggingface"),
}
NEEDS_FRAMEWORK = ("keras", "keras weights", "orbax")


@pytest.fixture(autouse=True)
def reuse_workers(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "Worker", pool.start)


def of_random_bits(spec: ResNetSpec, dtype: str) -> dict[str, np.ndarray]:
    """Arrays of which every bit is drawn: infinities, subnormals, and NaNs with any payload."""
    kind = DTYPES[dtype]
    state = {}
    for q in compile_plan(spec).parameters():
        size = q.size * kind.itemsize
        data = generator(0, q.name).integers(0, 256, size, np.uint8)
        array = data.view(kind).reshape(q.shape)
        special = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-310, 6e-8]
        array.reshape(-1)[: len(special)] = np.array(special[: q.size]).astype(kind)
        state[q.name] = array
    return state


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", TARGETS)
def test_every_bit_comes_back(tmp_path: Path, kind: str, dtype: str) -> None:
    name, spec, to = TARGETS[kind]
    state = of_random_bits(spec, dtype)
    if kind in NEEDS_FRAMEWORK:
        # A framework may quieten a NaN that signals, as hardware does when it copies one.
        with np.errstate(invalid="ignore"):
            state = {k: np.where(np.isnan(v), v.dtype.type(np.nan), v) for k, v in state.items()}
    source, target = tmp_path / "source.safetensors", tmp_path / name
    save_safetensors(source, state, {})
    if dtype == "bfloat16" and kind == "keras.applications":
        with pytest.raises(WeightsError, match=r"a\.h5: .*bfloat16"):
            convert(source, target, spec, to)
        assert not target.exists()
        return
    convert(source, target, spec, to)
    found = read_checkpoint(target, spec).state if kind != "orbax" else None
    if found is None:
        convert(target, tmp_path / "back.safetensors", spec)
        found = read_checkpoint(tmp_path / "back.safetensors", spec).state
    assert sorted(found) == sorted(state)
    for key, array in state.items():
        assert found[key].dtype == array.dtype
        assert found[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.int8, np.int32, np.uint8, np.bool_]
)
@pytest.mark.parametrize("kind", TARGETS)
def test_other_dtypes_are_refused_by_name(tmp_path: Path, kind: str, dtype: Any) -> None:
    name, spec, to = TARGETS[kind]
    state = random_weights(compile_plan(spec))
    first = next(iter(state))
    state[first] = state[first].astype(dtype)
    source = tmp_path / "source.safetensors"
    save_safetensors(source, state, {})
    with pytest.raises(ResNetError, match=rf"source\.safetensors: .*{np.dtype(dtype).name}"):
        convert(source, tmp_path / name, spec, to)
    assert [p.name for p in tmp_path.iterdir()] == ["source.safetensors"]


def test_mixed_dtypes_are_never_cast_in_silence(tmp_path: Path) -> None:
    state = random_weights(compile_plan(SMALL))
    state["fc.bias"] = state["fc.bias"].astype(np.float64)
    save_safetensors(tmp_path / "a.safetensors", state, {})
    with pytest.raises(WeightsError, match="expected arrays of one dtype, found float32, float64"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.pth", SMALL)


PROBLEMS = ("missing", "extra", "transposed", "wrong dtype")


@pytest.mark.parametrize("k", range(1, 51))
def test_k_mismatches_are_all_in_one_error(k: int) -> None:
    model = resnet_torch.create_model(SMALL, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state: dict[str, np.ndarray] = random_weights(compile_plan(SMALL), 5)
    names = [n for n in state if state[n].ndim == 4 and state[n].shape[0] != state[n].shape[1]]
    names += [n for n in state if n not in names]
    expected = []
    for i in range(k):
        name, problem = names[i], PROBLEMS[i % len(PROBLEMS)]
        if problem == "transposed" and state[name].shape == state[name].T.shape:
            problem = "wrong dtype"
        if problem == "missing":
            del state[name]
            expected.append(f"{name} is missing")
        elif problem == "extra":
            state[f"{name}_x"] = state[name]
            expected.append(f"{name}_x is not in the model (nearest: {name})")
        elif problem == "transposed":
            state[name] = state[name].T
            expected.append(f"{name} has shape")
        else:
            state[name] = state[name].astype(np.int16)
            expected.append(f"{name} has dtype int16")
    with pytest.raises(WeightsError) as error:
        resnet_torch.load_weights(model, state)
    assert f"({k} mismatch" in str(error.value)
    assert len(error.value.mismatches) == k
    for part in expected:
        assert any(part in found for found in error.value.mismatches)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_file_that_ends_early_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """What a header promises and the data do not hold shows only while arrays are read."""
    path = tmp_path / "a.pth"
    write_checkpoint(path, Checkpoint(random_weights(compile_plan(SMALL), 5), SMALL))
    data = bytearray(path.read_bytes())
    data[-len(data) // 3] ^= 1  # within the data of a kernel: its CRC is now another
    path.write_bytes(data)
    model = resnet_torch.create_model(SMALL, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"a\.pth: .*is damaged"):
        resnet_torch.load_weights(model, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
