"""The names of this project's own models: canonical ones, which are torchvision's and timm's, and
those that they have inside Keras and Flax NNX.
"""

from __future__ import annotations

from functools import cache

from shared_spec.errors import WeightsError
from shared_spec.formats.canonical_file import recorded
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import Dialect, Extras, Place
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.layouts import FLAX, KERAS, TORCH, keras_layer

KERAS_CLASS = "resnet_keras>ResNet"
"""How Keras registers our model."""


def _canonical(q: Parameter, spec: ResNetSpec) -> Place:
    return Place(q.name, TORCH[q.role])


def _keras(q: Parameter, spec: ResNetSpec) -> Place:
    return Place(f"{keras_layer(q.module)}/{_number(q, spec)}", KERAS[q.role])


def _number(q: Parameter, spec: ResNetSpec) -> int:
    """Where a layer's array stands among its variables: our order and Keras's are one."""
    return _numbers(spec)[q.name]


@cache
def _numbers(spec: ResNetSpec) -> dict[str, int]:
    found: dict[str, int] = {}
    count: dict[str, int] = {}
    for q in compile_plan(spec).parameters():
        found[q.name] = count.get(q.module, 0)
        count[q.module] = found[q.name] + 1
    return found


def _flax(q: Parameter, spec: ResNetSpec) -> Place:
    slot = FLAX[q.role]
    return Place("/".join([*q.module.split("."), slot.leaf]), slot)


def _extras(source: Source, spec: ResNetSpec) -> Extras:
    found = recorded(source)
    return found.preprocessing, found.labels


def _keras_spec(source: Source) -> ResNetSpec | None:
    """The spec in the configuration of a `.keras` file of ours."""
    if source.metadata.get("registered_name") != KERAS_CLASS:
        if source.metadata:
            raise WeightsError(
                f"{source.path}: not a model of resnet_keras, so its layers are unknown here"
            )
        return None
    inner = source.metadata.get("config")
    return ResNetSpec.parse(
        inner.get("spec") if isinstance(inner, dict) else None, str(source.path)
    )


CANONICAL = Dialect(
    "canonical",
    "torchvision and timm",
    lambda source: source.kind in ("safetensors", "pytorch"),
    _canonical,
    lambda source: recorded(source).spec,
    _extras,
)
KERAS_MODEL = Dialect(
    "keras",
    "resnet_keras",
    lambda source: source.kind == "keras3",
    _keras,
    _keras_spec,
)
FLAX_MODEL = Dialect(
    "flax",
    "resnet_flax",
    lambda source: source.kind == "flax",
    _flax,
    lambda source: recorded(source).spec,
    _extras,
)
