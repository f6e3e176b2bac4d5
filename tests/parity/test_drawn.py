"""Nets that nobody named: specs drawn at random, in the five engines, layer by layer."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, example, given, settings

from resnet_parity.check.forward import check
from resnet_parity.engines.registry import ENGINES
from shared_spec import ResNetSpec, compile_plan
from tests.conftest import Pool
from tests.drawn import SIZE, specs

NAMED = ResNetSpec.parse(
    {
        "depths": [1, 1, 2, 1, 1],
        "widths": [16, 16, 32, 32, 32],
        "block": "bottleneck",
        "pre_activation": True,
        "attention": "eca",
        "stem": "deep_tiered",
        "stem_width": 32,
        "groups": 8,
        "num_classes": 10,
    }
)
"""A pre-activation ECA net with a tiered stem, groups of 8 and five stages."""


def test_drawn_nets_agree(pool: Pool) -> None:
    seen: set[ResNetSpec] = set()

    # The same nets each time, so that a failure is there again; shrinking one would take an hour.
    @settings(
        max_examples=110,
        derandomize=True,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @example(NAMED)
    @given(specs())
    def agree(spec: ResNetSpec) -> None:
        seen.add(spec)
        engines = list(ENGINES.values())
        report = check(spec, engines, sizes=[SIZE], compiled=False, start=pool.start)
        assert report.problems == []
        assert len(report.logits) == 10
        assert {r.parameters for r in report.ran} == {compile_plan(spec).parameter_count()}

    agree()
    assert len(seen) > 100
