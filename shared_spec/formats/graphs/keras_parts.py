"""The chains and forks of a Keras model's graph, with what stands before and behind the net."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from shared_spec import plan
from shared_spec.formats.graphs.events import Fork, Part, Step
from shared_spec.formats.graphs.keras_layers import SUMS, LayerError, records_of
from shared_spec.formats.graphs.keras_made import MadeModel, made_model
from shared_spec.formats.graphs.keras_model import MADE, Graph, Node, Tensor
from shared_spec.plan.layers import Layer


@dataclass
class _Walk:
    graph: Graph
    channels: int
    """That enter what comes next."""
    made: MadeModel | None = None
    """The model among the layers that the file does not list layer by layer."""

    def parts(self, tensor: Tensor) -> Iterator[Part]:
        while tensor != self.graph.output:
            users = self._users(tensor)
            if len(users) == 1:
                tensor = users[0]
                node = self.graph.nodes[tensor]
                yield from self._opened(node) if node.kind in MADE else self._steps(tensor)
                continue
            if len(users) > 2:
                names = ", ".join(str(self.graph.nodes[n]) for n in users[:3])
                raise LayerError(
                    f"{self._named(tensor)} enters {len(users)} layers, among them {names}"
                )
            fork, tensor = self._fork(tensor, users)
            yield fork

    def _opened(self, node: Node) -> tuple[Part, ...]:
        if self.made is not None:
            raise LayerError(f"{node} comes after {self.made.node}, and one of them is a whole net")
        made = made_model(node)
        if made.spec.in_channels != self.channels:
            raise LayerError(
                f"{node} takes {made.spec.in_channels} channels, and {self.channels} enter it"
            )
        self.made, self.channels = made, made.channels
        return made.parts

    def _users(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return self.graph.consumers.get(tensor, ())

    def _named(self, tensor: Tensor) -> str:
        return str(self.graph.nodes[tensor]) if tensor else "the input"

    def _fork(self, tensor: Tensor, users: tuple[Tensor, ...]) -> tuple[Part, Tensor]:
        """The two ways from a tensor to where they meet, and that node."""
        entering = self.channels
        ways: list[tuple[list[Step], int]] = []
        ends: list[Tensor] = []
        for first in users:
            self.channels = entering
            steps: list[Step] = []
            at, before = first, tensor
            while len(self.graph.nodes[at].sources) == 1:
                steps += self._steps(at)
                onward = self._users(at)
                if len(onward) != 1:
                    raise LayerError(
                        f"{self.graph.nodes[at]} enters {len(onward)} layers, where a branch of a "
                        f"block enters the next one alone"
                    )
                before, (at,) = at, onward
            ways.append((steps, before))
            ends.append(at)
        end = self.graph.nodes[ends[0]]
        if ends[0] != ends[1] or len(end.sources) != 2:
            raise LayerError(f"the ways from {self._named(tensor)} do not meet in one sum")
        if sorted(end.sources) != sorted(before for _, before in ways):
            raise LayerError(f"{end} joins other tensors than those of one block")
        (a, _), (b, _) = ways
        if end.kind in SUMS:
            branch, shortcut = (a, b) if _work(a) >= _work(b) else (b, a)
            if tuple(end.arguments) != (None, None):
                raise LayerError(f"{end} adds up other things than two tensors")
            return Fork(tuple(branch), tuple(shortcut)), ends[0]
        order = {before: steps for steps, before in ways}
        return self._pools(end, *(order[source] for source in end.sources)), ends[0]

    def _pools(self, end: Node, a: list[Step], b: list[Step]) -> Step:
        """Two global pools of one map, side by side or averaged."""
        kinds = tuple(
            getattr(steps[0].layer, "kind", "") if len(steps) == 1 else "" for steps in (a, b)
        )
        name = end.path[-1]
        flat = not any(getattr(steps[0].layer, "keep_axes", True) for steps in (a, b) if steps)
        axes = (-1, 1) if flat else (-1, 3)
        if end.kind == "Concatenate" and kinds == ("avg", "max") and end.config.get("axis") in axes:
            self.channels *= 2
            return Step(plan.GlobalPool(name, False, "catavgmax"), end)
        if end.kind == "Average" and sorted(kinds) == ["avg", "max"]:
            return Step(plan.GlobalPool(name, False, "avgmax"), end)
        raise LayerError(f"{end} joins two tensors, which no ResNet here does in this way")

    def _steps(self, at: Tensor) -> Iterator[Step]:
        node = self.graph.nodes[at]
        if len(node.sources) != 1:
            raise LayerError(f"{node} joins tensors that do not come from one fork")
        for record in records_of(node):
            yield Step(self._filled(record), node)

    def _filled(self, record: Layer) -> Layer:
        """A record with the channels that enter it."""
        entering = self.channels
        if isinstance(record, plan.Conv):
            self.channels = record.out_channels
            return replace(record, in_channels=entering)
        if isinstance(record, plan.Dense):
            self.channels = record.out_features
            return replace(record, in_features=entering)
        if isinstance(record, plan.BatchNorm | plan.GroupNorm):
            return replace(record, channels=entering)
        return record


def parts_of_graph(
    graph: Graph, start: Tensor, channels: int
) -> tuple[list[Part], MadeModel | None]:
    """What is between a tensor and the output, and the model there that is opened by what it is
    made with.

    Args:
        graph: of a Keras model.
        start: the tensor that enters the net: the input, or what preprocessing makes of it.
        channels: of that tensor.

    Raises:
        LayerError: naming the first layer that no ResNet here has, or not in this place.
    """
    walk = _Walk(graph, channels)
    return list(walk.parts(start)), walk.made


def _work(steps: list[Step]) -> tuple[int, int]:
    """Of two ways, the branch is the one with more convolutions, or else with more layers."""
    return sum(isinstance(step.layer, plan.Conv) for step in steps), len(steps)
