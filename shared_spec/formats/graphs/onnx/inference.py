"""Nets in a form for inference, whose norms or standardised kernels have gone into what convolves:
written as nets that a spec says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from shared_spec import plan
from shared_spec.formats.graphs.events import Fork, Part, Step
from shared_spec.formats.graphs.onnx.joined import OTHER_NORMS, PLAIN, Owner, one_number
from shared_spec.formats.graphs.walk import LayerError
from shared_spec.weights.lazy_array import LazyArray

_EXACT = 1e-13
"""How far a norm may be from one that does nothing."""

_NORMS = (plan.BatchNorm, *OTHER_NORMS)


_AFTER_NORMS = (plan.SqueezeExcite, plan.ChannelAttention, plan.LayerScale)
"""Layers at the end of a branch, behind its last norm."""


def _bare(steps: tuple[Step, ...], ends: bool) -> Iterator[Step]:
    """The convolutions of a chain that an activation follows, or with `ends` nothing."""
    for i, step in enumerate(steps):
        after = steps[i + 1].layer if i + 1 < len(steps) else None
        last = after is None or isinstance(after, _AFTER_NORMS)
        follows = isinstance(after, plan.Activation) or (ends and last)
        if isinstance(step.layer, plan.Conv) and follows:
            yield step


def with_biases(parts: list[Part]) -> list[Part]:
    """Zeros for the biases that exporters leave out where they are zeros: a spec gives one to all
    convolutions, to all that no norm follows, or to none, and to every classifier.
    """
    head = head_of(parts)
    chains = list(_chains(parts[:head]))
    normed = {id(step) for chain in chains for step in _normed(chain)}
    convs = [s for chain in chains for s in chain if isinstance(s.layer, plan.Conv)]
    biased = [step for step in convs if "bias" in step.owner.arrays]
    everywhere = any(id(step) in normed for step in biased)

    def filled(step: Step, ends: bool = False) -> Step:
        layer = step.layer
        if not isinstance(layer, plan.Conv | plan.Dense) or layer.bias:
            return step
        if not (ends or everywhere or (biased and id(step) not in normed)):
            return step
        weight: LazyArray = step.owner.arrays["weight"]
        arrays = {**step.owner.arrays, "bias": one_number(0.0, weight)}
        return Step(replace(layer, bias=True), Owner(step.owner.node, arrays))

    found: list[Part] = []
    for i, part in enumerate(parts):
        if isinstance(part, Step):
            found.append(filled(part, i > head))
        else:
            found.append(Fork(*(tuple(map(filled, c)) for c in (part.branch, part.shortcut))))
    return found


def head_of(parts: list[Part]) -> int:
    """Where the pool over all pixels is, or the end."""
    steps = enumerate(part if isinstance(part, Step) else None for part in parts)
    pools = (i for i, step in steps if step and isinstance(step.layer, plan.GlobalPool))
    return next(pools, len(parts))


def convs_of(parts: list[Part]) -> list[plan.Conv]:
    """The convolutions before the head."""
    layers = [step.layer for step in steps_of(parts[: head_of(parts)])]
    return [layer for layer in layers if isinstance(layer, plan.Conv)]


def _chains(parts: list[Part]) -> Iterator[list[Step]]:
    """The chains of which a net is made."""
    chain: list[Step] = []
    for part in parts:
        if isinstance(part, Step):
            chain.append(part)
            continue
        yield chain
        yield [*part.branch]
        yield [*part.shortcut]
        chain = []
    yield chain


def _normed(chain: list[Step]) -> Iterator[Step]:
    """The convolutions that a norm follows."""
    for step, after in pairwise(chain):
        if isinstance(step.layer, plan.Conv) and isinstance(after.layer, _NORMS):
            yield step


def _standardised(entry: LazyArray, eps: float) -> LazyArray:
    """Filters as a convolution takes them that standardises its kernel."""

    def read() -> np.ndarray:
        x = entry.array().astype(np.float64)
        x -= x.mean((1, 2, 3), keepdims=True)
        found: np.ndarray = x / np.sqrt((x**2).mean((1, 2, 3), keepdims=True) + eps)
        return found.astype(entry.dtype)

    return LazyArray(entry.shape, entry.dtype, read)


@lru_cache(8)
def _neutral(eps: float, dtype: np.dtype) -> tuple[float, float] | None:
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


def steps_of(parts: Iterable[Part]) -> Iterator[Step]:
    """All of them, in forks too."""
    for part in parts:
        yield from (part,) if isinstance(part, Step) else (*part.branch, *part.shortcut)


def with_kernels(parts: list[Part]) -> tuple[list[Part], int]:
    """Kernels as they enter, if some of them were standardised before they were written, which a
    spec says of all or of none; and how many the others are.
    """
    count = 0
    if len({conv.standardize_eps is None for conv in convs_of(parts)}) < 2:
        return parts, count

    def plain(step: Step) -> Step:
        nonlocal count
        layer = step.layer
        if not isinstance(layer, plan.Conv) or layer.standardize_eps is None:
            return step
        count += 1
        weight = _standardised(step.owner.arrays["weight"], layer.standardize_eps)
        arrays = {**step.owner.arrays, "weight": weight}
        return Step(replace(layer, standardize_eps=None), Owner(step.owner.node, arrays))

    found: list[Part] = []
    for part in parts:
        if isinstance(part, Step):
            found.append(plain(part))
        else:
            found.append(Fork(*(tuple(map(plain, c)) for c in (part.branch, part.shortcut))))
    return found, count


def with_norms(parts: list[Part]) -> tuple[list[Part], int]:
    """Norms behind convolutions that have taken them in, which multiply by 1 and add what the
    convolution did, and how many. Such convolutions are followed by an activation or a sum.
    """
    count = 0
    forks = [i for i, part in enumerate(parts) if isinstance(part, Fork)] or [head_of(parts)]
    after = parts[forks[0] + 1] if forks[0] + 1 < len(parts) else None
    post = isinstance(after, Step) and isinstance(after.layer, plan.Activation)
    eps = {s.layer.eps for s in steps_of(parts) if isinstance(s.layer, plan.BatchNorm)}
    if any(isinstance(s.layer, OTHER_NORMS) for s in steps_of(parts)):
        return parts, count
    only = eps.pop() if len(eps) == 1 else PLAIN
    stem = [part for part in parts[: forks[0]] if isinstance(part, Step)]

    def chain(steps: tuple[Step, ...], shortcut: bool = False) -> tuple[Step, ...]:
        nonlocal count
        bare = {id(s) for s in _bare(steps, post)}
        out: list[Step] = []
        for step in steps:
            # A projection may be without a norm of its own.
            kept = id(step) not in bare or (shortcut and "bias" not in step.owner.arrays)
            count += not kept
            out += [step] if kept else _unfolded(step, only)
        return tuple(out)

    found: list[Part] = [*chain(tuple(stem))]
    for part in parts[forks[0] :]:
        if isinstance(part, Fork):
            found.append(Fork(chain(part.branch), chain(part.shortcut, shortcut=True)))
        else:
            found.append(part)
    return found, count


def _unfolded(step: Step, eps: float) -> Iterator[Step]:
    """A convolution without its bias, and a norm that has it."""
    layer, arrays = step.layer, dict(step.owner.arrays)
    assert isinstance(layer, plan.Conv)
    channels = one_number(0.0, arrays["weight"], layer.out_channels)
    dtype = arrays["weight"].dtype
    neutral = _neutral(eps, dtype)
    if neutral is None:
        raise LayerError(
            f"{step.owner} has taken in its norm, beside others of the eps {eps:g}, of which "
            f"{np.dtype(dtype).name} has no norm that does nothing"
        )
    scale, variance = neutral
    bias = arrays.pop("bias", channels)
    yield Step(replace(layer, bias=False), Owner(step.owner.node, arrays))
    norm = plan.BatchNorm(layer.name, layer.out_channels, eps, 0.1, "unbiased")
    yield Step(
        norm,
        Owner(
            step.owner.node,
            {
                "weight": one_number(scale, channels),
                "bias": bias,
                "running_mean": channels,
                "running_var": one_number(variance, channels),
            },
        ),
    )
