"""Every engine against every other, in float64: counts, shapes, logits and each block."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from resnet_parity.check import check, default_sizes
from resnet_parity.compare import FLOAT64_TOLERANCE
from resnet_parity.engines import ENGINES
from shared_spec import ResNetSpec, compile_plan
from tests.conftest import Pool
from tests.specs import SPECS


def test_the_tolerance_is_the_published_one() -> None:
    assert FLOAT64_TOLERANCE == 1e-12


@pytest.mark.parametrize("name", SPECS)
def test_five_engines_agree_in_float64(pool: Pool, name: str) -> None:
    spec = SPECS[name]
    sizes = default_sizes(spec)
    assert {h % 2 for h, w in sizes} == {0, 1}
    assert any(h != w for h, w in sizes)
    report = check(spec, list(ENGINES.values()), name=name, sizes=sizes, start=pool.start)
    assert report.problems == []
    assert [ran.engine for ran in report.ran] == list(ENGINES)
    assert set(report.logits) == set(itertools.combinations(ENGINES, 2))
    blocks = len(list(compile_plan(spec).blocks()))
    for ran in report.ran:
        assert len(ran.outputs) == len(sizes) * (blocks + 1)
        assert ran.parameters == compile_plan(spec).parameter_count()
        assert all(array.dtype == np.float64 for array in ran.outputs.values())
    for pair in report.logits:
        assert report.logits[pair].maximum <= 1e-12
        assert report.blocks[pair][1].maximum <= 1e-12


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lower_precision_is_held_against_float64(pool: Pool, dtype: str) -> None:
    spec = SPECS["resnet20 (B)"]
    report = check(spec, list(ENGINES.values()), dtype=dtype, start=pool.start)
    assert report.problems == []
    assert set(report.against_float64) == set(ENGINES)
    # The measured bound is not so wide that anything passes.
    assert report.tolerance < {"float32": 1e-4, "bfloat16": 1.0}[dtype]


def test_a_deep_net_agrees_too(pool: Pool) -> None:
    spec: ResNetSpec = SPECS["resnet20 (A)"].override(depths=[18, 18, 18])
    report = check(spec, list(ENGINES.values()), sizes=[(33, 32)], start=pool.start)
    assert report.problems == []
    assert len(report.logits) == 10
