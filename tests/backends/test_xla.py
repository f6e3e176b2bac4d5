"""Deep nets in JAX: what is compiled grows as the net does."""

from __future__ import annotations

import pytest

from shared_spec import resolve
from tests.conftest import Pool


@pytest.mark.parametrize("engine", ["flax", "keras:jax"])
def test_each_sum_is_computed_once(pool: Pool, engine: str) -> None:
    """Computed again wherever it is read, four times the blocks would make eight times the program
    and more: each block's sum would bring all of its stage before.
    """
    narrow = {"widths": [8], "stem_width": 8, "num_classes": 2}
    sizes = [
        pool[engine].call(
            "probe",
            function="xla:program",
            spec=resolve("resnet20", narrow | {"depths": [depth]}).to_dict(),
        )
        for depth in (10, 40)
    ]
    for what in ("logits", "gradient"):
        assert 3 < sizes[1][what] / sizes[0][what] < 5, what
