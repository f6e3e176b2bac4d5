"""What rounding may do to a net, measured: weights are changed at random by as much, some times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from resnet_parity.numerics.difference import UNIT_ROUNDOFF, difference
from shared_spec.plan.layers import Parameter
from shared_spec.plan.network import Plan
from shared_spec.weights.initialize import generator
from shared_spec.weights.state import State

TRIALS = 3
"""How many times weights are changed. Bounds are `ROUNDING_FACTOR` times the largest effect."""


def rounding_errors(
    exact: Mapping[str, np.ndarray],
    trials: Iterable[Mapping[str, np.ndarray]],
    distance: Callable[[str, np.ndarray, np.ndarray], float] = lambda name, a, b: (
        difference(a, b).maximum
    ),
) -> dict[str, float]:
    """How far rounding moves each of a net's results: the largest distance of any trial.

    Args:
        exact: results in float64, by name.
        trials: the same results, each time from other `perturbations` of the weights.
        distance: of two arrays of that name. One that is no number widens no bound.

    Raises:
        ResNetError: if arrays cannot be compared (see `difference`).
    """
    errors = dict.fromkeys(exact, 0.0)
    for outputs in trials:
        for name, array in exact.items():
            error = distance(name, array, outputs[name])
            if error > errors[name]:
                errors[name] = error
    return errors


def perturbations(
    p: Plan,
    state: State,
    dtype: str,
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda text: None,
) -> Iterator[State]:
    """Weights for each trial of `rounding_errors`, one after another: see `perturbed`."""
    for trial in range(TRIALS):
        on_progress(f"float64 reference, perturbation {trial + 1} of {TRIALS}")
        yield perturbed(p, state, dtype, seed + trial)


def perturbed(p: Plan, state: State, dtype: str, seed: int) -> State:
    """Weights changed as much as rounding in `dtype` changes the sums that they enter.

    A sum of n products computed in floating point is the exact sum for weights changed by relative
    amounts of about u * sqrt(n), u being the unit roundoff (Higham and Mary 2019, probabilistic
    backward error analysis). So each kernel gets normal relative changes of that size, and what
    this does to the logits in float64 is what rounding in `dtype` may do.

    In int8, a kernel is itself rounded to multiples of a 127th of each output channel's largest
    weight, and what enters it is rounded as coarsely. So it gets normal changes of what two such
    roundings do: each has a standard deviation of its step over the root of 12.
    """
    return {q.name: perturbed_array(q, state[q.name], dtype, seed) for q in p.parameters()}


def perturbed_array(q: Parameter, array: np.ndarray, dtype: str, seed: int) -> np.ndarray:
    """One array of `perturbed`, of the shape of `q`, in float64."""
    if dtype == "int8":
        return _rounded_off(q, array, seed)
    terms = math.prod(q.shape[1:]) if q.role in ("conv_kernel", "dense_kernel") else 1
    noise = generator(seed, f"rounding/{q.name}").standard_normal(q.shape)
    change: np.ndarray = array * (1 + UNIT_ROUNDOFF[dtype] * math.sqrt(terms) * noise)
    return change


def _rounded_off(q: Parameter, array: np.ndarray, seed: int) -> np.ndarray:
    wide: np.ndarray = array.astype(np.float64)
    if q.role not in ("conv_kernel", "dense_kernel"):
        return wide
    noise = generator(seed, f"rounding/{q.name}").standard_normal(q.shape)
    step = np.abs(wide).max(tuple(range(1, wide.ndim)), keepdims=True) / 127
    changed: np.ndarray = wide + step * math.sqrt(2 / 12) * noise
    return changed
