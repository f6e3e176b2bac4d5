"""Graphs of others, held by values against those that are written here.

What is not linear in a net (convolutions and norms with their weights, activations, pools, softmax)
has to be there one by one, each fed with the same numbers; what others do between them (stacking,
turning, splitting, summing) has to give the same numbers. The weights are drawn for this, so that
none is zero and hides what comes before it, and images of two sizes enter. Numbers of a file that
are no weights may only be those that are written here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product, zip_longest
from typing import Any

import numpy as np

from shared_spec.errors import ResNetError
from shared_spec.export_formats import IMAGES
from shared_spec.formats.containers.onnx import OnnxNode, node_of
from shared_spec.formats.containers.source import Source, shown
from shared_spec.formats.graphs.onnx.inference import form_notes, forms_of
from shared_spec.formats.graphs.onnx.rewritten.exact import File
from shared_spec.formats.graphs.walk import LayerError
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.lazy_array import LazyArray

_NEAR = 1e-9
"""How far numbers in float64 may be apart, as a share of the largest."""
_SIZES = ((48, 37), (57, 64))
"""Of images, two at each."""
_POOLED = range(1, 14)
"""Sizes of maps on which pools have to agree."""
_WEIGHTED = {"Conv": 3, "BatchNormalization": 5, "Gemm": 3, "PRelu": 2}
"""Operators with weights, and the number of their inputs."""
_POOLS = ("MaxPool", "AveragePool")
_SINGLE = ("Relu", "Sigmoid", "Softmax", "Sqrt", *_POOLS)
"""Operators that are not linear, without weights."""
_LINEAR = (
    *("Add", "Sub", "Mul", "Div", "ReduceSum", "ReduceMean", "GlobalAveragePool", "Reshape"),
    *("Transpose", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice"),
    *("Identity", "Shape", "Gather", "Cast"),
)
"""Operators whose results are quotients of polynomials of what enters."""
_ALONG = ("Split", "Slice")
"""Those which are along the channels alone."""
_WHOLE = ("Shape", "Gather", "Concat", "Unsqueeze", "Squeeze", "Mul", "Identity", "Cast")
"""Operators that compute with the size of the image."""
_MADE = (
    *("Add", "Sub", "Mul", "Div", "Sqrt", "Pow", "Reshape", "Transpose", "Squeeze", "Unsqueeze"),
    *("ReduceMean", "Concat", "Slice", "Gather", "Shape", "Cast", "Constant", "Identity"),
    *("BatchNormalization", "InstanceNormalization"),
)
"""Operators that compute constants."""
_JOINING = ("Add", "Sub", "Mul", "Div", "Pow")
_LARGE, _ALL = 2**26, 2**28
"""Elements of a tensor, and of all that are kept, at most."""
_DEEP = 64
"""Steps to a constant, at most."""
_WIDE = 64
"""Rows of a kernel, at most."""
Tensors = list[np.ndarray]
"""A tensor for each size of images."""


def read_by_values(
    source: Source, known: Checkpoint, nets: Iterable[tuple[str, ResNetSpec]]
) -> Checkpoint:
    """The first one of some nets that a file computes.

    Args:
        source: as `open_onnx` opens it.
        known: what the file says of itself.
        nets: specs, with their names in the catalogue, apart from channels and classes.

    Raises:
        LayerError: if it is none of them, saying where the nearest one parts from it.
    """
    file = _Foreign(source, known)
    why, far = "no net that is known has its convolutions", -1
    for name, spec in nets:
        for asked, form, p in file.forms(spec):
            if not file.values:
                file.compute()
            seen: dict[str, Tensors] = {}
            try:
                beside = _Beside(file, p, seen)
                beside.go_through()
            except ResNetError as error:
                if len(seen) > far:
                    why, far = str(error), len(seen)
                continue
            notes = [f"its layers are those of {name} in the catalogue"] if name else []
            notes += form_notes(asked, form, p)
            found = file.checkpoint(p, beside.names, form, tuple(notes))
            own = found.own_graph
            assert own is not None
            return replace(
                found,
                origin="onnx, what its graph computes of drawn numbers",
                own_graph=replace(own, rounded=own.rounded or file.rounds(p)),
            )
    raise LayerError(why)


class _Foreign(File):
    """A file's graph, and what it computes of images and weights that are drawn."""

    def __init__(self, source: Source, known: Checkpoint) -> None:
        import onnx

        super().__init__(source, known)
        floats = self.graph.dtype.name == self.dtype
        if not floats or self.dtype not in ("float32", "float64"):
            raise LayerError("it is not of floats of 32 or 64 bits")
        self.form = replace(self.form, opset=None)
        nodes = onnx.load(source.path, load_external_data=False).graph.node
        self.protos = {node.output[0]: node for node in nodes}
        self.nodes = [*self._needed()]
        self.values: dict[str, Tensors] = {}
        """Of tensors that depend on the images."""
        self._kept = 0
        self.numbers: list[tuple[OnnxNode, np.ndarray]] = []
        """Floats, none of them weights, and who takes them."""
        self._constants: dict[str, np.ndarray] = {}
        self._sizes: set[str] = set()

    def _needed(self) -> list[OnnxNode]:
        wanted, found = {*self.graph.outputs}, []
        for node in reversed(self.graph.nodes):
            if not wanted.isdisjoint(node.outputs):
                found.append(node)
                wanted.update(node.inputs)
        return found[::-1]

    def forms(self, spec: ResNetSpec) -> Iterator[tuple[ResNetSpec, ResNetSpec, Plan]]:
        """A net with the file's channels and classes, and its forms with the file's kernels."""
        kernels = [self.leaf(n.inputs[1]) for n in self.nodes if n.operator == "Conv"]
        found = (self.array(name).shape for name in kernels)
        shapes = sorted(shape for shape in found if len(shape) == 4)
        with suppress(ResNetError):
            asked = self.named(spec)
            for form, p in forms_of(asked):
                ours = (q.shape for q in p.parameters() if q.role != "conv_gain")
                if shapes == sorted(shape for shape in ours if len(shape) == 4):
                    if asked.one_size and self.size is None:
                        self.size = (asked.image_size,) * 2
                        self.form = replace(self.form, size=self.size)
                    yield asked, form, p

    def rounds(self, p: Plan) -> bool:
        """Whether numbers of a plan's layers were rounded to go into the file."""
        from resnet_onnx.file import graph_of

        exact, _ = graph_of(p, "float64", self.form, None)
        numbers = (x for x in exact.constants.values() if x.dtype == np.float64)
        return any((x.astype(self.dtype) != x).any() for x in numbers)

    def leaf(self, name: str) -> str:
        """What a tensor is, before nodes that give what they take."""
        while (node := self.makers.get(name)) is not None and node.operator == "Identity":
            name = node.inputs[0]
        return name

    def array(self, name: str) -> LazyArray:
        """Of the file, or computed of its arrays alone.

        Raises:
            LayerError: if it depends on the images.
        """
        if name not in self.arrays:
            dtype = np.dtype(self.dtype)
            shape = self.constant(name).shape
            self.arrays[name] = LazyArray(shape, dtype, lambda: self.constant(name).astype(dtype))
        return self.arrays[name]

    def constant(self, name: str, depth: int = 0) -> np.ndarray:
        """A tensor that does not depend on the images."""
        if depth > _DEEP:
            raise LayerError(f"{shown(name)} is a constant of more steps than any layer's")
        if name not in self._constants:
            node = self.makers.get(name)
            if node is not None:
                if node.operator not in _MADE:
                    raise LayerError(f"{node} makes a constant as no layer here does")
                given = [self.constant(x, depth + 1) if x else None for x in node.inputs]
                _require_small(node, given)
                (found, *_) = computed(self.protos[node.outputs[0]], given, self.graph.opset)
            elif name in self.arrays and not self.arrays[name].problem:
                return wide(self.arrays[name].array())
            else:
                raise LayerError(f"nothing gives {shown(name)}")
            self._constants[name] = found
        return self._constants[name]

    def drawn(self, node: OnnxNode, place: int) -> np.ndarray:
        """In the place of a weight, numbers of which none hides anything."""
        name = self.leaf(node.inputs[place])
        if name in self.makers:
            return self.constant(name)
        shape = self.array(name).shape
        rng = np.random.default_rng([*name.encode()])
        if node.operator == "BatchNormalization":
            return rng.uniform(0.5, 1.5, shape)
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 8
        found: np.ndarray = rng.standard_normal(shape) * (2 / fan_in) ** 0.5
        return found

    def compute(self) -> None:
        """Compute all tensors of images of a few sizes.

        Raises:
            LayerError: naming a node which does what is not followed here.
        """
        batch, channels = self.graph.shape[0] or 2, self.graph.shape[1] or 0
        rng = np.random.default_rng(1)
        sizes = _SIZES if self.size is None else (self.size,)
        self.values[self.graph.input] = [
            rng.standard_normal((batch, channels, *size)) for size in sizes
        ]
        for node in self.nodes:
            if any(x in self.values for x in node.inputs):
                self._take(node)

    def _take(self, node: OnnxNode) -> None:
        weights = _WEIGHTED.get(node.operator, 1)
        if weights == 1 and node.operator not in (*_SINGLE, *_LINEAR):
            raise LayerError(f"{node} is of an operator that is not followed by its values")
        given: list[Tensors | np.ndarray | None] = []
        for place, name in enumerate(node.inputs):
            if name in self.values:
                if 0 < place < weights:
                    raise LayerError(f"{node} has weights that depend on the images")
                given.append(self.values[name])
            elif 0 < place < weights:
                given.append(self.drawn(node, place))
            else:
                given.append(self.constant(name) if name else None)
        self._check(node, given)
        proto, opset = self.protos[node.outputs[0]], self.graph.opset
        found = []
        for i in range(len(self.values[self.graph.input])):
            told = [x[i] if isinstance(x, list) else x for x in given]
            _require_small(node, told)
            found.append(computed(proto, told, opset))
            self._kept += sum(x.size for x in found[-1])
        if self._kept > _ALL:
            raise LayerError("it has more, or larger, tensors than are followed by their values")
        for name, tensors in zip(node.outputs, zip(*found, strict=True), strict=False):
            if self._is_of_channels(node):
                self._constants[name] = tensors[0]
            elif name:
                self.values[name] = [*tensors]
                if tensors[0].dtype.kind != "f":
                    self._sizes.add(name)

    def _is_of_channels(self, node: OnnxNode) -> bool:
        """Whether what it gives of the shape of a map is how many channels there are."""
        if node.operator == "Shape":
            return (node.attributes.get("start"), node.attributes.get("end")) == (1, 2)
        before = self.makers.get(node.inputs[0])
        if node.operator != "Gather" or before is None or before.operator != "Shape":
            return False
        return not before.attributes and not (self.constant(node.inputs[1]) - 1).any()

    def _check(self, node: OnnxNode, given: Sequence[Any]) -> None:
        """Raise a `LayerError` for what may be another thing for other images than for these."""
        whole = [name for name in node.inputs if name in self._sizes]
        shaped = node.operator == "Reshape" and whole == [*node.inputs[1:]]
        if whole and node.operator not in _WHOLE and not shaped:
            raise LayerError(
                f"{node} computes with the size of the image, which is not followed there"
            )
        if node.operator == "Cast" and (not whole or node.attributes["to"] not in _WHOLES):
            raise LayerError(f"{node} makes other numbers of a tensor")
        if node.operator in _ALONG and not whole:
            axes = [node.attributes.get("axis", 0)]
            if node.operator == "Slice":
                axes = [] if len(given) < 4 or given[3] is None else [*given[3].ravel()]
            if axes != [1]:
                raise LayerError(f"{node} takes parts along another axis than the channels")
        if node.operator not in _WEIGHTED:
            for x in given:
                floats = isinstance(x, np.ndarray) and x.dtype.kind == "f"
                if floats and not (node.operator == "Mul" and (x == 1).all()):
                    self.numbers.append((node, x))


def _require_small(node: OnnxNode, given: Sequence[np.ndarray | None]) -> None:
    """Raise a `LayerError` if a node may give more than any layer does."""
    shapes = [x.shape for x in given if x is not None]
    most = sum(map(math.prod, shapes))
    if node.operator in _JOINING:
        with suppress(ValueError):
            most = math.prod(np.broadcast_shapes(*shapes))
    elif node.operator == "Gather":
        most = math.prod(map(math.prod, shapes))
    elif node.operator in ("Conv", *_POOLS) and len(shapes[0]) == 4:
        pads = [*node.attributes.get("pads", (0,) * 4), 0, 0, 0, 0]
        count, channels, height, width = shapes[0]
        channels = shapes[1][0] if node.operator == "Conv" else channels
        most = count * channels * (height + pads[0] + pads[2]) * (width + pads[1] + pads[3])
    if most > _LARGE or any(x > _WIDE for x in node.attributes.get("kernel_shape", ())):
        raise LayerError(f"{node} gives more numbers than are followed")


_WHOLES = (6, 7)
"""Integers, by ONNX's numbers."""


def wide(x: np.ndarray) -> np.ndarray:
    """Floats in float64."""
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def computed(proto: Any, given: Sequence[np.ndarray | None], opset: int) -> list[np.ndarray]:
    """What a node gives, in float64, by ONNX's own reference.

    Raises:
        LayerError: if it takes no such tensors.
    """
    from onnx.reference import ReferenceEvaluator

    told = {name: x for name, x in zip(proto.input, given, strict=True) if name}
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(proto, opsets={"": opset}).run(None, told)
    except Exception as error:  # of any kind, as the operators like
        name = shown(proto.name or proto.output[0])
        raise LayerError(f"node {name} ({proto.op_type}) cannot be computed: {error}") from None
    return [wide(np.asarray(x)) for x in found]


def _equal(a: Tensors, b: Tensors) -> bool:
    """Whether tensors are the same ones."""
    return len(a) == len(b) and all(
        x.shape == y.shape and np.abs(x - y).max(initial=0) <= _NEAR * np.abs(y).max(initial=0)
        for x, y in zip(a, b, strict=True)
    )


def _sorted(a: Tensors) -> Tensors:
    """The numbers of tensors, wherever they stand."""
    return [np.sort(x, axis=None) for x in a]


class _Beside:
    """A plan's graph, gone through beside a file's."""

    def __init__(self, file: _Foreign, p: Plan, seen: dict[str, Tensors]) -> None:
        from resnet_onnx.file import graph_of

        self.file = file
        self.ours, self.outputs = graph_of(p, file.dtype, file.form, None)
        self.shapes = {q.name: q.shape for q in p.parameters()}
        self.names: dict[str, str] = {}
        """The file's arrays by the plan's."""
        self.values = seen
        self._constants = {name: wide(x) for name, x in self.ours.constants.items()}
        self._made: dict[str, Any] = {}
        """Nodes that make kernels of weights, by what they give."""
        self._used: set[str] = set()

    def go_through(self) -> None:
        """Find all of it in the file, and nothing else there.

        Raises:
            LayerError: naming what is elsewhere, or another.
        """
        file = self.file
        known = {float(x) for array in self._constants.values() for x in array.ravel()}
        for node, array in file.numbers:
            if not known.issuperset(map(float, array.ravel())):
                raise LayerError(f"{node} computes with numbers that no layer of the net has")
        self.values[IMAGES] = file.values[file.graph.input]
        for proto in self.ours.nodes:
            node = node_of(file.source.path, proto, self.ours.opset)
            if not any(x in self.values for x in node.inputs):
                self._made[node.outputs[0]] = proto
            elif node.operator in _WEIGHTED:
                self._place(node)
            else:
                self.values[node.outputs[0]] = self._result(proto)
                if node.operator in _SINGLE:
                    self._meet(node)
                elif node.operator not in _LINEAR:
                    raise LayerError(f"{node} of the net is not followed by its values")
        if len(self.outputs) != len(file.graph.outputs):
            raise LayerError("it gives more outputs than the net, or fewer")
        for mine, theirs in zip(self.outputs, file.graph.outputs, strict=True):
            if not _equal(self.values[mine], file.values.get(theirs, [])):
                raise LayerError(f"its output {shown(theirs)} is another one")
        for node in file.nodes:
            acts = node.operator in (*_WEIGHTED, *_SINGLE) and node.outputs[0] in file.values
            if acts and node.outputs[0] not in self._used:
                raise LayerError(f"{node} is none of the net's")

    def _result(self, proto: Any) -> Tensors:
        """What a node without weights gives."""
        given = [self.values.get(x) if x in self.values else self._number(x) for x in proto.input]
        return [
            computed(proto, [x[i] if isinstance(x, list) else x for x in given], self.ours.opset)[0]
            for i in range(len(self.values[IMAGES]))
        ]

    def _number(self, name: str) -> np.ndarray:
        """A tensor that depends on neither images nor weights."""
        if name not in self._constants and name in self._made:
            given = [self._number(x) for x in self._made[name].input]
            self._constants[name] = computed(self._made[name], given, self.ours.opset)[0]
        if name not in self._constants:
            raise LayerError(f"{shown(name)} of the net is not followed by its values")
        return self._constants[name]

    def _others(self, operator: str) -> Iterator[OnnxNode]:
        """Nodes of the file that have not been found yet."""
        for node in self.file.nodes:
            free = node.operator == operator and node.outputs[0] not in self._used
            if free and node.outputs[0] in self.file.values:
                yield node

    def _place(self, mine: OnnxNode) -> None:
        """Find a layer with weights, and them."""
        for theirs in self._others(mine.operator):
            entering = self.file.values.get(theirs.inputs[0], [])
            if _settled(mine) != _settled(theirs):
                continue
            if not entering or not _equal(self.values[mine.inputs[0]], entering):
                continue
            pairs = [*zip_longest(mine.inputs[1:], theirs.inputs[1:], fillvalue="")]
            names = [names for a, b in pairs if (names := self._weights(a, b)) is not None]
            if len(names) == len(pairs):
                for found in names:
                    self.names |= found
                self._used.add(theirs.outputs[0])
                self.values[mine.outputs[0]] = self.file.values[theirs.outputs[0]]
                return
        raise LayerError(f"no node takes what enters {mine} of the net, and is as that is")

    def _weights(self, mine: str, theirs: str) -> dict[str, str] | None:
        """Arrays of the file by those of the plan of which a weight is made."""
        if not theirs and mine in self.shapes:  # zeros, which exporters leave out
            zeros = np.zeros(self.shapes[mine], self.file.dtype)
            name = f"zeros/{zeros.size}"
            self.file.arrays[name] = LazyArray.of(zeros)
            return None if name in self.file.source.tensors.entries else {mine: name}
        file, leaf = self.file, self.file.leaf(theirs)
        if mine in self.shapes:
            return {mine: leaf} if file.array(leaf).shape == self.shapes[mine] else None
        if mine not in self._made:
            return None
        found = self._leaves(mine, self.shapes, self._made)
        rest = self._leaves(theirs, file.source.tensors.entries, file.protos)
        names = {}
        for name in found:
            fitting = [x for x in rest if _long(file.arrays[x].shape) == _long(self.shapes[name])]
            if not fitting:
                return None
            names[name] = fitting[0]
            rest.remove(fitting[0])
        kernel = self._kernel(mine, names)
        return names if _equal([kernel], [file.constant(theirs)]) else None

    def _leaves(self, name: str, arrays: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
        """The arrays of which a tensor is made, each once."""
        found, waiting = dict[str, None](), [name]
        while waiting:
            name = waiting.pop()
            if name in arrays:
                found[name] = None
            elif name in made:
                waiting += [x for x in made[name].input if x]
        return [*found]

    def _kernel(self, name: str, names: Mapping[str, str]) -> np.ndarray:
        """A tensor that is made of weights."""
        if name in names:
            return self.file.constant(names[name]).reshape(self.shapes[name])
        if name in self._constants:
            return self._constants[name]
        given = [self._kernel(x, names) for x in self._made[name].input]
        return computed(self._made[name], given, self.ours.opset)[0]

    def _meet(self, mine: OnnxNode) -> None:
        """Find what is not linear, where it may have its axes in another order."""
        found = self.values[mine.outputs[0]]
        pool = mine.operator in _POOLS
        for theirs in self._others(mine.operator):
            given = self.file.values[theirs.outputs[0]]
            same = _equal(found, given) if pool else _equal(_sorted(found), _sorted(given))
            if same and (not pool or self._same_pools(mine, theirs)):
                self._used.add(theirs.outputs[0])
                return
        raise LayerError(f"no node gives what {mine} of the net does")

    def _same_pools(self, mine: OnnxNode, theirs: OnnxNode) -> bool:
        """Whether pools are the same for maps of any size."""
        protos = {node.output[0]: node for node in self.ours.nodes}
        pair = (
            (protos[mine.outputs[0]], self.ours.opset),
            (
                self.file.protos[theirs.outputs[0]],
                self.file.graph.opset,
            ),
        )
        rng = np.random.default_rng(2)
        for size in product(_POOLED, _POOLED):
            x = rng.standard_normal((1, 1, *size)) - 1
            found: list[Tensors] = []
            for proto, opset in pair:
                with suppress(LayerError):
                    found.append(computed(proto, [x], opset)[:1])
            if len(found) == 1 or (found and not _equal(*found)):
                return False
        return True


def _long(shape: Sequence[int]) -> list[int]:
    """A shape without the axes of one number."""
    return [n for n in shape if n != 1]


def _settled(node: OnnxNode) -> dict[str, Any]:
    """The attributes of a layer with weights, without those that say what is so anyway."""
    usual = {"epsilon": float(np.float32(1e-5)), "alpha": 1.0, "beta": 1.0, "auto_pad": "NOTSET"}
    usual |= {"group": 1, "training_mode": 0, "transA": 0, "transB": 0}
    found = {}
    for name, value in node.attributes.items():
        idle = {"pads": {0}, "strides": {1}, "dilations": {1}}.get(name)
        nothing = set(value) == idle if idle else usual.get(name) == value
        if not nothing and name not in ("kernel_shape", "momentum"):
            found[name] = value
    return found
