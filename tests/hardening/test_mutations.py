"""A thousand damaged files of each format: refused in one sentence, or read and everything fits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.hardening.child import Child
from tests.hardening.mutate import mutate
from tests.hardening.samples import FORMATS, load_sample

COUNT = 1000


@pytest.mark.parametrize("name", FORMATS)
def test_every_damaged_file_is_refused_cleanly_or_fits(child: Child, name: str) -> None:
    found = list(child.run("mutate", format=name, cases=range(COUNT)))
    assert len(found) == COUNT
    assert not {answer["case"]: answer["problem"] for answer in found if answer["problem"]}
    assert Counter(answer["kind"] for answer in found)["refused"] > COUNT / 2


@pytest.mark.parametrize("name", FORMATS)
def test_the_damage_follows_from_the_seed(samples: Path, name: str) -> None:
    sample = load_sample(samples, name)
    files = [mutate(sample, name, seed) for seed in range(20)]
    if not name.endswith("h5") and name != ".keras":  # HDF5 leaves what it does not need as it was
        assert files == [mutate(sample, name, seed) for seed in range(20)]
    changed = [file for file in files if file != sample.files]
    assert len(changed) >= 15
