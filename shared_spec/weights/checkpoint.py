"""Weights with what is known of them: spec, preprocessing, labels, origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared_spec.errors import SpecError
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.preprocessing import Preprocessing

METADATA_KEY = "resnet_parity"


@dataclass(frozen=True)
class OwnGraph:
    """What enters and leaves the model that a file itself describes, layer by layer."""

    size: tuple[int, int] | None
    """Height and width of images, if it takes no others."""
    pixels: bool
    """Whether pixels from 0 to 255 in the order RGB enter it, and it does the preprocessing."""
    probabilities: bool
    """Whether it ends in a softmax or sigmoid, which was left out."""
    averaged: bool = False
    """Whether it gives maps, and what was read of it their means over rows and columns."""
    library: str | None = None
    """The package whose classes are in it beside Keras's own."""
    channels_first: bool = False
    """Whether images enter it, and maps leave it, as [N, C, H, W]."""
    rounded: bool = False
    """Whether it has functions whose numbers were rounded to go into the file."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights with what is needed to use them; whatever the file does not say is None."""

    state: Mapping[str, np.ndarray]
    spec: ResNetSpec | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    origin: str = ""
    """What kind of file it was read from, in words."""
    notes: tuple[str, ...] = ()
    """What of the file was left out, assumed, or expressed in another way, a sentence each."""
    own_graph: OwnGraph | None = None
    """If the file describes its model itself."""
    kind: str = ""
    """Of the container, as `Source.kind`."""
    library: str = ""
    """Whose names the file has, as `Dialect.library`; `resnet-parity` if our metadata are in it and
    no other library loads it.
    """
    assumed: str = ""
    """What says which net it is where the file itself does not; empty if it does."""
    part: str | None = None
    """Where in a file of PyTorch's arrays the net was found: mappings, each with a slash behind it,
    then modules, each with a dot, as in `state_dict/encoder_q.`; `/` where it is the whole file.
    """
    names: Mapping[str, str | None] | None = None
    """The map from the file's names to canonical ones with which it was read."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """In such a file: the net's arrays by their names there to their canonical ones."""

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON data."""
        out: dict[str, Any] = {"version": 1}
        if self.spec is not None:
            out["spec"] = self.spec.to_dict()
        if self.preprocessing is not None:
            out["preprocessing"] = self.preprocessing.model_dump(mode="json")
        if self.labels is not None:
            out["labels"] = list(self.labels)
        return out

    @classmethod
    def from_metadata(cls, state: Mapping[str, np.ndarray], data: object, where: str) -> Checkpoint:
        """The inverse of `metadata`; `data` may be None.

        Raises:
            SpecError: if `data` is not of the form that `metadata` writes.
        """
        if data is None:
            return cls(state)
        if not isinstance(data, dict) or data.get("version") != 1:
            raise SpecError(f"{where}: its resnet_parity metadata is not of version 1")
        spec, preprocessing, labels = (data.get(k) for k in ("spec", "preprocessing", "labels"))
        if labels is not None and not (
            isinstance(labels, list) and all(isinstance(x, str) for x in labels)
        ):
            raise SpecError(f"{where}: the labels in its metadata are not a list of strings")
        return cls(
            state,
            None if spec is None else ResNetSpec.parse(spec, f"{where}: spec"),
            None if preprocessing is None else Preprocessing.parse(preprocessing, where),
            None if labels is None else tuple(labels),
        )
