"""Weights of transformers in several files, with an index in JSON of which array is in which."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from shared_spec.errors import WeightsError
from shared_spec.formats.containers.source import ARRAYS, Source, read_json, shown
from shared_spec.weights.lazy_array import LazyArray, LazyArrays

_SHARDS = 1_000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def open_sharded(index: Path, opener: Callable[[Path], Source]) -> Source:
    """The arrays of all files that an index names; the files lie beside it.

    Args:
        index: such as `model.safetensors.index.json`.
        opener: what opens each file.

    Raises:
        WeightsError: if a file is missing or elsewhere, or holds other arrays than the index places
            there.
    """
    entries: dict[str, LazyArray] = {}
    for name, placed in shards_of(index).items():
        path = index.with_name(name)
        if not path.is_file():
            raise WeightsError(f"{path}: there is no such file, and {index.name} names it")
        found = opener(path).tensors.entries
        if missing := placed - found.keys():
            raise WeightsError(
                f"{path}: lacks {shown(min(missing))}, which {index.name} places there"
            )
        if extra := found.keys() - placed:
            raise WeightsError(
                f"{path}: holds {shown(min(extra))}, which {index.name} does not place there"
            )
        entries |= found
    return Source(index, "sharded", LazyArrays(entries))


def shards_of(index: Path) -> dict[str, set[str]]:
    """The names of the files that an index names, and of the arrays in each.

    Raises:
        WeightsError: if it is no such index, or a file would lie elsewhere than beside it.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise WeightsError(f"{index}: expected a mapping of arrays to files under 'weight_map'")
    if len(places) > ARRAYS:
        raise WeightsError(f"{index}: names {len(places):,} arrays, more than any model has")
    ending = "." + index.name.split(".")[1]
    found: dict[str, set[str]] = {}
    for array, file in places.items():
        if not isinstance(file, str) or not _NAME.fullmatch(file) or not file.endswith(ending):
            raise WeightsError(
                f"{index}: {shown(array)} is in {shown(str(file))}; expected the name of a "
                f"{ending} file beside it"
            )
        found.setdefault(file, set()).add(array)
    if len(found) > _SHARDS:
        raise WeightsError(f"{index}: names {len(found):,} files, expected at most {_SHARDS:,}")
    return found
