"""Files that were written here: the graph held against the one that the writer makes of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shared_spec.errors import ResNetError
from shared_spec.export_formats import IMAGES, PIXELS, Form, outer_dtype
from shared_spec.formats.containers.onnx import GRAPH, OnnxGraph, OnnxNode, node_of
from shared_spec.formats.containers.source import Source
from shared_spec.formats.graphs.onnx.inference import form_notes, forms_of, has_gains, left_out
from shared_spec.formats.graphs.walk import LayerError
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint, OwnGraph
from shared_spec.weights.folding import unfolded_entries
from shared_spec.weights.lazy_array import LazyArray, LazyArrays

_NOTHING = LazyArray.refused("is no array")
_FLOATS = ("float64", "float32", "float16", "bfloat16")


def read_written(source: Source, spec: ResNetSpec, known: Checkpoint) -> Checkpoint:
    """The net in a file whose graph is, node by node, the one that `resnet_onnx` writes of it.
    Names of tensors, the order of nodes that do not need one another, and nodes on which no output
    depends do not count.

    Args:
        source: as `open_onnx` opens it.
        spec: the net, apart from channels and classes.
        known: what the file says of itself.

    Raises:
        LayerError: naming the first node that is another.
    """
    file = File(source, known)
    try:
        asked = file.named(spec)
        found = [(*form, file.beside(form[1])) for form in forms_of(asked)]
    except ResNetError as error:
        raise LayerError(str(error)) from None
    spec, p, match = max(found, key=lambda form: len(form[2].names))
    if match.others:
        where = file.first(match.others) or "its output"
        raise LayerError(f"{where} is not what is written here of the net that it is said to be")
    return file.checkpoint(p, match.names, spec, tuple(form_notes(asked, spec, p)))


@dataclass(frozen=True)
class _Match:
    """A graph that is written here, beside a file's."""

    names: Mapping[str, str]
    """The file's tensors by ours."""
    others: frozenset[str]
    """The file's tensors that are not ours, where those that are made of them may be."""


class File:
    """A file's graph, and what it takes and gives."""

    def __init__(self, source: Source, known: Checkpoint) -> None:
        self.source, self.known = source, known
        self.graph: OnnxGraph = source.metadata[GRAPH]
        self.arrays: dict[str, LazyArray] = {**source.tensors.entries}
        self.makers = {name: node for node in self.graph.nodes for name in node.outputs}
        made = {"", self.graph.input, *self.arrays}
        for node in self.graph.nodes:
            if not made.issuperset(node.inputs):
                raise LayerError(f"{node} takes what no node before it gives")
            made.update(node.outputs)
        floats = [x for x in self.arrays.values() if x.dtype.name in _FLOATS]
        largest = max(floats, key=lambda x: x.nbytes, default=None)
        self.dtype = "float32" if largest is None else largest.dtype.name
        self.pixels = self.graph.dtype.kind == "u"
        rows = 1 if self.pixels else 2
        if len(self.graph.shape) != 4:
            raise LayerError(f"its input has {len(self.graph.shape)} axes, expected 4")
        height, width = self.graph.shape[rows : rows + 2]
        self.size = None if height is None or width is None else (height, width)
        end = self._end("Cast")
        softmax = end is not None and end.operator == "Softmax"
        self.form = Form(
            self.graph.opset,
            size=self.size,
            preprocessing=self.pixels,
            head="softmax" if softmax else "logits",
        )

    def _end(self, *through: str) -> OnnxNode | None:
        """What gives the last output, before operators of these kinds."""
        node = self.makers.get(self.graph.outputs[-1])
        while node is not None and node.operator in through:
            node = self.makers.get(node.inputs[0])
        return node

    def named(self, spec: ResNetSpec) -> ResNetSpec:
        """A spec with the file's channels and classes."""
        channels = self.graph.shape[3 if self.pixels else 1]
        if channels is None:
            raise LayerError("its input does not say how many channels images have")
        changed: dict[str, Any] = {"in_channels": channels}
        end = self._end("Cast", "Softmax", "Flatten")
        weight = self.arrays.get(end.inputs[1]) if end and len(end.inputs) > 1 else None
        if spec.num_classes and weight is not None and weight.shape:
            changed["num_classes"] = weight.shape[0]
        return spec.override(**changed)

    def beside(self, p: Plan) -> _Match:
        """The graph that is written of a plan, from its outputs backwards."""
        from resnet_onnx.file import graph_of

        prepare = self.known.preprocessing if self.pixels else None
        ours, outputs = graph_of(p, self.dtype, self.form, prepare)
        entry, kind = (PIXELS, "uint8") if self.pixels else (IMAGES, outer_dtype(self.dtype))
        if self.graph.dtype.name != kind or len(outputs) != len(self.graph.outputs):
            raise LayerError("it takes or gives something else than what is written here")
        nodes = {x.output[0]: node_of(self.source.path, x, self.graph.opset) for x in ours.nodes}
        constants = ours.constants
        shapes = {q.name: q.shape for q in p.parameters()}
        names: dict[str, str] = {}
        others: set[str] = set()
        waiting = [*zip(outputs, self.graph.outputs, strict=True)]
        seen = {*waiting}
        while waiting:
            mine, theirs = waiting.pop()
            if mine in nodes:
                inside = _entering(nodes[mine], self.makers.get(theirs))
                new = [pair for pair in inside or () if pair not in seen]
                seen.update(new)
                waiting += new
                same = inside is not None
            elif mine == entry:
                same = theirs == self.graph.input
            else:
                array = self.arrays.get(theirs, _NOTHING)
                if mine in constants:
                    same = _same(constants[mine], array)
                else:
                    # A number by itself may be written as a row of one.
                    fits = array.shape in (shapes[mine], shapes[mine] or (1,))
                    same = fits and array.dtype.name == self.dtype
            # Of a number there may be several copies.
            if not same or (names.setdefault(mine, theirs) != theirs and mine not in constants):
                others.add(theirs)
        return _Match(names, frozenset(others))

    def first(self, others: frozenset[str]) -> OnnxNode | None:
        """The first node that gives or takes one of these tensors; None if they are outputs that no
        node gives.
        """
        nodes = (x for x in self.graph.nodes if not others.isdisjoint((*x.inputs, *x.outputs)))
        return next(nodes, None)

    def checkpoint(
        self, p: Plan, names: Mapping[str, str], spec: ResNetSpec, notes: tuple[str, ...]
    ) -> Checkpoint:
        """What the arrays of a file are whose graph is that of a plan."""
        from resnet_onnx.file import arrays_of

        entries = {q.name: self.arrays[names[q.name]].reshaped(q.shape) for q in p.parameters()}
        entries = arrays_of(p.layers(), entries, self.dtype)
        if p.trained is not None:
            entries = unfolded_entries(p, entries)
        if self.form.head == "softmax":
            notes += (left_out("softmax", self._end("Cast")),)
        if self.pixels:
            notes += ("its arithmetic on pixels from 0 to 255 became preprocessing",)
        if self.pixels and p.outputs:
            raise LayerError("its images and its maps have their axes in different orders")
        own = OwnGraph(
            self.size,
            self.pixels,
            self.form.head == "softmax",
            channels_first=not self.pixels,
            rounded=p.trained is not None and has_gains(p.trained),
        )
        return replace(
            self.known,
            state=LazyArrays(entries),
            spec=spec,
            origin="onnx, the graph that is written here of its net",
            notes=notes,
            own_graph=own,
            kind=self.source.kind,
        )


def _entering(mine: OnnxNode, theirs: OnnxNode | None) -> list[tuple[str, str]] | None:
    """The tensors that enter two nodes which compute the same of them; None if they do not."""
    if theirs is None or (mine.operator, mine.attributes) != (theirs.operator, theirs.attributes):
        return None
    if [*map(bool, mine.inputs)] != [*map(bool, theirs.inputs)] or len(theirs.outputs) != 1:
        return None
    return [pair for pair in zip(mine.inputs, theirs.inputs, strict=True) if pair[0]]


def _same(mine: np.ndarray, theirs: LazyArray) -> bool:
    """Whether an array is the same one, bit for bit."""
    if (theirs.shape, theirs.dtype.name) != (mine.shape, mine.dtype.name):
        return False
    return theirs.array().tobytes() == np.ascontiguousarray(mine).tobytes()
