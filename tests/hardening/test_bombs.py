"""Small files that ask for a lot, in 1 GiB of address space: refused within a few times what a
harmless file takes on the same machine, and within 64 MB of memory.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hardening.attack.bombs import CASES
from tests.hardening.attack.cases import Case, run_case
from tests.hardening.attack.child import Child


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bomb_does_not_go_off(child: Child, tmp_path: Path, case: Case) -> None:
    assert run_case(child, case, tmp_path / "case").problem == ""
