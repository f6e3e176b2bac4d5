"""A network as a row of events, for a plan and for a file's graph alike: two networks whose rows
are equal compute the same function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared_spec import plan
from shared_spec.plan.layers import TRAINING_ONLY, Layer
from shared_spec.plan.network import Plan


@dataclass(frozen=True)
class Step:
    """A layer of a chain, and who has it: a node of a file's graph, or nobody."""

    layer: Layer
    owner: Any = None


@dataclass(frozen=True, slots=True)
class LowestPad(Layer):
    """Rows and columns of minus infinity on every side. No plan has it: its maximum pads so."""

    amount: int


@dataclass(frozen=True, slots=True)
class EndPad(Layer):
    """Rows and columns after the last ones, of zeros or of minus infinity. No plan has it: its
    maximum may reach so far (`ceil`).
    """

    amount: int
    lowest: bool


Pad = plan.ZeroPad | LowestPad | EndPad


@dataclass(frozen=True, slots=True)
class ChannelConv(Layer):
    """A convolution along `channels`, zeros padded: part of a `ChannelAttention`."""

    channels: int
    kernel_size: int


@dataclass(frozen=True, slots=True)
class Output(Layer):
    """Nothing, but that what is there is an output of the model, beside the last one."""


@dataclass(frozen=True)
class Fork:
    """Two chains from one tensor, whose results are added up."""

    branch: tuple[Step, ...]
    shortcut: tuple[Step, ...]


Part = Step | Fork
FORK, SHORTCUT, SUM = ("fork",), ("shortcut",), ("sum",)


@dataclass(frozen=True)
class Event:
    """What is computed next, without anybody's name for it; FORK, SHORTCUT and SUM join chains."""

    what: tuple[Any, ...]
    step: Step | None = None


def parts_of(p: Plan) -> list[Part]:
    """The chains and forks of a plan."""
    given = p.outputs[:-1]
    parts: list[Part] = []
    for layer in p.stem:
        parts += [Step(layer), *((Step(Output("")),) if layer.name in given else ())]
    ends = {stage.blocks[-1].name for stage in p.stages if stage.name in given}
    for block in p.blocks():
        pre, branch = (tuple(map(Step, chain)) for chain in (block.pre, block.branch))
        if block.shortcut_from == "input":
            parts.append(Fork(pre + branch, tuple(map(Step, block.shortcut))))
        elif block.shortcut_from == "pre":
            parts += [*pre, Fork(branch, tuple(map(Step, block.shortcut)))]
        else:
            parts += [*pre, *branch]
        parts += map(Step, block.output)
        parts += [Step(Output(""))] if block.name in ends else []
    return [*parts, *map(Step, p.head)]


def events_of(parts: Sequence[Part]) -> list[Event]:
    """Their row, in which what makes no difference is written in one way."""
    events: list[Event] = []
    chain: list[Step] = []
    for part in parts:
        if isinstance(part, Step):
            chain.append(part)
            continue
        events += _chain(chain, _last(events))
        chain, entering = [], _last(events)
        events += [Event(FORK), *_chain(part.branch, entering)]
        events += [Event(SHORTCUT), *_chain(part.shortcut, entering), Event(SUM)]
    return events + list(_chain(chain, _last(events)))


def _last(events: Sequence[Event]) -> tuple[Any, ...]:
    return events[-1].what if events else ()


_NOT_NEGATIVE = (("Activation", "relu"), ("Activation", "relu6"))


def _chain(steps: Iterable[Step], last: tuple[Any, ...]) -> Iterator[Event]:
    """The events of a chain that comes after the event `last`."""
    padded: Step | None = None
    pooled = False
    for step in steps:
        layer = step.layer
        if isinstance(layer, Pad):
            if padded is not None:
                yield _padding(padded)
            padded = step
            continue
        if padded is not None:
            merged = _merged(padded.layer, layer, last)
            if merged is None:
                yield _padding(padded)
            layer, padded = merged or layer, None
        what = _what(layer, pooled)
        if what is None:
            continue
        pooled = pooled or what[0] == "GlobalPool"
        last = what
        yield Event(what, step)
    if padded is not None:
        yield _padding(padded)


def _padding(step: Step) -> Event:
    return Event((type(step.layer).__name__, replace(step.layer, name="")), step)


def _merged(pad: Layer, layer: Layer, last: tuple[Any, ...]) -> Layer | None:
    """A layer that does a padding before it too, after the event `last`, if there is one."""
    assert isinstance(pad, Pad)
    end = isinstance(pad, EndPad)
    lowest = pad.lowest if isinstance(pad, EndPad) else isinstance(pad, LowestPad)
    if isinstance(layer, plan.MaxPool) and layer.padding == 0:
        # Around numbers of which none is negative, zeros never win.
        unseen = (lowest or last in _NOT_NEGATIVE) and pad.amount < layer.kernel_size
        if end:
            unseen = unseen and pad.amount == layer.stride - 1
            return replace(layer, ceil=True) if unseen else None
        return replace(layer, padding=pad.amount) if unseen else None
    if end:
        return None
    if isinstance(layer, plan.Conv) and layer.padding == 0 and not lowest:
        return replace(layer, padding=pad.amount)
    return None


def _what(layer: Layer, pooled: bool) -> tuple[Any, ...] | None:
    """What a layer computes; None if that is nothing."""
    kind = type(layer).__name__
    if isinstance(layer, (*TRAINING_ONLY, plan.Identity)):
        return None
    if isinstance(layer, plan.Flatten) and pooled:
        return None
    if isinstance(layer, plan.GlobalPool):
        return kind, layer.kind
    if isinstance(layer, plan.Activation):
        return kind, layer.function
    if isinstance(layer, plan.BatchNorm):
        return kind, layer.channels, layer.eps
    if isinstance(layer, plan.GroupNorm):
        return kind, layer.channels, layer.groups, layer.eps
    if isinstance(layer, plan.Dense):
        return kind, layer.in_features, layer.out_features, layer.bias
    if isinstance(layer, plan.MaxPool | plan.AvgPool):
        if layer.kernel_size == 1:
            return None if layer.stride == 1 else ("every", layer.stride)
        layer = replace(layer, padding=_same(layer.padding, layer.kernel_size, layer.stride))
    if isinstance(layer, plan.Conv):
        one = layer.kernel_size == layer.groups == 1 and layer.padding in (0, "same")
        if pooled and one:  # over one pixel
            return "Dense", layer.in_channels, layer.out_channels, layer.bias
        layer = replace(layer, padding=_same(layer.padding, layer.extent, layer.stride))
    return kind, replace(layer, name="")


def _same(padding: Any, extent: int, stride: int) -> Any:
    """TensorFlow's rule as a number where it is one for all sizes."""
    if padding == "same" and (extent == 1 or (stride == 1 and extent % 2)):
        return extent // 2
    return padding


def first_difference(found: Sequence[Event], expected: Sequence[Event]) -> int | None:
    """The place of the first event that is another; None if the rows are equal."""
    for i, (a, b) in enumerate(zip(found, expected, strict=False)):
        if a.what != b.what:
            return i
    return None if len(found) == len(expected) else min(len(found), len(expected))
