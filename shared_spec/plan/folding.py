"""The form of a plan that computes the same logits with fewer operations: for inference alone.

Passes over the plan, so that every framework has them: a batch norm behind a convolution goes into
its kernel and bias, standardised kernels are standardised once, what acts only in training goes,
and, if asked for, a strided stem becomes a plain convolution on blocks of pixels. The function
stays; its roundings are other ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest

import numpy as np

from shared_spec.errors import ResNetError
from shared_spec.plan.network import (
    BatchNorm,
    Block,
    Conv,
    DropBlock,
    Dropout,
    DropPath,
    Identity,
    Layer,
    Layers,
    Plan,
    SpaceToDepth,
)
from shared_spec.weights.state import State, check_weights, numpy_dtype


@dataclass(frozen=True)
class Inference:
    """Which form `create_model(..., inference=...)` gives; True stands for the defaults.

    Attributes:
        space_to_depth: compute the strided stem on blocks of 2 x 2 pixels. It is meant for
            TPUs, whose units want many channels (Ridnik et al. 2020, arXiv:2003.13630, and MLPerf's
            ResNets), and was not measured there; on CPUs it costs (docs/performance.md).
    """

    space_to_depth: bool = False


def formed(p: Plan, inference: Inference | bool) -> Plan:
    """`p`, or its form for inference if that is asked for.

    Raises:
        ResNetError: if `inference` is neither a bool nor an `Inference`.
    """
    if inference is False:
        return p
    if inference is True:
        inference = Inference()
    if not isinstance(inference, Inference):
        raise ResNetError(
            f"inference: expected True, False or an Inference, got {type(inference).__name__}"
        )
    return inference_plan(p, inference)


def inference_plan(p: Plan, how: Inference = Inference()) -> Plan:
    """`p` without what only training needs. `loadable` makes its weights from those of `p`."""

    def block(b: Block) -> Block:
        return replace(
            b,
            pre=_folded(b.pre),
            branch=_folded(b.branch),
            shortcut=_folded(b.shortcut),
            output=_folded(b.output),
        )

    stem = _folded(p.stem, p.outputs)
    if how.space_to_depth:
        stem = _on_blocks(stem)
    stages = tuple(replace(s, blocks=tuple(block(b) for b in s.blocks)) for s in p.stages)
    return replace(p, stem=stem, stages=stages, head=_folded(p.head), trained=p)


def loadable(p: Plan, state: Mapping[str, np.ndarray], dtype: str, where: object = None) -> State:
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
    for layer, norm in _pairs_of(trained):
        if isinstance(layer, Conv):
            kernel, bias = _folded_weights(layer, norm, state)
            form = kept[layer.name]
            assert isinstance(form, Conv)
            if form.kernel_size != layer.kernel_size:
                kernel = _spread(kernel, _blocks(layer))
            found[f"{layer.name}.weight"] = kernel
            if form.bias:
                found[f"{layer.name}.bias"] = bias
    target = numpy_dtype(dtype)
    names = [q.name for q in p.parameters()]
    return {n: np.asarray(found[n] if n in found else state[n]).astype(target) for n in names}


def require_trained(p: Plan, purpose: str) -> None:
    """Refuse a model in its form for inference.

    Raises:
        ResNetError: saying what it cannot do.
    """
    if p.trained is not None:
        raise ResNetError(
            f"model: its form for inference has no weights of its own {purpose}; take a model that "
            f"was created without inference=True"
        )


def _pairs_of(p: Plan) -> Iterator[tuple[Layer, BatchNorm | None]]:
    yield from _pairs(p.stem, p.outputs)
    for block in p.blocks():
        for chain in (block.pre, block.branch, block.shortcut, block.output):
            yield from _pairs(chain)
    yield from _pairs(p.head)


def _pairs(
    layers: Layers, outputs: tuple[str, ...] = ()
) -> Iterator[tuple[Layer, BatchNorm | None]]:
    """What remains of a chain, a convolution with the batch norm that goes into it. A layer whose
    output the model returns keeps it.
    """
    kept = [layer for layer in layers if not isinstance(layer, Dropout | DropPath | DropBlock)]
    goes = {
        after.name
        for before, after in pairwise(kept)
        if isinstance(before, Conv) and isinstance(after, BatchNorm)
        if before.name not in outputs and after.name not in outputs
    }
    for layer, after in zip_longest(kept, kept[1:]):
        if layer.name not in goes:
            norm = after if isinstance(after, BatchNorm) and after.name in goes else None
            yield layer, norm
        elif layer.name.rpartition(".")[2].isdigit():
            yield Identity(layer.name), None


def _folded(layers: Layers, outputs: tuple[str, ...] = ()) -> Layers:
    def form(layer: Layer, norm: BatchNorm | None) -> Layer:
        if not isinstance(layer, Conv):
            return layer
        return replace(layer, bias=layer.bias or norm is not None, standardize_eps=None)

    return tuple(form(layer, norm) for layer, norm in _pairs(layers, outputs))


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


def _blocks(layer: Conv) -> SpaceToDepth:
    assert isinstance(layer.padding, int)
    # Of the whole stem: beside a numbered chain, not in it.
    name = f"{layer.name.partition('.')[0]}_blocks"
    return SpaceToDepth(name, layer.kernel_size, layer.padding)


def _on_blocks(stem: Layers) -> Layers:
    """The stem's first convolution, if it is a dense one of stride 2, as one of stride 1 on blocks
    of 2 x 2 pixels.
    """
    place = next((i for i, layer in enumerate(stem) if isinstance(layer, Conv)), None)
    if place is None:
        return stem
    conv = stem[place]
    assert isinstance(conv, Conv)
    dense = (conv.stride, conv.groups, conv.dilation) == (2, 1, 1)
    if not dense or conv.padding == "same":
        return stem
    blocks = _blocks(conv)
    channels = 4 * conv.in_channels
    form = replace(conv, stride=1, padding=0, in_channels=channels, kernel_size=blocks.window)
    return (*stem[:place], blocks, form, *stem[place + 1 :])


def _spread(kernel: np.ndarray, blocks: SpaceToDepth) -> np.ndarray:
    """A kernel OIHW for blocks of pixels: their rows, columns and channels are its inputs."""
    out, channels, k, _ = kernel.shape
    after = (0, 2 * blocks.window - k)
    wide = np.pad(kernel, ((0, 0), (0, 0), after, after))
    parts = wide.reshape(out, channels, blocks.window, 2, blocks.window, 2)
    return parts.transpose(0, 3, 5, 1, 2, 4).reshape(out, -1, blocks.window, blocks.window)


__all__ = ["Inference", "formed", "inference_plan", "loadable", "require_trained"]
