"""Sizes that are not known before a model runs: arithmetic with them, held against numbers."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest

from shared_spec.formats.graphs.onnx.sizes import Length, Size, divided, larger, letter

LENGTHS = [(h, w) for h in (1, 2, 7, 32, 45) for w in (1, 3, 64)]


def number(size: Length, h: int, w: int) -> int:
    """A size, for an image of h rows and w columns."""
    if not isinstance(size, Size):
        return int(size)
    known = {"H": h, "W": w}
    return sum(
        factor
        * math.prod(
            number(Size(p.dividend), h, w) // p.divisor if p.dividend else known[p.letter]
            for p in parts
        )
        for parts, factor in size.terms
    )


def drawn(seed: int) -> tuple[Length, list[Any]]:
    """An expression of both lengths, and its numbers as Python's integers give them."""
    rng = random.Random(seed)  # noqa: S311
    size: Length = letter("H")
    found = [h for h, _ in LENGTHS]
    for _ in range(rng.randint(2, 6)):
        kind, n = rng.choice("+-*/w"), rng.randint(1, 5)
        match kind:
            case "+":
                size, found = size + n, [x + n for x in found]
            case "-":
                size, found = size - n, [x - n for x in found]
            case "*":
                size, found = size * n, [x * n for x in found]
            case "/":
                size, found = size // n, [x // n for x in found]
            case "w":
                other = (letter("W") - 1) // n
                size = size + other
                found = [x + (w - 1) // n for x, (_, w) in zip(found, LENGTHS, strict=True)]
    return size, found


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_arithmetic_is_that_of_numbers(first: int) -> None:
    sizes = [drawn(seed) for seed in range(first, first + 100)]
    for size, found in sizes:
        assert [number(size, h, w) for h, w in LENGTHS] == found
        if isinstance(size, Size):
            assert size.least <= min(found)
    for (a, x), (b, y) in itertools.combinations(sizes, 2):
        if a == b:
            assert x == y


def test_ways_to_the_size_of_a_map_are_one() -> None:
    h, w = letter("H"), letter("W")
    mine = [((((n - 1) // 2 + 1) - 1) // 2 + 1) for n in (h, w)]
    rows, columns = ((((n + 1) // 2) + 1) // 2 for n in (h, w))
    assert mine == [rows, columns]
    assert rows * columns == (columns - 1) * rows + rows
    assert mine[0] != mine[1]


def test_quotients_are_those_of_onnx() -> None:
    assert [divided(a, b) for a, b in ((7, 2), (-7, 2), (7, -2), (-7, -2))] == [3, -3, -3, 3]
    assert divided(letter("H") - 1, 2) == (letter("H") - 1) // 2
    for size, divisor in ((letter("H") - 2, 2), (7, letter("H")), (1, 0), (letter("H"), -1)):
        with pytest.raises(ValueError, match="size"):
            divided(size, divisor)


def test_the_larger_one_is_told_where_it_is_known() -> None:
    h = letter("H")
    added = (h - 1) // 2 * 2 + 7 - h
    assert larger(added, 0) == larger(0, added) == added
    assert added.least == 5
    assert larger((h - 1) // 2 * 2 + 1 - h, 0) == 0
    with pytest.raises(ValueError, match="larger"):
        larger(h, 10)


def test_an_expression_does_not_grow_without_end() -> None:
    def grown(size: Length, times: int) -> Length:
        return grown(size * (size + 1), times - 1) if times else size

    assert isinstance(grown(letter("H"), 2), Size)
    with pytest.raises(ValueError, match="long"):
        grown(letter("H") + letter("W"), 40)
