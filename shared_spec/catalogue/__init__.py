"""The named models: one short record a name, grouped by family in the files beside this one."""

from __future__ import annotations

from fnmatch import fnmatchcase

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.families import (
    cifar,
    d2l,
    flax_example,
    keras_applications,
    keras_hub,
    regnet,
    small_families,
    timm_blocks,
    timm_byobnet,
    timm_nfnet,
    timm_resnet,
    timm_resnetv2,
    torchvision,
)
from shared_spec.errors import SpecError, UnknownModelError, did_you_mean

_FAMILIES = (
    torchvision,
    timm_resnet,
    timm_blocks,
    timm_resnetv2,
    timm_nfnet,
    timm_byobnet,
    regnet,
    small_families,
    keras_applications,
    keras_hub,
    flax_example,
    cifar,
    d2l,
)

CATALOGUE: dict[str, Entry] = {e.name: e for family in _FAMILIES for e in family.ENTRIES}


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names in the catalogue that match a shell-style `pattern`, in the catalogue's order.

    Examples:
        >>> list_models("resnet5?")
        ['resnet50']
        >>> list_models("resnet18", pretrained=True)[0]
        'resnet18.a1_in1k'

    Args:
        pattern: such as `"resnet*50*"`.
        pretrained: whether to give the published weights of these names, such as
            `resnet50.a1_in1k`, the default ones of each name first.

    Raises:
        SpecError: if the pattern is no text.
    """
    if not isinstance(pattern, str):
        raise SpecError(
            f"pattern: expected a text such as 'resnet*50*', got {type(pattern).__name__}"
        )
    if pretrained:
        from shared_spec.catalogue.pretrained import list_pretrained  # it needs the catalogue

        return list_pretrained(pattern)
    return [name for name in CATALOGUE if fnmatchcase(name, pattern)]


def find(name: str) -> Entry:
    """The record of `name`.

    Raises:
        UnknownModelError: naming the nearest entries.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        near = did_you_mean(name, CATALOGUE) or "; see `resnet-parity list` for all of them"
        raise UnknownModelError(f"there is no model named {name!r}{near}") from None


__all__ = ["CATALOGUE", "Entry", "find", "list_models"]
