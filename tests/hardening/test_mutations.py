"""Many damaged files of each format: refused in one sentence, or read and everything fits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.hardening.attack.child import Child
from tests.hardening.attack.mutate import mutate
from tests.hardening.attack.samples import FORMATS, load_sample
from tests.tiers import amount


def count_of(name: str) -> int:
    """HDF5 files are read in a process of their own, which takes most of the time."""
    hdf5 = "h5" in name or "keras" in name
    return amount(f"damaged {'HDF5 files' if hdf5 else 'files of another format'}")


@pytest.mark.parametrize("name", FORMATS)
def test_every_damaged_file_is_refused_cleanly_or_fits(child: Child, name: str) -> None:
    count = count_of(name)
    found = list(child.run("mutate", format=name, cases=range(count)))
    assert len(found) == count
    assert not {answer["case"]: answer["problem"] for answer in found if answer["problem"]}
    assert Counter(answer["kind"] for answer in found)["refused"] > count / 2


@pytest.mark.parametrize("name", FORMATS)
def test_the_damage_follows_from_the_seed(samples: Path, name: str) -> None:
    sample = load_sample(samples, name)
    files = [mutate(sample, name, seed) for seed in range(20)]
    if "h5" not in name and "keras" not in name:  # HDF5 leaves what it does not need as it was
        assert files == [mutate(sample, name, seed) for seed in range(20)]
    changed = [file for file in files if file != sample.files]
    assert len(changed) >= 15
