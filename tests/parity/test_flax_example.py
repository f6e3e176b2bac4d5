"""Flax's own imagenet example as the judge of the names taken from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared_spec import CATALOGUE, compile_plan, list_models, resolve
from tests.conftest import Pool
from tests.judges import assert_engines_give, logits_in, weights_of
from tests.tiers import selected

NAMES = list_models("flax_*")


SMALL: dict[str, Any] = {"depths": [1, 2, 1], "widths": [16, 32, 64], "stem_width": 16}
CUT = [("flax_resnet18", SMALL), ("flax_resnet50", SMALL)]


@pytest.mark.parametrize(("name", "cut"), selected(CUT, [("flax_resnet18", {}), *CUT]))
def test_five_engines_agree_with_the_example(
    pool: Pool, tmp_path: Path, name: str, cut: dict[str, Any]
) -> None:
    spec = resolve(name, {"num_classes": 10, **cut})
    state = weights_of(spec)
    options = {
        "stage_sizes": list(spec.depths),
        "block_cls": {"basic": "ResNetBlock", "bottleneck": "BottleneckResNetBlock"}[spec.block],
        "num_classes": spec.num_classes,
        "num_filters": spec.stem_width,
    }
    references = logits_in(
        pool["flax"], "libraries.flax_example:logits", tmp_path, spec, state, options=options
    )
    assert_engines_give(pool, tmp_path, spec, state, references)


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts_are_the_examples(pool: Pool, name: str) -> None:
    theirs = f"ResNet{name.removeprefix('flax_resnet')}"
    count = pool["flax"].call("probe", function="libraries.flax_example:parameters", name=theirs)
    assert compile_plan(resolve(name)).parameter_count() == count
    assert CATALOGUE[name].family == "flax"


def test_every_net_of_the_example_has_a_name_here(pool: Pool) -> None:
    defined = pool["flax"].call("probe", function="libraries.flax_example:names")
    # ResNet is the class; ResNet18Local shares no weights between places and is no convolution.
    nets = [name for name in defined if name[6:].isdigit()]
    assert sorted(n.replace("ResNet", "flax_resnet") for n in nets) == sorted(NAMES)
    assert {*defined} - {*nets} == {"ResNet", "ResNet18Local", "ResNetBlock"}
