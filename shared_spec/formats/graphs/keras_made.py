"""Models of KerasHub and of this project in a Keras file, which has what they are made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from shared_spec import plan
from shared_spec.formats.dialects import keras_hub
from shared_spec.formats.dialects.canonical import keras_model_place
from shared_spec.formats.dialects.dialect import Place
from shared_spec.formats.dialects.keras_applications import HEAD, keras_place
from shared_spec.formats.graphs.events import Fork, Part, Step, parts_of
from shared_spec.formats.graphs.keras_layers import check_precision
from shared_spec.formats.graphs.keras_model import Node
from shared_spec.formats.graphs.walk import LayerError
from shared_spec.formats.keras_config import KERAS_CLASS, headless, own_activation
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.layers import Layer, Parameter
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec

_Find = Callable[[Parameter, bool], tuple[tuple[str, ...], Place]]


@dataclass(frozen=True)
class Member:
    """A layer of such a model."""

    model: Node
    layer: Layer
    find: _Find

    def __str__(self) -> str:
        return f"{self.layer.name} of {self.model}"

    def place(self, q: Parameter, legacy: bool) -> Place:
        """Where the file has one of its parameters; in legacy files by the outermost model."""
        above, place = self.find(q, legacy)
        path = (*self.model.path, *above)
        return replace(place, name="/".join((*(path[:1] if legacy else path), place.name)))


@dataclass(frozen=True)
class MadeModel:
    """A network that is known by what it is made with."""

    node: Node
    spec: ResNetSpec
    parts: tuple[Part, ...]
    """Whose owners are `Member`s."""
    channels: int
    """That leave it."""


def made_model(node: Node) -> MadeModel:
    """The network of a node of class `keras_model.made_class`.

    Raises:
        LayerError: if it gives several maps, or is in a form for inference.
        SpecError: if no spec is made so.
    """
    check_precision(node)
    if node.kind == KERAS_CLASS:
        return _ours(node)
    made = {"class_name": node.kind.partition(">")[2], "config": node.config}
    spec = keras_hub.spec_of(made, str(node))
    classifies, name = spec.num_classes > 0, ""
    if classifies:
        backbone = node.config["backbone"]["config"]
        check_precision(replace(node, config=backbone))
        name = str(backbone["name"])

    def find(q: Parameter, legacy: bool) -> tuple[tuple[str, ...], Place]:
        layer = keras_hub.layer_name(q.module, spec)
        return (name,) if classifies and layer != HEAD else (), keras_place(layer, q, legacy)

    p = compile_plan(spec)
    if not classifies:  # it ends in maps
        p = replace(p, head=headless(p.head))
    function = node.config.get("activation")
    return _made(node, spec, _ending_in(p, None if function == "linear" else function), find)


def _ours(node: Node) -> MadeModel:
    spec = ResNetSpec.parse(node.config["spec"], str(node))
    if node.config.get("inference"):
        raise LayerError(f"{node} is in a form for inference, whose weights are other ones")
    if spec.features_only and spec.out_indices != (len(spec.depths),):
        raise LayerError(f"{node} gives other maps than its last one")

    def find(q: Parameter, legacy: bool) -> tuple[tuple[str, ...], Place]:
        return (), keras_model_place(q, spec, legacy)

    p = compile_plan(spec)
    if node.config.get("maps"):
        p = replace(p, head=headless(p.head))
    function = own_activation(node.config) if "layers" in node.config else None
    return _made(node, spec, _ending_in(p, function), find)


def _ending_in(p: Plan, function: Any) -> Plan:
    """With an activation at the end, if there is one."""
    end = () if function is None else (plan.Activation("activation", function),)
    return replace(p, head=(*p.head, *end))


def _made(node: Node, spec: ResNetSpec, p: Plan, find: _Find) -> MadeModel:
    def owned(part: Part) -> Part:
        if isinstance(part, Step):
            return Step(part.layer, Member(node, part.layer, find))
        branch, shortcut = (
            tuple(Step(s.layer, Member(node, s.layer, find)) for s in chain)
            for chain in (part.branch, part.shortcut)
        )
        return Fork(branch, shortcut)

    parts = tuple(map(owned, parts_of(p)))
    channels = 0
    for layer in p.layers():
        if isinstance(layer, plan.GlobalPool) and layer.kind == "catavgmax":
            channels *= 2
        elif isinstance(layer, plan.Dense):
            channels = layer.out_features
        elif isinstance(layer, plan.Conv):
            channels = layer.out_channels
    return MadeModel(node, spec, parts, channels)
