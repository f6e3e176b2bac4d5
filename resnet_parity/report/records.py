"""What the report reads: the JSON that check, trace and bench print, checked and made harmless."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, TypeAdapter, ValidationError

from resnet_parity.check.result import CheckReport
from resnet_parity.numerics.record import Count, Figure
from resnet_parity.trace.result import TraceReport
from shared_spec.errors import ResNetError

_LONGEST = 2000
"""Characters of a text from a file that the page shows."""


class Record(BaseModel):
    """Frozen; what later versions add is left aside."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Spread(Record):
    """Seconds of a pass over a batch."""

    median: float
    low: float
    high: float


class Timed(Record):
    """A side in one mode, batch, size and dtype; speeds are None where they were refused."""

    side: str
    engine: str = ""
    peer: bool = False
    against: str | None = None
    mode: str
    batch: Count
    size: list[Count]
    dtype: str
    form: str | None = None
    layout: str | None = None
    compile: str | None = None
    seconds: Spread | None = None
    images_per_second: Figure = None
    bound_images_per_second: Figure = None
    share: Figure = None
    ratio: Figure = None
    imported: Figure = None
    build: Figure = None
    load: Figure = None
    first_call: Figure = None
    peak_host_bytes: Figure = None
    peak_device_bytes: Figure = None
    note: str | None = None
    refused: str | None = None


class Bound(Record):
    """What the device was measured to do in a dtype."""

    dtype: str
    flops_per_second: Figure = None
    bytes_per_second: Figure = None
    kernel: str | None = None


class Parity(Record):
    """A side held against a reference before it was timed."""

    side: str
    mode: str | None = None
    batch: Count | None = None
    dtype: str | None = None
    reference: str
    error: Figure
    bound: Figure
    holds: bool


class Scaled(Record):
    """A point of a scaling curve."""

    over: str
    side: str
    mode: str = ""
    dtype: str = ""
    x: FiniteFloat
    label: str = ""
    images_per_second: Figure = None
    share: Figure = None
    first_call: Figure = None
    refused: str | None = None


class Bench(Record):
    """What `resnet-parity bench --json` prints."""

    name: str
    command: str | None = None
    environment: dict[str, Any] = {}
    bounds: list[Bound] = []
    parity: list[Parity] = []
    rows: list[Timed] = []
    scaling: list[Scaled] = []
    spread: str = ""
    missing: dict[str, str] = {}
    notes: list[str] = []
    problems: list[str] = []


Kind = TypeVar("Kind", CheckReport, TraceReport, Bench)


def read(path: Path, kind: type[Kind]) -> list[Kind]:
    """The records of a JSON file: one, or a list of them.

    Raises:
        ResNetError: naming the file, if it cannot be read or holds something else.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise ResNetError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ResNetError(f"{path}: is not JSON ({error})") from None
    found = [record(each, kind, str(path)) for each in (data if isinstance(data, list) else [data])]
    if not found:
        raise ResNetError(f"{path}: holds no record; give what `resnet-parity --json` printed")
    return found


def record(data: Any, kind: type[Kind], where: str) -> Kind:
    """A record from plain JSON data.

    Raises:
        ResNetError: naming `where` it came from and the field, if it is something else.
    """
    command = f"resnet-parity {kind.__name__.removesuffix('Report').lower()} NAME --json"
    try:
        found = TypeAdapter(kind).validate_python(_harmless(_renamed(data)))
    except RecursionError:
        raise ResNetError(f"{where}: is nested too deeply for what `{command}` prints") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ResNetError(
            f"{where}: is not what `{command}` prints ({place}: {first['msg']})"
        ) from None
    if not isinstance(found, Bench) and found.holds and data.get("holds") is not True:
        raise ResNetError(f"{where}: does not say that it holds, nor what does not")
    return found


def _renamed(data: Any) -> Any:
    """`import` is no name that a field can have in Python."""
    if isinstance(data, Mapping) and isinstance(data.get("rows"), list):
        rows = [
            {**row, "imported": row.get("import")} if isinstance(row, Mapping) else row
            for row in data["rows"]
        ]
        return {**data, "rows": rows}
    return data


def _harmless(data: Any) -> Any:
    """All texts as they may be shown: what does not print, or turns the direction of writing, is
    escaped, and what is too long is cut.
    """
    if isinstance(data, str):
        return harmless(data)
    if isinstance(data, Mapping):
        return {harmless(str(key)): _harmless(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_harmless(value) for value in data]
    return data


def harmless(text: str) -> str:
    """One text, as `_harmless`. What it means in HTML is escaped where the page is made."""
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
