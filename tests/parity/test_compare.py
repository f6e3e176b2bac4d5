"""The comparison itself."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_parity.numerics.difference import difference
from shared_spec import ResNetError


def test_figures() -> None:
    reference = np.array([[1.0, -4.0], [2.0, 0.0]])
    other = np.array([[1.0, -4.0], [2.0, 0.5]])
    d = difference(reference, other)
    assert (d.maximum, d.mean, d.worst, d.scale) == (0.125, 0.03125, (1, 1), 4.0)
    assert d.within(0.125)
    assert not d.within(0.1249)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["reference", "other", "both"])
def test_what_is_not_finite_never_passes(bad: float, where: str) -> None:
    a, b = np.ones(3), np.ones(3)
    if where != "other":
        a[1] = bad
    if where != "reference":
        b[1] = bad
    d = difference(a, b)
    assert not d.within(np.inf)
    assert d.worst == (1,)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), "shapes"),
        (np.ones((0, 3)), np.ones((0, 3)), "no elements"),
        (np.zeros(3), np.zeros(3), "zero everywhere"),
    ],
)
def test_nothing_to_compare_is_an_error(a: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(ResNetError, match=message):
        difference(a, b)
