"""What commands find, as plain JSON data and back: one codec for all of their dataclasses."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, TypeAdapter, computed_field

Count = Annotated[int, Field(ge=0, le=10**15)]

Figure = float | None
"""None where nothing was measured."""

Measured = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number that has to be there: JSON has null for one that is not finite."""


class JsonRecord:
    """A dataclass that is printed as JSON and read from it: its fields are the keys, and so are
    properties that are `computed_field`. What a later version adds is left aside.
    """

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        data: dict[str, Any] = json.loads(self._codec().dump_json(self, by_alias=True))
        return data

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """The inverse of `to_dict`.

        Raises:
            pydantic.ValidationError: if the data are something else.
        """
        record: Self = cls._codec().validate_python(data)
        return record

    @classmethod
    @cache
    def _codec(cls) -> TypeAdapter[Any]:
        return TypeAdapter(cls)


class JudgedRecord(JsonRecord):
    """A record of a comparison, whose `problems` say what is wrong."""

    problems: list[str]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def holds(self) -> bool:
        """True if there was something to compare, or to time, and nothing is wrong."""
        return not self.problems
