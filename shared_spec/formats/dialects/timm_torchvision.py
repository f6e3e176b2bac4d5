"""Canonical names whose net follows from where the file comes from: a `config.json` of timm on the
hub or of transformers' `TimmWrapper`, or a file name of torchvision's, which ends in the start of
the file's SHA-256.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

from shared_spec.catalogue import CATALOGUE
from shared_spec.catalogue.pretrained import Pretrained, published_at
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.canonical import CANONICAL
from shared_spec.formats.dialects.dialect import Dialect, Extras, Place
from shared_spec.formats.dialects.renamed import TORCHVISION_NAMES, timm_name
from shared_spec.formats.dialects.timm_config import is_timm_config, timm_config
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import METADATA_KEY
from shared_spec.weights.layouts import TORCH

_FOLDER = "https://download.pytorch.org/models/"


def _timm(source: Source) -> tuple[ResNetSpec, *Extras]:
    return timm_config(source.metadata, str(source.path / "config.json"))


def _published(source: Source) -> Pretrained | None:
    """The record of torchvision's file of this name, if the file is really it."""
    if source.kind != "pytorch":
        return None
    found = published_at(_FOLDER + source.path.name)
    if found is None or not source.path.is_file():
        return None
    start = source.path.stem.rpartition("-")[2]
    return found if _digest(source.path, source.path.stat().st_mtime_ns).startswith(start) else None


@cache
def _digest(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _torchvision_spec(source: Source) -> ResNetSpec | None:
    found = _published(source)
    return None if found is None else CATALOGUE[found.model].spec


def _torchvision_extras(source: Source, spec: ResNetSpec) -> Extras:
    found = _published(source)
    return (None, None) if found is None else (found.preprocessing, found.names)


_WRAPPED = "timm_model."
"""Before the names of a net in transformers' `TimmWrapper`, which reads both forms."""


def _timm_dialect(prefix: str) -> Dialect:
    def recognises(source: Source) -> bool:
        wrapped = any(name.startswith(_WRAPPED) for name in source.tensors)
        known = source.kind == "huggingface" and METADATA_KEY not in source.metadata
        known = known and is_timm_config(source.metadata)
        return known and wrapped == bool(prefix)

    return replace(
        CANONICAL,
        library="timm",
        recognises=recognises,
        foreign_name=lambda q, spec: Place(prefix + timm_name(q.name, spec), TORCH[q.role]),
        spec_of=lambda source: _timm(source)[0],
        extras=lambda source, spec: _timm(source)[1:],
    )


TIMM = (_timm_dialect(""), _timm_dialect(_WRAPPED))
TORCHVISION = replace(
    CANONICAL,
    library="torchvision",
    foreign_name=TORCHVISION_NAMES.foreign_name,
    recognises=lambda source: _published(source) is not None,
    spec_of=_torchvision_spec,
    extras=_torchvision_extras,
)
