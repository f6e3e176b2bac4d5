"""The options of these tests themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from tests.tiers import covering

ROOT = Path(__file__).parent.parent


def pytest_of(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-q", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_an_engine_that_is_not_there_is_an_error() -> None:
    done = pytest_of("--engines", "torch,tensor", "tests/parity/test_compare.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "there is no engine 'tensor'" in done.stderr


@pytest.mark.frameworks
def test_workers_run_in_this_process(tmp_path: Path) -> None:
    """Where `breakpoint()` would stop, a debugger of this process is."""
    debugger = tmp_path / "debugger.py"
    debugger.write_text(
        "import sys\n"
        "from resnet_parity.worker import operations\n"
        "def pytest_sessionfinish():\n"
        "    assert {'resnet_torch', 'torch'} <= set(sys.modules)\n"
        "    print('in this process')\n"
    )
    done = pytest_of(
        *("--in-process", "--engines", "torch,keras:torch", "-p", "debugger", "-s"),
        *("-o", f"pythonpath={tmp_path}"),
        "tests/parity/test_options.py::test_five_engines_agree[flax_resnet18]",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in this process" in done.stdout


def test_a_covering_set_covers() -> None:
    from tests.parity.test_options import DISTINCT

    for size in (1, 2):
        chosen = covering(DISTINCT, size)
        had, every = (
            {
                pair
                for spec in specs
                for pair in combinations(
                    sorted((k, str(v)) for k, v in spec.to_dict().items()), size
                )
            }
            for specs in (chosen, DISTINCT)
        )
        assert had == every
        assert len(chosen) < len(DISTINCT) * 0.7
