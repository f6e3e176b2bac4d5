"""Weights of a net with another number of channels or classes, by timm's rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np

from shared_spec import plan
from shared_spec.errors import WeightsError
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.initialize import initial_weights
from shared_spec.weights.lazy_array import LazyArray, LazyArrays, entries_of
from shared_spec.weights.state import DTYPES, WeightsLike, cast_weights

PYRAMID = {"pyramid": None, "pyramid_norm": False, "pyramid_extra": "none"}
"""Fields of a pyramid, as they are without one."""
FEATURES = frozenset({"features_only", "out_indices", *PYRAMID})
ASKED = FEATURES | {"in_channels", "num_classes"}
"""Overrides that ask for weights to be adapted."""


def read_adapted(
    read: Callable[[WeightsLike, ResNetSpec], Checkpoint],
    weights: WeightsLike,
    specs: tuple[ResNetSpec, ResNetSpec],
    asked: Collection[str],
    seed: int,
) -> Checkpoint:
    """The weights of a file or a dict, adapted to a net as far as the call requested it.

    Args:
        read: a backend's `read_checkpoint`.
        weights: what `read` takes.
        specs: the net, and what it would be without the overrides in `ASKED`. A file that does not
            tell its own model fits one of them.
        asked: names of the overrides.
        seed: of a new classifier.
    """
    spec, before = specs
    # With all that either has, so that every name in the file is known.
    classes = spec.num_classes or before.num_classes or 1
    if spec.segmentation != "none":
        whole = before
    elif spec.pyramid is None:
        whole = before.override(num_classes=classes, features_only=False, out_indices=())
    else:
        pyramid = {field: getattr(spec, field) for field in ("out_indices", *PYRAMID)}
        whole = before.override(features_only=True, **pyramid)
    found = read(weights, whole)
    return replace(found, state=adapted(found.state, spec, asked, seed))


def adapted(
    state: Mapping[str, np.ndarray], spec: ResNetSpec, asked: Collection[str], seed: int
) -> Mapping[str, np.ndarray]:
    """`state` as far as it fits a net of `spec`, given the names of the fields that were requested.

    - `in_channels`: the first convolution's weights are summed over RGB for one channel, else
      repeated and scaled by 3 / n.
    - `num_classes`: a classifier of another size, or one that is missing, is drawn anew from
      `seed`, and a norm behind it begins anew; they are left out if the net has none.
    - `features_only`, `out_indices`: what the net no longer has is left out.
    - `pyramid`: what is missing of it is drawn from `seed`.

    Everything else stays as it is, to be checked when it is loaded.

    Raises:
        WeightsError: if the first convolution was made for neither this number of channels nor RGB.
    """
    entries = entries_of(state)
    p = compile_plan(spec)
    if "in_channels" in asked:
        _adapt_channels(entries, p)
    lost = tuple(f"{name}." for name in _lost(p, spec, asked))
    entries = {k: v for k, v in entries.items() if not lost or not k.startswith(lost)}
    if "num_classes" in asked:
        _adapt_classes(entries, p, seed)
    if "pyramid" in asked and entries:
        layers = tuple(layer for junction in p.junctions for layer in junction.layers)
        fresh = initial_weights(plan.Plan(p.in_channels, (), (), layers), seed)
        dtype = next(iter(entries.values())).dtype
        if dtype in DTYPES.values():  # else to be refused when it is checked
            entries = entries_of(cast_weights(fresh, dtype.name)) | entries
    return LazyArrays(entries)


def _lost(p: plan.Plan, spec: ResNetSpec, asked: Collection[str]) -> set[str]:
    """Layers of the whole net that this one lacks because of what was requested."""
    full = {"features_only": False, "out_indices": (), "num_classes": spec.num_classes or 1}
    whole = compile_plan(spec.override(**full, **PYRAMID))
    kept = {layer.name for layer in p.layers()}
    if FEATURES.intersection(asked):
        return {layer.name for layer in whole.layers()} - kept
    if "num_classes" in asked:
        return {x.name for x in whole.head} - kept
    return set()


def _adapt_channels(entries: dict[str, LazyArray], p: plan.Plan) -> None:
    first = next(layer for layer in p.stem if isinstance(layer, plan.Conv))
    name = f"{first.name}.weight"
    entry = entries.get(name)
    if entry is None or len(entry.shape) != 4 or entry.shape[1] == first.in_channels:
        return
    k = first.kernel_size
    if (entry.shape[0], *entry.shape[2:]) != (first.out_channels, k, k):
        return  # to be refused when it is checked against the net
    if entry.shape[1] != 3:
        raise WeightsError(
            f"{name}: takes {entry.shape[1]} channels, and only weights for 3 can be adapted to "
            f"{first.in_channels}"
        )
    # Narrow floats are summed in float32, as timm does.
    kernel = entry.read()
    wide = kernel.astype(np.promote_types(kernel.dtype, np.float32))
    if first.in_channels == 1:
        wide = wide.sum(1, keepdims=True)
    else:
        times = -(-first.in_channels // 3)
        scale = wide.dtype.type(3 / first.in_channels)
        wide = np.tile(wide, (1, times, 1, 1))[:, : first.in_channels] * scale
    entries[name] = LazyArray.of(wide.astype(kernel.dtype))


def _adapt_classes(entries: dict[str, LazyArray], p: plan.Plan, seed: int) -> None:
    layer = p.classifier
    if layer is not None:
        _adapt_classifier(entries, p, layer, seed)
    after = [layer for layer in p.head if isinstance(layer, plan.BatchNorm) and layer.of_features]
    fresh = initial_weights(plan.Plan(p.in_channels, (), (), tuple(after)), seed)
    for name, array in fresh.items():
        entry = entries.get(name)
        if entry is not None and entry.shape != array.shape and entry.dtype in DTYPES.values():
            entries |= entries_of(cast_weights({name: array}, entry.dtype.name))


def _adapt_classifier(
    entries: dict[str, LazyArray], p: plan.Plan, layer: plan.Conv | plan.Dense, seed: int
) -> None:
    entry = entries.get(f"{layer.name}.weight")
    classes = layer.out_channels if isinstance(layer, plan.Conv) else layer.out_features
    if entry is None:
        if not entries or f"{layer.name}.bias" in entries:
            return
        entry = next(iter(entries.values()))
    elif len(entry.shape) < 2 or entry.shape[0] == classes:
        return
    if entry.dtype in DTYPES.values():  # else to be refused when it is checked
        head = plan.Plan(p.in_channels, (), (), (layer,))
        entries |= entries_of(cast_weights(initial_weights(head, seed), entry.dtype.name))
