"""A file for each known attack, through the command line: each is refused by name, and nothing is
run, followed, fetched or written.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hardening.attack.cases import Case, run_case
from tests.hardening.attack.child import Child
from tests.hardening.attack.corpus import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_attack_is_refused(child: Child, tmp_path: Path, case: Case) -> None:
    assert run_case(child, case, tmp_path / "case").problem == ""


def test_names_are_told_apart() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
