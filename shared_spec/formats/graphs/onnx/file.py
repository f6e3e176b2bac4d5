"""ONNX files: the graph accounted for from its input to its output, whoever has written it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest

from shared_spec import plan
from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import ResNetError, SpecError, WeightsError, some
from shared_spec.formats.containers.onnx import GRAPH, OnnxGraph
from shared_spec.formats.containers.source import Source, parse_json
from shared_spec.formats.graphs.events import (
    Event,
    Part,
    Step,
    events_of,
    first_difference,
    parts_of,
)
from shared_spec.formats.graphs.infer import classes_of, spec_from_parts
from shared_spec.formats.graphs.keras_preprocessing import PixelArithmetic
from shared_spec.formats.graphs.onnx.graph import units_of
from shared_spec.formats.graphs.onnx.inference import (
    STANDARDISED,
    convs_of,
    form_notes,
    forms_of,
    has_gains,
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
from shared_spec.formats.graphs.onnx.rewritten.exact import read_written
from shared_spec.formats.graphs.walk import LayerError, final_activation, require_same
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.network import Plan
from shared_spec.plan.parameters import parameters_of
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import METADATA_KEY, Checkpoint, OwnGraph
from shared_spec.weights.folding import unfolded_entries
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
    except (LayerError, SpecError) as error:
        other = f"; and {error}" if text is not None else ""
    try:
        return _Match(source, known).checkpoint(spec)
    except (LayerError, SpecError) as error:
        raise WeightsError(f"{where}: {error}{other}") from None


@dataclass(frozen=True)
class _Net:
    """A net beside a file."""

    spec: ResNetSpec
    plan: Plan
    """Its own, or its form for inference."""
    found: tuple[Event, ...]
    """The file's."""
    expected: tuple[Event, ...]
    """The plan's."""
    wanted: ResNetSpec | None
    """What was asked for, if anybody did."""
    guessed: bool = False
    """Whether pools are taken for those of TensorFlow's rule."""
    name: str = ""
    """What the catalogue calls it, if only that says which net it is."""
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the file is of that net."""
        return first_difference(self.found, self.expected) is None

    @property
    def rounded(self) -> bool:
        """Whether arrays are computed of the file's, and rounded."""
        return self.plan.trained is not None and has_gains(self.plan.trained)


def _candidates(wanted: ResNetSpec | None, source: Source) -> Iterator[tuple[str, ResNetSpec]]:
    """The net that was asked for, or those of the catalogue, by name, that have as many kernels."""
    if wanted is not None:
        yield "", wanted
        return
    arrays, count = source.tensors.entries, 0
    for node in source.metadata[GRAPH].nodes:
        along = node.operator == "Conv" and len(node.inputs) > 1 and node.inputs[1] in arrays
        count += node.operator == "Conv" and not (along and len(arrays[node.inputs[1]].shape) == 3)
    for name, entry in CATALOGUE.items():
        if _kernels(entry.spec) == count:
            yield name, entry.spec


@lru_cache(1024)
def _kernels(spec: ResNetSpec) -> int:
    shapes = [q.shape for q in compile_plan(spec).parameters() if q.role != "conv_gain"]
    return sum(len(shape) == 4 for shape in shapes)


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
        bare = parts[:-1] if activation is not None else parts
        parts, self.standardised = with_kernels(bare)
        parts, unfolded = with_norms(parts)
        self.folded = self.joined.folded + unfolded
        parts = with_biases(parts)
        net = self._net(parts, bare, given)
        weights = self._weights(net)
        spec = net.spec
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
            rounded=self.joined.rounded or net.rounded,
        )
        return Checkpoint(
            LazyArrays(weights),
            spec,
            prepare or known.preprocessing,
            known.labels,
            "onnx, the graph of its operators",
            tuple(self._notes(pixels, activation, net)),
            own,
            self.source.kind,
        )

    def _inferred(self, parts: list[Part]) -> ResNetSpec:
        size = self.graph.first.known
        return spec_from_parts(parts, size[0] if size and size[0] == size[1] else None)

    def _net(self, parts: list[Part], bare: list[Part], given: ResNetSpec | None) -> _Net:
        """The net that a file is of: the one that was asked for, or that of its record, or else one
        that is inferred or of the catalogue.

        Args:
            parts: with norms in the place of those that were folded.
            bare: as they are in the file.
            given: what was asked for.

        Raises:
            LayerError: if its layers are none of these.
        """
        wanted, found = given or self.known.spec, events_of(parts)
        nearest = "the nearest ResNet"
        if wanted is not None:
            nearest = "the model that was named" if given else "the net of the file's own record"
        failed = ""
        try:
            spec = self._inferred(parts) if wanted is None else self._fitted(parts, wanted)
        except (ResNetError, ValueError) as error:
            if wanted is not None:
                raise
            failed = str(error)
        else:
            net = self._beside((spec, compile_plan(spec)), found, wanted)
            if net.fits:
                self.standardised += wanted is not None and spec.standardize != wanted.standardize
                return net
        raw = events_of(bare)
        for name, one in _candidates(wanted, self.source):
            with suppress(SpecError):
                if wanted is None:
                    fitted = self._fitted(parts, one)
                    net = self._beside((fitted, compile_plan(fitted)), found, wanted)
                    if net.fits:
                        self.standardised += fitted.standardize != one.standardize
                        return replace(net, name=name)
                asked = one.override(
                    in_channels=self.graph.first.channels, num_classes=classes_of(bare)
                )
                for form in forms_of(asked):
                    net = self._beside(form, raw, wanted)
                    if net.fits:
                        self.folded = self.standardised = 0
                        return replace(net, name=name, notes=tuple(form_notes(asked, *form)))
        if failed:
            raise LayerError(f"its layers are no ResNet's: {failed}")
        net = self._beside((spec, compile_plan(spec)), found, wanted)
        require_same(net.found, net.expected, nearest)
        raise AssertionError("the rows are equal")

    def _beside(
        self, form: tuple[ResNetSpec, Plan], found: list[Event], wanted: ResNetSpec | None
    ) -> _Net:
        expected = events_of(parts_of(form[1]))
        sized = [*self._at_its_size(found, expected)]
        return _Net(*form, tuple(sized), tuple(expected), wanted, sized != found)

    def _fitted(self, parts: list[Part], wanted: ResNetSpec) -> ResNetSpec:
        """A spec with what a file may have otherwise: channels, classes, and, in a form for
        inference, the eps of norms, biases, and standardised kernels.
        """
        eps = {s.layer.eps for s in steps_of(parts) if isinstance(s.layer, plan.BatchNorm)}
        changed: dict[str, object] = {}
        if self.folded and len(eps) == 1:
            inner = steps_of(parts[: head_of(parts)])
            bare = any("bias" in s.owner.arrays for s in inner if isinstance(s.layer, plan.Conv))
            changed = {"norm_eps": eps.pop(), "conv_bias": "without_norm" if bare else False}
        whole = all(conv.standardize_eps is None for conv in convs_of(parts))
        if wanted.standardize is not None and whole:
            changed["standardize"] = None
        return wanted.override(
            in_channels=self.graph.first.channels, num_classes=classes_of(parts), **changed
        )

    def _at_its_size(self, found: Sequence[Event], expected: Sequence[Event]) -> Iterator[Event]:
        """Events; pools that fill the model's own size as those of the rule for all sizes, where
        that is expected.
        """
        for theirs, ours in zip_longest(found, expected[: len(found)]):
            layer, step = theirs.what[-1], theirs.step
            if isinstance(layer, plan.AvgPool) and step is not None:
                same = (theirs.what[0], replace(layer, padding="same"))
                if ours and ours.what == same and step.layer.name in self.graph.exact:
                    theirs = Event(same, step)
            yield theirs

    def _weights(self, net: _Net) -> dict[str, LazyArray]:
        """Canonical arrays from the nodes of the layers that they belong to."""
        weights: dict[str, LazyArray] = {}
        for theirs, ours in zip(net.found, net.expected, strict=True):
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
        return weights if net.plan.trained is None else unfolded_entries(net.plan, weights)

    def _notes(self, pixels: PixelArithmetic, activation: Step | None, net: _Net) -> Iterator[str]:
        spec, inferred = net.spec, net.wanted is None
        if net.name:
            yield f"its layers are those of {net.name} in the catalogue"
        yield from net.notes
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
        if not self.folded and net.plan.trained is None and inferred and spec.norm == "batch":
            yield (
                f"the file does not say the momentum of its norms; {spec.norm_momentum:g} is taken"
            )
        if inferred and spec.layer_scale is not None:
            start = f"{spec.layer_scale:g}"
            yield f"the file does not say from what its LayerScales started; {start} is taken"
        if self.graph.guessed or net.guessed:
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
