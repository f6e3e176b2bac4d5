"""A step on several devices is the step on one device of the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_parity.numerics.difference import farthest
from resnet_parity.train.recipes import random_labels
from shared_spec import (
    Checkpoint,
    ResNetSpec,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from shared_spec.plan.compiler import compile_plan
from shared_spec.training.state import IGNORED
from shared_spec.weights.initialize import random_images
from shared_spec.weights.state import State
from tests.tiers import selected
from tests.training.parallel import DEVICES

ROOT = Path(__file__).parent.parent.parent
BATCH, STEPS, SIDE = 16, 3, 12
SPEC = resolve("resnet20_b", {"depths": [1, 1], "widths": [8, 16], "num_classes": 5})
PIXELS = SPEC.override(segmentation="fcn", auxiliary=True, head_drop=False)
GROUPED = resolve(
    "regnetx_002", {"depths": [1, 1], "widths": [16, 32], "strides": [2, 2], "num_classes": 5}
)
NETS = {"pixels": PIXELS, "plain": SPEC, "grouped": GROUPED}
RECIPE = {
    "learning_rate": 0.05,
    "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True},
    "weight_decay": 1e-3,
    "clip_norm": 1.0,
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
    "precision": "float64",
}
REMAT = {"remat": True}


def prepare(folder: Path, recipe: dict[str, Any], variance: str, net: ResNetSpec = SPEC) -> None:
    spec = net.override(norm_variance=variance)
    (folder / "job.json").write_text(json.dumps({"spec": spec.to_dict(), "recipe": recipe}))
    batches: State = {}
    for i in range(STEPS):
        # Parts of different means: norms that look at their own part alone show.
        images = random_images((BATCH, SIDE, SIDE, 3), i)
        images += np.linspace(-1, 1, BATCH, dtype=np.float32)[:, None, None, None]
        batches[f"{i}/images"] = images
        batches[f"{i}/labels"] = random_labels(spec, images.shape, i, "labels")
        if net is PIXELS:  # the parts have other numbers of pixels that count
            batches[f"{i}/labels"][: BATCH // 2, 3:] = IGNORED
    write_safetensors(folder / "batches.safetensors", Checkpoint(batches))
    weights = random_weights(compile_plan(spec))
    write_safetensors(folder / "weights.safetensors", Checkpoint(weights))


def run(folder: Path, kind: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.training.parallel", kind, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [*command, *map(str, arguments)], cwd=ROOT, env=environment, stderr=subprocess.PIPE
    )


def finished(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-3000:]


def results(folder: Path, kind: str, several: bool) -> list[State]:
    if not several:
        finished(run(folder, kind))
        return [dict(read_safetensors(folder / f"{kind}.safetensors").state)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    finished(*(run(folder, kind, rank, 2, port) for rank in range(2)))
    return [dict(read_safetensors(folder / f"{kind}-{r}.safetensors").state) for r in range(2)]


@pytest.mark.parametrize(
    ("engine", "changes", "variance", "net"),
    [
        *((engine, {}, "unbiased", PIXELS) for engine in selected(["torch"], DEVICES)),
        *((engine, {}, "unbiased", SPEC) for engine in selected(["flax"], DEVICES)),
        *(
            (engine, {}, "unbiased", GROUPED)
            for engine in selected(["flax"], ["flax", "keras:jax"])
        ),
        # On the one device nothing is computed again.
        *((engine, REMAT, "unbiased", SPEC) for engine in selected(["torch"], DEVICES)),
        *(
            (engine, {"clip_norm": None, "optimizer": "adamw"}, "biased", SPEC)
            for engine in selected(["keras:tensorflow"], ["torch", "keras:tensorflow"])
        ),
    ],
    ids=lambda given: next((name for name, net in NETS.items() if net is given), None),
)
def test_the_step_is_that_of_one_device(
    tmp_path: Path, engine: str, changes: dict[str, Any], variance: str, net: ResNetSpec
) -> None:
    recipe = {k: v for k, v in (RECIPE | changes).items() if v is not None}
    prepare(tmp_path, recipe | {"remat": False}, variance, net)
    (alone,) = results(tmp_path, f"{engine}-alone", several=False)
    prepare(tmp_path, recipe, variance, net)
    together = results(tmp_path, engine, several=engine == "torch")
    assert float(alone["told"][0, 0]) != float(alone["told"][-1, 0])
    images = np.concatenate([part.pop("gradient.images") for part in together])
    assert farthest(alone.pop("gradient.images"), images) < 1e-10
    for found in together:
        assert found.keys() == alone.keys()
        for name, array in alone.items():
            assert farthest(array, found[name]) < 1e-10, name


def metrics(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


@pytest.mark.parametrize("engine", selected(["torch"], ["torch", "flax"]))
def test_two_processes_run_a_recipe(tmp_path: Path, engine: str) -> None:
    """What `train` does in two processes is what it does in one."""
    arguments = ["train", "digits", "--engine", engine, "--set", "precision=float64"]
    arguments += ["--set", "options.depths=[1,1,1]", "--set", "steps=6", "--set", "save_every=3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone, together = tmp_path / "alone", tmp_path / "together"
    plain = [sys.executable, "-m", "resnet_parity"]
    subprocess.run([*plain, *arguments, "--output", alone], check=True, env=environment)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = [*arguments, "--distributed", "--output", str(together)]
    if engine == "torch":
        launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
        command = [sys.executable, *launch, "-m", "resnet_parity", *several]
        subprocess.run(command, check=True, env=environment)
    else:
        environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
        processes = [
            subprocess.Popen([*plain, *several], env={**environment, "JAX_PROCESS_ID": str(i)})
            for i in range(2)
        ]
        assert [process.wait(300) for process in processes] == [0, 0]
    np.testing.assert_allclose(metrics(together), metrics(alone), rtol=1e-10)
    assert len(metrics(together)) == 6
    one, other = (
        read_safetensors(folder / "weights.safetensors").state for folder in (alone, together)
    )
    for name, array in one.items():
        assert farthest(array, other[name]) < 1e-9, name
