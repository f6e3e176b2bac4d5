"""Drawn PyTorch files, read right or refused: `python -m tests.formats.torch_reading` has more."""

from __future__ import annotations

import warnings
from pathlib import Path

from tests.formats.torch_reading import verdict
from tests.probes.torch_trees import drawn
from tests.tiers import amount


def test_drawn_files_are_read_right_or_refused(tmp_path: Path) -> None:
    said: dict[str, list[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what was left out, and of the libraries'
        for number in range(amount("drawn PyTorch files")):
            if (tree := drawn(number, tmp_path)) is not None:
                said[f"{number}: {tree.kind}, {tree.what}"] = verdict(tree)
                tree.path.unlink()
    assert {tree: found for tree, found in said.items() if any("wrong" in x for x in found)} == {}
    assert sum("right" in found for found in said.values()) >= 3
