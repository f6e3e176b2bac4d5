"""The form of a dialect, and what follows from it: reading, writing and finding the net."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import ResNetError, WeightsError
from shared_spec.formats.containers.source import Source
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.equivalence import function_of
from shared_spec.plan.layers import Conv, Parameter
from shared_spec.plan.parameters import parameters_of
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.layouts import ParameterLayout
from shared_spec.weights.lazy_array import LazyArray, LazyArrays, entries_of
from shared_spec.weights.preprocessing import Preprocessing

Extras = tuple[Preprocessing | None, tuple[str, ...] | None]
"""Preprocessing and labels, as far as a file has them."""

COUNTERS = re.compile(r"(^|\.)num_batches_tracked$")
"""PyTorch's, on which nothing depends."""


Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Regular expressions, and what takes the place of what they match."""


def rename(name: str, rules: Rules) -> str:
    """`name` after all rules, applied one after another."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def in_torch(source: Source) -> bool:
    """Whether a file is of a kind in which PyTorch's modules are kept."""
    return source.kind in ("safetensors", "pytorch")


@dataclass(frozen=True)
class Hint:
    """A text that may name the net of a file."""

    text: str
    where: str
    """What it is, for a message: `its 'arch'`, `its file name`."""
    whole: bool = True
    """Whether it has to be a name, or may hold one among other words."""

    def names(self, name: str) -> bool:
        """Whether it names a net of the catalogue: `ResNet-18` is `resnet18`."""
        if self.whole:
            return _letters(self.text) == _letters(name)
        return (
            re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", self.text.lower()) is not None
        )


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


@dataclass(frozen=True)
class Place:
    """Where a library keeps a parameter: its name there, and its layout."""

    name: str
    slot: ParameterLayout
    dense: bool = False
    """Whether a 1x1 convolution of ours is a dense layer there."""

    def to_canonical(self, found: LazyArray, q: Parameter) -> LazyArray:
        """In PyTorch's layout; an array of other axes stays as it is, to be refused later."""
        if self.slot.inverse is not None and len(found.shape) == len(self.slot.inverse):
            found = found.permuted(self.slot.inverse)
        if self.dense and len(found.shape) == 2:
            found = found.reshaped((*found.shape, *(1,) * (len(q.shape) - 2)))
        return found

    def to_foreign(self, array: LazyArray) -> LazyArray:
        """The inverse of `to_canonical`."""
        if self.dense and len(array.shape) > 2:
            array = array.reshaped(array.shape[:2])
        return array.permuted(self.slot.axes)


@dataclass(frozen=True)
class Dialect:
    """One library's way to call the parameters of a ResNet."""

    name: str
    """As `convert --to` takes it."""
    library: str
    """For messages."""
    recognises: Callable[[Source], bool]
    """Whether a file is of this dialect, by its names or its configuration."""
    foreign_name: Callable[[Parameter, ResNetSpec], Place]
    spec_of: Callable[[Source], ResNetSpec | None] = lambda source: None
    """The net, if the file identifies it."""
    extras: Callable[[Source, ResNetSpec], Extras] = lambda source, spec: (None, None)
    nearest_library_spec: Callable[[ResNetSpec], ResNetSpec] | None = None
    """The library's net for a spec, whose function may be another; None: it has them all."""
    ignored: re.Pattern[str] = COUNTERS
    """Arrays on which no result depends."""
    describes: bool = False
    """Whether `spec_of` gives what a file says of itself, and not what its shapes suggest."""
    assumption: str | None = None
    """What its files do not say, though releases differ in it, and how it is taken."""
    families: frozenset[str] | None = None
    """Of the catalogue, whose nets alone have such names; None: all."""


def arrays_of(dialect: Dialect, source: Source, spec: ResNetSpec) -> LazyArrays:
    """The canonical arrays of a file, none of them read; what is left over stays under its own
    name, so that it is refused when it is checked against the net.
    """
    rest = _relevant(dialect, source)
    found: dict[str, LazyArray] = {}
    for q in compile_plan(spec).parameters():
        place = dialect.foreign_name(q, spec)
        array = rest.pop(place.name, None)
        if array is not None:
            found[q.name] = place.to_canonical(array, q)
    return LazyArrays(found | {name: array for name, array in rest.items() if name not in found})


def foreign_arrays(
    dialect: Dialect, state: Mapping[str, np.ndarray], spec: ResNetSpec
) -> dict[str, LazyArray]:
    """The library's names and layouts for canonical arrays that fit `spec`."""
    entries = entries_of(state)
    found: dict[str, LazyArray] = {}
    for q in compile_plan(spec).parameters():
        place = dialect.foreign_name(q, spec)
        found[place.name] = place.to_foreign(entries[q.name])
    return found


def with_counters(entries: Mapping[str, LazyArray]) -> dict[str, LazyArray]:
    """PyTorch's names with the counters that its strict loading asks for, at zero."""
    norms = [name.removesuffix("running_var") for name in entries if name.endswith(".running_var")]
    zero = LazyArray.of(np.zeros((), np.int64))
    return {**entries, **{f"{norm}num_batches_tracked": zero for norm in norms}}


def _relevant(dialect: Dialect, source: Source) -> dict[str, LazyArray]:
    entries = source.tensors.entries.items()
    return {name: array for name, array in entries if not dialect.ignored.search(name)}


@dataclass(frozen=True)
class Fit:
    """A net of the catalogue, with the file's channels and classes, whose names and shapes are
    those of a file.
    """

    names: tuple[str, ...]
    """In the catalogue; all compute the same."""
    spec: ResNetSpec


def fitting(dialect: Dialect, source: Source) -> list[Fit]:
    """The nets of the catalogue that a file can be, each with another function."""
    shapes = {name: array.shape for name, array in _relevant(dialect, source).items()}
    found: list[tuple[Any, list[str], ResNetSpec]] = []
    for name, entry in CATALOGUE.items():
        if dialect.families is not None and entry.family not in dialect.families:
            continue
        spec = _fitting(dialect, entry.spec, shapes)
        if spec is None:
            continue
        function = function_of(compile_plan(spec))
        names = next((names for other, names, _ in found if other == function), None)
        if names is None:
            found.append((function, [name], spec))
        else:
            names.append(name)
    return [Fit(tuple(names), spec) for _, names, spec in found]


class UndecidedNetError(WeightsError):
    """The arrays of a file fit no net of the catalogue, or several, of which `models` has names."""

    def __init__(self, message: str, models: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.models = tuple(models)


def detected(
    dialect: Dialect, source: Source, hints: Sequence[Hint] = ()
) -> tuple[ResNetSpec, str]:
    """The net of the catalogue whose names and shapes are the file's, for its own number of
    channels and classes, and what decided among several: nothing, or a hint in words.

    Args:
        dialect: whose names they are.
        source: the file.
        hints: what may name the net, the surest first.

    Raises:
        UndecidedNetError: if there is none, or there are several that compute different functions.
        WeightsError: if there can be none.
    """
    found = fitting(dialect, source)
    if len(found) == 1:
        return found[0].spec, ""
    if not found:
        for name, array in source.tensors.entries.items():
            if len(array.shape) == 5:
                raise WeightsError(
                    f"{source.path}: {name} has 5 axes, as kernels for videos and volumes do, "
                    f"which no spec can express"
                )
        raise UndecidedNetError(
            f"{source.path}: the file does not say which model it is, and its arrays fit none of "
            f"the catalogue; name the model or a spec file (`spec`)"
        )
    for hint in hints:
        named = [(len(name), name, fit.spec) for fit in found for name in fit.names]
        named = [x for x in named if hint.names(x[1])]
        if named:
            _, name, spec = max(named, key=lambda x: x[0])
            return spec, f"{name}, as {hint.where} says"
    models = [fit.names[0] for fit in found]
    raise UndecidedNetError(
        f"{source.path}: its arrays fit {', '.join(models)}, which compute different functions; "
        f"name the one that it is (`spec`)",
        models,
    )


def resized(dialect: Dialect, source: Source, spec: ResNetSpec) -> ResNetSpec | None:
    """`spec` with the file's numbers of channels and classes; None if it does not fit even so."""
    shapes = {name: array.shape for name, array in _relevant(dialect, source).items()}
    return _fitting(dialect, spec, shapes)


def _fitting(
    dialect: Dialect, spec: ResNetSpec, shapes: Mapping[str, tuple[int, ...]]
) -> ResNetSpec | None:
    """`spec` with the file's channels and classes, if its names and shapes are then the file's."""
    if 2 * sum(spec.depths) > len(shapes):  # a block has two convolutions at least
        return None
    p = compile_plan(spec)

    def canonical_shape(q: Parameter) -> tuple[int, ...] | None:
        place = dialect.foreign_name(q, spec)
        shape = shapes.get(place.name)
        return None if shape is None else place.to_canonical(_empty(shape), q).shape

    first = parameters_of(next(layer for layer in p.stem if isinstance(layer, Conv)))[0]
    stem = canonical_shape(first)
    if stem is None or len(stem) != 4 or stem[0] != first.shape[0] or stem[2:] != first.shape[2:]:
        return None
    head = next((canonical_shape(parameters_of(x)[0]) for x in p.classifiers), None)
    try:
        spec = spec.override(in_channels=stem[1], num_classes=head[0] if head else 0)
        expected = {}
        for q in compile_plan(spec).parameters():
            place = dialect.foreign_name(q, spec)
            if place.name not in shapes:
                return None
            expected[place.name] = place.to_foreign(_empty(q.shape)).shape
    except ResNetError:
        return None
    return spec if expected == shapes else None


def _empty(shape: tuple[int, ...]) -> LazyArray:
    return LazyArray(shape, np.dtype(np.float32), lambda: np.zeros(shape, np.float32))
