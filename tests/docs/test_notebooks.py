"""Notebooks: what they keep is of their sources, small and of no machine; the sources run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.site.notebooks import cells, notebook, page, sources
from tests.docs.blocks import ROOT
from tests.tiers import choice

MOST = 60_000
"""Characters of what one cell gave."""
MACHINE = re.compile(r"(?<![\w.])/(?:tmp|home|root|work|opt|usr|Users|var)/|\w+://(?!arxiv\.org)")
NAMES = [source.stem for source in sources()]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_of_the_source(name: str, tmp_path: Path) -> None:
    source = ROOT / "docs" / "notebooks" / f"{name}.py"
    kept = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    asked = [(cell["cell_type"], cell["source"]) for cell in notebook(source)["cells"]]
    assert [(c["cell_type"], "".join(c["source"])) for c in kept["cells"]] == asked
    ran = [cell for cell in kept["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in ran] == [i + 1 for i in range(len(ran))]
    assert sum(bool(cell["outputs"]) for cell in ran) >= 2
    for cell in ran:
        text = json.dumps(cell["outputs"])
        assert len(text) < MOST
        assert not MACHINE.search(text)
        assert {out["output_type"] for out in cell["outputs"]} <= {"stream", "display_data"}
    told = page(kept, name, tmp_path)
    assert told.startswith("# ")
    pictures = re.findall(r"!\[[^]]+\]\((.+?)\)", told)
    assert all((tmp_path / picture).stat().st_size > 1000 for picture in pictures)
    assert told.count("```python\n") == len(ran)


def test_cells_of_a_source() -> None:
    text = "# %% [markdown]\n# # A\n#\n# b\n\n# %%\nx = 1\n\n\n# %%\ny = 2  # c\n"
    assert cells(text) == [("markdown", "# A\n\nb"), ("code", "x = 1"), ("code", "y = 2  # c")]


@pytest.mark.frameworks
@pytest.mark.skipif(choice.tier != "all", reason="minutes of training, checks and benchmarks")
@pytest.mark.parametrize("name", NAMES)
def test_sources_run(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "notebooks" / f"{name}.py")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    assert done.stdout
