"""Our weights in the layers of somebody else's Keras model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shared_spec.weights import State

KEYS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
KEYS |= {"moving_mean": "running_mean", "moving_variance": "running_var"}


def assign(layers: Iterable[Any], names: Mapping[str, str], state: State) -> list[str]:
    """Put weights into Keras layers, given each layer's canonical name; returns the names used."""
    used = []
    for layer in layers:
        for variable in layer.variables:
            name = f"{names[layer.name]}.{KEYS[variable.name]}"
            array = state[name]
            if array.ndim == 4 and len(variable.shape) == 2:  # our 1x1 convolution, a Dense here
                array = array[:, :, 0, 0]
            variable.assign(array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, (0,))))
            used.append(name)
    return used
