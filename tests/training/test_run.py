"""The `train` command: what a run leaves, and what an interruption does to it: nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from resnet_parity.engines.registry import ENGINES
from shared_spec import digest, read_checkpoint, read_safetensors
from shared_spec.training.recipe import load_recipe
from tests.command import command
from tests.tiers import selected

RECIPE: dict[str, Any] = {
    "model": "resnet20",
    "options": {"depths": [1, 1, 1], "drop_rate": 0.2},
    "data": {"format": "digits"},
    "augmentation": [{"name": "shift"}],
    "batch_size": 64,
    "steps": 24,
    "learning_rate": 0.05,
    "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True},
    "schedule": "cosine",
    "weight_decay": 1e-3,
    "ema_decay": 0.9,
    "evaluate_every": 12,
    "save_every": 5,
}


def write(folder: Path, **fields: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **fields}))
    return path


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "resnet_parity", "train", *map(str, arguments)]
    # One thread each, so that sums are taken in one order.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment, **options
    )


def train(*arguments: object, code: int = 0) -> tuple[str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> np.ndarray:
    return np.array([line["loss"] for line in metrics(folder) if "loss" in line])


@pytest.mark.parametrize(
    "engine", selected(["torch"], ["torch", "keras:tensorflow", "keras:jax", "flax"])
)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, engine: str) -> None:
    recipe = write(tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    out, _ = train(recipe, "--engine", engine, "--output", whole, "--json")
    result = json.loads(out)
    assert result["steps"] == 24
    assert result["held_out"]["images"] == 599
    kept = {"recipe.yaml", "metrics.jsonl", "checkpoint.safetensors", "weights.safetensors"}
    assert {path.name for path in whole.iterdir()} == kept | {"curves.png"}

    process = start(recipe, "--engine", engine, "--output", broken)
    state = broken / "checkpoint.safetensors"
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert int(read_safetensors(state).state["step"]) < 24
    train(recipe, "--engine", engine, "--output", broken, "--resume")
    assert metrics(broken) == metrics(whole)
    assert [line["step"] for line in metrics(whole) if "loss" in line] == list(range(1, 25))
    for name in ("weights.safetensors", "checkpoint.safetensors"):
        one, other = (read_safetensors(folder / name).state for folder in (whole, broken))
        assert digest(one) == digest(other)


def test_engines_coincide_in_float64_and_go_on_with_one_another(tmp_path: Path) -> None:
    options = {"depths": [1, 1, 1]}
    recipe = write(tmp_path, precision="float64", options=options, steps=12, save_every=6)
    ran = selected(["torch", "keras:tensorflow"], ENGINES)
    for engine in ran:
        train(recipe, "--engine", engine, "--output", tmp_path / engine)
    reference = losses(tmp_path / "torch")
    assert reference[-1] < reference[0]
    scores = [line["held_out"] for line in metrics(tmp_path / "torch") if "held_out" in line]
    for engine in ran:
        np.testing.assert_allclose(losses(tmp_path / engine), reference, rtol=1e-9)
        found = [line["held_out"] for line in metrics(tmp_path / engine) if "held_out" in line]
        assert [s["top1"] for s in found] == [s["top1"] for s in scores]

    # Half of it in one framework, half in the other.
    process = start(recipe, "--engine", "keras:tensorflow", "--output", tmp_path / "begun")
    begun = tmp_path / "begun" / "checkpoint.safetensors"
    while not begun.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    train(recipe, "--engine", "torch", "--output", tmp_path / "begun", "--resume")
    np.testing.assert_allclose(losses(tmp_path / "begun"), reference, rtol=1e-9)


def test_what_is_learnt_can_be_used(tmp_path: Path) -> None:
    recipe = write(tmp_path, ema_decay=None, steps=60, evaluate_every=60)
    folder = tmp_path / "run"
    out, _ = train(recipe, "--output", folder, "--tensorboard", "--json")
    assert json.loads(out)["held_out"]["top1"] > 0.8
    checkpoint = read_checkpoint(folder / "weights.safetensors")
    assert checkpoint.labels == tuple("0123456789")
    assert checkpoint.spec is not None
    assert checkpoint.spec.in_channels == 1
    assert checkpoint.preprocessing is not None
    assert checkpoint.preprocessing.image_size == 8
    assert load_recipe(folder / "recipe.yaml") == load_recipe(recipe)
    assert scalars(folder / "events") >= {"training/loss", "held_out/top1"}
    # Fine-tuned: another head, the first stage as it was.
    second = write(
        tmp_path,
        weights=str(folder / "weights.safetensors"),
        freeze=["conv1", "bn1", "layer1"],
        ema_decay=None,
        steps=4,
    )
    train(second, "--output", tmp_path / "tuned", "--engine", "flax")
    before, after = (
        read_checkpoint(tmp_path / f / "weights.safetensors") for f in ("run", "tuned")
    )
    moved = {name for name in before.state if (before.state[name] != after.state[name]).any()}
    assert {name.partition(".")[0] for name in moved} == {"layer2", "layer3", "fc"}


def scalars(folder: Path) -> set[str]:
    """Names in TensorBoard's event files, read by its own format."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    found = set()
    for path in folder.iterdir():
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found |= {value.tag for value in event.summary.value}
            at += 16 + length
    return found


@pytest.mark.parametrize(
    ("fields", "arguments", "message"),
    [
        ({"data": {"format": "cifar10", "path": "nowhere"}}, [], "nowhere"),
        ({"model": "resnet2"}, [], "resnet2"),
        ({"momentum": 0.9}, [], "momentum: there is no such field"),
        ({"steps": None}, [], "steps or epochs: give one of them"),
        ({"freeze": ["layer7"]}, [], "the net has no part 'layer7'"),
        ({"batch_size": 5000}, [], "batch_size: 5000 is more than the 1198 images"),
        ({"options": {"num_classes": 3}}, [], "options.num_classes: 3, and the data has 10"),
        ({"weights": "nothing.pth"}, [], "nothing.pth"),
        ({}, ["--set", "seed"], "'seed' is not of the form FIELD=VALUE"),
        ({}, ["--engine", "tensorflow"], "there is no engine 'tensorflow'"),
        ({}, ["--resume"], "there is no run to resume"),
        ({}, ["--device", "gpu"], "finds no gpu"),
        ({"learning_rate": 1e6}, [], "the loss of step"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, fields: dict[str, Any], arguments: list[str], message: str
) -> None:
    given = {**RECIPE, **fields}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in given.items() if v is not None}))
    code, out, err = command("train", path, "--output", tmp_path / "run", *arguments)
    assert (code, out) == (2, "")
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    recipe, folder = write(tmp_path), tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    code, _, err = command("train", recipe, "--output", folder)
    assert code == 2
    assert "is not empty; continue with --resume" in err
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_another_recipe_does_not_go_on(tmp_path: Path) -> None:
    recipe, folder = write(tmp_path, steps=2), tmp_path / "run"
    train(recipe, "--output", folder)
    _, err = train(recipe, "--output", folder, "--resume", "--set", "learning_rate=0.1", code=2)
    assert "was trained with another recipe; learning_rate differ" in " ".join(err.split())


def test_curves_of_several_runs_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, loss in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        lines = [{"step": i + 1, "loss": loss / (i + 1), "accuracy": 0.5} for i in range(20)]
        lines.append({"step": 20, "held_out": {"top1": 0.9}})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text)
    monkeypatch.chdir(tmp_path)
    for output, code in (("c.png", 0), ("c.svg", 0), ("c.txt", 2), ("no/c.png", 2)):
        done = command("curves", "a", "b", "--output", output)
        assert done.code == code, done
        assert Path(output).exists() == (code == 0)
    missing = command("curves", "a", "b", "d")
    assert missing.code == 2
    assert "d/metrics.jsonl" in missing.err
