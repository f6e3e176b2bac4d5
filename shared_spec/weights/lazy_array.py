"""Arrays by name, read on demand, so that a conversion holds one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class LazyArray:
    """What is known of an array before it is read, and how to read it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], np.ndarray]
    problem: str = ""
    """Why there is none, for a message that begins with its name."""

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self) -> np.ndarray:
        """It, read and contiguous."""
        return np.ascontiguousarray(self.read()).reshape(self.shape)

    @classmethod
    def of(cls, array: np.ndarray) -> LazyArray:
        """One that is in memory already."""
        return cls(array.shape, array.dtype, lambda: array)

    @classmethod
    def refused(cls, problem: str) -> LazyArray:
        """What stands for something that is no array, until it is held against a net."""
        return cls((), np.dtype(object), lambda: np.empty((), object), problem)

    def permuted(self, axes: tuple[int, ...] | None) -> LazyArray:
        """With its axes in another order."""
        if axes is None:
            return self
        shape = tuple(self.shape[i] for i in axes)
        return LazyArray(shape, self.dtype, lambda: permute(self.read(), axes))

    def reshaped(self, shape: tuple[int, ...]) -> LazyArray:
        """With another shape of as many elements."""
        return LazyArray(shape, self.dtype, lambda: self.read().reshape(shape))


_TOGETHER = 2**23
"""Bytes of small arrays that are read at once."""
_AHEAD = 2**26
"""Bytes of an array that is read before its turn. Turning it round takes twice its size, and
a conversion stays within 250 MB and its largest array.
"""


def read_ahead(entries: Iterable[LazyArray]) -> Generator[np.ndarray, None, None]:
    """Each array, read and contiguous. While the caller is busy with one, a thread reads the next
    ones and turns them round: numpy and files leave the interpreter free meanwhile. A caller that
    keeps none holds one large array at most; the variable of a loop does keep one.
    """
    with ThreadPoolExecutor(1, "read-ahead") as thread:

        def begin(group: Sequence[LazyArray]) -> Callable[[], list[np.ndarray]]:
            large = sum(entry.nbytes for entry in group) > _AHEAD
            return partial(_read, group) if large else thread.submit(_read, group).result

        def taken(result: Callable[[], list[np.ndarray]]) -> Iterator[np.ndarray]:
            arrays = result()
            while arrays:
                yield arrays.pop()

        begun: Callable[[], list[np.ndarray]] | None = None
        for group in _groups(entries):
            following = begin(group)  # before what was begun last is waited for
            if begun is not None:
                yield from taken(begun)
            begun = following
        if begun is not None:
            yield from taken(begun)


def _read(group: Sequence[LazyArray]) -> list[np.ndarray]:
    """The arrays, the first one last, so that they can be taken away one by one."""
    return [entry.array() for entry in group][::-1]


def _groups(entries: Iterable[LazyArray]) -> Iterator[list[LazyArray]]:
    """Small neighbours together: to hand over each by itself would take longer than to read it."""
    group: list[LazyArray] = []
    for entry in entries:
        if group and sum(e.nbytes for e in group) + entry.nbytes > _TOGETHER:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


_BLOCK = 64
_SHORT = 16


def permute(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """`array.transpose(axes)`, contiguous; several times as fast as numpy's own copy, which strides
    through memory for all but the smallest kernels.
    """
    array = np.ascontiguousarray(array)
    kept = [i for i in axes if array.shape[i] > 1]
    if kept == sorted(kept) or not array.size:
        return array.reshape([array.shape[i] for i in axes])
    shape, last = [array.shape[i] for i in axes], max(kept)
    if kept[-1] != last and array.shape[last] >= _SHORT:
        # Whole rows first, so that what remains is to transpose a matrix, or a few.
        rows = np.ascontiguousarray(array.transpose([i for i in axes if i != last] + [last]))
        before = math.prod(shape[: axes.index(last)])
        view = rows.reshape(before, -1, array.shape[last]).transpose(0, 2, 1)
    else:
        view = array.transpose(axes)
    del array  # where it was read for this alone, it need not wait for the copy below
    out = np.empty(view.shape, view.dtype)
    # In blocks of the last axis, so that what is read for one row is in the cache for the next.
    axis = max(i for i, n in enumerate(view.shape) if n > 1)
    for start in range(0, view.shape[axis], _BLOCK):
        part = (*(slice(None),) * axis, slice(start, start + _BLOCK))
        out[part] = view[part]
    return out.reshape(shape)


class LazyArrays(Mapping[str, np.ndarray]):
    """A mapping of names to arrays, each read anew whenever it is asked for."""

    def __init__(self, entries: Mapping[str, LazyArray]) -> None:
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries


def entries_of(state: Mapping[str, np.ndarray]) -> dict[str, LazyArray]:
    """Shapes and dtypes of a mapping, which is not read if it need not be."""
    if isinstance(state, LazyArrays):
        return dict(state.entries)
    return {name: LazyArray.of(array) for name, array in state.items()}
