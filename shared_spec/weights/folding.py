"""Weights for the inference form of a plan."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shared_spec.plan.folding import convolutions_and_norms, space_to_depth_of
from shared_spec.plan.layers import BatchNorm, Conv, SpaceToDepth
from shared_spec.plan.network import Plan
from shared_spec.weights.state import State, check_weights, numpy_dtype


def weights_for(
    p: Plan, state: Mapping[str, np.ndarray], dtype: str, where: object = None
) -> State:
    """Weights for a model of plan `p` and of `dtype`, from those that the net was trained with.

    They are `state` itself unless `p` is for inference; then float64 computes them, and they are
    rounded once.

    Raises:
        WeightsError: if `state` does not fit.
    """
    trained = p.trained or p
    check_weights(trained, state, dtype, where)
    if p.trained is None:
        return dict(state)
    found: State = {}
    kept = {layer.name: layer for layer in p.layers()}
    for layer, norm in convolutions_and_norms(trained):
        if isinstance(layer, Conv):
            kernel, bias = _folded_weights(layer, norm, state)
            form = kept[layer.name]
            assert isinstance(form, Conv)
            if form.kernel_size != layer.kernel_size:
                kernel = _spread(kernel, space_to_depth_of(layer))
            found[f"{layer.name}.weight"] = kernel
            if form.bias:
                found[f"{layer.name}.bias"] = bias
    target = numpy_dtype(dtype)
    names = [q.name for q in p.parameters()]
    return {n: np.asarray(found[n] if n in found else state[n]).astype(target) for n in names}


def _folded_weights(
    layer: Conv, norm: BatchNorm | None, state: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias, in float64, with which the convolution computes what its norm does too."""

    def wide(name: str) -> np.ndarray:
        return np.asarray(state[name]).astype(np.float64)

    kernel = wide(f"{layer.name}.weight")
    bias = wide(f"{layer.name}.bias") if layer.bias else np.zeros(layer.out_channels)
    if layer.standardize_eps is not None:
        mean = kernel.mean((1, 2, 3), keepdims=True)
        variance = kernel.var((1, 2, 3), keepdims=True)
        kernel = (kernel - mean) / np.sqrt(variance + layer.standardize_eps)
    if norm is not None:
        scale = wide(f"{norm.name}.weight") / np.sqrt(wide(f"{norm.name}.running_var") + norm.eps)
        bias = (bias - wide(f"{norm.name}.running_mean")) * scale + wide(f"{norm.name}.bias")
        kernel = kernel * scale[:, None, None, None]
    return kernel, bias


def _spread(kernel: np.ndarray, blocks: SpaceToDepth) -> np.ndarray:
    """A kernel OIHW for blocks of pixels: their rows, columns and channels are its inputs."""
    out, channels, k, _ = kernel.shape
    after = (0, 2 * blocks.window - k)
    wide = np.pad(kernel, ((0, 0), (0, 0), after, after))
    parts = wide.reshape(out, channels, blocks.window, 2, blocks.window, 2)
    return parts.transpose(0, 3, 5, 1, 2, 4).reshape(out, -1, blocks.window, blocks.window)
