"""Weights for the inference form of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import ml_dtypes
import numpy as np

from shared_spec.errors import SpecError
from shared_spec.plan.folding import convolutions_and_norms, space_to_depth_of
from shared_spec.plan.layers import BatchNorm, Conv, Parameter, SpaceToDepth
from shared_spec.plan.network import Plan
from shared_spec.weights.lazy_array import LazyArray, entries_of
from shared_spec.weights.state import State, check_weights, numpy_dtype

PLAIN = 1.0
"""The eps with which a norm without a variance of its own multiplies and adds alone."""
_EXACT = 1e-13
"""How far a norm may be from one that does nothing."""


def weights_for(
    p: Plan, state: Mapping[str, np.ndarray], dtype: str, where: object = None
) -> State:
    """Weights for a model of plan `p` and of `dtype`, from those that the net was trained with.

    They are `state` itself unless `p` is for inference; then float64 computes them, and they are
    rounded once.

    Raises:
        WeightsError: if `state` does not fit.
    """
    check_weights(p.trained or p, state, dtype, where)
    if p.trained is None:
        return dict(state)
    return {name: entry.array() for name, entry in weight_entries(p, state, dtype).items()}


def weight_entries(p: Plan, state: Mapping[str, np.ndarray], dtype: str) -> dict[str, LazyArray]:
    """The arrays of plan `p` in `dtype`, each computed and rounded when it is read.

    Raises:
        WeightsError: if `state` does not fit.
    """
    trained, target = p.trained or p, numpy_dtype(dtype)
    check_weights(trained, state, "float64")
    given = entries_of(state)
    computed: dict[str, Callable[[], np.ndarray]] = {}
    kept = {layer.name: layer for layer in p.leaves()}
    for layer, norm in convolutions_and_norms(trained) if p.trained is not None else ():
        if isinstance(layer, Conv):
            form = kept[layer.name]
            assert isinstance(form, Conv)
            computed[f"{layer.name}.weight"] = partial(_folded_kernel, layer, form, norm, given)
            if form.bias:
                computed[f"{layer.name}.bias"] = partial(_folded_bias, layer, norm, given)

    def entry(q: Parameter) -> LazyArray:
        read = computed.get(q.name) or given[q.name].read
        return LazyArray(q.shape, target, lambda: np.asarray(read()).astype(target, copy=False))

    return {q.name: entry(q) for q in p.parameters()}


Entries = Mapping[str, LazyArray]


def _wide(given: Entries, name: str) -> np.ndarray:
    return given[name].read().astype(np.float64)


def _scale(norm: BatchNorm, given: Entries) -> np.ndarray:
    scale: np.ndarray = _wide(given, f"{norm.name}.weight") / np.sqrt(
        _wide(given, f"{norm.name}.running_var") + norm.eps
    )
    return scale


def _folded_kernel(layer: Conv, form: Conv, norm: BatchNorm | None, given: Entries) -> np.ndarray:
    """The kernel, in float64, with which the convolution computes what its norm does too."""
    kernel = _wide(given, f"{layer.name}.weight")
    if layer.standardize_eps is not None:
        mean = kernel.mean((1, 2, 3), keepdims=True)
        variance = kernel.var((1, 2, 3), keepdims=True)
        kernel = (kernel - mean) / np.sqrt(variance + layer.standardize_eps)
    if layer.scale is not None:
        kernel = kernel * (_wide(given, f"{layer.name}.gain") * layer.scale)
    if norm is not None:
        kernel = kernel * _scale(norm, given)[:, None, None, None]
    if form.kernel_size != layer.kernel_size:
        kernel = _spread(kernel, space_to_depth_of(layer))
    return kernel


def _folded_bias(layer: Conv, norm: BatchNorm | None, given: Entries) -> np.ndarray:
    """The bias that goes with it."""
    bias = _wide(given, f"{layer.name}.bias") if layer.bias else np.zeros(layer.out_channels)
    if norm is not None:
        mean = _wide(given, f"{norm.name}.running_mean")
        bias = (bias - mean) * _scale(norm, given) + _wide(given, f"{norm.name}.bias")
    return bias


def _spread(kernel: np.ndarray, blocks: SpaceToDepth) -> np.ndarray:
    """A kernel OIHW for blocks of pixels: their rows, columns and channels are its inputs."""
    out, channels, k, _ = kernel.shape
    after = (0, 2 * blocks.window - k)
    wide = np.pad(kernel, ((0, 0), (0, 0), after, after))
    parts = wide.reshape(out, channels, blocks.window, 2, blocks.window, 2)
    return parts.transpose(0, 3, 5, 1, 2, 4).reshape(out, -1, blocks.window, blocks.window)


def unfolded_entries(p: Plan, folded: Entries) -> dict[str, LazyArray]:
    """Weights of the net whose form for inference `p` is, of which folding makes these: norms that
    went into convolutions multiply by 1 and add what those did, and a kernel that was standardised
    with a gain has the gain that gives it back, within rounding.

    Raises:
        SpecError: if an array's dtype has no norm that does nothing, or filters that were
            standardised do not have the mean 0.
    """
    assert p.trained is not None
    found = {q.name: folded[q.name] for q in p.parameters()}
    for layer, norm in convolutions_and_norms(p.trained):
        if not isinstance(layer, Conv):
            continue
        kernel, bias = folded[f"{layer.name}.weight"], found.pop(f"{layer.name}.bias", None)
        if norm is not None:
            assert bias is not None
            if (nothing := neutral(norm.eps, kernel.dtype)) is None:
                raise SpecError(
                    f"norm_eps: {norm.eps:g}, with which {kernel.dtype.name} has no norm that does "
                    f"nothing, as {norm.name} has to, which has gone into its convolution"
                )
            scale, variance = nothing
            for leaf, value in (("weight", scale), ("running_mean", 0), ("running_var", variance)):
                found[f"{norm.name}.{leaf}"] = filled(value, bias)
            found[f"{norm.name}.bias"] = bias
            bias = filled(0, bias)
        if layer.bias and bias is not None:
            found[f"{layer.name}.bias"] = bias
        if layer.scale is not None:
            _require_centred(layer, kernel)
            gain = LazyArray(
                (layer.out_channels, 1, 1, 1), kernel.dtype, partial(_gain, layer, kernel)
            )
            found[f"{layer.name}.gain"] = gain
    return {q.name: found[q.name] for q in p.trained.parameters()}


def _require_centred(layer: Conv, kernel: LazyArray) -> None:
    """Raise a `SpecError` for filters that no standardising gives, whose mean is not 0."""
    x = kernel.array().astype(np.float64)
    off = np.abs(x.mean((1, 2, 3))) > 4 * ml_dtypes.finfo(kernel.dtype).eps * np.abs(x).max()
    if off.any():
        raise SpecError(
            f"standardize: the filters of {layer.name} do not have the mean 0, as they do when "
            f"they have been standardised"
        )


def _gain(layer: Conv, kernel: LazyArray) -> np.ndarray:
    """With which a kernel is what it is without being standardised."""
    assert layer.scale is not None
    assert layer.standardize_eps is not None
    variance = kernel.array().astype(np.float64).var((1, 2, 3), keepdims=True)
    gain: np.ndarray = np.sqrt(variance + layer.standardize_eps) / layer.scale
    return gain.astype(kernel.dtype)


def filled(value: float, like: LazyArray, channels: int | None = None) -> LazyArray:
    """One number for each channel."""
    count = like.shape[0] if channels is None else channels
    dtype = like.dtype.newbyteorder("=")
    return LazyArray((count,), dtype, lambda: np.full(count, value, dtype))


@lru_cache(8)
def neutral(eps: float, dtype: np.dtype) -> tuple[float, float] | None:
    """Scale and variance with which a norm multiplies by 1: numbers of the dtype for which the
    scale is the square root of variance and eps. None if the dtype has none that are near enough.
    """
    if eps == PLAIN:
        return 1.0, 0.0
    scales = np.linspace(0.5, 2, 2**20).astype(dtype).astype(np.float64)
    variances = (scales**2 - eps).astype(dtype).astype(np.float64)
    off = np.abs(scales / np.sqrt(variances + eps) - 1)
    best = int(off.argmin())
    if off[best] > _EXACT:
        return None
    return float(scales[best]), float(variances[best])
