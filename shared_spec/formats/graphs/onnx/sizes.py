"""Lengths of axes that are not known before a model runs, and what arithmetic makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_WEIGHT = 64
"""Letters and numbers in an expression, at most: sizes of a ResNet have a tenth as many."""
Length = Any
"""An integer or a `Size`."""


@dataclass(frozen=True, order=True)
class _Part:
    """A letter for one length, or what is left of a quotient when it is rounded down."""

    letter: str
    dividend: tuple[tuple[tuple[_Part, ...], int], ...] = ()
    divisor: int = 1
    least: float = field(default=1, compare=False)


@dataclass(frozen=True)
class Size:
    """A whole number that depends on the lengths of axes: a sum of products of parts, in a
    form that most expressions have in common which are equal. Where `==` is true they always are.
    """

    terms: tuple[tuple[tuple[_Part, ...], int], ...]
    """Products of parts, in their order, each with its factor; none with the factor 0."""

    @property
    def least(self) -> float:
        """No value is below this one, if axes have a length of 1 at least."""
        if all(factor > 0 for parts, factor in self.terms if parts):
            return sum(
                factor * math.prod(part.least for part in parts) for parts, factor in self.terms
            )
        rounded = [p[0].divisor for p, _ in self.terms if len(p) == 1 and p[0].dividend]
        scale = math.lcm(*rounded)
        total: Length = 0
        for parts, factor in self.terms:
            if len(parts) != 1 or not parts[0].dividend:
                total += Size(((parts, factor * scale),)) if parts else factor * scale
                continue
            # k * floor(x / k) is x at most, and less by k - 1 at most.
            times = factor * scale // parts[0].divisor
            total += Size(parts[0].dividend) * times - (parts[0].divisor - 1) * max(times, 0)
        if not isinstance(total, Size):
            return -(-int(total) // scale)
        least = total.least if rounded else -math.inf
        return least if math.isinf(least) else -(-int(least) // scale)

    def __add__(self, other: Length) -> Length:
        return _size([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> Length:
        return self * -1

    def __sub__(self, other: Length) -> Length:
        return self + -other

    def __rsub__(self, other: Length) -> Length:
        return -self + other

    def __mul__(self, other: Length) -> Length:
        return _size(
            (tuple(sorted((*a, *b))), m * n) for a, m in self.terms for b, n in _terms(other)
        )

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> Length:
        """Rounded down."""
        if not isinstance(divisor, int) or divisor < 1:
            raise ValueError("sizes are divided by whole numbers above 0")
        whole = _size((parts, factor // divisor) for parts, factor in self.terms)
        rest = _size((parts, factor % divisor) for parts, factor in self.terms)
        if not isinstance(rest, Size):
            return whole + rest // divisor
        common = math.gcd(divisor, *(factor for parts, factor in rest.terms if parts))
        rest = _size((parts, factor // common) for parts, factor in rest.terms)
        return whole + rest._quotient(divisor // common)

    def _quotient(self, divisor: int) -> Length:
        """Of one whose factors are below the divisor."""
        if divisor == 1:
            return self
        (parts, factor), added = self.terms[-1], 0
        if len(self.terms) == 2 and not self.terms[0][0]:
            added = self.terms[0][1]
        if len(self.terms) == 1 + bool(added) and factor == len(parts) == 1 and parts[0].dividend:
            (inner,) = parts
            return (Size(inner.dividend) + added * inner.divisor) // (inner.divisor * divisor)
        return Size((((_Part("", self.terms, divisor, self.least // divisor),), 1),))


def letter(name: str) -> Size:
    """The length of an axis, by a name."""
    return Size((((_Part(name),), 1),))


def divided(size: Length, divisor: Length) -> Length:
    """A quotient of whole numbers as ONNX has it, rounded towards 0.

    Raises:
        ValueError: if it is not known here.
    """
    if isinstance(size, Size):
        if isinstance(divisor, Size) or size.least < 0:
            raise ValueError("a quotient of sizes")
        return size // divisor
    if isinstance(divisor, Size) or divisor == 0:
        raise ValueError("a quotient of sizes")
    return abs(size) // abs(divisor) * (1 if (size < 0) == (divisor < 0) else -1)


def larger(a: Length, b: Length) -> Length:
    """The larger one of two.

    Raises:
        ValueError: if that is not the same one for all sizes, as far as is known here.
    """
    for one, other in ((a, b), (b, a)):
        rest = one - other
        if (rest.least if isinstance(rest, Size) else rest) >= 0:
            return one
    raise ValueError("the larger one of two sizes")


def _terms(value: Length) -> Iterable[tuple[tuple[_Part, ...], int]]:
    return value.terms if isinstance(value, Size) else (((), int(value)),)


def _size(terms: Iterable[tuple[tuple[_Part, ...], int]]) -> Length:
    """A sum of products; an integer if it is one."""
    found: dict[tuple[_Part, ...], int] = {}
    for parts, factor in terms:
        found[parts] = found.get(parts, 0) + factor
    kept = {parts: factor for parts, factor in found.items() if factor}
    if not kept.keys() - {()}:
        return kept.get((), 0)
    if _weight(kept.items()) > _WEIGHT:
        raise ValueError("a long expression of sizes")
    return Size(tuple(sorted(kept.items())))


def _weight(terms: Iterable[tuple[tuple[_Part, ...], int]]) -> int:
    return sum(1 + sum(1 + _weight(part.dividend) for part in parts) for parts, _ in terms)
