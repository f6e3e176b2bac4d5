"""Arrays read one ahead of their use, and kernels turned round."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import numpy as np
import pytest

from shared_spec.weights import lazy_array
from shared_spec.weights.lazy_array import LazyArray, permute, read_ahead


def entry(size: int, read: Callable[[], np.ndarray]) -> LazyArray:
    return LazyArray((size,), np.dtype(np.uint8), read)


def test_arrays_come_in_their_order_whatever_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_array, "_TOGETHER", 10)
    monkeypatch.setattr(lazy_array, "_AHEAD", 20)
    for sizes in itertools.product((0, 4, 15, 30), repeat=4):
        arrays = [np.full(size, i, np.uint8) for i, size in enumerate(sizes)]
        found = list(read_ahead(LazyArray.of(a) for a in arrays))
        assert len(found) == 4
        assert all(np.array_equal(a, b) for a, b in zip(found, arrays, strict=True))
    assert list(read_ahead([])) == []


def test_the_next_array_is_read_while_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_array, "_TOGETHER", 0)
    begun = [threading.Event() for _ in range(3)]

    def read(i: int) -> np.ndarray:
        begun[i].set()
        return np.zeros(1, np.uint8)

    arrays = read_ahead(entry(1, lambda i=i: read(i)) for i in range(3))
    next(arrays)
    assert begun[1].wait(30)  # nobody has asked for it yet
    assert not begun[2].is_set()  # and no more than one is held
    assert len(list(arrays)) == 2


def test_of_large_arrays_one_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_array, "_TOGETHER", 5)
    monkeypatch.setattr(lazy_array, "_AHEAD", 5)
    read: list[int] = []

    def note(i: int) -> np.ndarray:
        read.append(i)
        return np.zeros(6, np.uint8)

    for i, _ in enumerate(read_ahead(entry(6, lambda i=i: note(i)) for i in range(3))):
        assert read == [*range(i + 1)]


def test_what_cannot_be_read_is_told_in_its_place() -> None:
    def fails() -> np.ndarray:
        raise ValueError("damaged")

    arrays = read_ahead([LazyArray.of(np.zeros(2**23, np.uint8)), entry(1, fails)])
    assert next(arrays).size == 2**23
    with pytest.raises(ValueError, match="damaged"):
        next(arrays)


def test_no_thread_remains_when_the_rest_is_not_wanted() -> None:
    before = threading.active_count()
    arrays = read_ahead(LazyArray.of(np.zeros(2**23, np.uint8)) for _ in range(3))
    next(arrays)
    assert threading.active_count() == before + 1
    arrays.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("axes", list(itertools.permutations(range(4))))
def test_kernels_are_turned_round_as_numpy_does(axes: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    for shape in ((3, 3, 70, 130), (1, 1, 65, 129), (7, 7, 3, 64), (2, 3, 4, 5), (1, 1, 1, 1)):
        array = draw.standard_normal(shape).astype(np.float32)
        found = permute(array, axes)
        assert found.flags.c_contiguous
        assert np.array_equal(found, array.transpose(axes))
