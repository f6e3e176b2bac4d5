"""Whose names a file holds, and its weights under canonical ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import SpecError, WeightsError
from shared_spec.formats.certified import certificate_path, certified_spec
from shared_spec.formats.containers.source import Source, shown
from shared_spec.formats.detect import Opener, open_source
from shared_spec.formats.dialects.bit import BIT
from shared_spec.formats.dialects.canonical import (
    CANONICAL,
    FLAX_MODEL,
    HUB,
    KERAS_MODEL,
    KERAS_MODEL_H5,
    KERAS_VARIABLES,
    NUMBERED,
)
from shared_spec.formats.dialects.cifar_ports import NINE, PORTS, RESIDUAL, WIDE
from shared_spec.formats.dialects.detectron2 import DETECTRON2
from shared_spec.formats.dialects.dialect import (
    Dialect,
    arrays_of,
    detected,
    fitting,
    in_torch,
    resized,
)
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
from shared_spec.formats.dialects.renamed import OPENAI_CLIP, TIMM_NAMES, TORCHVISION_NAMES
from shared_spec.formats.dialects.timm_config import is_timm_config
from shared_spec.formats.dialects.timm_torchvision import TIMM, TORCHVISION
from shared_spec.formats.graphs.keras_file import has_graph, read_graph
from shared_spec.formats.graphs.torch_modules import Modules, settled
from shared_spec.formats.name_map import NameMap, renamed
from shared_spec.formats.search import (
    PYRAMID,
    SEGMENTER,
    Part,
    chosen,
    first_block,
    hints_of,
    plain,
    with_body,
)
from shared_spec.formats.variables import net_in
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import METADATA_KEY, Checkpoint
from shared_spec.weights.lazy_array import LazyArrays


@dataclass(frozen=True)
class Asked:
    """What of a file is meant, where it holds more than a net under known names."""

    part: str | None = None
    """The place of the net, such as `teacher/backbone.`."""
    names: NameMap | None = None
    """The file's names to canonical ones."""

    def refuse(self, source: Source, why: str) -> None:
        """Raise a `WeightsError` if it was asked of a file that has no parts and no other names."""
        for option, value in (("part", self.part), ("names", self.names)):
            if value is not None:
                raise WeightsError(f"{source.path}: `{option}`: not for such a file, which {why}")


WHOLE = Asked()
"""The net that a file holds."""


DIALECTS: tuple[Dialect, ...] = (
    HUB,
    *TIMM,
    TORCHVISION,
    *HUGGINGFACE,
    BIT,
    KERAS_HUB,
    KERAS_MODEL_H5,
    APPLICATIONS_OLD,
    APPLICATIONS_H5,
    APPLICATIONS,
    KERAS_MODEL,
    KERAS_VARIABLES,
    LINEN,
    *JAX_RESNET,
    FLAX_MODEL,
    *PORTS,
    WIDE,
    RESIDUAL,
    NINE,
    *NUMBERED,
    TORCHVISION_NAMES,
    DETECTRON2,
    TIMM_NAMES,
    OPENAI_CLIP,
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
    if source.kind.startswith("huggingface"):
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
    asked: Asked = WHOLE,
) -> Checkpoint:
    """The canonical weights of a checkpoint, each read on demand.

    Args:
        path: a file or a directory of any known kind.
        spec: the net, if the file does not identify it. Without, it is looked for in the
            catalogue by names and shapes.
        openers: as for `open_source`.
        resize: whether `spec` stands for a net of any number of channels and classes.
        asked: which of several nets, and what its arrays are called.

    Raises:
        WeightsError: if the file cannot be read, or its net is not clear.
    """
    return checkpoint_of(open_source(path, openers), spec, resize, asked)


def checkpoint_of(
    source: Source, spec: ResNetSpec | None = None, resize: bool = False, asked: Asked = WHOLE
) -> Checkpoint:
    """As `read_checkpoint`, of a file that is open."""
    if has_graph(source):
        asked.refuse(source, "is read by its graph")
        return read_graph(source, spec)
    if source.kind == "onnx":
        asked.refuse(source, "is read by its graph")
        # Fifteen modules that no other file needs, nor whoever builds a net.
        from shared_spec.formats.graphs.onnx.file import read_onnx

        return read_onnx(source, spec)
    found, ours = None, METADATA_KEY in source.metadata
    own: dict[str, str] = {}
    notes = source.notes
    if in_torch(source):
        if asked.names is not None:
            source, own = renamed(source, asked.names)
            ours = False
        within, published = None, TORCHVISION.spec_of(source)
        if published is not None and published.segmentation != "none":
            within = source  # its names are those of the whole net
        elif spec is not None and spec.pyramid is not None:
            within = with_body(source, PYRAMID, asked.part)
        elif spec is not None and spec.segmentation != "none":
            within = with_body(source, SEGMENTER, asked.part)
        if within is not None:
            source, notes = within, within.notes
        elif not ours or asked.part is not None:
            found = chosen(source, asked.part)
            source = source if found is None else found.source
    elif source.kind == "flax" and asked.names is None:
        source, told = net_in(source, asked.part)
        notes += told
    else:
        asked.refuse(source, f"is of the kind {source.kind}")
    source = with_plain_names(_flat(source))
    if found is not None:
        _require_strides(found, spec)
    elif not ours and dialect_of(source) is CANONICAL and not _named(source, spec):
        raise _unknown_names(source)
    read = read_source(source, spec, resize, found)
    names = {own.get(told, told): name for told, name in read.renamed.items()}
    return replace(read, names=asked.names, renamed=names, notes=notes + read.notes)


def read_source(
    source: Source,
    spec: ResNetSpec | None = None,
    resize: bool = False,
    found: Part | None = None,
) -> Checkpoint:
    """The canonical weights of arrays under names of any known library; see `read_checkpoint`.

    Args:
        source: the arrays of one net.
        spec: as there.
        resize: as there.
        found: what the net was in.

    Raises:
        WeightsError: if their names are not known, or their net is not clear.
    """
    path = source.path
    dialect = dialect_of(source)
    try:
        told = dialect.spec_of(source)
    except WeightsError:
        if spec is None:
            raise
        told = None
    notes = () if found is None else found.notes
    if resize and spec is not None:
        spec = resized(dialect, source, spec) or spec
    certified = certified_spec(path) if told is None and spec is None else None
    net, hint = told or spec or certified, ""
    if found is not None and found.modules:
        _refuse_hooks(source, found.part)
        given = [fit.spec for fit in fitting(dialect, source)] if net is None else [net]
        net, said = settled(_canonical(found.modules, dialect, given), given, spec is None, path)
        notes += (said,) if said else ()
    elif net is None:
        net, hint = detected(dialect, source, hints_of(source))
    preprocessing, labels = dialect.extras(source, net)
    origin = f"{source.kind}, names of {dialect.library}"
    assumed = "" if told is not None and dialect.describes else _assumed(dialect, net, spec)
    if certified is not None:
        assumed = "the file's own certificate says which net it is"
        notes += (f"taken as the net that {certificate_path(path).name} names",)
    try:
        arrays = arrays_of(dialect, source, net)
    except SpecError as error:  # no such net can be compiled
        raise WeightsError(f"{path}: {error}") from None
    notes += (f"taken as {hint}",) if hint else ()
    notes += () if dialect.assumption is None else (dialect.assumption,)
    places = {dialect.foreign_name(q, net).name: q.name for q in compile_plan(net).parameters()}
    told_names = {} if found is None else found.renamed
    return Checkpoint(
        arrays,
        net,
        preprocessing,
        labels,
        origin,
        notes,
        kind=source.kind,
        library=_library(source, dialect),
        assumed=assumed,
        part=None if found is None else found.part or "/",
        renamed={n: places[name] for n, name in told_names.items() if name in places},
    )


def _library(source: Source, dialect: Dialect) -> str:
    """Whose the file is: a folder of ours that timm loads as well counts as timm's."""
    if METADATA_KEY not in source.metadata:
        return dialect.library
    return "timm" if is_timm_config(source.metadata) else "resnet-parity"


def _canonical(modules: Modules, dialect: Dialect, specs: Sequence[ResNetSpec]) -> Modules:
    """Modules by their canonical names."""
    if not specs:
        return modules
    p, spec = compile_plan(specs[0]).parameters(), specs[0]
    names = {dialect.foreign_name(q, spec).name.rpartition(".")[0]: q.module for q in p}
    return {names.get(name, name): module for name, module in modules.items()}


def _refuse_hooks(source: Source, part: str) -> None:
    """Raise a `WeightsError` if a whole model has functions that change what a module computes."""
    for place in source.opaque:
        hook = re.search(r"_forward(_pre)?_hooks/", place)
        if hook is not None and plain(place).startswith(part):
            raise WeightsError(
                f"{source.path}: {shown(place[: hook.start()].rstrip('/.') or 'the model')} has a "
                f"forward hook, whose function is not known; remove it and save the model again"
            )


def _require_strides(found: Part, spec: ResNetSpec | None) -> None:
    """Raise a `WeightsError` where a net may be dilated, which no array shows, and nobody says."""
    path = found.source.path
    if found.modules or not found.company:
        return
    if found.dilated and (spec is None or spec.output_stride is None):
        raise WeightsError(
            f"{path}: {found.company} beside the net is of a segmenter, whose net is dilated as a "
            f"rule, and the arrays do not say; name a spec file (`spec`) with its output_stride, "
            f"which is 8 in torchvision's DeepLabV3 and FCN, and 32 without dilation"
        )
    if spec is None:
        raise WeightsError(
            f"{path}: {found.company} beside the net works on maps, as a detector or a segmenter "
            f"does, whose net may be dilated, and the arrays do not say; name the model (`spec`)"
        )


def _named(source: Source, spec: ResNetSpec | None) -> bool:
    """Whether some arrays have names of a net, so that what is wrong with it can be told."""
    p = None if spec is None else compile_plan(spec)
    return p is not None and any(q.name in source.tensors for q in p.parameters())


def _unknown_names(source: Source) -> WeightsError:
    if (kernel := first_block(source.opaque)) is not None:
        return WeightsError(
            f"{source.path}: {shown(kernel)} is a {shown(source.opaque[kernel])}, and no kernel "
            f"that a net here can have"
        )
    names = [shown(name) for name in source.tensors]
    some = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
    return WeightsError(
        f"{source.path}: holds no ResNet under names that are known (it has "
        f"{some or 'no arrays'}); `names` maps them to canonical ones"
    )


_FAMILIES = {
    **dict.fromkeys(
        ("torchvision", "torchvision_regnet", "torchvision_segmentation"), "torchvision"
    ),
    **dict.fromkeys(("timm", "timm_v2", "timm_regnet", "timm_nf", "senet"), "timm"),
}
"""Of the catalogue, whose names are a library's, to that."""


def _assumed(dialect: Dialect, net: ResNetSpec, given: ResNetSpec | None) -> str:
    """What says that a file which does not describe its net holds `net`."""
    ends = {"in_channels": net.in_channels, "num_classes": net.num_classes}
    known = (
        entry
        for entry in CATALOGUE.values()
        # Nets for pixels have no form without classes.
        if (entry.spec.depths, entry.spec.segmentation) == (net.depths, net.segmentation)
        and entry.spec.override(**ends) == net
    )
    who = dialect.library
    if (entry := next(known, None)) is not None:
        library = _FAMILIES.get(entry.family)
        who = f"{library}'s {entry.name}" if library else f"{who} ({entry.name} here)"
    how = "names and shapes of" if given is None else "the model that was named, with names of"
    return f"{how} {who}; the file has no graph"
