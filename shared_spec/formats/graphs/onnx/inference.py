"""Nets in a form for inference, whose norms or standardised kernels have gone into what convolves:
written as nets that a spec says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from shared_spec import plan
from shared_spec.errors import ResNetError
from shared_spec.formats.graphs.events import Fork, Part, Step
from shared_spec.formats.graphs.onnx.joined import OTHER_NORMS, Owner
from shared_spec.formats.graphs.walk import LayerError
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import convolutions_and_norms, inference_form
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.folding import PLAIN, filled, neutral
from shared_spec.weights.lazy_array import LazyArray

_NORMS = (plan.BatchNorm, *OTHER_NORMS)


STANDARDISED = (
    "a form for inference: kernels were standardised before they were written, or are here, and "
    "the convolutions take them as they are; it is not to be trained as it is"
)
"""What is told of a file with such kernels."""


def unfolded_note(count: int, eps: float) -> str:
    """What is told of a file whose norms have gone into what convolves."""
    return (
        f"a form for inference: what its norms computed has gone into {count} convolutions or "
        f"factors, and the norms here, of the eps {eps:g}, add their biases; it is not to be "
        f"trained as it is"
    )


def left_out(function: str, who: object) -> str:
    """What is told of an activation behind the classifier."""
    return f"left out: the {function} of {who}; the model here gives the logits before it"


def forms_of(spec: ResNetSpec) -> Iterator[tuple[ResNetSpec, Plan]]:
    """A net as it trains, and in its form for inference, with a spec of which that is the form and
    whose norms and kernels can be given back exactly, if there is one.
    """
    plain = compile_plan(spec)
    yield spec, plain
    folded = inference_form(plain, True)
    normed = any(norm is not None for _, norm in convolutions_and_norms(plain))
    kernels = {} if spec.standardize is None else {"standardize": None}
    norms = {"norm_eps": PLAIN} if normed else {}
    for changes in (kernels | norms, kernels, norms):
        try:
            other = spec.override(**changes)
            form = inference_form(compile_plan(other), True)
        except ResNetError:
            continue
        if replace(form, trained=None) == replace(folded, trained=None):
            yield other, form
            return
    yield spec, folded


def has_gains(p: Plan) -> bool:
    """Whether it has kernels that are standardised and have gains, which are computed anew, and
    rounded, from a form for inference.
    """
    return any(isinstance(x, plan.Conv) and x.scale is not None for x in p.leaves())


def form_notes(asked: ResNetSpec, spec: ResNetSpec, p: Plan) -> Iterator[str]:
    """What is told of a net that was asked for and found as `forms_of` gives it."""
    if p.trained is None:
        return
    count = sum(norm is not None for _, norm in convolutions_and_norms(p.trained))
    if count:
        yield unfolded_note(count, spec.norm_eps)
    if asked.standardize is not None:
        yield STANDARDISED


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

    def completed(step: Step, ends: bool = False) -> Step:
        layer = step.layer
        if not isinstance(layer, plan.Conv | plan.Dense) or layer.bias:
            return step
        if not (ends or everywhere or (biased and id(step) not in normed)):
            return step
        weight: LazyArray = step.owner.arrays["weight"]
        arrays = {**step.owner.arrays, "bias": filled(0.0, weight)}
        return Step(replace(layer, bias=True), Owner(step.owner.node, arrays))

    found: list[Part] = []
    for i, part in enumerate(parts):
        if isinstance(part, Step):
            found.append(completed(part, i > head))
        else:
            found.append(Fork(*(tuple(map(completed, c)) for c in (part.branch, part.shortcut))))
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
    channels = filled(0.0, arrays["weight"], layer.out_channels)
    dtype = arrays["weight"].dtype
    nothing = neutral(eps, dtype)
    if nothing is None:
        raise LayerError(
            f"{step.owner} has taken in its norm, beside others of the eps {eps:g}, of which "
            f"{np.dtype(dtype).name} has no norm that does nothing"
        )
    scale, variance = nothing
    bias = arrays.pop("bias", channels)
    yield Step(replace(layer, bias=False), Owner(step.owner.node, arrays))
    norm = plan.BatchNorm(layer.name, layer.out_channels, eps, 0.1, "unbiased")
    yield Step(
        norm,
        Owner(
            step.owner.node,
            {
                "weight": filled(scale, channels),
                "bias": bias,
                "running_mean": channels,
                "running_var": filled(variance, channels),
            },
        ),
    )
