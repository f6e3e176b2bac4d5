"""What a sweep found, as lines of JSON in a file, so that an interrupted sweep can continue."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

from pydantic import computed_field

from resnet_parity.numerics.record import JsonRecord
from shared_spec.errors import ResNetError

CODE = (
    *("shared_spec", "resnet_torch", "resnet_keras", "resnet_flax"),
    *(f"resnet_parity.{room}" for room in ("numerics", "engines", "worker", "check")),
)
"""The packages whose source decides what the engines compute, and what it is compared with."""

SILENT = frozenset({"h5py", "optax"})
"""What engines require and do not compute with."""


@dataclass
class LibraryVerdict:
    """A library's verdict on one name: how far each engine's logits are from its own. A figure is
    None where it is not finite. `recast` says that what it rounds to float32 was left in float64.
    """

    parameters: int = 0
    differences: dict[str, float | None] = field(default_factory=dict)
    recast: bool = False
    problems: list[str] = field(default_factory=list)


@dataclass
class SweepRecord(JsonRecord):
    """The result for one name of the catalogue; `key` shows when it is out of date."""

    name: str
    family: str
    key: str
    date: str
    dtype: str
    device: str
    sizes: list[tuple[int, int]]
    batch: int
    parameters: int
    versions: dict[str, str]
    tolerance: float | None = None
    engines: dict[str, float] = field(default_factory=dict)
    between: float | None = None
    pair: list[str] = field(default_factory=list)
    references: dict[str, LibraryVerdict] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def holds(self) -> bool:
        """True if nothing at all is wrong."""
        return not self.all_problems()

    def holds_for(self, reference: str) -> bool:
        """True if the engines agree with one another and with a library."""
        return not self.problems and not self.references[reference].problems

    def all_problems(self) -> list[str]:
        """Everything that is wrong, in sentences."""
        return self.problems + [
            p for compared in self.references.values() for p in compared.problems
        ]


def read_records(path: Path) -> dict[str, SweepRecord]:
    """Name to its latest record; a line that was torn by a kill is passed over. A file that is not
    there is made.

    Raises:
        ResNetError: if the file cannot be read and written.
    """
    records: dict[str, SweepRecord] = {}
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ResNetError(f"{path}: is not a regular file")
    try:
        with path.open("a+b") as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        raise ResNetError(f"{path}: cannot be read and written ({error.strerror})") from None
    for line in lines:
        try:
            record = SweepRecord.from_dict(json.loads(line))
            records[record.name] = record
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
    return records


def append_record(path: Path, record: SweepRecord) -> None:
    """Add a line to the file, on disk when this returns.

    Raises:
        ResNetError: if the file cannot be written.
    """
    line = json.dumps(record.to_dict(), allow_nan=False) + "\n"
    try:
        with path.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # torn by a kill
                    line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ResNetError(f"{path}: cannot be written ({error.strerror})") from None


def digest_of(facts: object) -> str:
    """SHA-256 of plain JSON data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def code_digest() -> str:
    """SHA-256 over the source of what computes; the catalogue is left to each spec's own digest."""
    sha = hashlib.sha256()
    for package in CODE:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*.py")):
            if path.parent.name != "catalogue":
                sha.update(f"{path.relative_to(folder.parent)}\0".encode() + path.read_bytes())
    return sha.hexdigest()


def versions_of(modules: Iterable[str]) -> dict[str, str]:
    """Module to the installed version of its distribution, without importing it."""
    return {m: _version(m) for m in sorted(set(modules) - SILENT)}


@cache
def _version(module: str) -> str:
    # TensorFlow's distribution has other names on some systems.
    return version(packages_distributions()[module][0])


def finite(value: float) -> float | None:
    """`value`, or None if JSON has no name for it."""
    return value if math.isfinite(value) else None
