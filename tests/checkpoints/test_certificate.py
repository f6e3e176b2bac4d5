"""The verification that ends a conversion, and its repetition from the certificate alone."""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_parity.convert import certificate as module
from resnet_parity.convert import conversion
from resnet_parity.convert import verify as verification
from resnet_parity.convert.certificate import Inputs, read_certificate
from resnet_parity.convert.conversion import Converted, convert
from resnet_parity.convert.verify import Proof, verify
from resnet_parity.engines import job
from resnet_parity.engines.registry import ENGINES
from shared_spec import (
    Checkpoint,
    ParityError,
    Preprocessing,
    ResNetError,
    ResNetSpec,
    cast_weights,
    compile_plan,
    random_weights,
    resolve,
    write_safetensors,
)
from shared_spec.errors import SpecError
from shared_spec.formats.certified import certificate_path
from shared_spec.formats.read import read_checkpoint
from tests.conftest import Pool
from tests.specs import SMALL

STATE = random_weights(compile_plan(SMALL), 8)
PREPARE = Preprocessing(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
TARGETS = {
    "torch": "a.pth",
    "keras:tensorflow": "a.keras",
    "keras:jax": "a.weights.h5",
    "keras:torch": "a.keras",
    "flax": "a.msgpack",
}
V1 = resolve("keras_resnet50", {"depths": [1, 1, 1, 1], "num_classes": 7})


@pytest.fixture(autouse=True)
def reuse_workers(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "Worker", pool.start)
    monkeypatch.setattr(module, "_SIDE", 48)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.safetensors"
    write_safetensors(path, Checkpoint(STATE, SMALL, PREPARE))
    return path


def proof(*names: str) -> Proof:
    return Proof(tuple(ENGINES[name] for name in names))


def converted(source: Path, target: Path, *names: str, **options: Any) -> Converted:
    return convert(source, target, proof=proof(*names), **options)


def test_every_engine_is_held_against_the_source(source: Path, tmp_path: Path, engine: str) -> None:
    target = tmp_path / TARGETS[engine]
    done = converted(source, target, engine)
    assert [(c.engine, c.dtype, c.holds) for c in done.checks] == [
        (engine, "float64", True),
        (engine, "float32", True),
    ]
    exact, rounded = done.checks
    assert exact.bound == 1e-12
    assert exact.error is not None
    assert exact.error < 1e-13
    assert rounded.error is not None
    assert 1e-9 < rounded.error < rounded.bound < 1e-4
    assert done.certificate == str(certificate_path(target))


def test_another_engine_repeats_it_from_the_certificate_alone(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "a.pth", "torch")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("a.pth", "a.pth.parity.json"):
        shutil.move(tmp_path / name, moved / name)
    source.unlink()
    certificate, checks = verify(moved / "a.pth", [ENGINES["flax"], ENGINES["keras:torch"]])
    assert certificate.spec == SMALL
    assert certificate.holds
    assert len(checks) == 4
    assert all(check.holds for check in checks)
    # Without a choice, the certificate's own engines.
    _, checks = verify(moved / "a.pth", dtypes=("float64",))
    assert [(c.engine, c.dtype) for c in checks] == [("torch", "float64")]


def test_without_a_proof_a_certificate_of_what_was_there_before_goes(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "a.pth"
    beside = certificate_path(target)
    converted(source, target, "torch")
    assert convert(source, target).removed is None  # the same bytes: it still holds
    assert beside.exists()
    other = tmp_path / "other.safetensors"
    write_safetensors(other, Checkpoint(random_weights(compile_plan(SMALL), 9), SMALL))
    assert convert(other, target).removed == str(beside)
    assert not beside.exists()
    for text in ("{}", "notes of mine", json.dumps({"resnet_parity": 1})):
        beside.write_text(text)
        assert convert(source, target).removed is None
        assert beside.read_text() == text  # no certificate
    assert converted(source, target, "torch").removed is None
    assert beside.exists()


def test_a_conversion_that_fails_leaves_the_certificate(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.pth"
    converted(source, target, "torch")
    before = certificate_path(target).read_bytes()
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(ResNetError):
        convert(source, target)
    assert certificate_path(target).read_bytes() == before


def test_the_certificate_tells_what_was_done(source: Path, tmp_path: Path) -> None:
    done = converted(source, tmp_path / "a.pth", "torch", to="canonical")
    data = json.loads(Path(str(done.certificate)).read_text())
    assert data["holds"] is True
    assert data["source"]["name"] == "source.safetensors"
    assert data["source"]["sha256"] == module.file_digest(source)
    assert data["target"] == {"name": "a.pth", "sha256": module.file_digest(tmp_path / "a.pth")}
    assert ResNetSpec.parse(data["spec"], "") == SMALL
    assert data["permutation"] is True
    assert {"python", "numpy", "torch"} <= set(data["versions"])
    assert data["inputs"]["mean"] == list(PREPARE.mean)
    found = read_certificate(certificate_path(tmp_path / "a.pth"))
    assert found.inputs.pixels.shape == (4, 48, 48, 3)
    assert str(tmp_path) not in json.dumps(data)
    # Two of the images are noise, and two are pictures: neighbours are alike.
    steps = np.abs(np.diff(found.inputs.pixels.astype(float), axis=1)).mean((1, 2, 3))
    assert (steps[:2] > 70).all()
    assert (steps[2:] < 30).all()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_inputs_fit_the_net(channels: int) -> None:
    spec = SMALL.override(in_channels=channels)
    found = Inputs.of(spec, None)
    assert found.pixels.shape == (2 if channels == 2 else 4, 48, 48, channels)
    again = Inputs.from_dict(json.loads(json.dumps(found.to_dict())))
    np.testing.assert_array_equal(again.array(), found.array())


def test_caffe_order_reaches_the_inputs() -> None:
    bgr = Inputs.of(SMALL, PREPARE.model_copy(update={"channel_order": "bgr"}))
    rgb = Inputs.of(SMALL, PREPARE)
    np.testing.assert_array_equal(bgr.pixels[2:], rgb.pixels[2:, ..., ::-1])


def _swap(state: dict[str, np.ndarray]) -> None:
    mean, var = "layer1.0.bn2.running_mean", "layer1.0.bn2.running_var"
    state[mean], state[var] = state[var], np.abs(state[mean])


def _turn(state: dict[str, np.ndarray]) -> None:
    name = "layer2.0.conv2.weight"
    state[name] = state[name].transpose(0, 1, 3, 2).copy()


def _nudge(state: dict[str, np.ndarray]) -> None:
    name = "layer2.1.conv1.weight"
    state[name] = state[name].copy()
    state[name].flat[0] += 1e-3


@pytest.mark.parametrize("change", [_swap, _turn, _nudge])
def test_a_file_that_computes_something_else_is_not_kept(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, np.ndarray]], None],
) -> None:
    write = conversion._write

    def lie(checkpoint: Checkpoint, draft: Path, *rest: Any) -> None:
        state = dict(checkpoint.state)
        change(state)
        write(replace(checkpoint, state=state), draft, *rest)

    monkeypatch.setattr(conversion, "_write", lie)
    monkeypatch.setattr(conversion, "digest", lambda state: "the same")
    target = tmp_path / "a.pth"
    target.write_text("old")
    with pytest.raises(ParityError, match=r"a\.pth: flax in float64 computes something else"):
        converted(source, target, "flax")
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "source.safetensors"]


def test_an_engine_that_errs_is_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = verification._CertificateRun.outputs

    def err(self: Any, engine: Any, *rest: Any, **options: Any) -> Any:
        found, versions = run(self, engine, *rest, **options)
        if engine.name == "flax" and not options:
            found["float64"] = [found["float64"][0] * (1 + 1e-11)]
        return found, versions

    monkeypatch.setattr(verification._CertificateRun, "outputs", err)
    with pytest.raises(ParityError, match=r"flax in float64 .* 1\.0e-11 apart, over 1\.0e-12"):
        converted(source, tmp_path / "a.msgpack", "torch", "flax")


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = {**STATE, "bn1.weight": np.full_like(STATE["bn1.weight"], np.nan)}
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, SMALL))
    with pytest.raises(ParityError, match=r"a\.safetensors: its logits are not finite numbers"):
        converted(tmp_path / "a.safetensors", tmp_path / "a.pth", "torch")
    assert not (tmp_path / "a.pth").exists()


def test_a_changed_file_is_told_from_the_certified_one(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.pth"
    converted(source, target, "torch")
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    with pytest.raises(ParityError, match=r"a\.pth: is not the file of its certificate"):
        verify(target)


def test_a_changed_reference_no_longer_holds(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.pth"
    converted(source, target, "torch")
    path = certificate_path(target)
    data = json.loads(path.read_text())
    outputs = data["reference"]["outputs"][0]
    logits = np.frombuffer(zlib.decompress(base64.b64decode(outputs["float64"])), "<f8").copy()
    logits[0] += 1e-9
    outputs["float64"] = base64.b64encode(zlib.compress(logits.tobytes())).decode()
    path.write_text(json.dumps(data))
    _, checks = verify(target, [ENGINES["torch"]], dtypes=("float64",))
    assert not checks[0].holds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.clear(), "KeyError"),
        (lambda d: d.update(resnet_parity=3), "another version"),
        (lambda d: d["inputs"].update(shape=[4, 48, 48]), "not have the size|mean and std"),
        (lambda d: d["inputs"].update(shape=[10**9, 10**9]), "does not belong in a certificate"),
        (lambda d: d["inputs"].update(pixels="%%"), "not a certificate"),
        (lambda d: d["reference"].update(outputs=3), "TypeError"),
        (lambda d: d["reference"].update(notes="all"), "not a list of at most 100 sentences"),
        (lambda d: d["reference"].update(notes=["x"] * 101), "not a list of at most 100 sentences"),
        (lambda d: d["checks"].append({"x": 1}), "KeyError: 'engine'"),
        (lambda d: d.update(rounding="x"), "ValueError"),
        (lambda d: d["spec"].update(depths=-1), "depths"),
    ],
)
def test_a_damaged_certificate_is_refused(
    source: Path, tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    target = tmp_path / "a.pth"
    converted(source, target, "torch")
    path = certificate_path(target)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ResNetError, match=message):
        verify(target)


def test_a_missing_certificate_is_told(source: Path) -> None:
    with pytest.raises(ResNetError, match=r"parity\.json: there is no such file"):
        verify(source)


def test_without_a_framework_the_bits_are_compared(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(ENGINES["torch"]), "missing", lambda self: "is not installed")
    done = convert(source, tmp_path / "a.pth", proof=Proof())
    assert (done.certificate, done.checks) == (None, ())
    with pytest.raises(ResNetError, match="flax: is not installed"):
        convert(source, tmp_path / "b.pth", proof=proof("flax"))
    assert not (tmp_path / "b.pth").exists()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_biases_and_eps_go_into_the_norms(tmp_path: Path, dtype: str) -> None:
    state = cast_weights(random_weights(compile_plan(V1), 3), dtype)
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, V1))
    done = converted(tmp_path / "a.safetensors", tmp_path / "hf", "torch", "flax", to="huggingface")
    assert not done.unchanged
    assert all(check.holds for check in done.checks)
    exact = [check.error for check in done.checks if check.dtype == "float64"]
    if dtype == "float64":
        assert max(e for e in exact if e is not None) < 1e-13
    found = read_checkpoint(tmp_path / "hf")
    assert not any(name.endswith("conv1.bias") for name in found.state)
    assert found.spec is not None
    assert found.spec.norm_eps == 1e-5


def test_biases_of_zero_stay_beside_the_norms(tmp_path: Path) -> None:
    spec = resolve("resnet50", {"depths": [1, 1, 1, 1], "stride_on": "1x1", "num_classes": 7})
    state = cast_weights(random_weights(compile_plan(spec), 3), "float64")
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, spec))
    done = converted(tmp_path / "a.safetensors", tmp_path / "a.h5", "keras:tensorflow")
    assert not done.unchanged
    assert max(c.error or 0 for c in done.checks if c.dtype == "float64") < 1e-13
    assert (read_checkpoint(tmp_path / "a.h5").state["layer1.0.conv1.bias"] == 0).all()


def test_what_a_library_cannot_build_is_refused(tmp_path: Path) -> None:
    spec = resolve("keras_resnet50v2", {"depths": [1, 1, 1, 1], "num_classes": 7})
    write_safetensors(
        tmp_path / "a.safetensors", Checkpoint(random_weights(compile_plan(spec)), spec)
    )
    with pytest.raises(SpecError, match="transformers has no such net"):
        convert(tmp_path / "a.safetensors", tmp_path / "hf", to="huggingface")
    plain = resolve("resnet50", {"depths": [1, 1, 1, 1]})
    write_safetensors(
        tmp_path / "b.safetensors", Checkpoint(random_weights(compile_plan(plain)), plain)
    )
    with pytest.raises(SpecError, match=r"keras\.applications has no such net: Conv.*stride=2"):
        convert(tmp_path / "b.safetensors", tmp_path / "b.h5")
    assert not (tmp_path / "hf").exists()
    assert not (tmp_path / "b.h5").exists()


def test_features_are_compared_too(tmp_path: Path) -> None:
    spec = SMALL.override(features_only=True)
    state = random_weights(compile_plan(spec), 2)
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, spec))
    done = converted(tmp_path / "a.safetensors", tmp_path / "a.pth", "flax")
    assert all(check.holds for check in done.checks)
    assert len(read_certificate(certificate_path(tmp_path / "a.pth")).reference) == 4
