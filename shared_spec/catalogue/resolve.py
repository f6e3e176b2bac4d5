"""From what a user names to a spec."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from shared_spec.catalogue import CATALOGUE, find
from shared_spec.errors import SpecError
from shared_spec.spec.files import SUFFIXES, load_spec
from shared_spec.spec.resnet_spec import ResNetSpec

ModelLike = str | os.PathLike[str] | ResNetSpec
"""A catalogue name, the path of a spec file, or a spec."""


def resolve(model: ModelLike, overrides: Mapping[str, Any] | None = None) -> ResNetSpec:
    """The spec that `model` stands for, with `overrides` of its fields.

    Raises:
        UnknownModelError: if a name is not in the catalogue.
        SpecError: if the spec file or an override is not valid.
    """
    if isinstance(model, ResNetSpec):
        spec = model
    elif isinstance(model, str) and (model in CATALOGUE or not _looks_like_path(model)):
        spec = find(model).spec
    elif isinstance(model, str | os.PathLike):
        spec = load_spec(model)
    else:
        raise SpecError(
            f"model: expected a name, a ResNetSpec or the path of a spec file, got "
            f"{type(model).__name__}"
        )
    return spec.override(**dict(overrides or {}))


def _looks_like_path(text: str) -> bool:
    return text.lower().endswith(SUFFIXES) or os.sep in text
