"""Files that end too early, at places all over their headers and data."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.hardening.attack.child import Child
from tests.hardening.attack.samples import FORMATS, Sample, load_sample
from tests.tiers import amount


def cuts(sample: Sample, header: int | None, data: int) -> list[tuple[str, int]]:
    """Where to cut a sample's files: in `header` places of their headers (None: at every byte) and
    in `data` places among the data of arrays.
    """
    rng = Random(0)  # noqa: S311 places need not be secret
    found = []
    for name in sample.targets():
        inside = [i for start, stop in sample.spans[name] for i in range(start, stop)]
        beside = sorted(set(range(len(sample.files[name]))) - set(inside))
        few = inside if header is None else rng.sample(inside, min(header, len(inside)))
        found += [(name, i) for i in [*few, *rng.sample(beside, min(data, len(beside)))]]
    return found


def may_be_whole(name: str) -> bool:
    """Whether a file can end earlier and still say all that it has to: text without its last line
    break, or without its last fields.
    """
    return name.startswith(("spec", "Hugging Face", "hub")) or name == "certificate"


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_ends_early_is_refused(child: Child, samples: Path, name: str) -> None:
    cases = cuts(load_sample(samples, name), amount("cuts of a header"), amount("cuts of data"))
    found = list(child.run("cut", format=name, cases=cases))
    assert len(found) == len(cases)
    problems = [(answer["case"], answer["problem"]) for answer in found if answer["problem"]]
    assert not problems
    if not may_be_whole(name):
        assert [answer["case"] for answer in found if answer["kind"] == "valid"] == []
