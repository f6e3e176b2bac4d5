"""Files between frameworks: every pair, bit for bit, and nothing half-written."""

from __future__ import annotations

import itertools
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.convert import conversion as module
from resnet_parity.convert.conversion import convert
from resnet_parity.engines import job
from shared_spec import (
    Checkpoint,
    Preprocessing,
    ResNetError,
    WeightsError,
    cast_weights,
    compile_plan,
    digest,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from tests.conftest import Pool
from tests.peers import torchvision_models
from tests.specs import SMALL

TARGETS = {
    "canonical": "a.safetensors",
    "torch": "a.pth",
    "keras": "a.keras",
    "keras h5": "a.weights.h5",
    "msgpack": "a.msgpack",
    "orbax": "a",
}
STATE = random_weights(compile_plan(SMALL), 8)
PREPARE = Preprocessing(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
LABELS = tuple("abcdefg")


@pytest.fixture(autouse=True)
def reuse_workers(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "Worker", pool.start)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.safetensors"
    write_safetensors(path, Checkpoint(STATE, SMALL, PREPARE, LABELS))
    return path


@pytest.mark.parametrize("order", list(itertools.permutations(["torch", "keras", "msgpack"])))
def test_three_frameworks_in_any_order_give_the_weights_back(
    source: Path, tmp_path: Path, order: tuple[str, ...]
) -> None:
    last = source
    for kind in order:
        target = tmp_path / TARGETS[kind]
        assert convert(last, target, SMALL).sha256 == digest(STATE)
        last = target
    back = tmp_path / "back.safetensors"
    assert convert(last, back, SMALL).sha256 == digest(STATE)
    found = read_safetensors(back).state
    assert list(found) == list(STATE) or sorted(found) == sorted(STATE)
    for name in STATE:
        assert found[name].tobytes() == STATE[name].tobytes()


@pytest.mark.parametrize("kind", TARGETS)
def test_there_and_back(source: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / TARGETS[kind]
    done = convert(source, target)
    assert done.sha256 == digest(STATE)
    assert done.tensors == len(STATE)
    spec = None if kind in ("canonical", "keras", "orbax") else SMALL
    back = tmp_path / "back.safetensors"
    convert(target, back, spec)
    found = read_safetensors(back)
    assert digest(found.state) == digest(STATE)
    assert found.spec == SMALL
    if kind in ("canonical", "keras", "orbax"):
        assert (found.preprocessing, found.labels) == (PREPARE, LABELS)
        assert done.lost == ()
    else:
        assert set(done.lost) >= {"preprocessing", "labels"}


OTHERS = {
    "dropping": {"drop_rate": 0.3, "drop_path_rate": 0.2, "drop_block_rate": 0.1},
    "features": {"features_only": True, "output_stride": 8, "out_indices": [1, 3]},
    "pooled": {"num_classes": 0, "activation": "gelu_tanh", "layer_scale": 0.1},
}


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("kind", [k for k in TARGETS if k != "canonical"])
def test_other_nets_there_and_back(tmp_path: Path, kind: str, fields: dict[str, object]) -> None:
    """A generator's state is no weight, and a net without a classifier has none."""
    spec = SMALL.override(**fields)
    state = random_weights(compile_plan(spec))
    write_safetensors(tmp_path / "source.safetensors", Checkpoint(state, spec))
    target = tmp_path / TARGETS[kind]
    convert(tmp_path / "source.safetensors", target)
    back = tmp_path / "back.safetensors"
    given = None if kind in ("keras", "orbax") else spec
    assert convert(target, back, given).sha256 == digest(state)


@pytest.mark.parametrize("kind", [k for k in TARGETS if k != "canonical"])
def test_a_file_that_does_not_tell_its_model_asks_for_it(
    source: Path, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / TARGETS[kind]
    convert(source, target)
    if kind in ("keras", "orbax"):
        assert convert(target, tmp_path / "b.safetensors").sha256 == digest(STATE)
    else:
        with pytest.raises(
            ResNetError,
            match="its arrays fit none of the catalogue; name",
        ):
            convert(target, tmp_path / "b.safetensors")


@pytest.mark.parametrize("kind", [k for k in TARGETS if k != "canonical"])
def test_another_model_is_refused(source: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / TARGETS[kind]
    convert(source, target)
    other = SMALL.override(depths=[1, 1, 1]) if kind != "keras" else SMALL
    if kind == "keras":
        with pytest.raises(WeightsError, match="fit the model"):
            resnet_torch.create_model(SMALL.override(depths=[1, 1, 1]), weights=STATE)
        return
    if kind == "orbax":
        # It tells its model itself, and a model that is named wins over that.
        with pytest.raises(ResNetError, match="fit the model"):
            convert(target, tmp_path / "b.safetensors", other)
        return
    with pytest.raises(ResNetError, match="fit the model"):
        convert(target, tmp_path / "b.safetensors", other)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", [k for k in TARGETS if not k.startswith("keras")])
def test_other_dtypes_are_kept(tmp_path: Path, kind: str, dtype: str) -> None:
    state = cast_weights(STATE, dtype)
    source = tmp_path / "s.safetensors"
    write_safetensors(source, Checkpoint(state, SMALL))
    assert convert(source, tmp_path / TARGETS[kind]).sha256 == digest(state)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_truncated_file_is_refused(source: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / TARGETS[kind]
    convert(source, target)
    if target.is_dir():
        for file in target.rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        target.write_bytes(target.read_bytes()[: target.stat().st_size * 2 // 3])
    kept = tmp_path / "kept.safetensors"
    kept.write_bytes(b"old")
    with pytest.raises(ResNetError) as error:
        convert(target, kept, SMALL)
    assert str(target) in str(error.value)
    assert "\n" not in str(error.value)
    assert kept.read_bytes() == b"old"


@pytest.mark.parametrize("kind", TARGETS)
def test_a_foreign_file_is_refused(tmp_path: Path, kind: str) -> None:
    target = tmp_path / TARGETS[kind]
    if kind == "orbax":
        target.mkdir()
        (target / "notes.txt").write_text("hello")
    else:
        target.write_bytes(b"This is no checkpoint. " * 100)
    with pytest.raises(ResNetError) as error:
        convert(target, tmp_path / "kept.safetensors", SMALL)
    assert str(target) in str(error.value)
    assert not (tmp_path / "kept.safetensors").exists()


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "canary"),)

    path = tmp_path / "a.pth"
    torch.save({"conv1.weight": Canary()}, path)
    with pytest.raises(ResNetError, match=r"posix\.mkdir at 'conv1\.weight'.* nothing is executed"):
        convert(path, tmp_path / "b.safetensors", SMALL)
    assert not (tmp_path / "canary").exists()


def test_torchvision_files_load_with_wrappers_and_prefixes(tmp_path: Path) -> None:
    theirs = torchvision_models().resnet18()
    plain = {k: v for k, v in theirs.state_dict().items() if "num_batches" not in k}
    expected = digest({k: v.numpy() for k, v in plain.items()})
    prefixed = {f"module.{k}": v for k, v in theirs.state_dict().items()}
    for content in (
        theirs.state_dict(),
        {"state_dict": theirs.state_dict(), "epoch": 3},
        {"model": prefixed},
    ):
        torch.save(content, tmp_path / "t.pth")
        done = convert(tmp_path / "t.pth", tmp_path / "t.safetensors", resolve("resnet18"))
        assert done.sha256 == expected
    # And what is written loads in torchvision, strictly.
    convert(tmp_path / "t.safetensors", tmp_path / "u.pth")
    torchvision_models().resnet18().load_state_dict(torch.load(tmp_path / "u.pth"), strict=True)
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "t.safetensors")
    torchvision_models().resnet18().load_state_dict(tensors, strict=True)


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    contents = set()
    for i in range(12):
        path = tmp_path / f"{i}.safetensors"
        write_safetensors(path, Checkpoint(STATE, SMALL, PREPARE, ("é", '"', "日本", *"defg")))
        assert read_safetensors(path).labels == ("é", '"', "日本", *"defg")
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_source_and_target_may_be_one(source: Path) -> None:
    convert(source, source)
    assert digest(read_safetensors(source).state) == digest(STATE)


def test_what_cannot_be_verified_is_not_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(checkpoint: Checkpoint, draft: Path, target_format: str, folder: Path) -> None:
        changed = {**checkpoint.state, "fc.bias": checkpoint.state["fc.bias"] + 1}
        write_safetensors(draft, Checkpoint(changed, checkpoint.spec))

    monkeypatch.setattr(module, "_write", lie)
    target = tmp_path / "b.safetensors"
    target.write_bytes(b"old")
    with pytest.raises(WeightsError, match="reading it back gave other weights"):
        convert(source, target)
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.safetensors", "source.safetensors"]


def test_an_orbax_directory_is_replaced_whole(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "a"
    convert(source, target)
    other = tmp_path / "other.safetensors"
    changed = {**STATE, "fc.bias": STATE["fc.bias"] + 1}
    write_safetensors(other, Checkpoint(changed, SMALL))
    assert convert(other, target).sha256 == digest(changed)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("target", ["photos", "photos/..", "sub", "."])
def test_a_directory_of_other_things_is_not_replaced(
    source: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("x")
    (tmp_path / "sub").mkdir()
    inner = tmp_path / "sub" / "w.safetensors"
    inner.write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path / "sub" if target == "." else tmp_path)
    with pytest.raises(ResNetError, match="name another path"):
        convert(inner, target)
    assert (tmp_path / "photos" / "a.txt").read_text() == "x"
    assert inner.exists()
    assert source.exists()


def test_an_empty_directory_may_become_a_checkpoint(source: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert convert(source, tmp_path / "new").sha256 == digest(STATE)


def test_a_pth_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in STATE.items()}
    torch.save({**tensors, "module.fc.bias": torch.zeros(7)}, tmp_path / "a.pth")
    with pytest.raises(ResNetError, match=r"holds 'fc\.bias' twice"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors", SMALL)


def test_a_directory_is_not_replaced_by_a_file(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "d.safetensors"
    target.mkdir()
    with pytest.raises(ResNetError):
        convert(source, target)
    assert target.is_dir()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("missing/a.pth", "does not exist"),
        ("a.onnx", "unknown suffix '.onnx'"),
        ("a.h5", r"keras\.applications has no such net: Conv"),
    ],
)
def test_a_target_that_cannot_be_is_refused(
    source: Path, tmp_path: Path, target: str, message: str
) -> None:
    with pytest.raises(ResNetError, match=message):
        convert(source, tmp_path / target)


def test_modes_follow_the_umask(source: Path, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        convert(source, tmp_path / "b.safetensors")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "b.safetensors").stat().st_mode) == 0o640


def test_a_link_stays_a_link(source: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.safetensors"
    real.write_bytes(b"old")
    link = tmp_path / "link.safetensors"
    link.symlink_to(real)
    convert(source, link)
    assert link.is_symlink()
    assert digest(read_safetensors(real).state) == digest(STATE)


def test_metadata_that_is_not_ours_is_refused_or_ignored(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    save_file(STATE, path, metadata={"format": "pt", "note": "hello"})
    assert read_safetensors(path).spec is None
    for text in ("{", "3", json.dumps({"version": 2}), json.dumps({"version": 1, "labels": 3})):
        save_file(STATE, path, metadata={"resnet_parity": text})
        with pytest.raises(ResNetError, match="metadata"):
            read_safetensors(path)
    save_file(STATE, path, metadata={"resnet_parity": json.dumps({"version": 1, "spec": {}})})
    with pytest.raises(ResNetError, match="depths: this field is required"):
        read_safetensors(path)


def test_every_mismatch_is_in_one_error() -> None:
    names = list(STATE)
    for k in (1, 5, 20, 50):
        state = dict(STATE)
        for name in names[:k]:
            state[f"{name}_"] = state.pop(name)
        with pytest.raises(WeightsError) as error:
            resnet_torch.create_model(SMALL, weights=state)
        assert f"({2 * k} mismatches)" in str(error.value)
        everything = "; ".join(error.value.mismatches)
        for name in names[:k]:
            assert f"{name} is missing" in everything
            assert f"{name}_ is not in the model" in everything
    assert np.isfinite(STATE["fc.bias"]).all()
