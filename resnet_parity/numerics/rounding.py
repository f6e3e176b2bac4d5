"""What rounding may do to a net: weights changed at random by as much."""

from __future__ import annotations

import math

import numpy as np

from resnet_parity.numerics.difference import UNIT_ROUNDOFF
from shared_spec.plan.layers import Parameter
from shared_spec.plan.network import Plan
from shared_spec.weights.initialize import generator
from shared_spec.weights.state import State


def perturbed(p: Plan, state: State, dtype: str, seed: int) -> State:
    """Weights changed as much as rounding in `dtype` changes the sums that they enter.

    A sum of n products computed in floating point is the exact sum for weights changed by relative
    amounts of about u * sqrt(n), u being the unit roundoff (Higham and Mary 2019, probabilistic
    backward error analysis). So each kernel gets normal relative changes of that size, and what
    this does to the logits in float64 is what rounding in `dtype` may do.
    """
    return {q.name: perturbed_array(q, state[q.name], dtype, seed) for q in p.parameters()}


def perturbed_array(q: Parameter, array: np.ndarray, dtype: str, seed: int) -> np.ndarray:
    """One array of `perturbed`, in float64."""
    terms = math.prod(q.shape[1:]) if q.role in ("conv_kernel", "dense_kernel") else 1
    noise = generator(seed, f"rounding/{q.name}").standard_normal(q.shape)
    change: np.ndarray = array * (1 + UNIT_ROUNDOFF[dtype] * math.sqrt(terms) * noise)
    return change
