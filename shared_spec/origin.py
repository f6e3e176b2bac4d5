"""Where a model's net and its weights come from: names, tags, files, references."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from shared_spec.catalogue import CATALOGUE, find
from shared_spec.catalogue.pretrained import (
    Pretrained,
    find_pretrained,
    imagenet_labels,
    published,
    published_at,
    torchvision_weights,
)
from shared_spec.catalogue.resolve import ModelLike
from shared_spec.download import SUFFIXES, download, is_reference
from shared_spec.errors import WeightsError
from shared_spec.spec.files import SUFFIXES as SPEC_SUFFIXES
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.state import WeightsLike

# Tags, and torchvision's names such as ResNet50_Weights.DEFAULT.
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")


@dataclass(frozen=True)
class Origin:
    """What is built, and from which weights."""

    model: ModelLike | None
    """None: the net that the weights' file tells of."""
    weights: WeightsLike | None
    """None: fresh ones."""


def origin_of(
    model: ModelLike, weights: WeightsLike | None = None, pretrained: bool | str = False
) -> Origin:
    """What `create_model` is asked for.

    Raises:
        UnknownModelError: if there are no published weights of such a name.
        WeightsError: if weights are named twice, or for no net.
    """
    if not isinstance(pretrained, bool | str | None):
        raise WeightsError(
            f"pretrained: expected True, False or a tag such as 'a1_in1k', got "
            f"{type(pretrained).__name__}"
        )
    if names_weights(model):
        if weights is not None or isinstance(pretrained, str):
            raise WeightsError(
                f"{model}: is weights itself; leave `weights` and `pretrained` out, or name the net"
            )
        return Origin(None, os.fspath(model))  # type: ignore[arg-type]
    if pretrained:
        if weights is not None:
            raise WeightsError("weights, pretrained: both say which weights; leave one of them out")
        if isinstance(model, str) and _NAME.fullmatch(model):
            find(model.partition(".")[0])
        if not isinstance(model, str) or model.partition(".")[0] not in CATALOGUE:
            raise WeightsError(
                f"pretrained: weights are published for nets with a name, such as 'resnet50'; for "
                f"{model!r:.80} name a file by `weights`"
            )
        name, _, tag = model.partition(".")
        asked = pretrained if isinstance(pretrained, str) else tag
        return _of_one_net(model, find_pretrained(name, asked or None))
    found = published_weights(weights, model if isinstance(model, str) else None)
    return Origin(model, weights) if found is None else _of_one_net(model, found)


def _of_one_net(model: ModelLike, found: Pretrained) -> Origin:
    """A net with published weights.

    Raises:
        WeightsError: if the weights are another net's, or the net's name has another tag.
    """
    if not isinstance(model, str) or model.partition(".")[0] not in CATALOGUE:
        return Origin(model, found.where)  # to be held against the weights when they are loaded
    if model not in (found.model, found.name):
        raise WeightsError(f"{model}: {found.name} are other weights; name one of the two")
    return Origin(found.spec, found.where)


def names_weights(model: object) -> bool:
    """Whether what stands where a net is named is a file or a folder of weights, or a reference."""
    if is_reference(model):
        return True
    if not isinstance(model, str | os.PathLike) or model in CATALOGUE:
        return False
    name = os.fspath(model)
    if not isinstance(name, str) or name.lower().endswith(SPEC_SUFFIXES) or name in published():
        return False
    return name.lower().endswith(SUFFIXES) or _exists(name)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # a name that is too long, or a directory that may not be looked into
        return False


def published_weights(weights: object, model: str | None = None) -> Pretrained | None:
    """The published weights that are called by a name and not by a place: `IMAGENET1K_V2` or
    `imagenet` of a net, `resnet50.a1_in1k`, `ResNet50_Weights.DEFAULT`, or torchvision's record.

    Raises:
        UnknownModelError: if it is a name, and not one of the net's.
        WeightsError: if torchvision has no such weights.
    """
    url = getattr(weights, "url", None)
    if isinstance(url, str):  # a member of one of torchvision's enumerations
        found = published_at(url)
        if found is None:
            raise WeightsError(f"{weights}: {url} are not weights of one of torchvision's ResNets")
        return found
    if not isinstance(weights, str) or weights.lower().endswith(SUFFIXES):
        return None
    if not _NAME.fullmatch(weights) or _exists(weights):
        return None
    if "_Weights." in weights:
        return torchvision_weights(weights)
    if weights in published():
        return published()[weights]
    if weights.partition(".")[0] in CATALOGUE:
        return find_pretrained(weights)
    if model is None or model.partition(".")[0] not in CATALOGUE:
        return None
    return find_pretrained(model.partition(".")[0], weights)


def fetched(
    weights: str | os.PathLike[str], progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """The path of a checkpoint, downloaded first if it is on the hub, at a URL, or published under
    a name such as `resnet50.a1_in1k`.

    Raises:
        WeightsError: if it cannot be had.
    """
    named = published_weights(weights)
    place = os.fspath(weights) if named is None else named.where
    return download(place, progress=progress) if is_reference(place) else Path(place)


def completed(checkpoint: Checkpoint, weights: str | os.PathLike[str]) -> Checkpoint:
    """What a file tells, with what its publisher says where the file does not, if it was called by
    the name or the place of published weights: a copy of such a file may hold others.

    Examples:
        >>> name = "resnet18.a1_in1k"
        >>> completed(read_checkpoint(fetched(name)), name).labels[0]
        'tench'
    """
    entry = published_weights(weights) or published_at(os.fspath(weights))
    if entry is None:
        return checkpoint
    labels = imagenet_labels() if entry.labels == "imagenet-1k" else None
    classes = entry.classes if checkpoint.spec is None else checkpoint.spec.num_classes
    return replace(
        checkpoint,
        preprocessing=checkpoint.preprocessing or entry.preprocessing,
        labels=checkpoint.labels or (labels if classes == entry.classes else None),
    )
