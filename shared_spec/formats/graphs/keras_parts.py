"""The chains and forks of a Keras model's graph, with what stands before and behind the net."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from shared_spec import plan
from shared_spec.formats.graphs.events import Part, Step
from shared_spec.formats.graphs.keras_layers import SUMS, records_of
from shared_spec.formats.graphs.keras_made import MadeModel, made_model
from shared_spec.formats.graphs.keras_model import MADE, Graph, Node
from shared_spec.formats.graphs.walk import LayerError, Tensor, Walk, summed
from shared_spec.plan.layers import Layer


@dataclass
class _Walk(Walk[Node]):
    made: MadeModel | None = None
    """The model among the layers that the file does not list layer by layer."""

    def entered(self, at: Tensor) -> Iterable[Part]:
        """See `Walk`; here a whole net may be one node."""
        node = self.nodes[at]
        return self._opened(node) if node.kind in MADE else self.steps(at)

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

    def joined(self, end: Node, ways: Mapping[Tensor, list[Step]]) -> Part:
        """See `Walk`."""
        if end.kind in SUMS:
            if tuple(end.arguments) != (None, None):
                raise LayerError(f"{end} adds up other things than two tensors")
            return summed(ways)
        return self._pools(end, *(ways[source] for source in end.sources))

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

    def steps(self, at: Tensor) -> Iterator[Step]:
        """See `Walk`."""
        node = self.nodes[at]
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
    walk = _Walk(graph.nodes, graph.consumers, graph.output, channels)
    return list(walk.parts(start)), walk.made
