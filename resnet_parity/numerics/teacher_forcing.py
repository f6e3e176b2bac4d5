"""What enters each layer, from what the reference has there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from resnet_parity.numerics.difference import UNIT_ROUNDOFF
from shared_spec.plan.dataflow import IMAGES, Node
from shared_spec.weights.initialize import generator
from shared_spec.weights.state import State


def inputs_of(
    found: Sequence[Node], images: np.ndarray, outputs: Mapping[str, np.ndarray]
) -> State:
    """What enters each layer and block, from images [N, H, W, C] and the outputs of all."""
    known = {**outputs, IMAGES: images}
    return {node.name: reduce(np.add, (known[s] for s in node.sources)) for node in found}


def rounded(found: Sequence[Node], inputs: State, dtype: str, seed: int) -> State:
    """Inputs changed as much as rounding in `dtype` changes what is made of them: a number by the
    unit roundoff, and by √n of it where n of them are summed (see
    `resnet_parity.numerics.rounding.perturbed`).
    """
    changed: State = {}
    for node in found:
        x = inputs[node.name].astype(np.float64)
        terms = math.prod(x.shape[1:3]) if node.averages and x.ndim == 4 else 1
        noise = generator(seed, f"rounding/input/{node.name}").standard_normal(x.shape)
        changed[node.name] = x * (1 + UNIT_ROUNDOFF[dtype] * math.sqrt(terms) * noise)
    return changed
