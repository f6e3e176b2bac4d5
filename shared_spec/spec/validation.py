"""What pydantic finds wrong with a user's data, as sentences."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from shared_spec.errors import ResNetError, SpecError, did_you_mean, some

_SHOWN = 20
"""Problems that are reported."""
_VALUES = 40_000
"""In one field; the longest has eight for each of 5,000 blocks. pydantic takes a kilobyte for each
value that is wrong, before it looks at how many there are.
"""


class Document(BaseModel):
    """A record that users write, in Python or in a YAML, TOML or JSON file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    origin: ClassVar[str]
    """What errors call it where it has no file."""
    refusal: ClassVar[type[ResNetError]]
    title: ClassVar[tuple[str, str]] = ("", "")
    """Of the schema of its files, and what such a file describes."""
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """What to say of fields that other libraries have, by their names there."""

    @classmethod
    def parse(cls, data: object, where: str | None = None) -> Self:
        """Validate `data` (a mapping of fields). `where` names the origin in errors.

        Raises:
            ResNetError: of the record's own kind, naming every bad field, what was given, and what
                would be accepted.
        """
        where = where or cls.origin
        if not isinstance(data, dict):
            raise cls.refusal(f"{where}: expected a mapping of fields, got {type(data).__name__}")
        for name, value in data.items():
            if _has_more(value, _VALUES):
                raise cls.refusal(f"{where}: {str(name)[:80]}: has more than {_VALUES:,} values")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise cls.refusal(f"{where}: " + "; ".join(sentences(cls, error))) from None

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from the defaults, as plain JSON data; `parse` takes it back."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema of a file of it, for editors."""
        title, what = cls.title
        words = {"title": title, "description": f"{what}: a YAML, TOML or JSON file."}
        version = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        return cls.model_json_schema() | version | words

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """With the fields' docstrings. pydantic's `use_attribute_docstrings` reads them too, but at
        every import, which takes as long as a seventh of it.
        """
        schema = handler.resolve_ref_schema(handler(core_schema))
        for record in cls.__mro__:
            if issubclass(record, Document):
                for name, text in _docstrings(record):
                    if name in cls.model_fields:
                        schema["properties"][name]["description"] = text
        return schema


def _docstrings(record: type) -> Iterator[tuple[str, str]]:
    """What a class itself declares, with the strings below."""
    (body,) = ast.parse(inspect.getsource(record)).body
    assert isinstance(body, ast.ClassDef)
    for field_and_below in pairwise(body.body):
        match field_and_below:
            case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                yield name, " ".join(text.split())


def _has_more(value: object, most: int) -> bool:
    """Whether there are more than so many values in nested lists and mappings."""
    rest, count = [value], 0
    while rest and count <= most:
        item = rest.pop()
        if isinstance(item, dict | list | tuple):
            count += len(item)
            rest.extend(item.values() if isinstance(item, dict) else item)
    return count > most


@contextmanager
def foreign_configuration(where: str) -> Iterator[None]:
    """Say of what is wrong with a library's configuration, as a `SpecError`, that it is `where`."""
    try:
        yield
    except ValidationError as error:
        field, _, problem = first_problem(error).partition(": ")
        raise SpecError(f"{where}: {field}: {problem.lower()}") from None
    except SpecError as error:
        text = str(error)
        raise SpecError(text if text.startswith(where) else f"{where}: {text}") from None


def first_problem(error: ValidationError) -> str:
    """A field, and what is wrong with it, in pydantic's words."""
    problem = error.errors(include_url=False)[0]
    path = ".".join(map(str, problem["loc"]))[:200]
    return f"{path}: {problem['msg']}"


def sentences(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One clause a problem: the field, what was given, what would be accepted."""
    out: list[str] = []
    problems = error.errors(include_url=False)
    for number, problem in enumerate(problems):
        if len(out) == _SHOWN:
            out.append(f"and up to {len(problems) - number:,} more")
            break
        location = [part for part in problem["loc"] if not _is_union_tag(part)]
        if len(location) < len(problem["loc"]) and not _meant(problem):
            continue
        fields, tags = _fields_at(model, location)
        path = ".".join(str(part)[:80] for part in location if part not in tags)[:200]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            name = str(location[-1])
            hint = getattr(model, "elsewhere", {}).get(name)
            hint = f"; {hint}" if hint else did_you_mean(name, fields)
            out.append(f"{path}: there is no such field{hint or '; known are ' + some(fields)}")
        elif problem["type"] == "missing":
            out.append(f"{path}: this field is required")
        elif path:
            message = message[0].lower() + message[1:]
            out.append(f"{path}: {message} (got {_short(problem['input'])})")
        else:
            out.append(message)
    return out


def _fields_at(model: type[BaseModel], location: list[Any]) -> tuple[list[str], set[str]]:
    """The fields of the record that holds the last part of a location, and those parts that are the
    name of one record out of several.
    """
    records, tags = [model], set()
    for part in location:
        named = [r for r in records if _tag(r) == part]
        if named:
            records = named
            tags.add(part)
        elif part is location[-1]:
            break
        found = [r.model_fields[part].annotation for r in records if part in r.model_fields]
        records = [r for annotation in found for r in _records(annotation)] or records
    return [name for r in records for name in r.model_fields], tags


def _tag(record: type[BaseModel]) -> object:
    field = record.model_fields.get("name")
    return None if field is None else field.default


def _records(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [record for part in get_args(annotation) for record in _records(part)]


def _is_union_tag(part: object) -> bool:
    """Whether pydantic put this part into a location to say which form of a field it tried."""
    return isinstance(part, str) and part.startswith(("literal[", "tuple["))


def _meant(problem: Any) -> bool:
    """Whether the form tried is the one that the user wrote: a tuple for a list, or else a name."""
    listed = isinstance(problem["input"], list | tuple) or len(problem["loc"]) > 2
    return listed == any(str(part).startswith("tuple[") for part in problem["loc"])


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of too many digits"
    return text if len(text) <= 80 else text[:77] + "..."
