"""Arrays by name, read when they are asked for, so that a conversion holds one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of an array before it is read, and how to read it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, array: np.ndarray) -> Tensor:
        """One that is in memory already."""
        return cls(array.shape, array.dtype, lambda: array)

    def permuted(self, axes: tuple[int, ...] | None) -> Tensor:
        """With its axes in another order."""
        if axes is None:
            return self
        shape = tuple(self.shape[i] for i in axes)
        return Tensor(shape, self.dtype, lambda: self.read().transpose(axes))

    def reshaped(self, shape: tuple[int, ...]) -> Tensor:
        """With another shape of as many elements."""
        return Tensor(shape, self.dtype, lambda: self.read().reshape(shape))


class Tensors(Mapping[str, np.ndarray]):
    """A mapping of names to arrays, each read anew whenever it is asked for."""

    def __init__(self, entries: Mapping[str, Tensor]) -> None:
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries


def entries_of(state: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Shapes and dtypes of a mapping, which is not read if it need not be."""
    if isinstance(state, Tensors):
        return dict(state.entries)
    return {name: Tensor.of(array) for name, array in state.items()}


__all__ = ["Tensor", "Tensors", "entries_of"]
