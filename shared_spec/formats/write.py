"""Every format that can be written: which file or directory, in whose names, by what."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from shared_spec.atomic_write import durable
from shared_spec.errors import SpecError, WeightsError
from shared_spec.formats.canonical_file import save_canonical
from shared_spec.formats.containers.hdf5 import KerasLayer, save_keras3, save_legacy
from shared_spec.formats.containers.msgpack import save_msgpack
from shared_spec.formats.containers.pytorch import save_pytorch
from shared_spec.formats.containers.source import Source
from shared_spec.formats.detect import CHECKPOINT_MARK, name_suffix
from shared_spec.formats.dialects.canonical import CANONICAL, FLAX_MODEL
from shared_spec.formats.dialects.dialect import Dialect, detected, foreign_arrays, with_counters
from shared_spec.formats.dialects.huggingface import (
    HUGGINGFACE,
    HUGGINGFACE_FILES,
    save_huggingface,
)
from shared_spec.formats.dialects.keras_applications import (
    APPLICATIONS,
    APPLICATIONS_H5,
    graph_position,
)
from shared_spec.formats.dialects.keras_hub import KERAS_HUB, KERAS_HUB_FILES, save_preset
from shared_spec.formats.dialects.linen import LINEN
from shared_spec.formats.dialects.renamed import TORCHVISION_NAMES
from shared_spec.formats.hub_folder import HUB_FILES, WEIGHTS, save_hub_folder
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.lazy_array import LazyArray, LazyArrays, entries_of
from shared_spec.weights.refit import weights_for_library
from shared_spec.weights.state import check_weights

_KERAS = ("keras:tensorflow", "keras:jax", "keras:torch")
Save = Callable[[Path, Checkpoint], None]


@dataclass(frozen=True)
class Format:
    """A kind of file or directory that can be written."""

    name: str
    """As `convert --to` takes it."""
    suffix: str
    """With which a path asks for it; empty for a directory."""
    description: str
    save: Save | None
    """Writes it; None where a framework has to."""
    engines: tuple[str, ...] = ()
    """In which what is written can be used; those that have to write it, if `save` is None."""
    dialect: Dialect | None = None
    """Of the library whose nets alone can be written; None: every net can."""
    keeps: frozenset[str] = frozenset()
    """What it tells besides the arrays: `spec`, `preprocessing`, `labels`."""


_ALL = frozenset({"spec", "preprocessing", "labels"})


def _arrays(dialect: Dialect, checkpoint: Checkpoint) -> dict[str, LazyArray]:
    """The weights under a library's names."""
    assert checkpoint.spec is not None
    return foreign_arrays(dialect, checkpoint.state, checkpoint.spec)


def _save_pytorch(dialect: Dialect, path: Path, checkpoint: Checkpoint) -> None:
    save_pytorch(path, LazyArrays(with_counters(_arrays(dialect, checkpoint))))


def _save_msgpack(dialect: Dialect, path: Path, checkpoint: Checkpoint) -> None:
    save_msgpack(path, LazyArrays(_arrays(dialect, checkpoint)))


def _keras_layers(dialect: Dialect, checkpoint: Checkpoint) -> list[KerasLayer]:
    """Layers of a library that is made with Keras, in the order of its graph."""
    assert checkpoint.spec is not None
    layers: dict[str, dict[str, LazyArray]] = {}
    for name, array in _arrays(dialect, checkpoint).items():
        layer, _, leaf = name.partition("/")
        layers.setdefault(layer, {})[leaf] = array
    kinds = {4: "conv2d", 2: "dense", 1: "batch_normalization"}  # by the axes of the first array
    order = graph_position("bottleneck" in checkpoint.spec.blocks)
    return [
        KerasLayer(name, kinds[len(next(iter(layers[name].values())).shape)], layers[name])
        for name in sorted(layers, key=order)
    ]


def _save_applications_h5(path: Path, checkpoint: Checkpoint) -> None:
    save_legacy(path, _keras_layers(APPLICATIONS_H5, checkpoint))


def _save_applications(path: Path, checkpoint: Checkpoint) -> None:
    save_keras3(path, _keras_layers(APPLICATIONS, checkpoint))


def _save_keras_hub(path: Path, checkpoint: Checkpoint) -> None:
    save_preset(path, checkpoint, _keras_layers(KERAS_HUB, checkpoint))


_SPEC, _PREPARED = frozenset({"spec"}), frozenset({"spec", "preprocessing"})
_HF = HUGGINGFACE[0]
_save_canonical_pytorch = partial(_save_pytorch, CANONICAL)
_torchvision = partial(
    Format,
    "torchvision",
    description="state dict of torchvision",
    save=partial(_save_pytorch, TORCHVISION_NAMES),
    engines=("torch",),
    dialect=TORCHVISION_NAMES,
)
_applications = partial(
    Format, "keras-applications", engines=_KERAS, dialect=APPLICATIONS, keeps=_PREPARED
)
FORMATS: tuple[Format, ...] = (
    Format("canonical", ".safetensors", "canonical safetensors", save_canonical, keeps=_ALL),
    Format("canonical", ".pth", "PyTorch state dict", _save_canonical_pytorch, ("torch",)),
    Format("canonical", ".pt", "PyTorch state dict", _save_canonical_pytorch, ("torch",)),
    Format("keras", ".keras", "Keras model", None, _KERAS, keeps=_ALL),
    Format("keras", ".weights.h5", "Keras weights", None, _KERAS),
    Format("flax", ".msgpack", "Flax msgpack", partial(_save_msgpack, FLAX_MODEL), ("flax",)),
    Format("flax", "", "Flax orbax directory", None, ("flax",), keeps=_ALL),
    _applications(".h5", "keras.applications weights", _save_applications_h5),
    _applications(".keras", "keras.applications model", None),
    _applications(".weights.h5", "keras.applications weights of Keras 3", _save_applications),
    Format("huggingface", "", "Hugging Face directory", save_huggingface, ("torch",), _HF, _ALL),
    Format("hub", "", "folder for the Hugging Face Hub", save_hub_folder, keeps=_ALL),
    Format("keras-hub", "", "KerasHub preset", _save_keras_hub, _KERAS, KERAS_HUB, _PREPARED),
    Format(
        "linen", ".msgpack", "Linen msgpack", partial(_save_msgpack, LINEN), ("flax",), LINEN, _SPEC
    ),
    _torchvision(suffix=".pth"),
    _torchvision(suffix=".pt"),
    Format("linen", "", "Linen orbax directory", None, ("flax",), LINEN, _SPEC),
)
"""What can be written; a suffix asks for the first that has it, unless one is named."""

READ_ONLY = {".npz": "BiT"}


def format_names() -> tuple[str, ...]:
    """What `convert --to` takes."""
    return tuple(dict.fromkeys(f.name for f in FORMATS))


def target_format(path: str | os.PathLike[str], to: str | None = None) -> Format:
    """The format in which `path` is to be written.

    Raises:
        WeightsError: if there is none of that suffix, or of that name with that suffix.
    """
    suffix = name_suffix(Path(path))
    fits = [f for f in FORMATS if f.suffix == suffix]
    if not fits and suffix in READ_ONLY:
        raise WeightsError(f"{path}: {suffix} files of {READ_ONLY[suffix]} are read, not written")
    names = format_names()
    if to is not None and to not in names:
        raise WeightsError(f"`format`: {to!r} is not one of {', '.join(names)}")
    if to is None and not fits:
        known = ", ".join(dict.fromkeys(f.suffix or "no suffix (a directory)" for f in FORMATS))
        raise WeightsError(f"{path}: unknown suffix {suffix!r}; known are {known}")
    # A directory may have any name that is not another format's.
    named = [f for f in fits if to in (None, f.name)]
    named += [f for f in FORMATS if f.name == to and not f.suffix and not fits]
    if not named:
        having = ", ".join(f.suffix or "a directory" for f in FORMATS if f.name == to)
        raise WeightsError(f"{path}: {to} is written as {having}, not as {suffix or 'a directory'}")
    return named[0]


def checkpoint_for_library(checkpoint: Checkpoint, target: Format) -> Checkpoint:
    """The checkpoint for the net that the target's library builds: the same function.

    Raises:
        SpecError: if it has none; it names the first layer that would be another.
    """
    spec, dialect = checkpoint.spec, target.dialect
    if spec is None or dialect is None or dialect.nearest_library_spec is None:
        return checkpoint
    try:
        theirs = dialect.nearest_library_spec(spec)
        state = weights_for_library(checkpoint.state, compile_plan(spec), compile_plan(theirs))
    except SpecError as error:
        raise SpecError(f"{dialect.library} has no such net: {error}") from None
    return replace(checkpoint, state=state, spec=theirs)


_ARRAYS = {WEIGHTS, "model.weights.h5"}
"""Without one of these, a folder of such names is somebody's notes."""


def is_checkpoint_folder(files: Set[str]) -> bool:
    """Whether a directory that holds `files` is a checkpoint, which another may replace."""
    if not files or CHECKPOINT_MARK in files:
        return True
    known = (HUGGINGFACE_FILES, KERAS_HUB_FILES, HUB_FILES)
    return not files.isdisjoint(_ARRAYS) and any(files <= names for names in known)


def described(
    state: Mapping[str, np.ndarray], extra: Checkpoint | None, spec: ResNetSpec | None = None
) -> Checkpoint:
    """Canonical weights with their net, preprocessing and labels.

    Args:
        state: canonical weights.
        extra: what else is known; its own weights do not count.
        spec: the net; without, it is that of `extra`, or looked for in the catalogue.

    Raises:
        WeightsError: if the net is not clear.
    """
    known = extra or Checkpoint({})
    net = spec or known.spec
    if net is None:
        where = Source(Path("weights"), "safetensors", LazyArrays(entries_of(state)))
        net, _ = detected(CANONICAL, where)
    return replace(known, state=state, spec=net)


def write_checkpoint(
    path: str | os.PathLike[str],
    checkpoint: Checkpoint,
    to: str | None = None,
    native: Mapping[str, Save] | None = None,
) -> None:
    """Write a checkpoint durably, in the format that the suffix or `to` asks for.

    Args:
        path: where to write.
        checkpoint: weights that fit their spec.
        to: the name of a format, or None to go by the suffix.
        native: format to what writes it with a framework.

    Raises:
        ResNetError: if the format is unknown, has no such net, or needs a framework that is not
            at hand.
    """
    target = target_format(path, to)
    if checkpoint.spec is None:
        raise WeightsError(f"{path}: the checkpoint does not say which model it is")
    check_weights(compile_plan(checkpoint.spec), checkpoint.state, "float64")
    save = target.save or (native or {}).get(target.name)
    if save is None:
        raise WeightsError(
            f"{path}: a {target.description} needs a framework to be written, one of "
            f"{', '.join(target.engines)}; `resnet-parity convert` uses it"
        )
    whole = checkpoint_for_library(checkpoint, target)
    with durable(path, is_checkpoint_folder) as draft:
        save(draft, whole)
