"""Seeded values: what they are, and that they depend on nothing else."""

from __future__ import annotations

import math

import numpy as np

from shared_spec import compile_plan, digest, initial_weights, random_weights, resolve
from tests.specs import SMALL


def test_the_values_are_these_ones() -> None:
    """A change here would change every user's results under a seed."""
    state = initial_weights(compile_plan(SMALL), 0)
    assert digest(state) == DIGEST
    assert all(array.dtype == np.float32 for array in state.values())


DIGEST = "eeb600feb6269cd5ecad0f550d4f37db3e6250b3d1c73adf24644a23df09ce9d"


def test_a_value_depends_on_seed_and_name_alone() -> None:
    small = initial_weights(compile_plan(SMALL), 5)
    deeper = initial_weights(compile_plan(SMALL.override(depths=[2, 2, 1])), 5)
    for name in small:
        np.testing.assert_array_equal(small[name], deeper[name])
    other = initial_weights(compile_plan(SMALL), 6)
    assert (other["conv1.weight"] != small["conv1.weight"]).all()


def test_the_distributions() -> None:
    p = compile_plan(resolve("resnet18"))
    state = initial_weights(p)
    kernel = state["layer4.1.conv2.weight"]
    assert kernel.std() == np.float32(kernel.std())
    assert abs(kernel.std() / math.sqrt(2 / (512 * 9)) - 1) < 0.005
    assert abs(kernel.mean()) < 1e-4
    fc = state["fc.weight"]
    assert abs(np.abs(fc).max() * math.sqrt(512) - 1) < 1e-3
    assert abs(fc.std() * math.sqrt(3 * 512) - 1) < 0.005
    assert not state["fc.bias"].any()
    assert (state["bn1.weight"] == 1).all()
    zero = initial_weights(compile_plan(resolve("resnet18", {"zero_init_last": True})))
    assert not zero["layer1.0.bn2.weight"].any()
    assert zero["layer1.0.bn1.weight"].all()


def test_random_weights_leave_nothing_fresh() -> None:
    p = compile_plan(SMALL)
    state = random_weights(p)
    assert list(state) == [q.name for q in p.parameters()]
    for q in p.parameters():
        array = state[q.name]
        assert array.shape == q.shape
        assert len(np.unique(array)) > 0.99 * array.size, q.name
        if q.role == "norm_var":
            assert (array > 0).all()
