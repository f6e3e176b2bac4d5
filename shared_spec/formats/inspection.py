"""What is in a file: its arrays, where ResNets are among them, and what else there is."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import ResNetError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.detect import open_source
from shared_spec.formats.dialects.dialect import UndecidedNetError, in_torch
from shared_spec.formats.name_map import NameMap, renamed
from shared_spec.formats.read import Asked, checkpoint_of
from shared_spec.formats.search import candidates_in
from shared_spec.formats.suggestion import suggestion
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.equivalence import function_of
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import METADATA_KEY
from shared_spec.weights.state import check_weights

ROWS = 30
"""Groups into which the arrays of a file are divided, at most, if not more begin with other words.
"""
_NETS = 10
"""Places that are looked into, at most: each takes as long as a small file."""
_WORDS = re.compile(r".*?(?:[./]|(?<=\d)_(?=.)|$)")
"""Words of an array's name, each with what ends it: `conv2_`, `block1_`, `0_`, `conv/`, `bias`."""
_ENDS = ("in_channels", "num_classes", "image_size")
"""Fields of a spec that do not make it another net of the catalogue."""


@dataclass(frozen=True)
class Group:
    """Arrays whose names begin alike."""

    place: str
    """How they begin; empty for the whole file."""
    arrays: int
    numbers: int
    bytes: int
    dtypes: tuple[str, ...]
    shape: tuple[int, ...] | None
    """Of one array by itself."""


@dataclass(frozen=True)
class Net:
    """A place where a ResNet is."""

    part: str
    """As `--part` takes it; `/` is the whole file."""
    model: str | None = None
    """The nearest net of the catalogue; None if it is not known which net this is."""
    differs: Mapping[str, object] = field(default_factory=dict)
    """Fields of its spec, but for channels, classes and image size, that are not `model`'s."""
    fits: tuple[str, ...] = ()
    """Nets of the catalogue that compute different functions, if the arrays fit several."""
    spec: ResNetSpec | None = None
    """None if it is not known."""
    classes: int | None = None
    """0 without a classifier; None if it is not known."""
    recognised_by: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""
    """Why it cannot be read as it is; empty if it can."""


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
    unseen: int
    """Further places of nets, which were not looked into."""
    problem: str = ""
    """Why no net was found; empty if there is one."""
    mappable: bool = False
    """Whether `--suggest` would find names."""

    def command(self, net: Net, source: str, model: str | None, names: str | None) -> str | None:
        """What converts a net, to be typed as it is; None if that takes more than is known.

        Args:
            net: one of `nets`.
            source: the file as the user has named it.
            model: what `--model` was.
            names: what `--names` was.
        """
        if net.problem and not net.fits:
            return None
        part = net.part if len(self.nets) + self.unseen > 1 else None
        asked = {"--part": part, "--names": names, "--model": next(iter(net.fits), model)}
        words = (word for option, value in asked.items() if value for word in (option, value))
        return command_line("convert", source, target_for(source, part), *words)


def command_line(command: str, source: str, *words: str) -> str:
    """A command for a file, to be typed; a file's name is never taken for an option."""
    source = f"./{source}" if source.startswith("-") else source
    return shlex.join(["resnet-parity", command, source, *words])


def target_for(source: str, part: str | None = None) -> str:
    """A file in the current directory for what is converted, which is not the source itself."""
    name = re.split(r"[?#]", source.rstrip("/"))[0].rpartition("/")[2].rpartition(":")[2]
    stem = re.sub(r"[^\w.-]", "_", Path(name).stem).lstrip("-.") or "net"
    if part is not None:
        stem += "-" + (re.sub(r"\W+", "_", part).strip("_")[:80] or "top")
    elif name.endswith(".safetensors"):
        stem += "-canonical"
    return f"{stem}.safetensors"


def inspect(
    path: Path,
    spec: ResNetSpec | None = None,
    names: NameMap | None = None,
    resize: bool = False,
) -> Inspection:
    """Look into a file without a framework, and without reading its arrays.

    Examples:
        >>> [net.part for net in inspect(Path("dino.pth")).nets]
        ['student/backbone.', 'teacher/backbone.']

    Args:
        path: a file or a directory that `convert` takes.
        spec: the net, if its arrays do not tell it.
        names: the file's names to canonical ones.
        resize: whether `spec` stands for a net of any number of channels and classes.

    Raises:
        WeightsError: if the file cannot be read at all.
    """
    source = open_source(path)
    nets, unseen, problem = _nets(source, spec, names, resize)
    size = sum(f.stat().st_size for f in path.rglob("*")) if path.is_dir() else path.stat().st_size
    told = source.metadata if in_torch(source) else {}
    return Inspection(
        str(path),
        source.kind,
        size,
        tuple(_groups(source)),
        {key: value for key, value in told.items() if key != METADATA_KEY},
        dict(source.opaque),
        tuple(nets),
        unseen,
        problem,
        not nets and in_torch(source) and _mappable(source, spec),
    )


def _nets(
    source: Source, spec: ResNetSpec | None, names: NameMap | None, resize: bool
) -> tuple[list[Net], int, str]:
    """The nets, how many more there are, and why there is none."""
    parts: list[str] = []
    if in_torch(source):
        found = candidates_in(source if names is None else renamed(source, names)[0])
        parts = [c.part or "/" for c in found if c.trained] or [c.part or "/" for c in found]
    several = len(parts) > 1
    nets, sure = [], True
    for part in (*parts[:_NETS],) or (None,):
        net, sure = _net(source, spec, resize, Asked(part if several else None, names))
        nets.append(net if part is None else replace(net, part=part))
    if not parts and not sure:
        return [], 0, nets[0].problem
    return nets, len(parts[_NETS:]), ""


def _net(source: Source, spec: ResNetSpec | None, resize: bool, asked: Asked) -> tuple[Net, bool]:
    """What is known of the net at a place, and whether there is one for sure."""
    problem, fits = "", tuple[str, ...]()
    try:
        try:
            read = checkpoint_of(source, spec, resize, asked)
        except UndecidedNetError as undecided:
            problem, fits = _said(source, undecided), undecided.models
            if not fits:
                return Net("/", problem=problem), True
            read = checkpoint_of(source, CATALOGUE[fits[0]].spec, True, asked)
    except ResNetError as error:
        return Net("/", problem=_said(source, error)), False
    net = Net(
        read.part or "/",
        fits=fits,
        recognised_by=read.origin,
        notes=read.notes,
        problem=problem,
    )
    if read.spec is None:
        problem = "the file does not say which model it is; name it (`spec`)"
        return replace(net, problem=problem), True
    net = replace(net, classes=read.spec.num_classes)
    if fits:
        return net, True
    try:
        check_weights(compile_plan(read.spec), read.state, "float64")
    except ResNetError as error:
        problem = _said(source, error)
    model, differs = nearest_model(read.spec)
    return replace(net, model=model, differs=differs, spec=read.spec, problem=problem), True


def _said(source: Source, error: ResNetError) -> str:
    return str(error).removeprefix(f"{source.path}: ")


def _mappable(source: Source, spec: ResNetSpec | None) -> bool:
    try:
        suggestion(source, spec)
    except ResNetError:
        return False
    return True


def nearest_model(spec: ResNetSpec) -> tuple[str, dict[str, object]]:
    """The name of the catalogue that computes what a spec does, apart from channels and classes,
    with the fewest other fields that differ; or the nearest one, and the fields that differ.
    """
    ends = {"in_channels": spec.in_channels, "num_classes": spec.num_classes}
    own = function_of(compile_plan(spec))
    found: list[tuple[str, dict[str, object]]] = []
    equal: list[tuple[int, str]] = []
    for name, entry in CATALOGUE.items():
        known = entry.spec
        theirs = known.model_dump(mode="json")
        differs = {
            k: v
            for k, v in spec.model_dump(mode="json").items()
            if k not in _ENDS and theirs[k] != v
        }
        found.append((name, differs))
        if known.depths == spec.depths and known.block == spec.block:
            try:
                if function_of(compile_plan(known.override(**ends))) == own:
                    equal.append((len(differs), name))
            except ResNetError:
                pass
    if equal:
        return min(equal, key=lambda entry: entry[0])[1], {}
    return min(found, key=lambda entry: len(entry[1]))


def _groups(source: Source) -> list[Group]:
    """The arrays by how their names begin, with one word, or as many as make `ROWS` groups at most;
    the arrays of one layer stay together.
    """
    words = {name: _WORDS.findall(name)[:-1] for name in source.tensors.entries}
    rows: dict[tuple[str, ...], list[str]] = {(): list(words)}
    for depth in range(max(map(len, words.values()), default=0)):
        deeper: dict[tuple[str, ...], list[str]] = {}
        for place, names in rows.items():
            inside: dict[tuple[str, ...], list[str]] = {}
            if len(place) == depth and not (place and _one_layer(names, words, depth)):
                for name in names:
                    inside.setdefault(tuple(words[name][: depth + 1]), []).append(name)
            few = 0 < len(inside) <= ROWS or not place
            deeper |= inside if few else {place: names}
        if depth and len(deeper) > ROWS:
            break
        rows = deeper
    return [_group("".join(place), names, source) for place, names in rows.items()]


def _one_layer(names: list[str], words: Mapping[str, list[str]], depth: int) -> bool:
    """Whether one word alone is left of each name."""
    return all(len(words[name]) == depth + 1 for name in names)


def _group(place: str, names: list[str], source: Source) -> Group:
    arrays = [source.tensors.entries[name] for name in names]
    return Group(
        place,
        len(arrays),
        sum(math.prod(a.shape) for a in arrays),
        sum(a.nbytes for a in arrays),
        tuple(sorted({a.dtype.name for a in arrays})),
        arrays[0].shape if len(arrays) == 1 else None,
    )
