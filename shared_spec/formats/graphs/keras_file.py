"""Files that hold a Keras model's graph: accounted for from its input to its output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile

from shared_spec import plan
from shared_spec.errors import ResNetError, SpecError, WeightsError, some
from shared_spec.formats.containers.source import Source, shown
from shared_spec.formats.dialects.dialect import Place
from shared_spec.formats.dialects.keras_applications import keras_place
from shared_spec.formats.dialects.keras_hub import KERAS_HUB
from shared_spec.formats.graphs.events import Event, Part, Step, events_of, parts_of
from shared_spec.formats.graphs.infer import spec_from_parts
from shared_spec.formats.graphs.keras_layers import is_training_only, precision
from shared_spec.formats.graphs.keras_made import MadeModel, Member
from shared_spec.formats.graphs.keras_model import BROKEN, Graph, Node, graph_of
from shared_spec.formats.graphs.keras_parts import parts_of_graph
from shared_spec.formats.graphs.keras_preprocessing import PixelArithmetic, arithmetic_of
from shared_spec.formats.graphs.walk import LayerError, final_activation, require_same
from shared_spec.formats.keras_config import extras_in, is_keras_model, is_ours_with_layers
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.layers import Parameter
from shared_spec.plan.parameters import parameters_of
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint, OwnGraph
from shared_spec.weights.layouts import KERAS
from shared_spec.weights.lazy_array import LazyArray, LazyArrays
from shared_spec.weights.preprocessing import Preprocessing


def has_graph(source: Source) -> bool:
    """Whether a file holds the graph of a Keras model, other than one of ours alone, which has its
    spec instead.
    """
    return (
        source.kind in ("keras2", "keras3")
        and not source.path.is_dir()
        and "class_name" in source.metadata
        and not is_keras_model(source.metadata)
    )


def read_graph(source: Source, spec: ResNetSpec | None = None) -> Checkpoint:
    """The net in a Keras model, all of whose layers are those of its spec.

    Args:
        source: a file that `has_graph`.
        spec: the net that it has to be, apart from channels and classes; without, it is inferred.

    Raises:
        WeightsError: naming the first layer that no spec, and no preprocessing, can express.
    """
    where = source.path
    graph = graph_of(source.metadata, where)
    try:
        return _Match(source, graph).checkpoint(spec)
    except (LayerError, SpecError) as error:
        raise WeightsError(f"{where}: {error}") from None
    except ResNetError:
        raise
    except BROKEN as error:
        raise WeightsError(
            f"{where}: the configuration of its model is not one that Keras writes "
            f"({type(error).__name__})"
        ) from None


@dataclass
class _Match:
    source: Source
    graph: Graph

    def checkpoint(self, given: ResNetSpec | None) -> Checkpoint:
        arrays = self.source.tensors.entries
        channels = self._channels()
        pixels = arithmetic_of(self.graph, channels, arrays)
        parts, made = parts_of_graph(self.graph, pixels.end, channels)
        activation = final_activation(parts)
        if activation is not None:
            parts = parts[:-1]
        averaged = _ends_in_normalised_maps(parts)
        if averaged:
            parts = [*parts, Step(plan.GlobalPool("pool"))]
        found = events_of(parts)
        spec = self._spec(parts, made, given)
        expected = events_of(parts_of(compile_plan(spec)))
        require_same(
            found, expected, "the nearest ResNet" if given is None else "the model that was named"
        )
        weights, used = self._weights(found, expected)
        prepare = pixels.preprocessing(spec.image_size)
        notes = [*self._notes(pixels, activation, used), *_momenta(found, spec)]
        origin = f"{self.source.kind}, the graph in its configuration"
        height, width, _ = self.graph.image_shape
        size = None if height is None or width is None else (height, width)
        library = None if made is None else made.node.kind.partition(">")[0]
        own = OwnGraph(size, prepare is not None, activation is not None, averaged, library)
        if averaged:
            notes.append("it gives maps; the model here gives their means over rows and columns")
        labels = None
        if is_ours_with_layers(self.source.metadata):
            told = extras_in(self.source.metadata["config"], spec, "its configuration")
            # Of what enters the model; layers in front of the net say it of the net.
            prepare, labels = prepare or told.preprocessing, told.labels
        if made is not None and made.node.config.get("preprocessor"):
            theirs, note = self._preprocessor(made, spec)
            prepare, notes = prepare or theirs, [*notes, *note]
        return Checkpoint(
            LazyArrays(weights),
            spec,
            prepare,
            labels,
            origin,
            tuple(notes),
            own,
            self.source.kind,
        )

    def _channels(self) -> int:
        """Of an image: as the model says, or as its first kernel does."""
        shape = self.graph.image_shape
        if len(shape) == 3 and shape[2] is not None:
            return shape[2]
        raise LayerError("its input does not say how many channels images have")

    def _spec(
        self, parts: list[Part], made: MadeModel | None, given: ResNetSpec | None
    ) -> ResNetSpec:
        height, width, channels = self.graph.image_shape
        inferred: ResNetSpec | None = None
        try:
            known = None if made is None else made.spec
            inferred = spec_from_parts(parts, height if height == width else None, known)
        except (ResNetError, ValueError) as error:
            if given is None:
                raise LayerError(f"its layers are no ResNet's: {error}") from None
        if given is None:
            assert inferred is not None
            return inferred
        classes = given.num_classes if inferred is None else inferred.num_classes
        return given.override(in_channels=channels, num_classes=classes)

    def _weights(
        self, found: list[Event], expected: list[Event]
    ) -> tuple[dict[str, LazyArray], set[str]]:
        """Canonical arrays from the places of the layers that they belong to."""
        arrays, legacy = self.source.tensors.entries, self.source.kind == "keras2"
        weights: dict[str, LazyArray] = {}
        used: set[str] = set()
        for theirs, ours in zip(found, expected, strict=True):
            if theirs.step is None or ours.step is None:
                continue
            theirs_of = parameters_of(theirs.step.layer)
            for their, q in zip(theirs_of, parameters_of(ours.step.layer), strict=True):
                place = _place(theirs.step.owner, their, q, legacy)
                if place.name not in arrays:
                    raise LayerError(
                        f"{theirs.step.owner} has no array {shown(place.name)} in the file"
                    )
                weights[q.name] = place.to_canonical(arrays[place.name], q)
                used.add(place.name)
        return weights, used

    def _preprocessor(
        self, made: MadeModel, spec: ResNetSpec
    ) -> tuple[Preprocessing | None, list[str]]:
        """What a task of KerasHub does to images when it is not called by another model."""
        told = f"left out: the preprocessor of {made.node}"
        if made.node.path:
            return None, [f"{told}, which Keras does not apply in another model"]
        found, _ = KERAS_HUB.extras(self.source, spec)
        return found, [] if found else [f"{told}, which preprocessing cannot express"]

    def _notes(self, pixels: PixelArithmetic, activation: Step | None, used: set[str]) -> list[str]:
        notes = []
        arithmetic = [str(node) for node in pixels.nodes]
        if arithmetic:
            notes.append(f"became preprocessing, of pixels from 0 to 255: {some(arithmetic)}")
        nodes = [self.graph.nodes[n] for n in sorted(self.graph.used)]
        idle = [
            str(n) for n in nodes if is_training_only(n) and n.kind not in ("Identity", "Dropout")
        ]
        if idle:
            notes.append(f"left out, as they act in training alone: {some(idle)}")
        if activation is not None:
            assert isinstance(activation.layer, plan.Activation)
            notes.append(
                f"left out: the {activation.layer.function} of {activation.owner}; the model here "
                f"gives the logits before it"
            )
        narrow = sorted({precision(n) for n in nodes if n.path} - {"float32", "float64", "None"})
        if narrow:
            notes.append(
                f"layers of the file compute in {', '.join(narrow)}; its weights are taken"
            )
        rest = [name for name in self.source.tensors.entries if name not in used]
        if rest:
            notes.append(f"arrays that the net does not have: {some(rest)}")
        return notes


def _place(owner: Node | Member, theirs: Parameter, ours: Parameter, legacy: bool) -> Place:
    """Where a layer's array is; in legacy files by the outermost model and the layer."""
    if isinstance(owner, Member):
        return owner.place(theirs, legacy)
    path = owner.path
    layer = "/".join(dict.fromkeys((path[0], path[-1])) if legacy else path)
    # A classifier that is dense here may be a 1x1 convolution there, and the other way round.
    dense = theirs.role == "dense_kernel"
    return replace(keras_place(layer, ours, legacy), slot=KERAS[theirs.role], dense=dense)


def _ends_in_normalised_maps(parts: list[Part]) -> bool:
    """Whether it is the body of a net with pre-activation, whose maps no spec gives, but means."""
    after = list(takewhile(lambda part: isinstance(part, Step), reversed(parts)))
    layers = [part.layer for part in after if isinstance(part, Step)]
    normed = any(isinstance(layer, plan.BatchNorm | plan.GroupNorm) for layer in layers)
    return normed and not any(isinstance(layer, plan.GlobalPool) for layer in layers)


def _momenta(found: list[Event], spec: ResNetSpec) -> list[str]:
    layers = [e.step.layer for e in found if e.step is not None]
    momenta = {layer.momentum for layer in layers if isinstance(layer, plan.BatchNorm)}
    if len(momenta) < 2:
        return []
    return [f"its norms differ in momentum; {spec.norm_momentum:g}, of the first, is taken for all"]
