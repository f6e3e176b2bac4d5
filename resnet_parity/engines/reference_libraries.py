"""The libraries that nets are compared with, and which of them are here."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resnet_parity.engines.registry import missing_modules
from shared_spec.catalogue import Entry
from shared_spec.formats.dialects.renamed import timm_name, torchvision_name
from shared_spec.spec.resnet_spec import ResNetSpec

PEERS = Path(sys.prefix) / "share" / "peers"
"""Where `python -m tests.fetch_peers` puts libraries that cannot be installed beside the rest."""


def peer_missing(peer: str) -> str | None:
    """None, or a sentence that says what is not there and how to get it."""
    if peer in PEER_FOLDERS:
        found = (PEERS / PEER_FOLDERS[peer]).is_dir() or (
            peer == "KerasHub" and importlib.util.find_spec("keras_hub") is not None
        )
        return None if found else "not found; run: python -m tests.fetch_peers"
    return missing_modules([{"keras.applications": "keras"}.get(peer, peer)])


PEER_FOLDERS = {
    "KerasHub": "keras_hub",
    "flax example": "flax_imagenet",
    "jax-resnet": "jax_resnet",
}


@dataclass(frozen=True)
class Reference:
    """A library: the catalogue's families that it has, the modules that must be installed, and the
    engine in whose process it runs.
    """

    name: str
    families: tuple[str, ...]
    requires: tuple[str, ...]
    engine: str

    def missing(self) -> str | None:
        """None, or a sentence that says what is not installed and how to get it."""
        return missing_modules(self.requires)


TORCHVISION = ("torchvision", "torchvision_regnet", "torchvision_segmentation")
TIMM = ("torchvision", "timm", "timm_v2", "timm_regnet", "timm_nf", "timm_byob", "senet")


REFERENCES: dict[str, Reference] = {
    reference.name: reference
    for reference in (
        Reference("torchvision", TORCHVISION, ("torch", "torchvision"), "torch"),
        Reference("timm", TIMM, ("torch", "timm"), "torch"),
        # On Keras's TensorFlow engine its own layers compute in float64 throughout.
        Reference("keras.applications", ("keras",), ("keras", "tensorflow"), "keras:tensorflow"),
    )
}


def names_there(library: str, spec: ResNetSpec, names: Iterable[str]) -> dict[str, str]:
    """What timm or torchvision calls the arrays of a net of ours."""
    theirs = timm_name if library == "timm" else torchvision_name
    return {name: theirs(name, spec) for name in names}


FLOAT32_STATISTICS = frozenset({"evonorm_s0", "frn"})
"""Norms whose statistics timm takes in float32 whatever the input; see `float64_statistics`."""


def references_of(entry: Entry) -> list[Reference]:
    """The libraries that have a net of the catalogue."""
    return [r for r in REFERENCES.values() if entry.family in r.families]


def recast(reference: Reference, entry: Entry, dtype: str) -> bool:
    """Whether the library rounds statistics or resampled positions of this net to float32 and is
    kept from it.
    """
    spec = entry.spec
    rounds = spec.norm in FLOAT32_STATISTICS or spec.head_pool == "attention"
    return reference.name == "timm" and rounds and dtype == "float64"
