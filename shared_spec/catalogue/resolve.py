"""From what a user names to a spec, and from a spec to a name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from shared_spec.catalogue import CATALOGUE, find
from shared_spec.catalogue.pretrained import find_pretrained
from shared_spec.errors import SpecError
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.equivalence import function_of
from shared_spec.spec.files import SUFFIXES, load_spec
from shared_spec.spec.resnet_spec import ResNetSpec

ModelLike = str | os.PathLike[str] | ResNetSpec
"""A catalogue name, also with a tag of published weights, the path of a spec file, or a spec."""


def resolve(model: ModelLike, overrides: Mapping[str, Any] | None = None) -> ResNetSpec:
    """The spec that `model` stands for, with `overrides` of its fields.

    Raises:
        UnknownModelError: if a name is not in the catalogue.
        SpecError: if the spec file or an override is not valid.
    """
    if isinstance(model, ResNetSpec):
        spec = model
    elif isinstance(model, str) and (model in CATALOGUE or not _looks_like_path(model)):
        name, dot, _ = model.partition(".")
        spec = find_pretrained(model).spec if dot and name in CATALOGUE else find(model).spec
    elif isinstance(model, str | os.PathLike):
        spec = load_spec(model)
    else:
        raise SpecError(
            f"model: expected a name, a ResNetSpec or the path of a spec file, got "
            f"{type(model).__name__}"
        )
    return spec.override(**dict(overrides or {}))


def same_function(spec: ResNetSpec, families: Collection[str], fields: Iterable[str]) -> str | None:
    """The net of some families of the catalogue that computes what `spec` says if it is given these
    fields of it.
    """
    wanted = function_of(compile_plan(spec))
    given = {field: getattr(spec, field) for field in fields}
    for name, entry in CATALOGUE.items():
        if entry.family not in families or entry.spec.depths != spec.depths:
            continue
        try:
            plan = compile_plan(entry.spec.override(**given))
        except SpecError:
            continue
        if function_of(plan) == wanted:
            return name
    return None


def _looks_like_path(text: str) -> bool:
    return text.lower().endswith(SUFFIXES) or os.sep in text
