"""The command line: what each command prints, and how it ends."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from resnet_parity.cli.app import app
from shared_spec import (
    Checkpoint,
    Preprocessing,
    ResNetSpec,
    compile_plan,
    list_models,
    random_weights,
    read_checkpoint,
    resolve,
    write_safetensors,
)
from tests.command import command, refused

SPEC = resolve("resnet20", {"depths": [1, 1, 1], "num_classes": 4, "image_size": 16})


def run(*arguments: object, code: int = 0) -> tuple[str, str]:
    """Run the command; returns what it printed."""
    done = command(*arguments)
    assert done.code == code, done
    assert "Traceback" not in done.err
    return done.out, done.err


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    prepare = Preprocessing(image_size=16, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    labels = ("ant", "[red]bee[/]", "cat", "dog")
    write_safetensors(
        path, Checkpoint(random_weights(compile_plan(SPEC), 1), SPEC, prepare, labels)
    )
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "i.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_list() -> None:
    out, _ = run("list")
    for name in list_models():
        assert name in out
    rows = json.loads(run("list", "--json", "resnet50")[0])
    assert [row["name"] for row in rows] == ["resnet50"]
    assert rows[0]["parameters"] == 25_557_032
    assert rows[0]["macs"] == 4_089_184_256
    for source, count in (("timm", 209), ("torchvision", 29), ("keras.applications", 6)):
        assert len(json.loads(run("list", "--source", source, "--json")[0])) == count
    rows = json.loads(run("list", "seresnext*", "--family", "timm", "--json")[0])
    assert rows
    assert all(row["name"].startswith("seresnext") for row in rows)
    out, _ = run("list", "--family", "d2l")
    assert "d2l_resnet18_same" in out
    assert "resnet50" not in out


def test_every_command_has_an_example_that_it_takes() -> None:
    commands = typer.main.get_command(app)
    assert isinstance(commands, typer.core.TyperGroup)
    for name, one in commands.commands.items():
        label, program, *arguments = shlex.split(str(one.epilog))
        assert (label, program, arguments[0]) == ("Example:", "resnet-parity", name)
        taken = [text for text in arguments[1:] if text not in (">", "resnet.schema.json")]
        assert one.make_context(name, taken).params


def test_version() -> None:
    printed, _ = run("--version")
    lines = [line.split()[0] for line in printed.splitlines()]
    assert lines == ["resnet-parity", "torch", "keras", "tensorflow", "jax", "flax"]
    assert f"resnet-parity {version('resnet-parity')}" in printed


def test_show() -> None:
    out, _ = run("show", "resnet50")
    assert "25,557,032" in out
    data = json.loads(run("show", "resnet50", "--json", "--image-size", 448)[0])
    assert data["stages"][1]["layers"] == "[1×1, 64; 3×3, 64; 1×1, 256] × 3"
    assert data["stages"][4]["shape"] == [14, 14, 2048]
    assert ResNetSpec.parse(data["spec"]) == resolve("resnet50")


def test_show_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('depths = [1, 1]\nblock = "basic"\n')
    assert "layer2" in run("show", file)[0]


def test_show_of_features(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{depths: [1, 1], block: basic, features_only: true, out_indices: [0, 1]}")
    data = json.loads(run("show", file, "--json")[0])
    assert [row["name"] for row in data["stages"]] == ["stem", "layer1"]
    assert "layer1" in run("show", file)[0]


def test_schema() -> None:
    schema = json.loads(run("schema")[0])
    assert schema["properties"]["depths"]


@pytest.mark.frameworks
def test_check_holds() -> None:
    out, _ = run("check", "resnet20", "--engines", "torch,flax", "--image-size", "17x12")
    assert "✓ holds" in out
    assert "1×17×12×3" not in out
    assert "2×17×12×3" in out


@pytest.mark.frameworks
def test_check_json_and_weights(weights: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(SPEC.to_dict()))
    out, _ = run(
        "check", spec, "--weights", weights, "--engines", "torch,flax", "--json",
        "--dtype", "float32",
    )  # fmt: skip
    data = json.loads(out)
    assert data["holds"] is True
    assert data["pairs"][0]["engines"] == ["torch", "flax"]
    assert data["pairs"][0]["logits"]["maximum"] < 1e-4
    assert data["command"].startswith(f"resnet-parity check {spec} --weights {weights} ")
    assert set(data["against_float64"]) == {"torch", "flax"}


@pytest.mark.frameworks
def test_check_of_one_engine_compares_nothing() -> None:
    out, _ = run("check", "resnet20", "--engines", "torch", "--image-size", 8, code=1)
    assert "nothing was compared: torch ran alone" in out
    assert "✗ does not hold" in out


@pytest.mark.frameworks
def test_check_on_a_device_that_is_not_there() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    out, _ = run("check", "resnet20", "--engines", "torch,flax", "--device", "gpu", code=1)
    assert "torch finds no gpu on this machine" in out
    assert "jax finds no gpu on this machine" in out


@pytest.mark.frameworks
def test_labels_from_a_file(weights: Path, image: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {i}\n" for i in range(4)))
    text, _ = run("predict", image, "--weights", weights, "--labels", names, "--json")
    found = json.loads(text)[0]["classes"]
    assert all(entry["label"] == f"class {entry['index']}" for entry in found)
    target = tmp_path / "b.safetensors"
    run("convert", weights, target, "--labels", names, "--no-verify")
    assert read_checkpoint(target).labels == tuple(f"class {i}" for i in range(4))
    names.write_text("one\n")
    assert "has 1 labels for 4 classes" in refused(
        "convert", weights, target, "--labels", names, "--no-verify"
    )


@pytest.mark.frameworks
def test_a_conversion_is_proved_and_the_proof_repeated(weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.pth"
    out, _ = run("convert", weights, target, "--engines", "torch")
    assert "torch in float64: logits" in out
    out, _ = run("verify", target, "--dtype", "float64")
    assert "torch in float64: logits" in out
    text, _ = run("verify", target, "--engines", "torch", "--json")
    assert json.loads(text)["holds"] is True
    target.write_bytes(target.read_bytes() + b"x")
    _, message = run("verify", target, code=1)
    assert "is not the file of its certificate" in message
    assert "dtype: 'int8' is not one of" in refused("verify", target, "--dtype", "int8")
    assert "there is no such file" in refused("verify", tmp_path / "no.pth")
    assert "leave one of them out" in refused(
        "convert", weights, target, "--engines", "torch", "--no-verify"
    )
    beside = tmp_path / "b.pth.parity.json"
    run("convert", weights, target, "--no-verify")
    assert beside.exists()  # the same bytes as before
    other = tmp_path / "c.safetensors"
    state = {name: -array for name, array in read_checkpoint(weights).state.items()}
    write_safetensors(other, replace(read_checkpoint(weights), state=state))
    out, _ = run("convert", other, target, "--no-verify")
    assert "b.pth.parity.json: it certified what was there before" in out
    assert not beside.exists()


@pytest.mark.frameworks
@pytest.mark.filterwarnings("always::shared_spec.errors.WeightsWarning")
def test_convert_and_predict(weights: Path, image: Path, tmp_path: Path) -> None:
    out, _ = run("convert", weights, tmp_path / "w.pth")
    assert "read back bit for bit" in out
    assert "This format has no place for spec, preprocessing and labels." in out
    data = json.loads(run("convert", weights, tmp_path / "x.safetensors", "--json")[0])
    assert data["lost"] == []
    out, _ = run("predict", image, image, "--weights", weights, "--engine", "torch")
    assert out.count("i.png") == 2
    assert "[red]bee[/]" in out
    found = {}
    for engine in ("torch", "flax"):
        text, _ = run("predict", image, "--weights", weights, "--engine", engine, "--json")
        (record,) = json.loads(text)
        assert len(record["classes"]) == 4
        assert sum(c["probability"] for c in record["classes"]) == pytest.approx(1)
        found[engine] = {c["label"]: c["probability"] for c in record["classes"]}
    assert found["torch"] == pytest.approx(found["flax"], rel=1e-4)
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(SPEC.to_dict()))
    asked = ("predict", image, "--weights", tmp_path / "w.pth", "--model", spec, "--top", 2)
    text, told = run(*asked, "--json")
    assert "Note: " in told
    assert "w.pth: has no preprocessing, and ImageNet's is used; a .safetensors file" in told
    assert len(json.loads(text)[0]["classes"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "resnet51"], "there is no model named 'resnet51'; did you mean"),
        (["show", "no.yaml"], "no.yaml: cannot be read (No such file or directory)"),
        (["list", "zzz*"], "no model matches 'zzz*'"),
        (["list", "--family", "zzz"], "family: 'zzz' is not one of torchvision,"),
        (["check", "resnet18", "--engines", "tourch"], "did you mean 'torch'"),
        (["check", "resnet18", "--engines", "torch,torch"], "'torch' is named twice"),
        (["check", "resnet18", "--engines", ","], "name at least one of torch,"),
        (["check", "resnet18", "--device", "npu"], "device: 'npu' is not one of cpu, gpu, tpu"),
        (["check", "resnet18", "--dtype", "int8"], "dtype: 'int8' is not one of float64,"),
        (["check", "resnet18", "--image-size", "axb"], "image-size: 'axb' is not a size"),
        (["check", "resnet18", "--weights", "no.pth"], "no.pth: there is no such file"),
        (["convert", "no.pth", "b.pth"], "no.pth: there is no such file of weights"),
        (["predict", "no.png"], "--weights: name a weights file"),
        (["list", "--source", "nowhere"], "source: 'nowhere' is in none of He et al. 2015"),
    ],
)
def test_bad_input_gets_one_sentence(arguments: list[str], message: str) -> None:
    assert message in refused(*arguments)


def test_bad_images_get_one_sentence(weights: Path, image: Path, tmp_path: Path) -> None:
    assert "no.png: there is no such image file" in refused(
        "predict", tmp_path / "no.png", "--weights", weights
    )
    text = tmp_path / "t.png"
    text.write_text("no image")
    assert "t.png: not an image" in refused("predict", text, "--weights", weights)
    half = tmp_path / "h.png"
    half.write_bytes(image.read_bytes()[:500])
    assert "h.png: the image cannot be decoded" in refused("predict", half, "--weights", weights)


@pytest.mark.parametrize("fields", [{"num_classes": 0}, {"features_only": True}])
def test_a_net_without_classes_classifies_nothing(
    image: Path, tmp_path: Path, fields: dict[str, object]
) -> None:
    spec = SPEC.override(**fields)
    file = tmp_path / "w.safetensors"
    write_safetensors(file, Checkpoint(random_weights(compile_plan(spec)), spec))
    message = refused("predict", image, "--weights", file)
    assert "the model gives features and no classes" in message


@pytest.mark.frameworks
def test_sixteen_bits_are_seen_as_eight(weights: Path, image: Path, tmp_path: Path) -> None:
    grey = np.asarray(Image.open(image).convert("L"))
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    paths = [tmp_path / "8.png", tmp_path / "16.png"]
    text, _ = run("predict", *paths, "--weights", weights, "--json")
    eight, sixteen = json.loads(text)
    assert eight["classes"] == sixteen["classes"]
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "f.tif")
    assert "does not say what white is" in refused(
        "predict", tmp_path / "f.tif", "--weights", weights
    )


@pytest.mark.frameworks
def test_an_ended_command_takes_its_workers_with_it() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "resnet_parity", "check", "resnet152", "--engines", "torch,flax"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    children: set[int] = set()
    while not children:
        time.sleep(0.1)
        children = {int(n) for n in _children(process.pid)}
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a worker outlived its command"
        time.sleep(0.1)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_weights_of_another_model_are_refused(weights: Path, image: Path) -> None:
    message = refused("predict", image, "--weights", weights, "--model", "resnet20")
    assert "do not fit the model" in message
    assert message.count(";") == 10
    assert message.endswith(" more")
    code, out, err = command(
        "predict", image, "--weights", weights, "--model", "resnet20", "--json"
    )
    assert (code, err) == (2, f"error: {message}\n")
    told = json.loads(out)
    assert told["error"] == message
    assert "fc.bias has shape (4,), expected (10,)" in told["mismatches"]
    assert f"({len(told['mismatches'])} mismatches): {told['mismatches'][0]}; " in message


HYGIENE: dict[str, Any] = {
    "import shared_spec": {"torch", "keras", "tensorflow", "jax", "flax", "optax"},
    "import shared_spec.weights.preprocessing, shared_spec.download": {
        "PIL", "huggingface_hub", "torch",
    },
    "import resnet_torch": {"keras", "tensorflow", "jax", "flax"},
    "import resnet_flax": {"keras", "tensorflow", "torch", "orbax"},
    "import resnet_parity.cli.app": {"torch", "keras", "tensorflow", "jax", "flax", "PIL"},
    "import resnet_parity.check, resnet_parity.convert, resnet_parity.evaluate": {
        "torch", "keras", "tensorflow", "jax", "flax",
    },
    # Keras itself imports TensorFlow to describe a model, which building a net does.
    "import os; os.environ['KERAS_BACKEND'] = 'jax'\n"
    "import resnet_keras; resnet_keras.create_model('resnet20')": {"torch", "tensorflow"},
    "import os; os.environ['KERAS_BACKEND'] = 'torch'\n"
    "import resnet_keras; resnet_keras.create_model('resnet20')": {"tensorflow"},
}  # fmt: skip


@pytest.mark.frameworks
@pytest.mark.parametrize("statement", HYGIENE)
def test_imports_stay_apart(statement: str) -> None:
    script = f"{statement}\nimport sys, json; print(json.dumps(list(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in json.loads(out)}
    assert loaded & HYGIENE[statement] == set()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["list"], ["show", "resnet50"], ["schema"]]
)
def test_light_commands_load_no_framework(arguments: list[str]) -> None:
    script = (
        "import sys; sys.argv[1:] = sys.argv[1:]\n"
        "from resnet_parity.cli.app import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "typer" in loaded
    assert loaded & {"torch", "keras", "tensorflow", "jax", "flax", "optax", "orbax"} == set()
    if arguments == ["list"]:  # the whole catalogue in half a second
        assert loaded & {"numpy", "safetensors", "ml_dtypes", "jinja2", "matplotlib"} == set()


@pytest.mark.frameworks
@pytest.mark.parametrize(
    ("package", "absent", "extra"),
    [
        ("resnet_torch", "torch", "torch"),
        ("resnet_flax", "flax", "flax"),
        ("resnet_keras", "keras", "keras"),
        ("resnet_keras", "tensorflow", "tensorflow"),
    ],
)
def test_a_missing_framework_is_told_with_the_command(
    package: str, absent: str, extra: str
) -> None:
    script = (
        f"import sys, importlib.util\nsys.modules[{absent!r}] = None\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda n: None if n == {absent!r} else find(n)\n"
        "from shared_spec import FrameworkError\n"
        f"try: import {package}\n"
        "except FrameworkError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "which is not installed" in out.stdout
    assert f"pip install 'resnet-parity[{extra}]'" in out.stdout


@pytest.mark.parametrize(
    ("num_classes", "head"), [(1000, "1000 classes"), (7, "7 classes"), (0, "no classifier")]
)
def test_inspect_tells_the_classes(tmp_path: Path, num_classes: int, head: str) -> None:
    """Also where they are the default, which a spec's own form leaves out."""
    spec = resolve("resnet18", {"num_classes": num_classes})
    path = tmp_path / "a.safetensors"
    write_safetensors(path, Checkpoint(random_weights(compile_plan(spec)), spec))
    said = command("inspect", path)
    assert said.code == 0, said.err
    assert f"resnet18; {head}" in " ".join(said.out.split())
    (net,) = json.loads(command("inspect", path, "--json").out)["nets"]
    assert net["classes"] == num_classes
