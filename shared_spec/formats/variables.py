"""Where in a tree of Linen's variables a ResNet is: under the names of the modules around it, and
of what a training state is kept in.
"""

from __future__ import annotations

import re
from dataclasses import replace

from shared_spec.errors import WeightsError, some
from shared_spec.formats.containers.source import Source, shown
from shared_spec.formats.dialects.linen import TRAINING_STATE
from shared_spec.weights.lazy_array import LazyArrays

_STEM = re.compile(
    r"(?P<above>(?:.*/)?)params/(?P<prefix>(?:.*/)?)"
    r"(?:conv_init|(?:layers_0|ResNe[St]D?Stem_0)/(?:\w+_0/)*ConvBlock_0/Conv_0)/kernel"
)
"""The first kernel of a net under the names of each dialect."""


def net_in(source: Source, part: str | None) -> tuple[Source, tuple[str, ...]]:
    """The variables of the one net that is meant, by the names that they have in a net alone, and
    notes of what was left out; the file itself if it has no names of Linen's nets.

    Args:
        source: a file of Flax's.
        part: where the net is, such as `params/backbone/`; without, there may be one alone.

    Raises:
        WeightsError: if there are several, or none where `part` says.
    """
    names = source.tensors.entries
    places = [(m["above"], m["prefix"]) for name in names if (m := _STEM.fullmatch(name))]
    # Averages of gradients have no statistics of norms.
    found = [
        place for place in places if any(n.startswith("batch_stats/".join(place)) for n in names)
    ]
    if part is not None:
        wanted = part.strip("/")
        found = [p for p in found if _place(p).startswith(f"{wanted}/") or _place(p) == part]
        if not found:
            raise WeightsError(
                f"{source.path}: `part`: there is no ResNet at {shown(part)}; there are "
                f"{some([_place(p) for p in places]) or 'none under names that are known'}"
            )
    if not found:
        return source, ()
    if len(found) > 1:
        raise WeightsError(
            f"{source.path}: holds {len(found)} ResNets, and which one is meant is not clear; name "
            f"it (`part`): {some([_place(p) for p in found])}"
        )
    above, prefix = found[0]
    if not above and not prefix:
        return source, ()
    inside: dict[str, str] = {}
    for kind in ("params", "batch_stats"):
        start = f"{above}{kind}/{prefix}"
        inside |= {n: f"{kind}/{n.removeprefix(start)}" for n in names if n.startswith(start)}
    left = [n for n in names if n not in inside and not TRAINING_STATE.search(n)]
    modules = list(dict.fromkeys(n.rpartition("/")[0] for n in left))
    notes = (f"left out, beside the net: {some(modules)}",) if modules else ()
    tensors = LazyArrays({new: names[n] for n, new in inside.items()})
    return replace(source, tensors=tensors), notes


def _place(found: tuple[str, str]) -> str:
    above, prefix = found
    return f"{above}params/{prefix}"
