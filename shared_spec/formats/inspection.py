"""What is in a file: its arrays, where ResNets are among them, and what else there is."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import ResNetError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.detect import open_source
from shared_spec.formats.dialects.dialect import in_torch
from shared_spec.formats.name_map import NameMap, renamed
from shared_spec.formats.read import Asked, checkpoint_of
from shared_spec.formats.search import candidates_in
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.equivalence import function_of
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.state import check_weights


@dataclass(frozen=True)
class Group:
    """The arrays of one module or mapping."""

    place: str
    arrays: int
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Net:
    """A place where a ResNet is."""

    part: str
    """As `--part` takes it; empty for the whole file."""
    model: str | None
    """Its name in the catalogue, apart from channels and classes, if it has one."""
    spec: ResNetSpec | None
    """None if that is not clear."""
    recognised_by: str
    notes: tuple[str, ...]
    problem: str = ""
    """Why it cannot be read as it is; empty if it can."""

    @property
    def whole(self) -> bool:
        """Whether it has a classifier."""
        return self.spec is not None and self.spec.num_classes > 0


@dataclass(frozen=True)
class Inspection:
    """What was found in a file."""

    path: str
    kind: str
    bytes: int
    groups: tuple[Group, ...]
    values: Mapping[str, object]
    """Numbers and texts beside the arrays, by their places."""
    opaque: Mapping[str, str]
    """Objects beside the arrays, which were not made, by the names of their types."""
    nets: tuple[Net, ...]
    problem: str = ""
    """Why no net was found; empty if there is one."""

    def commands(self, model: str | None, names: str | None) -> list[str]:
        """What would convert each net, as it is typed; the net's name is a blank where it is not
        known.

        Args:
            model: what `--model` was.
            names: what `--names` was.
        """
        found = []
        for net in self.nets:
            words = ["resnet-parity", "convert", self.path, f"{Path(self.path).stem}.safetensors"]
            if len(self.nets) > 1:
                words += ["--part", net.part]
            if names is not None:
                words += ["--names", names]
            if model is not None or net.problem:
                words += ["--model", model or "NAME"]
            found.append(shlex.join(words))
        return found


def inspect(path: Path, spec: ResNetSpec | None = None, names: NameMap | None = None) -> Inspection:
    """Look into a file without a framework, and without reading its arrays.

    Example:
        >>> [net.part for net in inspect(Path("dino.pth")).nets]
        ['student/backbone.', 'teacher/backbone.']

    Args:
        path: a file or a directory that `convert` takes.
        spec: the net, if its arrays do not tell it.
        names: the file's names to canonical ones.

    Raises:
        WeightsError: if the file cannot be read at all.
    """
    source = open_source(path)
    nets, problem = _nets(source, spec, names)
    size = sum(f.stat().st_size for f in path.rglob("*")) if path.is_dir() else path.stat().st_size
    text = in_torch(source) and not source.metadata.get("class_name")
    return Inspection(
        str(path),
        source.kind,
        size,
        tuple(_groups(source)),
        dict(source.metadata) if text else {},
        dict(source.opaque),
        tuple(nets),
        problem,
    )


def _nets(source: Source, spec: ResNetSpec | None, names: NameMap | None) -> tuple[list[Net], str]:
    searched = in_torch(source)
    parts: list[str | None] = [None]
    if searched:
        seen = source if names is None else renamed(source, names)[0]
        found = candidates_in(seen)
        parts = [c.part or "/" for c in found if c.trained] or [c.part or "/" for c in found]
        parts = [None] if len(parts) < 2 else parts
    nets, problem = [], ""
    for part in parts:
        wrong = ""
        try:
            read = checkpoint_of(source, spec, spec is not None, Asked(part, names))
        except ResNetError as error:
            problem = str(error).removeprefix(f"{source.path}: ")
            if part is not None:
                nets.append(Net(part, None, None, "names", (), problem))
        else:
            name = None if read.spec is None else catalogue_name(read.spec)
            try:
                assert read.spec is not None
                check_weights(compile_plan(read.spec), read.state, "float64")
            except ResNetError as error:
                wrong = str(error)
            nets.append(
                Net(part or read.part or "", name, read.spec, read.origin, read.notes, wrong)
            )
    return nets, "" if nets else problem


def catalogue_name(spec: ResNetSpec) -> str | None:
    """The first name of the catalogue that computes what a spec does, apart from channels and
    classes.
    """
    p = function_of(compile_plan(spec))
    for name, entry in CATALOGUE.items():
        known = entry.spec
        if known.depths != spec.depths or known.block != spec.block:
            continue
        try:
            other = known.override(in_channels=spec.in_channels, num_classes=spec.num_classes)
        except ResNetError:
            continue
        if function_of(compile_plan(other)) == p:
            return name
    return None


def _groups(source: Source) -> list[Group]:
    """Modules by the first words of their names, in each mapping."""
    found: dict[str, list[str]] = {}
    for name in source.tensors.entries:
        above, slash, last = name.rpartition("/")
        words = last.split(".")
        # Wrappers and modules that hold everything else say little by themselves.
        place = above + slash + ".".join(words[:-1][:2] or words)
        found.setdefault(place, []).append(name)
    entries = source.tensors.entries
    return [
        Group(
            place,
            len(names),
            sum(math.prod(entries[n].shape) for n in names),
            sum(entries[n].nbytes for n in names),
            tuple(sorted({entries[n].dtype.name for n in names})),
        )
        for place, names in found.items()
    ]
