"""The example that trains deep and shallow nets with and without shortcuts: its form, not its
finding, which takes longer than a test may.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
NETS = ["plain20", "plain32", "resnet20", "resnet32"]


def run(output: Path, *arguments: str, code: int = 0) -> str:
    # PyTorch compiles nothing, which is most of so short a run with the other engines.
    command = [sys.executable, str(ROOT / "examples" / "degradation.py"), "--quick"]
    command += ["--engine", "torch", "--output", str(output), "--deep", "32", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_four_nets_and_a_picture_of_them(tmp_path: Path) -> None:
    said = run(tmp_path / "out")
    curves, picture = (tmp_path / "out" / f"degradation.{end}" for end in ("json", "png"))
    assert all(net in said for net in NETS)
    assert picture.read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads(curves.read_text())
    settings, runs = found["settings"], found["runs"]
    expected = [(net, seed) for net in NETS for seed in range(settings["seeds"])]
    assert [(run["net"], run["seed"]) for run in runs] == expected
    for one in runs:
        losses = one["losses"]
        assert len(losses) == settings["steps"]
        assert np.isfinite(losses).all()
        assert np.mean(losses[-20:]) < np.mean(losses[:5])
        assert one["looks"][-1]["step"] == settings["steps"]
        assert all(0 <= look["held_out_error"] <= 1 for look in one["looks"])
    counts = {one["net"]: one["parameters"] for one in runs}
    assert counts["plain20"] == counts["resnet20"] < counts["plain32"] == counts["resnet32"]
    # A seed says something: no two runs are the same.
    assert len({tuple(one["losses"]) for one in runs}) == len(runs)

    # After an interruption it goes on, and a trainer that another seed had used gives the same.
    kept = [one for one in runs if one["net"] != "plain20" or one["seed"] != 1]
    curves.write_text(json.dumps({**found, "runs": kept}))
    run(tmp_path / "out")
    again = json.loads(curves.read_text())["runs"]
    (made,) = [one for one in again if (one["net"], one["seed"]) == ("plain20", 1)]
    (before,) = [one for one in runs if (one["net"], one["seed"]) == ("plain20", 1)]
    assert made == before
    assert "other settings" in run(tmp_path / "out", "--steps", "50", code=1)
