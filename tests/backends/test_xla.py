"""Nets in JAX: what is compiled grows as the net does, and how it is compiled."""

from __future__ import annotations

from typing import Any

import pytest

from shared_spec import resolve
from shared_spec.kernels.xla import LIBRARY, _without_convolutions
from tests.conftest import Pool

pytestmark = pytest.mark.optimised


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
    # Those of the blocks' sums, and no other.
    assert [found["relus"] for found in sizes] == [10, 40]


@pytest.mark.parametrize("fields", [{}, {"num_classes": 0}])
def test_a_pixel_that_is_no_number_shows(pool: Pool, fields: dict[str, Any]) -> None:
    """A ReLU and a mean that XLA gives to its library together lose it."""
    small = {"depths": [1, 1], "widths": [8, 8], "stem_width": 8, "num_classes": 4}
    found = pool["flax"].call(
        "probe",
        function="xla:not_numbers",
        spec=resolve("resnet18", small | fields).to_dict(),
        size=128,
    )
    assert found == {how: [True, False] for how in ("predict", "compiled", "jit", "eager")}


@pytest.mark.parametrize("engine", ["flax", "keras:jax"])
def test_convolutions_are_xlas_own_with_avx2(pool: Pool, engine: str) -> None:
    def told(flags: list[str], xla_flags: str = "") -> Any:
        return pool[engine].call("probe", function="xla:told", flags=flags, xla_flags=xla_flags)

    usual, narrow = told([]), told(["avx2"])
    if not narrow["options"]:
        pytest.skip("this XLA has no such option")
    assert list(narrow["options"]) == [LIBRARY]
    assert not narrow["library"]["float32"]
    assert narrow["library"]["float64"] == usual["library"]["float64"]
    # The classifier is a product everywhere; blocks have three 1 x 1 convolutions each.
    assert (narrow["products"], narrow["usual"], narrow["part"]) == (1, 7, 7)
    kept = f"--{LIBRARY}=LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION --other=1"
    assert told(["avx2", "avx512f"]) == narrow
    for other in (usual, told(["avx2"], kept)):
        assert other["options"] == {}
        assert other["library"] == usual["library"]
        assert (other["products"], other["usual"]) == (7, 7)
    # Whoever takes convolutions from the library for the whole process is understood.
    chosen = told(["avx2", "avx512f"], f"--one=2 --{LIBRARY}= --other=CONVOLUTION")
    assert chosen["options"] == {}
    assert (chosen["products"], chosen["usual"]) == (1, 1)


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("", True),
        ("LIBRARY_FUSION_TYPE_REDUCE", True),
        ("LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION", False),
        ("-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION", True),
        ("+LIBRARY_FUSION_TYPE_REDUCE", False),
        ("-LIBRARY_FUSION_TYPE_REDUCE,+LIBRARY_FUSION_TYPE_ELTWISE", False),
    ],
)
def test_xlas_flags_are_read_as_xla_reads_them(value: str, taken: bool) -> None:
    assert _without_convolutions(f"--{LIBRARY}={value}") is taken
    assert _without_convolutions(f"--{LIBRARY}=x --{LIBRARY}={value} --y=CONVOLUTION") is taken
    assert not _without_convolutions("--xla_other=")
