"""Files that an earlier version wrote are read as they were meant."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.convert.verify import verify
from resnet_parity.engines.registry import ENGINES
from shared_spec import (
    CATALOGUE,
    Preprocessing,
    ResNetSpec,
    compile_plan,
    random_weights,
    read_checkpoint,
    read_safetensors,
    resolve,
    write_safetensors,
)
from tests.conftest import ROOT
from tests.hardening.attack.samples import TINY

KEPT = ROOT / "tests" / "kept"
SPEC = resolve("resnet50", {"depths": [1, 1], "widths": [8, 8], "stem_width": 8, "num_classes": 3})


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in ((one[key], other[key]) for key in one)
    )


def told(spec: ResNetSpec) -> str:
    """A plan as it was before records had these fields, which change nothing at their defaults."""
    later = r"ceil=False|of_features=False|scale=None|gain_init=1\.0|activation='relu'"
    later += r"|start='(?:fan_out|uniform)'|activates=True"
    later += r"|frozen=False|junctions=\(\)"
    return re.sub(rf", (?:{later})(?=[,)])", "", repr(compile_plan(spec)))


def test_every_plan_is_the_one_that_it_was() -> None:
    kept = json.loads((KEPT / "plans.json").read_text())
    assert len(kept) == 147
    assert set(kept) <= set(CATALOGUE)
    for name, expected in kept.items():
        plan = told(resolve(name))
        assert hashlib.sha256(plan.encode()).hexdigest() == expected, name
    assert told(SPEC) + "\n" == (KEPT / "plan.txt").read_text()


def test_the_canonical_file_is_written_byte_for_byte(tmp_path: Path) -> None:
    checkpoint = read_safetensors(KEPT / "weights.safetensors")
    assert checkpoint.spec == SPEC
    assert checkpoint.labels == ("cat", "dog", "eel")
    assert checkpoint.preprocessing == Preprocessing(
        image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)
    )
    assert same(checkpoint.state, random_weights(compile_plan(SPEC), 11))
    write_safetensors(tmp_path / "again.safetensors", checkpoint)
    kept = (KEPT / "weights.safetensors").read_bytes()
    assert (tmp_path / "again.safetensors").read_bytes() == kept


def test_a_certificate_still_holds() -> None:
    assert same(
        read_checkpoint(KEPT / "weights.pth", SPEC).state,
        read_safetensors(KEPT / "weights.safetensors").state,
    )
    _, checks = verify(KEPT / "weights.pth", engines=(ENGINES["torch"],))
    assert [(check.engine, check.dtype, check.holds) for check in checks] == [
        ("torch", "float64", True),
        ("torch", "float32", True),
    ]


def test_a_functional_keras_model_is_read() -> None:
    found = read_checkpoint(KEPT / "functional.keras")
    assert found.spec == TINY
    assert found.library == "resnet_keras"
    assert same(found.state, random_weights(compile_plan(TINY), 11))


def test_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    """It was trained for its four steps, so that going on adds none and scores what it scored."""
    run = tmp_path / "run"
    shutil.copytree(KEPT / "run", run)
    command = [sys.executable, "-m", "resnet_parity", "train", str(run / "recipe.yaml")]
    done = subprocess.run(
        [*command, "--output", str(run), "--resume", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *_, scores = map(json.loads, (KEPT / "run" / "metrics.jsonl").read_text().splitlines())
    held_out = json.loads(done.stdout)["held_out"]
    assert held_out["images"] == scores["held_out"]["images"]
    assert held_out["top1"] == scores["held_out"]["top1"]
    np.testing.assert_allclose(held_out["loss"], scores["held_out"]["loss"], rtol=1e-12)
    for name in ("weights", "checkpoint"):
        one, other = (
            read_safetensors(folder / f"{name}.safetensors").state for folder in (run, KEPT / "run")
        )
        assert same(one, other)
