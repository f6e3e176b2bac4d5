"""Specs as YAML, TOML or JSON files."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from shared_spec.atomic_write import durable
from shared_spec.errors import ResNetError, SpecError
from shared_spec.spec.resnet_spec import ResNetSpec

SUFFIXES = (".yaml", ".yml", ".toml", ".json")
_LARGEST = 100_000
_DOTS = 16
_DEPTH = 64
_FIELDS = 200
"""In one line of YAML, where each may open a level or stand beside the others."""
_ITEMS = 25_000
"""Of YAML, which takes 50 microseconds for each; as many numbers of two digits fit into a file."""


def load_spec(path: str | os.PathLike[str]) -> ResNetSpec:
    """Read a spec file.

    Raises:
        SpecError: if the file is missing, over 100 kB, not of its suffix's format, or not a spec.
    """
    return ResNetSpec.parse(read_declaration(path, "spec", SpecError), where=str(path))


def read_declaration(path: str | os.PathLike[str], what: str, kind: type[ResNetError]) -> object:
    """The data in a YAML, TOML or JSON file that should hold a `what`.

    Raises:
        kind: if the file is missing, over 100 kB, or not of its suffix's format.
    """
    suffix = _suffix(Path(path), what, kind)
    raw = read_start(path, _LARGEST, kind)
    if len(raw) > _LARGEST:
        raise kind(f"{path}: larger than {_LARGEST:,} bytes, which no {what} needs")
    try:
        return _parse(raw.decode("utf-8-sig"), suffix)
    except (ValueError, RecursionError) as error:
        text = "".join(c if c.isprintable() else " " for c in str(error)[:2000])
        reason = " ".join(text.split())[:300]
        raise kind(f"{path}: not valid {suffix[1:].upper()} ({reason})") from None


def read_start(path: str | os.PathLike[str], most: int, kind: type[ResNetError]) -> bytes:
    """What a file holds, or one byte more than `most` of it.

    Raises:
        kind: if it cannot be read.
    """
    file = Path(path)
    try:
        # Reading a pipe or a device need not end.
        if file.exists() and not file.is_file() and not file.is_dir():
            raise kind(f"{path}: is not a file")
        with file.open("rb") as stream:
            return stream.read(most + 1)
    except OSError as error:
        raise kind(f"{path}: cannot be read ({error.strerror})") from None


def save_spec(path: str | os.PathLike[str], spec: ResNetSpec) -> None:
    """Write the fields of `spec` that differ from the defaults, in the suffix's format.

    Raises:
        ResNetError: if the suffix is not a spec file's or the file cannot be written.
    """
    suffix = _suffix(Path(path), "spec", SpecError)
    data = spec.to_dict()
    if suffix == ".json":
        text = json.dumps(data, indent=2) + "\n"
    else:
        # A JSON number, string or list of numbers is the same text in YAML and in TOML.
        mark = " = " if suffix == ".toml" else ": "
        text = "".join(f"{key}{mark}{json.dumps(value)}\n" for key, value in data.items())
    with durable(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _suffix(path: Path, what: str, kind: type[ResNetError]) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise kind(f"{path}: a {what} file ends in one of {', '.join(SUFFIXES)}")
    return suffix


def _parse(text: str, suffix: str) -> object:
    if suffix == ".toml":
        # tomllib's memory grows with the square of a key's parts; a spec's keys have one part.
        lines = (line for line in text.split("\n") if not line.lstrip().startswith("#"))
        if any(line.count(".") > _DOTS for line in lines):
            raise ValueError("a line has more dots than a spec's")
        return tomllib.loads(text)
    if suffix == ".json":
        return json.loads(text, object_pairs_hook=_no_duplicates)
    return _parse_yaml(text)


def _parse_yaml(text: str) -> object:
    import yaml

    if text.count(",") + text.count("\n") > _ITEMS:
        raise ValueError("it has more items than any spec")
    if _yaml_depth(text) > _DEPTH:
        raise ValueError("it is nested deeper than any spec")

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """SafeLoader without aliases (they can blow up a small file) or repeated keys."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("aliases are not accepted")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            return _no_duplicates(
                [
                    (self.construct_object(k, deep=True), self.construct_object(v, deep=True))
                    for k, v in node.value
                ]
            )

    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506 a SafeLoader
    # PyYAML's own constructors raise errors of many kinds for odd scalars.
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from None


def _yaml_depth(text: str) -> int:
    """At most how deep YAML is nested, in one pass: brackets that are open at once, or marks of
    lists and mappings in one line. Indentation alone cannot go deep in a file of this size.
    """
    deepest = depth = 0
    for mark in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if mark in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    marks = (len(re.findall(r"[-?:][ \t]", line)) for line in text.split("\n"))
    return max(deepest, max(marks) - _FIELDS)


def _no_duplicates(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r} is not a string")
        if key in out:
            raise ValueError(f"the key {key!r} appears twice")
        out[key] = value
    return out
