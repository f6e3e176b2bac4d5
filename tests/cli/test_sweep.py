"""`check --all` as users run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_cli import refused, run

ENGINES = ("--engines", "torch,flax")


@pytest.mark.frameworks
def test_check_all(tmp_path: Path) -> None:
    results, report = tmp_path / "r.jsonl", tmp_path / "r.md"
    arguments = ("check", "--all", "test_res*", *ENGINES, "--results", results)
    out, err = run(*arguments, "--report", report)
    assert "1 of 1 comparisons with a library hold" in out
    assert "✓ holds" in out
    assert err.startswith("1/1 test_resnet: ✓ float64, timm ")
    assert "| `test_resnet` | timm | 469,688 | float64 | 2×97×64 |" in report.read_text()
    out, err = run(*arguments, "--json", "--family", "timm")
    assert err.strip().endswith("(before)")
    data = json.loads(out)
    assert data["holds"] is True
    assert data["rows"] == {"judged": 1, "alone": 0}
    assert data["records"][0]["references"]["timm"]["problems"] == []


@pytest.mark.frameworks
def test_check_all_that_does_not_hold(tmp_path: Path) -> None:
    results = tmp_path / "r.jsonl"
    out, _ = run(
        "check", "--all", "resnet20", "--engines", "torch", "--results", results, code=1
    )  # fmt: skip
    assert "✗ resnet20: nothing was compared" in out
    assert "✗ does not hold" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "MODEL: name one, or --all"),
        (["check", "resnet18", "--family", "timm"], "--family and --report: only with --all"),
        (["check", "--all", "zzz*"], "no model matches 'zzz*'"),
        (["check", "--all", "--family", "zzz"], "family: 'zzz' is not one of torchvision,"),
        (["check", "--all", "--weights", "a.pth"], "the weights of --all are random"),
        (["check", "--all", "--dtype", "float16"], "a sweep takes float64 or float32"),
        (
            ["check", "--all", "test_resnet", "--results", "/"],
            "/: cannot be read and written (Is a directory)",
        ),
        (["check", "--all", "--report", "no/r.md"], "no/r.md: its directory does not exist"),
        (["check", "--all", "--report", "/"], "/: is a directory or the file of results"),
        (["check", "--all", "--results", "/dev/full"], "/dev/full: is not a regular file"),
    ],
)
def test_bad_input_gets_one_sentence(arguments: list[str], message: str) -> None:
    assert message in refused(*arguments)


@pytest.mark.frameworks
def test_an_interrupted_sweep_takes_its_workers_with_it(tmp_path: Path) -> None:
    # A suite in the background would have it ignore the signal.
    start = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [
            sys.executable, "-c", start, "-m", "resnet_parity", "check", "--all", "resnet152",
            *ENGINES, "--results", str(tmp_path / "r.jsonl"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    children: list[str] = []
    while not children:
        time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not any(Path(f"/proc/{child}").exists() for child in children)
