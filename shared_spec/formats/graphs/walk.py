"""The chains and forks between the input and the output of a file's graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from shared_spec import plan
from shared_spec.errors import WeightsError
from shared_spec.formats.graphs.events import Event, Fork, Output, Part, Step, first_difference

Tensor = int
"""A tensor is known by the number of the node that gives it."""


class LayerError(WeightsError):
    """A layer computes what no record of the plan says."""


ENLARGES = (
    "enlarges maps, as a feature pyramid or a net for segmentation does, and such a net is not "
    "read from a graph; save its state dict, and name the net with it"
)
"""Of a layer, what a `LayerError` says."""


class _Node(Protocol):
    @property
    def sources(self) -> tuple[Tensor, ...]: ...


N = TypeVar("N", bound=_Node)


@dataclass
class Walk(Generic[N]):
    """From a tensor to the output. What a node computes is for a format to say."""

    nodes: Sequence[N]
    consumers: Mapping[Tensor, tuple[Tensor, ...]]
    output: Tensor
    channels: int
    """That enter what comes next."""
    levels: frozenset[Tensor] = frozenset()
    """Outputs before the last one."""

    @abstractmethod
    def entered(self, at: Tensor) -> Iterable[Part]:
        """What a node with one source is that no fork's way goes through."""

    @abstractmethod
    def steps(self, at: Tensor) -> Iterable[Step]:
        """The layers that a node with one source is.

        Raises:
            LayerError: if a plan has no such layers.
        """

    @abstractmethod
    def joined(self, end: N, ways: Mapping[Tensor, list[Step]]) -> Part:
        """Two ways from one tensor by their last tensors, and what joins them.

        Raises:
            LayerError: if a plan does not join them so.
        """

    def parts(self, tensor: Tensor) -> Iterator[Part]:
        """The chains and forks from a tensor on."""
        while tensor != self.output:
            if tensor in self.levels:
                yield Step(Output(""), self._named(tensor))
            users = self._users(tensor)
            if len(users) == 1:
                tensor = users[0]
                yield from self.entered(tensor)
                continue
            if len(users) > 2:
                names = ", ".join(str(self.nodes[n]) for n in users[:3])
                raise LayerError(
                    f"{self._named(tensor)} enters {len(users)} layers, among them {names}"
                )
            fork, tensor = self._fork(tensor, users)
            yield fork

    def _users(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return self.consumers.get(tensor, ())

    def _named(self, tensor: Tensor) -> str:
        return str(self.nodes[tensor]) if tensor else "the input"

    def _fork(self, tensor: Tensor, users: tuple[Tensor, ...]) -> tuple[Part, Tensor]:
        """The two ways from a tensor to where they meet, and that node."""
        entering = self.channels
        ways: list[tuple[Tensor, list[Step]]] = []
        ends: list[Tensor] = []
        for first in users:
            self.channels = entering
            steps: list[Step] = []
            at, before = first, tensor
            while len(self.nodes[at].sources) == 1:
                steps += self.steps(at)
                onward = self._users(at)
                if len(onward) != 1:
                    raise LayerError(
                        f"{self.nodes[at]} enters {len(onward)} layers, where a branch of a "
                        f"block enters the next one alone"
                    )
                before, (at,) = at, onward
            ways.append((before, steps))
            ends.append(at)
        end = self.nodes[ends[0]]
        if ends[0] != ends[1] or len(end.sources) != 2:
            raise LayerError(f"the ways from {self._named(tensor)} do not meet in one sum")
        if sorted(end.sources) != sorted(before for before, _ in ways):
            raise LayerError(f"{end} joins other tensors than those of one block")
        # Both may be empty: a tensor that is added to itself.
        if ways[0][0] == ways[1][0]:
            return Fork((), ()), ends[0]
        return self.joined(end, dict(ways)), ends[0]


def summed(ways: Mapping[Tensor, list[Step]]) -> Fork:
    """Two ways that are added up: the branch is the one with more convolutions, or else with more
    layers.
    """
    a, b = ways.values()
    branch, shortcut = (a, b) if _work(a) >= _work(b) else (b, a)
    return Fork(tuple(branch), tuple(shortcut))


def _work(steps: list[Step]) -> tuple[int, int]:
    return sum(isinstance(step.layer, plan.Conv) for step in steps), len(steps)


def final_activation(parts: Sequence[Part]) -> Step | None:
    """What makes probabilities of the logits, at the very end."""
    end = parts[-1] if len(parts) > 1 else None
    if isinstance(end, Step) and isinstance(end.layer, plan.Activation):
        # The classifier of a net with pre-activation may be flattened yet.
        flat = isinstance(parts[-2], Step) and isinstance(parts[-2].layer, plan.Flatten)
        before = parts[-3 if flat and len(parts) > 2 else -2]
        dense = isinstance(before, Step) and isinstance(before.layer, plan.Dense | plan.Conv)
        if dense and end.layer.function in ("softmax", "sigmoid"):
            return end
    return None


def require_same(found: Sequence[Event], expected: Sequence[Event], nearest: str) -> None:
    """Hold a file's graph against a net, `nearest` in words.

    Raises:
        LayerError: naming the first layer that is another.
    """
    at = first_difference(found, expected)
    if at is None:
        return
    theirs = f"has {_told(expected[at])} there" if at < len(expected) else "ends before it"
    if at >= len(found):
        raise LayerError(f"it ends where {nearest} has {_told(expected[at])}")
    step = found[at].step
    if step is not None:
        who = f"{step.owner} computes"
    else:
        last = next((e.step for e in found[at::-1] if e.step is not None), None)
        who = "it has" if last is None else f"after {last.owner} it has"
    raise LayerError(f"{who} {_told(found[at])}, and {nearest} {theirs}")


def _told(event: Event) -> str:
    """What an event is, for a message."""
    kind, *rest = event.what
    if event.step is None:
        return {"fork": "two ways from one tensor", "shortcut": "the end of a branch"}.get(
            kind, "a sum"
        )
    details = rest[0] if len(rest) == 1 else tuple(rest)
    text = str(details).replace("name='', ", "")
    return text if text.startswith(kind) else f"{kind} {text}"
