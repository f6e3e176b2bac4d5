"""Weights of a net with another number of channels or classes, by timm's rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shared_spec import plan
from shared_spec.compiler import compile_plan
from shared_spec.errors import WeightsError
from shared_spec.initialize import initial_weights
from shared_spec.spec import ResNetSpec
from shared_spec.weights import State, cast_weights

ASKED = frozenset({"in_channels", "num_classes", "features_only", "out_indices"})
"""Overrides that ask for weights to be adapted."""


def adapted(
    state: Mapping[str, np.ndarray], spec: ResNetSpec, asked: Mapping[str, Any], seed: int
) -> State:
    """`state` as far as it fits a net of `spec`, if `asked` names a field of `ASKED`.

    - Another number of input channels: the first convolution's weights are summed over RGB for one
      channel, else repeated and scaled by 3 / n.
    - Another number of classes: the classifier is left out, and drawn anew from `seed`.
    - No classifier, or features only: what the net no longer has is left out.

    Everything else stays as it is, to be checked when it is loaded.

    Raises:
        WeightsError: if the first convolution was made for neither this number of channels nor RGB.
    """
    state = dict(state)
    if not ASKED & asked.keys():
        return state
    p = compile_plan(spec)
    _adapt_channels(state, p)
    full = {"features_only": False, "out_indices": (), "num_classes": spec.num_classes or 1}
    whole = compile_plan(spec.override(**full))
    kept = {layer.name for layer in p.layers()}
    lost = tuple(f"{layer.name}." for layer in whole.layers() if layer.name not in kept)
    state = {name: array for name, array in state.items() if not name.startswith(lost)}
    _adapt_classes(state, p, seed)
    return state


def _adapt_channels(state: State, p: plan.Plan) -> None:
    first = next(layer for layer in p.stem if isinstance(layer, plan.Conv))
    name = f"{first.name}.weight"
    kernel = state.get(name)
    if kernel is None or kernel.ndim != 4 or kernel.shape[1] == first.in_channels:
        return
    if kernel.shape[1] != 3:
        raise WeightsError(
            f"{name}: takes {kernel.shape[1]} channels, and only weights for 3 can be adapted to "
            f"{first.in_channels}"
        )
    # Narrow floats are summed in float32, as timm does.
    wide = kernel.astype(np.promote_types(kernel.dtype, np.float32))
    if first.in_channels == 1:
        wide = wide.sum(1, keepdims=True)
    else:
        times = -(-first.in_channels // 3)
        scale = wide.dtype.type(3 / first.in_channels)
        wide = np.tile(wide, (1, times, 1, 1))[:, : first.in_channels] * scale
    state[name] = wide.astype(kernel.dtype)


def _adapt_classes(state: State, p: plan.Plan, seed: int) -> None:
    classifiers = [layer for layer in p.head if isinstance(layer, plan.Conv | plan.Dense)]
    for layer in classifiers:
        name = f"{layer.name}.weight"
        kernel = state.get(name)
        classes = layer.out_channels if isinstance(layer, plan.Conv) else layer.out_features
        if kernel is None or kernel.ndim < 2 or kernel.shape[0] == classes:
            continue
        head = plan.Plan(p.in_channels, (), (), (layer,))
        state |= cast_weights(initial_weights(head, seed), kernel.dtype.name)


__all__ = ["ASKED", "adapted"]
