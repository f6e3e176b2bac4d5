"""ONNX files: the graph accounted for from its input to its output, whoever has written it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from shared_spec import plan
from shared_spec.errors import ResNetError, SpecError, WeightsError, some
from shared_spec.formats.containers.onnx import GRAPH, OnnxGraph
from shared_spec.formats.containers.source import Source, parse_json
from shared_spec.formats.graphs.events import Event, Part, Step, events_of, parts_of
from shared_spec.formats.graphs.infer import spec_from_parts
from shared_spec.formats.graphs.keras_preprocessing import PixelArithmetic
from shared_spec.formats.graphs.onnx.graph import units_of
from shared_spec.formats.graphs.onnx.inference import (
    STANDARDISED,
    convs_of,
    head_of,
    left_out,
    steps_of,
    unfolded_note,
    with_biases,
    with_kernels,
    with_norms,
)
from shared_spec.formats.graphs.onnx.joined import Joined
from shared_spec.formats.graphs.onnx.pixels import exact, pixels_of
from shared_spec.formats.graphs.onnx.written import read_written
from shared_spec.formats.graphs.walk import LayerError, final_activation, require_same
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.parameters import parameters_of
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import METADATA_KEY, Checkpoint, OwnGraph
from shared_spec.weights.lazy_array import LazyArray, LazyArrays

_CHANNELS = 65_536
"""Of images, as of a spec."""
_NARROW = (10, 16)
"""float16 and bfloat16, by ONNX's numbers."""


def read_onnx(source: Source, spec: ResNetSpec | None = None) -> Checkpoint:
    """The net in an ONNX file, all of whose nodes are those of its spec.

    Args:
        source: as `open_onnx` opens it.
        spec: the net that it has to be, apart from channels and classes; without, it is that of the
            file's own record, or else inferred.

    Raises:
        WeightsError: naming the first node that no spec, and no preprocessing, can express.
    """
    where, text = source.path, source.metadata.get(METADATA_KEY)
    record = None if text is None else parse_json(text, f"{where}: its metadata")
    known = Checkpoint.from_metadata({}, record, f"{where}: its metadata")
    wanted, other = spec or known.spec, ""
    try:
        if wanted is not None:
            return read_written(source, wanted, known)
    except LayerError as error:
        other = f"; and {error}" if text is not None else ""
    try:
        return _Match(source, known).checkpoint(spec)
    except (LayerError, SpecError) as error:
        raise WeightsError(f"{where}: {error}{other}") from None


class _Match:
    def __init__(self, source: Source, known: Checkpoint) -> None:
        self.source, self.known = source, known
        self.told: OnnxGraph = source.metadata[GRAPH]
        self.graph = units_of(self.told, source.tensors.entries)
        # Of files that were written here, the judge knows the numbers before they were rounded.
        rounded = self.graph.rounded and METADATA_KEY not in source.metadata
        self.joined = Joined(self.graph, rounded)
        self.folded = 0
        self.standardised = 0
        self.guessed = self.graph.guessed

    def checkpoint(self, given: ResNetSpec | None) -> Checkpoint:
        known = self.known
        first, size = self.graph.first, self.graph.first.known
        if first.channels is None:
            raise LayerError("its input does not say how many channels images have")
        if first.channels > _CHANNELS:
            raise LayerError(f"its images have more than {_CHANNELS:,} channels")
        pixels = pixels_of(self.graph, first.channels, self.told.dtype.kind != "f")
        parts = self.joined.parts(pixels.end)
        activation = final_activation(parts)
        parts = parts[:-1] if activation is not None else parts
        parts, self.standardised = with_kernels(parts)
        parts, unfolded = with_norms(parts)
        self.folded = self.joined.folded + unfolded
        parts = with_biases(parts)
        found = events_of(parts)
        wanted = given or known.spec
        spec = self._spec(parts, wanted)
        expected = events_of(parts_of(compile_plan(spec)))
        for i, (theirs, ours) in enumerate(zip(found, expected, strict=False)):
            found[i] = self._at_its_size(theirs, ours)
        nearest = "the nearest ResNet" if wanted is None else "the model that was named"
        if wanted is not None and given is None:
            nearest = "the net of the file's own record"
        require_same(found, expected, nearest)
        weights = self._weights(found, expected)
        prepare = pixels.preprocessing(spec.image_size)
        if prepare is not None and known.preprocessing is not None:
            prepare = exact(prepare, known.preprocessing)
        maps = len(self.graph.end.axes) == 4 and not self.graph.end.pooled
        if maps and self.graph.end.axes != first.axes:
            raise LayerError("its images and its maps have their axes in different orders")
        own = OwnGraph(
            size,
            prepare is not None,
            activation is not None,
            channels_first=first.axes == "NCHW",
            rounded=self.joined.rounded,
        )
        return Checkpoint(
            LazyArrays(weights),
            spec,
            prepare or known.preprocessing,
            known.labels,
            "onnx, the graph of its operators",
            tuple(self._notes(pixels, activation, spec, wanted is None)),
            own,
            self.source.kind,
        )

    def _spec(self, parts: list[Part], wanted: ResNetSpec | None) -> ResNetSpec:
        size, channels = self.graph.first.known, self.graph.first.channels
        inferred: ResNetSpec | None = None
        try:
            side = size[0] if size is not None and size[0] == size[1] else None
            inferred = spec_from_parts(parts, side)
        except (ResNetError, ValueError) as error:
            if wanted is None:
                raise LayerError(f"its layers are no ResNet's: {error}") from None
        if wanted is None:
            assert inferred is not None
            return inferred
        classes = wanted.num_classes if inferred is None else inferred.num_classes
        eps = {s.layer.eps for s in steps_of(parts) if isinstance(s.layer, plan.BatchNorm)}
        changed: dict[str, object] = {}
        if self.folded and len(eps) == 1:
            inner = steps_of(parts[: head_of(parts)])
            bare = any("bias" in s.owner.arrays for s in inner if isinstance(s.layer, plan.Conv))
            changed = {"norm_eps": eps.pop(), "conv_bias": "without_norm" if bare else False}
        whole = all(conv.standardize_eps is None for conv in convs_of(parts))
        if wanted.standardize is not None and whole:
            self.standardised += 1
            changed["standardize"] = None
        return wanted.override(in_channels=channels, num_classes=classes, **changed)

    def _at_its_size(self, found: Event, expected: Event) -> Event:
        """An event; a pool that fills the model's own size as that of the rule for all sizes, where
        that is expected.
        """
        layer, step = found.what[-1], found.step
        if not isinstance(layer, plan.AvgPool) or step is None:
            return found
        same = (found.what[0], replace(layer, padding="same"))
        if step.layer.name not in self.graph.exact or expected.what != same:
            return found
        self.guessed = True
        return Event(same, step)

    def _weights(self, found: list[Event], expected: list[Event]) -> dict[str, LazyArray]:
        """Canonical arrays from the nodes of the layers that they belong to."""
        weights: dict[str, LazyArray] = {}
        for theirs, ours in zip(found, expected, strict=True):
            if theirs.step is None or ours.step is None:
                continue
            for q in parameters_of(ours.step.layer):
                leaf = q.name.removeprefix(f"{ours.step.layer.name}.")
                array = theirs.step.owner.arrays.get(leaf)
                if array is None:
                    raise LayerError(f"{theirs.step.owner} has no {leaf}")
                square = (*array.shape, 1, 1) == q.shape or array.shape == (*q.shape, 1, 1)
                if array.shape != q.shape and not square:
                    raise LayerError(
                        f"{theirs.step.owner} has a {leaf} of the shape {array.shape}, expected "
                        f"{q.shape}"
                    )
                weights[q.name] = array.reshaped(q.shape)
        return weights

    def _notes(
        self, pixels: PixelArithmetic, activation: Step | None, spec: ResNetSpec, inferred: bool
    ) -> Iterator[str]:
        if pixels.nodes:
            told = some([str(node) for node in pixels.nodes])
            yield f"became preprocessing, of pixels from 0 to 255: {told}"
        if activation is not None:
            assert isinstance(activation.layer, plan.Activation)
            yield left_out(activation.layer.function, activation.owner)
        if self.folded:
            yield unfolded_note(self.folded, spec.norm_eps)
        if self.standardised:
            yield STANDARDISED
        if not self.folded and inferred and spec.norm == "batch":
            yield (
                f"the file does not say the momentum of its norms; {spec.norm_momentum:g} is taken"
            )
        if inferred and spec.layer_scale is not None:
            start = f"{spec.layer_scale:g}"
            yield f"the file does not say from what its LayerScales started; {start} is taken"
        if self.guessed:
            yield (
                "its pads are those of TensorFlow's rule at its image size, and that rule is taken "
                "for all sizes"
            )
        casts = [n for n in self.told.nodes if n.operator == "Cast"]
        narrow = [str(n) for n in casts if n.attributes["to"] in _NARROW]
        if narrow and self.told.dtype.itemsize > 2:
            yield f"numbers that it rounds to 16 bits are not rounded here: {some(narrow)}"
        known = {name for node in self.told.nodes for name in node.inputs}
        rest = [name for name in self.source.tensors.entries if name not in known]
        if rest:
            yield f"arrays that the net does not have: {some(rest)}"


_NARROW = (10, 16)
"""float16 and bfloat16, by ONNX's numbers."""
