"""ONNX files: the graph accounted for from its input to its output, whoever has written it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from shared_spec import plan
from shared_spec.errors import ResNetError, SpecError, WeightsError, some
from shared_spec.formats.containers.onnx import GRAPH, OnnxGraph, OnnxNode
from shared_spec.formats.containers.source import Source, parse_json
from shared_spec.formats.graphs.events import (
    ChannelConv,
    Event,
    Fork,
    Output,
    Part,
    Step,
    events_of,
    parts_of,
)
from shared_spec.formats.graphs.infer import spec_from_parts
from shared_spec.formats.graphs.keras_preprocessing import PixelArithmetic
from shared_spec.formats.graphs.onnx_functions import KNOWN, SAMPLES
from shared_spec.formats.graphs.onnx_graph import Unit, UnitGraph, units_of
from shared_spec.formats.graphs.walk import (
    LayerError,
    Tensor,
    Walk,
    final_activation,
    require_same,
    summed,
)
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.layers import Layer
from shared_spec.plan.parameters import parameters_of
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import METADATA_KEY, Checkpoint, OwnGraph
from shared_spec.weights.lazy_array import LazyArray, LazyArrays
from shared_spec.weights.preprocessing import Preprocessing

_REGION = 64
"""Nodes of one function; a gelu has 9."""
_EVALUATED = 2**15
"""Nodes that are evaluated on the samples; ResNet-1202 with gelu has a third as many."""
_CHANNELS = 65_536
"""Of images, as of a spec."""
_NEAR = 1e-7
"""How far a function may be from one of a plan, as a share: its constants are of float32."""
_EXACT = 1e-13
_DEFINED = ("Gelu", "HardSwish", "Mish")
"""Operators that ONNX defines by others, with numbers of float32."""
_OUTSIDE = -1
"""What stands for the user of a model among units."""
_PLAIN = 1.0
"""The eps with which a norm without a variance of its own multiplies and adds alone."""
_OTHER_NORMS = (plan.GroupNorm, plan.EvoNorm, plan.FilterResponseNorm)
_NORMS = (plan.BatchNorm, *_OTHER_NORMS)


@dataclass(frozen=True)
class Owner:
    """Who has a layer: a node, and its arrays by their leaves in the plan."""

    node: OnnxNode | None
    arrays: Mapping[str, LazyArray] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.node)


def read_onnx(source: Source, spec: ResNetSpec | None = None) -> Checkpoint:
    """The net in an ONNX file, all of whose nodes are those of its spec.

    Args:
        source: as `open_onnx` opens it.
        spec: the net that it has to be, apart from channels and classes; without, it is that of the
            file's own record, or else inferred.

    Raises:
        WeightsError: naming the first node that no spec, and no preprocessing, can express.
    """
    where = source.path
    try:
        return _Match(source).checkpoint(spec)
    except (LayerError, SpecError) as error:
        raise WeightsError(f"{where}: {error}") from None


@dataclass
class _Node:
    """A unit, or several that together are a layer."""

    unit: Unit
    sources: tuple[Tensor, ...]
    steps: tuple[Step, ...] = ()
    halves: bool = False
    halved: bool = False
    """Whether the one node that follows halves it."""

    def __str__(self) -> str:
        return str(self.unit)


class _Walk(Walk[_Node]):
    def entered(self, at: Tensor) -> Iterable[Part]:
        """See `Walk`."""
        return self.steps(at)

    def steps(self, at: Tensor) -> Iterable[Step]:
        """See `Walk`."""
        node = self.nodes[at]
        if len(node.sources) != 1:
            raise LayerError(f"{node} joins tensors that do not come from one fork")
        if node.halves and not self.nodes[node.sources[0]].halved:
            raise LayerError(f"{node} halves a tensor, which no ResNet here does")
        return node.steps

    def joined(self, end: _Node, ways: Mapping[Tensor, list[Step]]) -> Part:
        """See `Walk`."""
        a, b = (ways[source] for source in end.sources)
        kinds = tuple(
            getattr(steps[0].layer, "kind", "") if len(steps) == 1 else "" for steps in (a, b)
        )
        assert end.unit.node is not None
        name, owner = end.unit.node.outputs[0], Owner(end.unit.node)
        if end.unit.operator == "Concat" and kinds == ("avg", "max"):
            return Step(plan.GlobalPool(name, False, "catavgmax"), owner)
        if end.unit.operator == "Add" and sorted(kinds) == ["avg", "max"] and end.halved:
            return Step(plan.GlobalPool(name, False, "avgmax"), owner)
        if end.unit.operator != "Add" or end.halved:
            raise LayerError(f"{end} joins two tensors, which no ResNet here does in this way")
        return summed(ways)


class _Match:
    def __init__(self, source: Source) -> None:
        self.source = source
        told: OnnxGraph = source.metadata[GRAPH]
        self.told = told
        self.graph: UnitGraph = units_of(told, source.tensors.entries)
        self.consumers = self.graph.consumers()
        # Of files that were written here, the judge knows the numbers before they were rounded.
        self.rounded = self.graph.rounded and METADATA_KEY not in source.metadata
        self.folded = 0
        self.standardised = 0
        self.evaluated = 0

    def checkpoint(self, given: ResNetSpec | None) -> Checkpoint:
        known = self._record()
        first, size = self.graph.first, self.graph.first.size
        if first.channels is None:
            raise LayerError("its input does not say how many channels images have")
        if first.channels > _CHANNELS:
            raise LayerError(f"its images have more than {_CHANNELS:,} channels")
        pixels = self._pixels(first.channels)
        nodes = self._nodes(pixels.end)
        consumers: dict[Tensor, list[Tensor]] = {}
        for number, node in enumerate(nodes):
            for source in node.sources:
                consumers.setdefault(source, []).append(number)
        uses = {number: tuple(users) for number, users in consumers.items()}
        levels = frozenset(self.graph.levels)
        walk = _Walk(nodes, uses, self.graph.output, 0, levels)
        parts = list(walk.parts(pixels.end))
        if sum(isinstance(p, Step) and isinstance(p.layer, Output) for p in parts) < len(levels):
            raise LayerError("it gives a tensor from inside a block")
        activation = final_activation(parts)
        parts = parts[:-1] if activation is not None else parts
        parts = self._with_norms(self._with_kernels(parts))
        parts = _with_biases(parts)
        found = events_of(parts)
        wanted = given or known.spec
        spec = self._spec(parts, wanted)
        expected = events_of(parts_of(compile_plan(spec)))
        nearest = "the nearest ResNet" if wanted is None else "the model that was named"
        if wanted is not None and given is None:
            nearest = "the net of the file's own record"
        require_same(found, expected, nearest)
        weights = self._weights(found, expected)
        prepare = pixels.preprocessing(spec.image_size)
        if prepare is not None and known.preprocessing is not None:
            prepare = _exact(prepare, known.preprocessing)
        maps = len(self.graph.end.axes) == 4 and not self.graph.end.pooled
        if maps and self.graph.end.axes != first.axes:
            raise LayerError("its images and its maps have their axes in different orders")
        own = OwnGraph(
            size,
            prepare is not None,
            activation is not None,
            channels_first=first.axes == "NCHW",
            rounded=self.rounded,
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

    def _record(self) -> Checkpoint:
        """What a file that was written here says of itself."""
        text, where = self.source.metadata.get(METADATA_KEY), f"{self.source.path}: its metadata"
        return Checkpoint.from_metadata(
            {}, None if text is None else parse_json(text, where), where
        )

    def _users(self, number: Tensor) -> tuple[Tensor, ...]:
        """The units that a tensor enters, and `_OUTSIDE` if it is an output too."""
        given = number in self.graph.levels
        return (*self.consumers.get(number, ()), *((_OUTSIDE,) if given else ()))

    def _pixels(self, channels: int) -> PixelArithmetic:
        """What is done to images before the first other layer."""
        order = tuple(range(channels))
        scale, offset = np.ones(channels), np.zeros(channels)
        nodes: list[object] = []
        at = 0
        while len(users := self._users(at)) == 1:
            unit = self.graph.units[users[0]]
            if unit.numbers is None or unit.operator not in _AFFINE:
                break
            if len(nodes) == _REGION:
                raise LayerError(f"{unit} is the last of more steps than any preprocessing has")
            numbers = unit.numbers.array().astype(np.float64)
            if unit.operator == "Gather":
                if sorted(numbers) != list(range(channels)):
                    raise LayerError(f"{unit} leaves channels out, or takes them twice")
                places = numbers.astype(int)
                order = tuple(order[i] for i in places)
                scale, offset = scale[places], offset[places]
            else:
                if numbers.size not in (1, channels) or not np.isfinite(numbers).all():
                    raise LayerError(f"{unit} computes with other numbers than one a channel")
                scale, offset = _affine(unit, numbers, scale, offset)
            nodes.append(unit)
            at = users[0]
        if self.told.dtype.kind != "f" and not nodes:
            raise LayerError("whole numbers enter it, and nothing is done to them")
        return PixelArithmetic(order, scale, offset, tuple(nodes), at)

    def _nodes(self, start: Tensor) -> list[_Node]:
        """Units from a tensor on, put together to layers; those that are within others are left
        without sources.
        """
        units = self.graph.units
        used = {user for users in self.consumers.values() for user in users}
        roots = self._roots(start, used)
        nodes = [_Node(unit, ()) for unit in units]
        for number, unit in enumerate(units):
            if number <= start or number not in used:
                continue
            if number in roots:
                inside = [u for u in self._users(number) if roots.get(u) == roots[number]]
                outside = len(inside) < len(self._users(number)) or number == self.graph.output
                if outside:
                    nodes[number] = self._function(number, roots)
            elif unit.layer is not None:
                step = Step(unit.layer, Owner(unit.node, unit.arrays))
                nodes[number] = _Node(unit, unit.sources, (step,))
            elif unit.numbers is None:
                nodes[number] = _Node(unit, unit.sources)
        self._join_affine(nodes, used, start)
        for number in used:
            self._join_gate(nodes, number)
        for node in nodes:
            if node.halves and len(self._users(node.sources[0])) == 1:
                nodes[node.sources[0]].halved = len(nodes[node.sources[0]].sources) == 2
        return nodes

    def _roots(self, start: Tensor, used: set[Tensor]) -> dict[Tensor, Tensor]:
        """Of each unit that computes a function of one tensor, number by number: that tensor."""
        roots: dict[Tensor, Tensor] = {}
        for number, unit in enumerate(self.graph.units):
            if unit.function is None or number <= start or number not in used:
                continue
            sources = {roots.get(source, source) for source in unit.sources}
            if len(sources) == 1:
                roots[number] = sources.pop()
        return roots

    def _function(self, end: Tensor, roots: Mapping[Tensor, Tensor]) -> _Node:
        """The activation that a unit gives of the tensor from which it and others begin."""
        units, root = self.graph.units, roots[end]
        region, waiting = {end}, [end]
        while waiting:
            for source in units[waiting.pop()].sources:
                if source != root and source not in region:
                    region.add(source)
                    waiting.append(source)
            if len(region) > _REGION:
                raise LayerError(f"{units[end]} is the last of more steps than any activation has")
        self.evaluated += len(region)
        if self.evaluated > _EVALUATED:
            raise LayerError("it has more activations, or longer ones, than any ResNet")
        found = {root: SAMPLES}
        with np.errstate(all="ignore"):
            for number in sorted(region):
                function = units[number].function
                assert function is not None
                found[number] = function(*(found[s] for s in units[number].sources))
            far = {name: _distance(found[end], known) for name, known in self._known.items()}
        name = min(far, key=far.__getitem__)
        if far[name] > _NEAR:
            raise LayerError(f"{units[end]} ends a function that is no activation of a spec")
        defined = any(units[number].operator in _DEFINED for number in region)
        self.rounded = self.rounded or defined or far[name] > _EXACT
        node = units[end].node
        assert node is not None
        if name == "half":
            return _Node(units[end], (root,), halves=True)
        step = Step(plan.Activation(node.outputs[0], name), Owner(node))
        return _Node(units[end], (root,), (step,))

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            return {name: function(SAMPLES) for name, function in KNOWN.items()}

    def _join_affine(self, nodes: list[_Node], used: set[Tensor], start: Tensor) -> None:
        """Put what multiplies and adds numbers of each channel together to norms and biases."""
        units = self.graph.units
        affine = {
            n
            for n in used
            if n > start and units[n].numbers is not None and units[n].function is None
        }
        for number in sorted(affine):
            if units[number].sources[0] in affine:
                continue
            run = [number]
            while len(users := self._users(run[-1])) == 1 and users[0] in affine:
                run.append(users[0])
            if any(user in affine for user in self._users(run[-1])):
                raise LayerError(f"{units[run[-1]]} enters several nodes")
            self._put(nodes, run)

    def _put(self, nodes: list[_Node], run: list[Tensor]) -> None:
        """A norm, or a bias of the layer before it, or both, in the place of some units."""
        units = [self.graph.units[n] for n in run]
        kinds = "".join(_KINDS.get(unit.operator, "?") for unit in units)
        if "?" in kinds or not all(unit.first or unit.operator != "Sub" for unit in units):
            raise LayerError(f"{units[0]} begins arithmetic that is no norm's")
        before, last = nodes[units[0].sources[0]], units[-1]
        steps: tuple[Step, ...] = ()
        step = before.steps[0] if before.steps else None
        alone = len(self._users(units[0].sources[0])) == 1
        ends = isinstance(step.layer, _OTHER_NORMS) if step is not None else False
        if ends and alone and step is not None and "weight" not in step.owner.arrays:
            tau = isinstance(step.layer, plan.FilterResponseNorm)
            if kinds != ("MAX" if tau else "MA"):
                raise LayerError(f"{units[0]} begins arithmetic that is no norm's")
            leaves = ("weight", "bias", "tau")
            own = dict(zip(leaves, map(_addend, units), strict=False))
            before.steps = (Step(step.layer, Owner(step.owner.node, {**step.owner.arrays, **own})),)
            kinds = ""
        if kinds in ("A", "AAMA"):
            if step is None or not alone or "bias" in step.owner.arrays or len(before.steps) != 1:
                raise LayerError(f"{units[0]} adds numbers that are no bias")
            if not isinstance(step.layer, plan.Conv | plan.Dense):
                raise LayerError(f"{units[0]} adds numbers that are no bias")
            owner = Owner(step.owner.node, {**step.owner.arrays, "bias": _addend(units[0])})
            before.steps = (Step(replace(step.layer, bias=True), owner),)
            units = units[1:]
            kinds = kinds[1:]
        if kinds in ("MA", "AMA"):
            scale, offset = units[-2].numbers, _addend(units[-1])
            assert scale is not None
            (channels,) = scale.shape
            mean = _constant(0.0, scale) if kinds == "MA" else _negative(_addend(units[0]))
            node = units[-1].node
            assert node is not None
            arrays = {
                "weight": scale,
                "bias": offset,
                "running_mean": mean,
                "running_var": _constant(0.0, scale),
            }
            norm = plan.BatchNorm(node.outputs[0], channels, _PLAIN, 0.1, "unbiased")
            steps = (Step(norm, Owner(node, arrays)),)
            self.folded += 1
        elif kinds:
            raise LayerError(f"{units[0]} begins arithmetic that is no norm's")
        nodes[run[-1]] = _Node(last, self.graph.units[run[0]].sources, steps)

    def _join_gate(self, nodes: list[_Node], number: Tensor) -> None:
        """Squeeze-and-excitation in the place of a product and of the way to its second factor."""
        end = nodes[number]
        if end.unit.operator != "Mul" or len(end.sources) != 2:
            return
        for entering, at in (end.sources, end.sources[::-1]):
            way: list[Tensor] = []
            while at != entering and len(nodes[at].sources) == 1 and len(way) < len(_GATES[0]):
                if len(self._users(at)) != 1 or len(nodes[at].steps) != 1:
                    break
                way.insert(0, at)
                (at,) = nodes[at].sources
            steps = [nodes[n].steps[0] for n in way]
            found = _gate(steps) if at == entering else None
            if found is None:
                continue
            node = end.unit.node
            assert node is not None
            layer, arrays = found
            for n in way:
                nodes[n] = _Node(nodes[n].unit, ())
            step = Step(replace(layer, name=node.outputs[0]), Owner(node, arrays))
            nodes[number] = _Node(end.unit, (entering,), (step,))
            return

    def _with_kernels(self, parts: list[Part]) -> list[Part]:
        """Kernels as they enter, if some of them were standardised before they were written: a spec
        says that of all or of none.
        """
        if len({conv.standardize_eps is None for conv in _convs(parts)}) < 2:
            return parts

        def plain(step: Step) -> Step:
            layer = step.layer
            if not isinstance(layer, plan.Conv) or layer.standardize_eps is None:
                return step
            self.standardised += 1
            weight = _standardised(step.owner.arrays["weight"], layer.standardize_eps)
            arrays = {**step.owner.arrays, "weight": weight}
            return Step(replace(layer, standardize_eps=None), Owner(step.owner.node, arrays))

        found: list[Part] = []
        for part in parts:
            if isinstance(part, Step):
                found.append(plain(part))
            else:
                found.append(Fork(*(tuple(map(plain, c)) for c in (part.branch, part.shortcut))))
        return found

    def _with_norms(self, parts: list[Part]) -> list[Part]:
        """Norms behind convolutions that have taken them in, which multiply by 1 and add what the
        convolution did. Such convolutions are followed by an activation or a sum.
        """
        forks = [i for i, part in enumerate(parts) if isinstance(part, Fork)] or [_head(parts)]
        after = parts[forks[0] + 1] if forks[0] + 1 < len(parts) else None
        post = isinstance(after, Step) and isinstance(after.layer, plan.Activation)
        eps = {s.layer.eps for s in _steps(parts) if isinstance(s.layer, plan.BatchNorm)}
        if any(isinstance(s.layer, _OTHER_NORMS) for s in _steps(parts)):
            return parts
        only = eps.pop() if len(eps) == 1 else _PLAIN
        stem = [part for part in parts[: forks[0]] if isinstance(part, Step)]

        def chain(steps: tuple[Step, ...], shortcut: bool = False) -> tuple[Step, ...]:
            bare = {id(s) for s in _bare(steps, post)}
            out: list[Step] = []
            for step in steps:
                # A projection may be without a norm of its own.
                kept = id(step) not in bare or (shortcut and "bias" not in step.owner.arrays)
                out += [step] if kept else self._unfolded(step, only)
            return tuple(out)

        found: list[Part] = [*chain(tuple(stem))]
        for part in parts[forks[0] :]:
            if isinstance(part, Fork):
                found.append(Fork(chain(part.branch), chain(part.shortcut, shortcut=True)))
            else:
                found.append(part)
        return found

    def _unfolded(self, step: Step, eps: float) -> Iterator[Step]:
        """A convolution without its bias, and a norm that has it."""
        self.folded += 1
        layer, arrays = step.layer, dict(step.owner.arrays)
        assert isinstance(layer, plan.Conv)
        channels = _constant(0.0, arrays["weight"], layer.out_channels)
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
                    "weight": _constant(scale, channels),
                    "bias": bias,
                    "running_mean": channels,
                    "running_var": _constant(variance, channels),
                },
            ),
        )

    def _spec(self, parts: list[Part], wanted: ResNetSpec | None) -> ResNetSpec:
        size, channels = self.graph.first.size, self.graph.first.channels
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
        eps = {s.layer.eps for s in _steps(parts) if isinstance(s.layer, plan.BatchNorm)}
        changed: dict[str, object] = {}
        if self.folded and len(eps) == 1:
            inner = _steps(parts[: _head(parts)])
            bare = any("bias" in s.owner.arrays for s in inner if isinstance(s.layer, plan.Conv))
            changed = {"norm_eps": eps.pop(), "conv_bias": "without_norm" if bare else False}
        whole = all(conv.standardize_eps is None for conv in _convs(parts))
        if wanted.standardize is not None and whole:
            self.standardised += 1
            changed["standardize"] = None
        return wanted.override(in_channels=channels, num_classes=classes, **changed)

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
            yield (
                f"left out: the {activation.layer.function} of {activation.owner}; the model here "
                f"gives the logits before it"
            )
        if self.folded:
            yield (
                f"a form for inference: what its norms computed has gone into {self.folded} "
                f"convolutions or factors, and the norms here, of the eps {spec.norm_eps:g}, add "
                f"their biases; it is not to be trained as it is"
            )
        if self.standardised:
            yield (
                "a form for inference: kernels were standardised before they were written, or are "
                "here, and the convolutions take them as they are; it is not to be trained as it is"
            )
        if not self.folded and inferred and spec.norm == "batch":
            yield (
                f"the file does not say the momentum of its norms; {spec.norm_momentum:g} is taken"
            )
        if self.graph.guessed:
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


_GATES = (["mean", "fc", "relu", "fc", "sigmoid"], ["mean", "along", "sigmoid"])
"""Layers of squeeze-and-excitation, and of channel attention."""


def _gate(steps: list[Step]) -> tuple[Layer, dict[str, LazyArray]] | None:
    """The attention whose layers these are, with its arrays."""
    kinds = [_what(step.layer) for step in steps]
    if kinds not in _GATES:
        return None
    if kinds == _GATES[1]:
        along = steps[1].layer
        assert isinstance(along, ChannelConv)
        arrays = {"conv.weight": steps[1].owner.arrays["weight"]}
        return plan.ChannelAttention("", along.channels, along.kernel_size), arrays
    one, two = steps[1].layer, steps[3].layer
    assert isinstance(one, plan.Conv)
    assert isinstance(two, plan.Conv)
    if (two.out_channels, two.in_channels) != (one.in_channels, one.out_channels):
        return None
    arrays = {
        f"{place}.{leaf}": array
        for place, step in (("fc1", steps[1]), ("fc2", steps[3]))
        for leaf, array in step.owner.arrays.items()
    }
    return plan.SqueezeExcite("", one.in_channels, one.out_channels), arrays


def _what(layer: Layer) -> str:
    """Which of these a layer is."""
    if isinstance(layer, plan.GlobalPool) and layer.kind == "avg":
        return "mean"
    if isinstance(layer, ChannelConv):
        return "along"
    if isinstance(layer, plan.Activation):
        return layer.function
    if not isinstance(layer, plan.Conv) or not layer.bias or layer.padding not in (0, "same"):
        return ""
    return "fc" if (layer.kernel_size, layer.stride, layer.groups) == (1, 1, 1) else ""


_NARROW = (10, 16)
"""float16 and bfloat16, by ONNX's numbers."""
_AFFINE = ("Add", "Sub", "Mul", "Div", "Gather")
_KINDS = {"Add": "A", "Sub": "A", "Mul": "M", "Max": "X"}


def _affine(
    unit: Unit, x: np.ndarray, scale: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and addend of each channel after a unit, from those before it."""
    with np.errstate(all="ignore"):
        match unit.operator:
            case "Add":
                return scale, offset + x
            case "Sub":
                return (scale, offset - x) if unit.first else (-scale, x - offset)
            case "Mul":
                return scale * x, offset * x
        if not unit.first or not x.all():
            raise LayerError(f"{unit} divides by the pixels, or by 0")
        return scale / x, offset / x


def _exact(found: Preprocessing, known: Preprocessing) -> Preprocessing:
    """What a file's record says, if its graph does that but for rounding."""
    same = found.channel_order == known.channel_order and np.allclose(
        [*found.mean, *found.std], [*known.mean, *known.std], rtol=1e-5, atol=1e-7
    )
    return known if same else found


def _distance(found: np.ndarray, known: np.ndarray) -> float:
    """How far two functions are apart on the samples, as a share of those or of themselves."""
    if np.shape(found) != known.shape:
        return np.inf
    scale = np.maximum(np.abs(SAMPLES), np.abs(known))
    far = np.abs(found - known) / np.where(scale == 0, 1, scale)
    return float(np.where(np.isnan(far), np.inf, far).max())


def _steps(parts: Iterable[Part]) -> Iterator[Step]:
    for part in parts:
        yield from (part,) if isinstance(part, Step) else (*part.branch, *part.shortcut)


def _bare(steps: tuple[Step, ...], ends: bool) -> Iterator[Step]:
    """The convolutions of a chain that an activation follows, or with `ends` nothing."""
    for i, step in enumerate(steps):
        after = steps[i + 1].layer if i + 1 < len(steps) else None
        last = after is None or isinstance(after, plan.SqueezeExcite | plan.ChannelAttention)
        follows = isinstance(after, plan.Activation) or (ends and last)
        if isinstance(step.layer, plan.Conv) and follows:
            yield step


def _with_biases(parts: list[Part]) -> list[Part]:
    """Zeros for the biases that exporters leave out where they are zeros: a spec gives one to all
    convolutions, to all that no norm follows, or to none, and to every classifier.
    """
    head = _head(parts)
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
        arrays = {**step.owner.arrays, "bias": _constant(0.0, weight)}
        return Step(replace(layer, bias=True), Owner(step.owner.node, arrays))

    found: list[Part] = []
    for i, part in enumerate(parts):
        if isinstance(part, Step):
            found.append(filled(part, i > head))
        else:
            found.append(Fork(*(tuple(map(filled, c)) for c in (part.branch, part.shortcut))))
    return found


def _head(parts: list[Part]) -> int:
    """Where the pool over all pixels is, or the end."""
    steps = enumerate(part if isinstance(part, Step) else None for part in parts)
    pools = (i for i, step in steps if step and isinstance(step.layer, plan.GlobalPool))
    return next(pools, len(parts))


def _convs(parts: list[Part]) -> list[plan.Conv]:
    """The convolutions before the head."""
    layers = [step.layer for step in _steps(parts[: _head(parts)])]
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


def _constant(value: float, like: LazyArray, channels: int | None = None) -> LazyArray:
    """One number for each channel."""
    count = like.shape[0] if channels is None else channels
    dtype = like.dtype.newbyteorder("=")
    return LazyArray((count,), dtype, lambda: np.full(count, value, dtype))


def _addend(unit: Unit) -> LazyArray:
    assert unit.numbers is not None
    return _negative(unit.numbers) if unit.operator == "Sub" else unit.numbers


def _negative(entry: LazyArray) -> LazyArray:
    return LazyArray(entry.shape, entry.dtype, lambda: -entry.read())


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
    if eps == _PLAIN:
        return 1.0, 0.0
    scales = np.linspace(0.5, 2, 2**20).astype(dtype).astype(np.float64)
    variances = (scales**2 - eps).astype(dtype).astype(np.float64)
    off = np.abs(scales / np.sqrt(variances + eps) - 1)
    best = int(off.argmin())
    if off[best] > _EXACT:
        return None
    return float(scales[best]), float(variances[best])
