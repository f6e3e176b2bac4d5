"""Blocks that are computed again in the backward pass: the same numbers, from less memory."""

from __future__ import annotations

import pytest

from shared_spec import resolve
from tests.conftest import Pool
from tests.tiers import choice, engines

NARROW = {"depths": [2, 1], "widths": [8, 16], "num_classes": 7}
SPECS = {
    "basic": resolve("resnet20", {"depths": [1, 1, 1], "num_classes": 7}),
    "bottleneck": resolve("resnet50", NARROW),
    "gates and drops": resolve(
        "seresnet152d",
        NARROW | {"stem_width": 16, "drop_path_rate": 0.4, "drop_block_rate": 0.1},
    ),
}
FEW = {"keras:tensorflow": ["gates and drops"], "flax": ["gates and drops"], "keras:jax": []}
"""In tier `test`; PyTorch's engines take no time."""
CASES = [
    (engine.name, name)
    for engine in engines()
    for name in (SPECS if choice.tier == "all" else FEW.get(engine.name, SPECS))
]


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_a_step_is_the_same(pool: Pool, engine: str, name: str) -> None:
    """Losses, gradients, statistics that see each batch once, and draws of dropout."""
    arguments = {"function": "training:recomputed", "spec": SPECS[name].to_dict()}
    found = pool[engine].call("probe", **arguments)
    where, by = found["worst"]
    assert by <= 1e-13, f"{where} differs by {by:.1e}"
    plain, again = found["counts"]
    assert again > plain  # it does compute them again


@pytest.mark.parametrize("engine", ["torch", "keras:torch"])
def test_a_step_leaves_no_tensors_behind(pool: Pool, engine: str) -> None:
    """They would go when Python collects cycles, which knows nothing of their size."""
    arguments = {"function": "training:left", "spec": SPECS["basic"].to_dict()}
    assert pool[engine].call("probe", **arguments) == 0
