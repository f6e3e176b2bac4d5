"""The form of a plan that computes the same logits with fewer operations: for inference alone.

Passes over the plan, so that every framework has them: a batch norm behind a convolution goes into
its kernel and bias, standardised kernels are standardised once, what acts only in training goes,
and, if requested, a strided stem becomes a plain convolution on blocks of pixels. The function
stays; its roundings are other ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import Any

from shared_spec.errors import ResNetError
from shared_spec.plan.layers import (
    TRAINING_ONLY,
    BatchNorm,
    Conv,
    Identity,
    Layer,
    Layers,
    SpaceToDepth,
)
from shared_spec.plan.network import CHAINS, Block, Plan
from shared_spec.plan.parameters import placed


@dataclass(frozen=True)
class Inference:
    """Which form `create_model(..., inference=...)` gives; True stands for the defaults.

    Attributes:
        space_to_depth: compute the strided stem on blocks of 2 x 2 pixels. It is meant for
            TPUs, whose units want many channels (Ridnik et al. 2020, arXiv:2003.13630, and MLPerf's
            ResNets), and was not measured there, and their compiler's estimates do not agree
            (docs/aot.md); on CPUs it costs (docs/performance.md).
    """

    space_to_depth: bool = False


def inference_form(p: Plan, inference: Inference | bool) -> Plan:
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
    """`p` without what only training needs. `weights_for` makes its weights from those of `p`."""

    def block(b: Block) -> Block:
        chains: dict[str, Any] = {name: _folded(getattr(b, name)) for name in CHAINS}
        return replace(b, **chains)

    stem = _folded(p.stem, p.taps)
    if how.space_to_depth:
        stem = _on_blocks(stem)
    stages = tuple(replace(s, blocks=tuple(block(b) for b in s.blocks)) for s in p.stages)
    junctions = tuple(replace(j, layers=_folded(j.layers)) for j in p.junctions)
    head = _folded(p.head)
    return replace(p, stem=stem, stages=stages, head=head, junctions=junctions, trained=p)


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


def convolutions_and_norms(p: Plan) -> Iterator[tuple[Layer, BatchNorm | None]]:
    """The layers that remain of a plan, each convolution with the batch norm that goes into it."""
    yield from _everywhere(p.stem, p.taps)
    for block in p.blocks():
        for name in CHAINS:
            yield from _everywhere(getattr(block, name))
    yield from _everywhere(p.head)
    for junction in p.junctions:
        yield from _everywhere(junction.layers)


def _everywhere(
    layers: Layers, outputs: tuple[str, ...] = ()
) -> Iterator[tuple[Layer, BatchNorm | None]]:
    """The pairs of a chain and of those inside of its layers."""
    for layer, norm in _pairs(layers, outputs):
        yield layer, norm
        for before, chain in layer.chains():
            yield from _everywhere(tuple(placed(layer, before, inner) for inner in chain))


def _pairs(
    layers: Layers, outputs: tuple[str, ...] = ()
) -> Iterator[tuple[Layer, BatchNorm | None]]:
    """What remains of a chain, a convolution with the batch norm that goes into it. A layer whose
    output the model returns keeps it.
    """
    kept = [layer for layer in layers if not isinstance(layer, TRAINING_ONLY)]
    goes = {
        after.name
        for before, after in pairwise(kept)
        if isinstance(before, Conv) and isinstance(after, BatchNorm)
        # Where it is numbered, something keeps its name.
        if before.name not in outputs and (after.name not in outputs or _numbered(after))
    }
    for layer, after in zip_longest(kept, kept[1:]):
        if layer.name not in goes:
            norm = after if isinstance(after, BatchNorm) and after.name in goes else None
            yield layer, norm
        elif _numbered(layer):
            yield Identity(layer.name), None


def _numbered(layer: Layer) -> bool:
    return layer.name.rpartition(".")[2].isdigit()


def _folded(layers: Layers, outputs: tuple[str, ...] = ()) -> Layers:
    def form(layer: Layer, norm: BatchNorm | None) -> Layer:
        if not isinstance(layer, Conv):
            return layer.mapped(_folded)
        bias = layer.bias or norm is not None
        return replace(layer, bias=bias, standardize_eps=None, scale=None)

    return tuple(form(layer, norm) for layer, norm in _pairs(layers, outputs))


def space_to_depth_of(layer: Conv) -> SpaceToDepth:
    """The rearrangement of pixels with which `layer`, of stride 2, becomes one of stride 1."""
    assert isinstance(layer.padding, int)
    # Of the whole stem: beside a numbered chain, not in it.
    name = f"{layer.name.partition('.')[0]}_blocks"
    return SpaceToDepth(name, layer.kernel_size, layer.padding)


def _on_blocks(stem: Layers) -> Layers:
    """The stem's first convolution, if it is a dense one of stride 2, as one of stride 1 on blocks
    of 2 x 2 pixels.
    """
    conv = next((layer for layer in stem if isinstance(layer, Conv)), None)
    dense = conv and (conv.stride, conv.groups, conv.dilation) == (2, 1, 1)
    if conv is None or not dense or conv.padding == "same":
        return stem
    blocks, place = space_to_depth_of(conv), stem.index(conv)
    channels = 4 * conv.in_channels
    form = replace(conv, stride=1, padding=0, in_channels=channels, kernel_size=blocks.window)
    return (*stem[:place], blocks, form, *stem[place + 1 :])
