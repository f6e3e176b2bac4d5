"""A user's map from the names in a file to canonical ones."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace

from shared_spec.errors import WeightsError, some
from shared_spec.formats.containers.source import Source, mapping, shown
from shared_spec.formats.search import plain
from shared_spec.spec.files import read_declaration
from shared_spec.weights.lazy_array import LazyArrays

NameMap = Mapping[str, str | None]
"""Names, the beginnings of names, or patterns of names in which `*` stands for a part between dots,
to canonical ones with as many `*`; None leaves out.
"""


def read_names(path: str | os.PathLike[str]) -> NameMap:
    """A map from a YAML, TOML or JSON file.

    Examples:
        >>> read_names("map.yaml")  # block1.*.bn_a: layer1.*.bn1
        {'block1.*.bn_a': 'layer1.*.bn1'}

    Raises:
        WeightsError: if it holds anything but lines of a name and a name.
    """
    data = read_declaration(path, "name map", WeightsError)
    lines = mapping(data)
    known = all(
        isinstance(k, str | int)
        and (v is None or (isinstance(v, str) and v.count("*") == str(k).count("*")))
        for k, v in lines.items()
    )
    if not known or not lines:
        raise WeightsError(
            f"{path}: expected lines 'name in the file: canonical name', for names, for beginnings "
            f"of names, or with as many * on both sides"
        )
    return {str(key): value for key, value in lines.items()}


def renamed(source: Source, names: NameMap) -> tuple[Source, dict[str, str]]:
    """A file with the names of a map, and these to its own; what no line speaks of keeps its own.

    A line may also be the other way round, as `trace --names` takes it: all of them, then.

    Raises:
        WeightsError: naming lines that fit no array, or two arrays that get one name.
    """
    entries = source.tensors.entries
    own = {plain(name): name for name in entries}
    places = dict.fromkeys(name.rpartition("/")[0] for name in own)
    tried = []
    for lines in (names, _turned(names)):
        for place in ("", *places) if lines else ():
            above = f"{place}/" if place else ""
            inside = {n.removeprefix(above): own[n] for n in own if n.startswith(above)}
            found, idle = _renamed(inside, lines, source)
            if not idle:
                tensors = LazyArrays({new: entries[name] for new, name in found.items()})
                return replace(source, tensors=tensors, modules={}), found
            tried.append(idle)
    idle = min(tried, key=len)
    raise WeightsError(
        f"{source.path}: `names`: no array is called {some([shown(n) for n in idle])}; "
        f"expected names of arrays or modules in the file, such as "
        f"{', '.join(shown(n) for n in list(own)[:3])}"
    )


def _turned(names: NameMap) -> dict[str, str | None]:
    """The lines the other way round, if that makes a map."""
    turned: dict[str, str | None] = {
        theirs: ours for ours, theirs in names.items() if theirs is not None
    }
    return turned if len(turned) == len(names) else {}


def _renamed(
    inside: Mapping[str, str], names: NameMap, source: Source
) -> tuple[dict[str, str], list[str]]:
    """New names to those of the file, and the lines that no array needed."""
    patterns = {k: re.compile(_regex(k)) for k in sorted(names, key=len, reverse=True) if "*" in k}
    found: dict[str, str] = {}
    used: set[str] = set()
    for name, told in inside.items():
        key, parts, rest = _line(name, names, patterns)
        used.add(key)
        value = names[key] if key else name
        if value is None:
            continue
        new = value.replace("*", "{}").format(*parts) + rest if parts else value + rest
        if new in found:
            raise WeightsError(f"{source.path}: `names`: two arrays become {shown(new)}")
        found[new] = told
    return found, [key for key in names if key not in used]


def _line(
    name: str, names: NameMap, patterns: Mapping[str, re.Pattern[str]]
) -> tuple[str, tuple[str, ...], str]:
    """The line that says most of a name, where two say as much the one without stars; what the
    stars stand for; and the rest of the name.
    """
    words = name.split(".")
    for end in range(len(words), 0, -1):
        start = ".".join(words[:end])
        if start in names:
            return start, (), name[len(start) :]
        for key, pattern in patterns.items():
            if key.count(".") == end - 1 and (match := pattern.match(name)):
                return key, match.groups(), name[match.end() :]
    return "", (), ""


def _regex(key: str) -> str:
    return re.escape(key).replace(r"\*", r"([^.]+)") + r"(?=\.|$)"
