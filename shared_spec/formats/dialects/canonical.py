"""The names of this project's own models: canonical ones, which are torchvision's and timm's, and
those that they have inside Keras and Flax NNX.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

from shared_spec.errors import WeightsError
from shared_spec.formats.canonical_file import recorded
from shared_spec.formats.containers.source import Source, mapping
from shared_spec.formats.dialects.dialect import Dialect, Extras, Place, in_torch
from shared_spec.formats.keras_config import extras_in, is_keras_model
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import METADATA_KEY
from shared_spec.weights.layouts import FLAX, KERAS, TORCH, keras_layer


@cache
def _numbers(spec: ResNetSpec) -> dict[str, int]:
    """Where arrays stand among the variables of their layers: our order and Keras's are one."""
    found: dict[str, int] = {}
    count: dict[str, int] = {}
    for q in compile_plan(spec).parameters():
        found[q.name] = count.get(q.module, 0)
        count[q.module] = found[q.name] + 1
    return found


def keras_model_place(q: Parameter, spec: ResNetSpec, legacy: bool = False) -> Place:
    """Where our model in Keras keeps a parameter: by name in legacy files, else by number."""
    slot = KERAS[q.role]
    leaf = slot.leaf if legacy else _numbers(spec)[q.name]
    return Place(f"{keras_layer(q.module)}/{leaf}", slot)


def _flax(q: Parameter, spec: ResNetSpec) -> Place:
    slot = FLAX[q.role]
    return Place("/".join([*q.module.split("."), slot.leaf]), slot)


def _extras(source: Source, spec: ResNetSpec) -> Extras:
    found = recorded(source)
    return found.preprocessing, found.labels


def _keras_spec(source: Source) -> ResNetSpec | None:
    """The spec in the configuration of a whole model of ours."""
    if not is_keras_model(source.metadata):
        if source.metadata:
            raise WeightsError(
                f"{source.path}: not a model of resnet_keras, so its layers are unknown here"
            )
        return None
    config = mapping(source.metadata.get("config"))
    if config.get("inference"):
        raise WeightsError(
            f"{source.path}: its model is in a form for inference, whose weights are other ones; "
            f"expected the model that it was made of"
        )
    return ResNetSpec.parse(config.get("spec"), str(source.path))


def _keras_extras(source: Source, spec: ResNetSpec) -> Extras:
    config = mapping(source.metadata.get("config"))
    found = extras_in(config, spec, f"{source.path}: its configuration")
    return found.preprocessing, found.labels


CANONICAL = Dialect(
    "canonical",
    "torchvision and timm",
    in_torch,
    lambda q, spec: Place(q.name, TORCH[q.role]),
    lambda source: recorded(source).spec,
    _extras,
    describes=True,
)


HUB = replace(
    CANONICAL,
    name="hub",
    recognises=lambda source: source.kind == "huggingface" and METADATA_KEY in source.metadata,
)
"""A folder for the Hugging Face Hub that was written here."""


def _numbered(first: int) -> Dialect:
    """A net whose modules became the children of a `Sequential`, its first stage by that number."""

    def foreign_name(q: Parameter, spec: ResNetSpec) -> Place:
        # A pool is a module, so that there are four before the first stage.
        start = first if spec.stem_pool == "none" else 4
        name = re.sub(r"^layer(\d)", lambda m: str(start + int(m[1]) - 1), q.name)
        return Place(re.sub(r"^(conv|bn)1", lambda m: "01"[m[1] == "bn"], name), TORCH[q.role])

    return Dialect(
        "numbered",
        "torchvision and timm as children of a Sequential",
        lambda source: (
            in_torch(source)
            and f"{first}.0.conv1.weight" in source.tensors
            and ("0.weight" in source.tensors or "0.0.weight" in source.tensors)
        ),
        foreign_name,
    )


NUMBERED = (_numbered(3), _numbered(4))
"""conv1, bn1 and the ReLU, then the pool if it is a module. Where the ReLU is none, as with nets
that call it as a function, a `Sequential` of children computes something else.
"""
KERAS_MODEL = Dialect(
    "keras",
    "resnet_keras",
    lambda source: source.kind == "keras3",
    keras_model_place,
    _keras_spec,
    _keras_extras,
    describes=True,
)
KERAS_VARIABLES = Dialect(
    "keras variables",
    "resnet_keras",
    lambda source: source.kind == "keras",
    lambda q, spec: Place(f"{keras_layer(q.module)}/{KERAS[q.role].leaf}", KERAS[q.role]),
    ignored=re.compile(r"/seed_generator_state$"),
)
"""By the paths that the variables have in memory."""
KERAS_MODEL_H5 = replace(
    KERAS_MODEL,
    recognises=lambda source: source.kind == "keras2" and is_keras_model(source.metadata),
    foreign_name=lambda q, spec: keras_model_place(q, spec, legacy=True),
)
FLAX_MODEL = replace(
    CANONICAL,
    name="flax",
    library="resnet_flax",
    recognises=lambda source: source.kind == "flax",
    foreign_name=_flax,
    ignored=re.compile(r"/rngs/"),
)
