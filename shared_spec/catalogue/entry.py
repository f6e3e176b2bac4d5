"""The record of one named model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from shared_spec.spec.resnet_spec import ResNetSpec


@dataclass(frozen=True)
class Entry:
    """A name, the spec fields that differ from the defaults, and where the model comes from."""

    name: str
    family: str
    fields: Mapping[str, Any]
    source: str
    note: str = ""

    @cached_property
    def spec(self) -> ResNetSpec:
        """The validated spec."""
        return ResNetSpec.parse(dict(self.fields), where=self.name)
