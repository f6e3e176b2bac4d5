"""What every kind of file is opened as."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared_spec.errors import WeightsError
from shared_spec.tensors import Tensors

JSON_LIMIT = 32 * 2**20
"""Bytes; a `.keras` file's description of ResNet-1202 takes 9 million."""


@dataclass(frozen=True)
class Source:
    """A file of arrays under its own names."""

    path: Path
    kind: str
    """`safetensors`, `pytorch`, `keras2` (legacy HDF5), `keras3` (HDF5), `npz` or `flax`."""
    tensors: Tensors
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What else the file says of itself: text by key, or a configuration."""


def parse_json(text: str | bytes, where: object) -> Any:
    """JSON of a limited size, from a file that need not be well meant.

    Raises:
        WeightsError: if it is not JSON, too long, or names one key twice.
    """
    if len(text) > JSON_LIMIT:
        raise WeightsError(f"{where}: has {len(text):,} bytes of JSON; expected {JSON_LIMIT:,}")
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise WeightsError(f"{where}: not readable as JSON ({reason[:200]})") from None


def read_json(path: Path) -> dict[str, Any]:
    """A mapping from a JSON file.

    Raises:
        WeightsError: if the file is missing or holds something else.
    """
    try:
        size = path.stat().st_size
        text = path.read_bytes() if size <= JSON_LIMIT else b" " * (JSON_LIMIT + 1)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    data = parse_json(text, path)
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: expected a mapping, got {type(data).__name__}")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:200]!r} stands there twice")
    return found


__all__ = ["JSON_LIMIT", "Source", "parse_json", "read_json"]
