"""A proposal for a map of names nobody knows: by the order, shapes and pairing of the arrays."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shared_spec import plan
from shared_spec.atomic_write import durable
from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import SpecError, WeightsError
from shared_spec.formats.containers.source import Source, shown
from shared_spec.formats.dialects.dialect import COUNTERS
from shared_spec.formats.search import plain
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.parameters import parameters_of
from shared_spec.spec.files import save_spec
from shared_spec.spec.resnet_spec import ResNetSpec

_SHORTCUT = re.compile(r"short|skip|down|proj|ident|match", re.IGNORECASE)
_SMALL = {"stem": "conv3x3", "stem_stride": 1, "stem_pool": "none", "image_size": 32}
"""How nets for small images begin."""


@dataclass(frozen=True)
class Suggestion:
    """A map that may be right."""

    names: Mapping[str, str | None]
    """Modules in the file to canonical ones; None leaves out."""
    spec: ResNetSpec
    model: str | None
    """The spec's name in the catalogue, if the net has one, apart from channels and classes."""


@dataclass(frozen=True)
class _Module:
    place: int
    name: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def norm(self) -> bool:
        """Whether it has the arrays of a norm."""
        return len(self.shapes) >= 2 and all(len(s) == 1 for s in self.shapes)


def suggestion(source: Source, spec: ResNetSpec | None = None) -> Suggestion:
    """A map from a file's modules to canonical ones; nothing uses it unless the user gives it back.

    Args:
        source: a file of PyTorch's modules.
        spec: the net; without, one of the catalogue is looked for whose kernels are the file's.

    Raises:
        WeightsError: if no net has such kernels, or the file has none for one of the net's.
    """
    modules = _modules(source)
    kernels: Counter[tuple[int, ...]] = Counter(
        shape for m in modules for shape in m.shapes if len(shape) == 4
    )
    for name, found in _candidates(modules, kernels, spec):
        matched = _matched(modules, found)
        if matched is not None:
            return Suggestion({m.name: matched.get(m.name) for m in modules}, found, name)
    asked = "the model that was named" if spec is not None else "any model of the catalogue"
    raise WeightsError(
        f"{source.path}: its {sum(kernels.values())} kernels, with the norms around them, are not "
        f"those of {asked}; name another (`spec`), or write the map by hand"
    )


def _modules(source: Source) -> list[_Module]:
    """The modules that have arrays, in the file's order; of the largest mapping, if there are
    several.
    """
    mappings = Counter(name.rpartition("/")[0] for name in source.tensors.entries)
    if not mappings:
        raise WeightsError(f"{source.path}: holds no arrays")
    (largest, _), *_ = mappings.most_common(1)
    found: dict[str, list[str]] = {}
    for name in source.tensors.entries:
        if name.rpartition("/")[0] == largest and not COUNTERS.search(name):
            found.setdefault(name.rpartition(".")[0], []).append(name)
    entries = source.tensors.entries
    return [
        _Module(place, plain(name), tuple(entries[n].shape for n in names))
        for place, (name, names) in enumerate(found.items())
    ]


def _candidates(
    modules: list[_Module], kernels: Counter[tuple[int, ...]], spec: ResNetSpec | None
) -> Iterator[tuple[str | None, ResNetSpec]]:
    """Nets with the file's kernels, for its channels and classes."""
    dense = [m.shapes[0] for m in modules if len(m.shapes[0]) == 2]
    first = next((s for m in modules for s in m.shapes if len(s) == 4), (0, 0, 0, 0))
    ends = {"in_channels": first[1], "num_classes": dense[-1][0] if len(dense) == 1 else 0}
    tried = [(None, spec)] if spec is not None else [(n, e.spec) for n, e in CATALOGUE.items()]
    for name, known in tried:
        if math.prod(first[2:]) == 9 and spec is None and not known.stem.startswith("deep"):
            tries = [(name, {}), (None, _SMALL)]
        else:
            tries = [(name, {})]
        for called, fields in tries:
            try:
                net = known.override(**ends, **fields)
                shapes = Counter(
                    q.shape for q in compile_plan(net).parameters() if len(q.shape) == 4
                )
            except SpecError:
                continue
            if shapes == kernels:
                yield called, net


def _matched(modules: list[_Module], spec: ResNetSpec) -> dict[str, str] | None:
    """The file's modules to those of a net; None if one is missing. Kernels are taken in their
    order, those of shortcuts from modules that are called so, and a norm is the nearest on the side
    of its kernel on which it is in the net.
    """
    free = {m.place: m for m in modules}
    shortcuts = any(_SHORTCUT.search(m.name) for m in modules)
    at: dict[str, int] = {}
    found: dict[str, str] = {}
    layers = [layer for layer in compile_plan(spec).layers() if parameters_of(layer)]
    before: dict[str, str] = {}
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, plan.Conv) and isinstance(following, plan.BatchNorm):
            before[following.name] = layer.name
    for layer in layers:
        if isinstance(layer, plan.BatchNorm):
            continue
        shapes = tuple(q.shape for q in parameters_of(layer))
        side = shortcuts and ".downsample" in layer.name
        fits = [
            m
            for m in free.values()
            if m.shapes == shapes and (not shortcuts or bool(_SHORTCUT.search(m.name)) == side)
        ]
        if not fits:
            return None
        at[layer.name] = fits[0].place
        found[free.pop(fits[0].place).name] = layer.name
    for number, layer in enumerate(layers):
        if not isinstance(layer, plan.BatchNorm):
            continue
        own = at.get(before.get(layer.name, ""))
        after = at.get(layers[number + 1].name) if number + 1 < len(layers) else None
        fits = [m for m in free.values() if m.norm and m.shapes[0] == (layer.channels,)]
        if own is not None:
            fits = [m for m in fits if m.place > own]
        elif after is not None:
            fits = [m for m in fits if m.place < after][::-1]
        if not fits:
            return None
        found[free.pop(fits[0].place).name] = layer.name
    return found


def write_suggestion(path: Path, found: Suggestion, source: object) -> Path | None:
    """Write a map for `--names`, and beside it the spec if the catalogue has no such net; returns
    where that is.
    """
    lines = [
        f"# Proposed for {source} by order and shapes: look through it before you use it.",
        *(
            f"{shown(name)}: {'null' if ours is None else ours}"
            for name, ours in found.names.items()
        ),
    ]
    with durable(path) as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if found.model is not None:
        return None
    spec = path.with_name(f"{path.stem}.spec.yaml")
    save_spec(spec, found.spec)
    return spec
