"""The command `export`, and `verify` of what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import resnet_onnx
from shared_spec import (
    Checkpoint,
    Preprocessing,
    WeightsError,
    compile_plan,
    random_weights,
    resolve,
)
from shared_spec.formats.canonical_file import write_safetensors
from tests.command import command, refused

SPEC = resolve("resnet20", {"depths": [1, 1], "widths": [16, 32], "num_classes": 3})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    prepare = Preprocessing(
        image_size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), channel_order="bgr"
    )
    state = random_weights(compile_plan(SPEC))
    write_safetensors(path, Checkpoint(state, SPEC, prepare, ("a", "b", "c")))
    return path


@pytest.mark.parametrize(
    ("options", "dtypes"),
    [
        ((), ["float32", "float32", "float64"]),
        (
            ("--preprocessing", "inside", "--head", "softmax", "--fold", "--batch", "3"),
            ["float32", "float32", "float64"],
        ),
        (("--dtype", "bfloat16", "--size", "33x40"), ["bfloat16", "float64"]),
        (("--dtype", "float64"), ["float64"]),
    ],
)
def test_a_file_is_proven_and_verified(
    weights: Path, tmp_path: Path, options: tuple[str, ...], dtypes: list[str]
) -> None:
    target = tmp_path / "net.onnx"
    code, out, err = command("export", weights, "-o", target, *options, "--json")
    assert code == 0, err
    done = json.loads(out)
    assert [check["dtype"] for check in done["checks"]] == dtypes
    assert all(check["holds"] for check in done["checks"])
    assert done["certificate"] == f"{target}.parity.json"
    certificate = json.loads(Path(done["certificate"]).read_text())
    assert certificate["target"]["dtype"] == dtypes[0]
    # The same numbers, if they were neither rounded nor folded.
    assert certificate["permutation"] == (not options)
    code, out, err = command("verify", target, "--engines", "onnx:reference", "--json")
    assert code == 0, err
    (check,) = json.loads(out)["checks"]
    assert check["holds"]
    if "--fold" not in options:
        assert check["error"] < check["bound"] == 1e-12
    rounded = [note for note in certificate["reference"]["notes"] if "rounded to" in note]
    assert len(rounded) == ("bfloat16" in options)
    model = onnx.load(target)
    model.producer_name = "another"
    onnx.save(model, target)
    code, _, err = command("verify", target)
    assert code == 1
    assert "is not the file of its certificate" in err


def test_a_net_without_weights_gets_fresh_ones(tmp_path: Path) -> None:
    target = tmp_path / "net.onnx"
    code, out, err = command("export", "resnet20", "-o", target, "--no-verify")
    assert code == 0, err
    assert "resnet20, fresh weights of the seed 0" in " ".join(out.split())
    assert [x.name for x in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "net.pb"), "net.pb"),
        (("-o", "net.onnx", "--batch", "x"), "--batch: 'x' is neither dynamic nor a number"),
        (("-o", "net.onnx", "--size", "x"), "--size: 'x' is not a size such as 224 or 97x64"),
        (("-o", "net.onnx", "--size", "0"), "--size: '0' is not a size"),
        (("-o", "net.onnx", "--dtype", "float8"), "--dtype: 'float8' is not one of float64"),
        (("-o", "net.onnx", "--opset", "3"), "opset: 3 is not one of 17 to"),
        (("-o", "net.onnx", "--dtype", "bfloat16", "--opset", "21"), "21 has no bfloat16"),
        (("-o", "net.onnx", "--head", "argmax"), "head: 'argmax' is not one of logits, softmax"),
        (("-o", "net.onnx", "--engines", "torch"), "torch runs no files of ONNX"),
        (
            ("-o", "net.onnx", "--engines", "onnxruntime", "--dtype", "bfloat16"),
            "onnxruntime does not compute in bfloat16; it does in float32, float16",
        ),
        (("-o", "net.onnx", "--engines", "openvino", "--no-verify"), "--engines: with --no-verify"),
        (("-o", "nowhere/net.onnx"), "the directory"),
    ],
)
def test_refused_before_work_starts(
    tmp_path: Path, options: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused("export", "resnet20", *options)
    assert list(tmp_path.iterdir()) == []


def test_weights_beside_a_file_are_part_of_it(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above 2 GB; here, above nothing."""
    target = tmp_path / "net.onnx"
    export = ("export", weights, "-o", target, "--engines", "onnx:reference")
    with monkeypatch.context() as patch:
        patch.setattr("resnet_onnx.file.INLINE", 0)
        code, _, err = command(*export)
    assert code == 0, err
    (beside,) = tmp_path.glob("*.data")
    code, _, err = command("verify", target)
    assert code == 0, err
    data = bytearray(beside.read_bytes())
    data[-1] ^= 1
    beside.write_bytes(data)
    code, _, err = command("verify", target)
    assert code == 1
    assert "is not the file of its certificate" in err
    code, _, err = command(*export)
    assert code == 0, err
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["net.onnx", "net.onnx.parity.json"]
    assert command("verify", target).code == 0


def test_openvino_replaces_no_strange_file(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.bin").write_bytes(b"mine")
    message = "would put its weights into net.bin, which is there already"
    assert message in refused("export", weights, "-o", "net.xml")
    with pytest.raises(WeightsError, match=message):
        resnet_onnx.export(resnet_onnx.create_model(SPEC), "net.xml")
    assert [path.name for path in tmp_path.iterdir()] == ["net.bin"]
    assert (tmp_path / "net.bin").read_bytes() == b"mine"


def test_a_converter_that_folds_norms_does_not_keep_the_weights(
    weights: Path, tmp_path: Path
) -> None:
    target = tmp_path / "net.xml"
    code, _, err = command("export", weights, "-o", target)
    assert code == 0, err
    certificate = json.loads(Path(f"{target}.parity.json").read_text())
    assert (certificate["permutation"], certificate["exact"]) == (False, False)
    assert command("export", weights, "-o", target).code == 0  # over what is ours
