"""The graph in a Keras model's configuration, flat: nested models opened, each call a node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from shared_spec.errors import WeightsError
from shared_spec.formats.containers.source import shown
from shared_spec.formats.dialects.keras_hub import HUB_CLASSES
from shared_spec.formats.graphs.walk import Tensor
from shared_spec.formats.keras_config import KERAS_CLASS, has_own_spec, is_ours_with_layers

_MODELS = {"Functional", "Model", "Sequential"}
MADE = (KERAS_CLASS, *HUB_CLASSES)
"""Models whose files have what they are made with, beside their layers or instead of them."""
_CALLS = 20_000
"""Of layers in a model; ResNet-1202 has 7,000."""
_DEPTH = 12
"""Of models in models."""

BROKEN = (
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    ValueError,
    ArithmeticError,
    RecursionError,
)
"""What comes of a configuration that Keras did not write."""


@dataclass(frozen=True)
class Node:
    """One call of a layer that is no model."""

    path: tuple[str, ...]
    """Names of the models that it is in, outermost first without the whole, then its own."""
    kind: str
    """The layer's class."""
    config: Mapping[str, Any]
    sources: tuple[Tensor, ...]
    arguments: tuple[Any, ...] = ()
    """What it is called with; None stands for each of its sources."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What it is called with by name, such as `training`."""

    def __str__(self) -> str:
        if not self.path:
            return f"the model ({self.kind})"
        kind = self.kind if self.kind.isprintable() and len(self.kind) < 100 else shown(self.kind)
        return f"layer {shown('/'.join(self.path))} ({kind})"


@dataclass(frozen=True)
class Graph:
    """A model with one input and one output; `nodes[0]` is the input."""

    nodes: tuple[Node, ...]
    output: Tensor
    consumers: Mapping[Tensor, tuple[Tensor, ...]]
    used: frozenset[Tensor]
    """Those on which the output depends."""
    image_shape: tuple[int | None, ...]
    """Of one image: height, width and channels, where the model says them."""


def graph_of(config: Mapping[str, Any], where: object) -> Graph:
    """The layers between the input and the output of a Keras model, in the order of computation.

    Args:
        config: of the model, as `.keras` and `.h5` files of Keras 2 and 3 hold it.
        where: the file, for messages.

    Raises:
        WeightsError: if it is not the configuration of a model with one input and one output.
    """
    try:
        return _Reader(where).read(config)
    except WeightsError:
        raise
    except BROKEN as error:
        raise WeightsError(
            f"{where}: the configuration of its model is not one that Keras writes "
            f"({type(error).__name__})"
        ) from None


class _Reader:
    def __init__(self, where: object) -> None:
        self._where = where
        self._nodes: list[Node] = []
        self._models = 0
        self._made: dict[int, str | None] = {}
        """What `made_class` says of each layer: it goes through all that is in one."""

    def read(self, config: Mapping[str, Any]) -> Graph:
        image = self._add(Node((), "Input", {}, ()))
        if (made := made_class(config)) is not None:
            output = self._add(Node((), made, config["config"], (image,), (None,)))
        elif _class(config) in _MODELS and is_kerass(config):
            output = self._model(config, (), [image])
        else:
            kind = config.get("registered_name") or config["class_name"]
            raise self._refusal(
                f"its model is of the class {shown(str(kind))}, whose layers the file does not list"
            )
        used = {output}
        for number in range(len(self._nodes) - 1, -1, -1):
            if number in used:
                used.update(self._nodes[number].sources)
        if image not in used:
            raise self._refusal("its output does not depend on its input")
        consumers: dict[Tensor, tuple[Tensor, ...]] = {}
        for number in sorted(used):
            for source in self._nodes[number].sources:
                consumers[source] = (*consumers.get(source, ()), number)
        shape = _image_shape(config)
        return Graph(tuple(self._nodes), output, consumers, frozenset(used), shape)

    def _refusal(self, text: str) -> WeightsError:
        return WeightsError(f"{self._where}: {text}")

    def _add(self, node: Node) -> Tensor:
        if len(self._nodes) >= _CALLS:
            raise self._refusal(f"its model has more than {_CALLS:,} layers")
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _call(
        self,
        layer: Mapping[str, Any],
        path: tuple[str, ...],
        inputs: Sequence[Tensor],
        call: _Call,
    ) -> Tensor:
        kind, name = _class(layer), layer["config"]["name"]
        if not isinstance(kind, str) or not isinstance(name, str):
            raise TypeError("a layer without a class or a name")
        # None and False are what a layer does without.
        options = {k: v for k, v in call.options.items() if v not in (None, False)}
        entering = tuple(inputs)
        if id(layer) not in self._made:
            self._made[id(layer)] = made_class(layer)
        made = self._made[id(layer)]
        node = Node((*path, name), made or kind, layer["config"], entering, call.arguments, options)
        if options and (kind in _MODELS or made):
            raise self._refusal(f"{node} is called with {told_options(node)}")
        if made is not None:
            return self._add(node)
        if not is_kerass(layer):
            return self._add(replace(node, kind=str(layer.get("registered_name") or kind)))
        return self._model(layer, node.path, inputs) if kind in _MODELS else self._add(node)

    def _model(
        self, model: Mapping[str, Any], path: tuple[str, ...], inputs: Sequence[Tensor]
    ) -> Tensor:
        self._models += 1
        if len(path) > _DEPTH or self._models > _CALLS:
            raise self._refusal(
                f"has more than {_DEPTH} models in one another, or {_CALLS:,} in all"
            )
        config = model["config"]
        layers = config["layers"] if isinstance(config, Mapping) else config
        name = shown("/".join(path)) if path else "the model"
        if model["class_name"] == "Sequential":
            if len(inputs) != 1:
                raise self._refusal(f"{name} is called with {len(inputs)} inputs")
            (x,) = inputs
            for layer in layers:
                if layer["class_name"] != "InputLayer":
                    x = self._call(layer, path, [x], _Call((None,)))
            return x
        named = {layer["config"]["name"]: layer for layer in layers}
        entries, ends = (
            [_of_call(ref, named, ends=True) for ref in _references(config[k])]
            for k in ("input_layers", "output_layers")
        )
        if len(entries) != len(inputs) or len(ends) != 1:
            raise self._refusal(
                f"{name} has {len(entries)} inputs and {len(ends)} outputs, expected one of each"
            )
        known = dict(zip(entries, inputs, strict=True))
        calls = {
            (name, number, 0): _call_of(call, named)
            for name, layer in named.items()
            for number, call in enumerate(layer["inbound_nodes"])
        }
        # From the last to the first: what no output needs is not there.
        needed, waiting = dict.fromkeys(ends), list(ends)
        while waiting:
            reference = waiting.pop()
            if reference in known:
                continue
            if reference[2] != 0:
                raise self._refusal(
                    f"output {reference[2]} of layer {shown(reference[0])} is used, and layers "
                    f"here have one"
                )
            more = [x for x in calls[reference].tensors if x not in needed]
            needed |= dict.fromkeys(more)
            waiting += more
        try:
            order = list(
                TopologicalSorter(
                    {r: () if r in known else calls[r].tensors for r in needed}
                ).static_order()
            )
        except CycleError:
            raise self._refusal(f"the layers of {name} enter one another in a circle") from None
        for reference in order:
            if reference not in known:
                call = calls[reference]
                entering = [known[source] for source in call.tensors]
                known[reference] = self._call(named[reference[0]], path, entering, call)
        return known[ends[0]]


def _image_shape(model: Mapping[str, Any]) -> tuple[int | None, ...]:
    """What a model takes, without the batch's axis, as its first layer has it, or KerasHub."""
    config = model["config"]
    if "backbone" in config:
        config = config["backbone"]["config"]
    if "image_shape" in config:
        return _sizes(config["image_shape"])
    layers = config["layers"] if isinstance(config, Mapping) else config
    first = layers[0]["config"]
    for key in ("batch_shape", "batch_input_shape"):
        if isinstance(first.get(key), list):
            return _sizes(first[key][1:])
    built = config.get("build_input_shape") if isinstance(config, Mapping) else None
    return _sizes((built or [])[1:])


def _sizes(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(n if type(n) is int else None for n in shape)


def made_class(layer: Mapping[str, Any]) -> str | None:
    """The registered name of a model that is known by what it is made with, if that is what a layer
    is; `.h5` files have it as the class, and of a whole model no more than its last part.
    """
    if has_own_spec(layer):
        return KERAS_CLASS
    kind = layer.get("registered_name") or layer.get("class_name")
    if "module" not in layer and "inbound_nodes" not in layer:
        kind = next((name for name in HUB_CLASSES if name.partition(">")[2] == kind), kind)
    return kind if kind in HUB_CLASSES else None


def is_kerass(layer: Mapping[str, Any]) -> bool:
    """Whether a layer's class is Keras's own; files of Keras 2 do not say whose a class is."""
    module = layer.get("module", "keras")
    registered = layer.get("registered_name")
    ours = isinstance(module, str) and module.split(".")[0] in ("keras", "tf_keras")
    return is_ours_with_layers(layer) or (ours and registered in (None, layer["class_name"]))


def _class(layer: Mapping[str, Any]) -> Any:
    """What a layer is, for whoever opens models: ours is a functional one."""
    return "Functional" if is_ours_with_layers(layer) else layer["class_name"]


_Reference = tuple[str, int, int]


@dataclass(frozen=True)
class _Call:
    """What a layer is called with."""

    arguments: tuple[Any, ...]
    """By position, None in the place of each tensor."""
    tensors: tuple[_Reference, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """By name."""


def _references(data: Any) -> Iterator[_Reference]:
    """`[name, node, tensor]`, one of them or in lists and mappings."""
    if isinstance(data, Mapping):
        data = list(data.values())
    if len(data) >= 3 and isinstance(data[0], str):
        yield _reference(data)
        return
    for item in data:
        yield from _references(item)


def _reference(data: Sequence[Any]) -> _Reference:
    name, node, tensor = data[:3]
    if not isinstance(name, str) or type(node) is not int or type(tensor) is not int:
        raise TypeError("a reference to no tensor")
    return name, node, tensor


def _of_call(reference: _Reference, named: Mapping[str, Any], ends: bool = False) -> _Reference:
    """A reference by the number of the call in its layer's own list. Models have one call more than
    are listed: Keras 2 counts it everywhere, and Keras 3 where a model ends.
    """
    name, number, tensor = reference
    layer = named[name]
    old = any(isinstance(call, list) for call in layer["inbound_nodes"])
    if _class(layer) in ("Functional", "Model") or made_class(layer):
        number -= ends or old
    elif layer["class_name"] == "Sequential" and old:
        inside = layer["config"]
        first = (inside["layers"] if isinstance(inside, Mapping) else inside)[0]
        number -= first["class_name"] == "InputLayer"
    return name, number, tensor


def _call_of(call: Any, named: Mapping[str, Any]) -> _Call:
    """A call of a layer, as Keras 3 or Keras 2 writes it."""
    if isinstance(call, Mapping):
        arguments, tensors = _split(call["args"])
        options, by_name = _split(list(call["kwargs"].values()))
        if by_name:
            raise TypeError("a tensor that is called by name")
        tensors = tuple(_of_call(ref, named) for ref in tensors)
        return _Call(arguments, tensors, dict(zip(call["kwargs"], options, strict=True)))
    items = [call] if call and isinstance(call[0], str) else call
    found: dict[str, Any] = {}
    for item in items:
        found |= item[3] if len(item) > 3 else {}
    tensors = tuple(_of_call(_reference(item), named) for item in items)
    return _Call((None,) * len(items), tensors, found)


def _split(data: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[_Reference, ...]]:
    """Arguments with None in the place of each tensor, and the tensors; lists are opened."""
    arguments: list[Any] = []
    tensors: list[_Reference] = []
    for item in data:
        if isinstance(item, Mapping) and item.get("class_name") == "__keras_tensor__":
            tensors.append(_reference(item["config"]["keras_history"]))
            arguments.append(None)
        elif isinstance(item, list) and _holds_tensors(item):
            inside, more = _split(item)
            arguments += inside
            tensors += more
        else:
            arguments.append(item)
    return tuple(arguments), tuple(tensors)


def _holds_tensors(items: list[Any]) -> bool:
    kinds = (item.get("class_name") for item in items if isinstance(item, Mapping))
    return "__keras_tensor__" in kinds


def told_options(node: Node) -> str:
    """The first of the options that a layer is called with, for a message."""
    name, value = next(iter(node.options.items()))
    return shown(f"{name}={value}")
