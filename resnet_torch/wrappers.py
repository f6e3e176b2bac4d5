"""Modules that are around a model without computing anything else."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

Verb = TypeVar("Verb", bound=Callable[..., Any])


def bare(model: Any) -> Any:
    """The model inside of `torch.compile`, `DataParallel`, `DistributedDataParallel` and averages
    of models, in any order.
    """
    while (inside := _inside(model)) is not None:
        model = inside
    return model


def of_bare(verb: Verb) -> Verb:
    """`verb`, which takes a wrapped model too."""
    return _seen_by(verb, bare)


def of_planned(verb: Verb) -> Verb:
    """As `of_bare`, but that a compiled model runs as it was compiled."""

    def planned(model: Any) -> Any:
        while not hasattr(model, "plan") and (inside := _inside(model)) is not None:
            model = inside
        return model

    return _seen_by(verb, planned)


def _seen_by(verb: Verb, see: Callable[[Any], Any]) -> Verb:
    @wraps(verb)
    def run(*args: Any, **options: Any) -> Any:
        if args:
            args = (see(args[0]), *args[1:])
        elif "model" in options:
            options["model"] = see(options["model"])
        return verb(*args, **options)

    return cast(Verb, run)


def _inside(model: Any) -> Any:
    """What a module wraps, or None."""
    children = getattr(model, "_modules", {})
    return children.get("_orig_mod", children.get("module"))
