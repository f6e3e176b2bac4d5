"""Whose names a file holds, and its weights under canonical ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from shared_spec.errors import SpecError, WeightsError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.detect import Opener, open_source
from shared_spec.formats.dialects.bit import BIT
from shared_spec.formats.dialects.canonical import (
    CANONICAL,
    FLAX_MODEL,
    KERAS_MODEL,
    KERAS_MODEL_H5,
)
from shared_spec.formats.dialects.cifar_ports import PORTS
from shared_spec.formats.dialects.detection import DETECTION
from shared_spec.formats.dialects.dialect import Dialect, arrays_of, detected, resized
from shared_spec.formats.dialects.huggingface import HUGGINGFACE, spec_of
from shared_spec.formats.dialects.jax_resnet import JAX_RESNET
from shared_spec.formats.dialects.keras_applications import (
    APPLICATIONS,
    APPLICATIONS_H5,
    APPLICATIONS_OLD,
    with_plain_names,
)
from shared_spec.formats.dialects.keras_hub import KERAS_HUB
from shared_spec.formats.dialects.linen import LINEN
from shared_spec.formats.dialects.timm_torchvision import TIMM, TORCHVISION
from shared_spec.formats.graphs.keras_file import has_graph, read_graph
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.lazy_array import LazyArrays

DIALECTS: tuple[Dialect, ...] = (
    TIMM,
    TORCHVISION,
    *HUGGINGFACE,
    BIT,
    KERAS_HUB,
    KERAS_MODEL_H5,
    APPLICATIONS_OLD,
    APPLICATIONS_H5,
    APPLICATIONS,
    KERAS_MODEL,
    LINEN,
    *JAX_RESNET,
    FLAX_MODEL,
    *PORTS,
    *DETECTION,
    CANONICAL,
)
"""The first one that claims a file reads it."""


def dialect_of(source: Source) -> Dialect:
    """Whose names a file has.

    Raises:
        WeightsError: if no known library calls them so.
    """
    for dialect in DIALECTS:
        if dialect.recognises(source):
            return dialect
    if source.kind == "huggingface":
        spec_of(source.metadata, str(source.path / "config.json"))  # says what it is
    raise WeightsError(f"{source.path}: its names are those of no known library")


def _flat(source: Source) -> Source:
    """A file of Keras without the names of models that its layers are in, where no two of them then
    have one name.
    """
    entries = source.tensors.entries
    flat = {"/".join(name.split("/")[-2:]): array for name, array in entries.items()}
    if not source.kind.startswith("keras") or len(flat) < len(entries):
        return source
    return replace(source, tensors=LazyArrays(flat))


def read_checkpoint(
    path: Path,
    spec: ResNetSpec | None = None,
    openers: Mapping[str, Opener] | None = None,
    resize: bool = False,
) -> Checkpoint:
    """The canonical weights of a checkpoint, each read on demand.

    Args:
        path: a file or a directory of any known kind.
        spec: the net, if the file does not identify it. Without, it is looked for in the
            catalogue by names and shapes.
        openers: as for `open_source`.
        resize: whether `spec` stands for a net of any number of channels and classes.

    Raises:
        WeightsError: if the file cannot be read, or its net is not clear.
    """
    source = open_source(path, openers)
    if has_graph(source):
        return read_graph(source, spec)
    source = with_plain_names(_flat(source))
    dialect = dialect_of(source)
    try:
        told = dialect.spec_of(source)
    except WeightsError:
        if spec is None:
            raise
        told = None
    if resize and spec is not None:
        spec = resized(dialect, source, spec) or spec
    net = told or spec or detected(dialect, source)
    preprocessing, labels = dialect.extras(source, net)
    origin = f"{source.kind}, names of {dialect.library}"
    try:
        arrays = arrays_of(dialect, source, net)
    except SpecError as error:  # no such net can be compiled
        raise WeightsError(f"{path}: {error}") from None
    notes = () if dialect.assumption is None else (dialect.assumption,)
    return Checkpoint(arrays, net, preprocessing, labels, origin, notes)
