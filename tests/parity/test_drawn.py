"""Nets that nobody named: specs drawn at random, in the five engines, layer by layer."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, example, given, seed, settings

from resnet_parity.check.forward import check
from shared_spec import ResNetSpec, compile_plan
from tests.conftest import Pool
from tests.drawn import SIZE, specs
from tests.tiers import amount, choice, engines, without_keras_jax

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

    # Others each day in tier `test`: a failure prints the seed and the net, `--seed` repeats them.
    # Shrinking a net would take an hour.
    @seed(choice.seed if choice.tier == "test" else 0)
    @settings(
        max_examples=amount("drawn nets"),
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @example(NAMED)
    @given(specs())
    def agree(spec: ResNetSpec) -> None:
        seen.add(spec)
        report = check(
            spec,
            without_keras_jax() if spec != NAMED else engines(),
            sizes=[SIZE],
            compiled=False,
            start=pool.start,
        )
        assert report.problems == [], (f"--seed {choice.seed}", spec.to_dict())
        assert report.pairs
        assert {r.parameters for r in report.ran} == {compile_plan(spec).parameter_count()}

    agree()
    assert len(seen) > amount("drawn nets") * 0.9
