"""Where in a tree of Flax's variables a ResNet is: under the names of the modules around it, and
of what a training state is kept in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from shared_spec.errors import WeightsError, some
from shared_spec.formats.containers.source import Source, shown
from shared_spec.weights.lazy_array import LazyArrays

_STEM = re.compile(
    r"(?P<above>(?:.*/)?)params/(?P<prefix>(?:.*/)?)"
    r"(?:conv_init|(?:layers_0|ResNe[St]D?Stem_0)/(?:\w+_0/)*ConvBlock_0/Conv_0)/kernel"
)
"""The first kernel of a net under the names of each dialect of Linen's."""
_FIRST_BLOCK = r"(?P<place>(?:.*/)?)(?:(?:layer1|stages/0(?:/blocks)?)/0|s1/b1)/"
_KERNEL = re.compile(rf"{_FIRST_BLOCK}conv1(?:_1x1|_kxk)?/(?:(?:paths/0/)?conv/)?kernel")
_STATISTIC = re.compile(rf"{_FIRST_BLOCK}.*/mean")
"""Of our own nets, whose parameters and norm statistics are in two states after `nnx.split`."""
_OPTIMIZER = re.compile(r"(?:^|/)(?:opt_state|mu|nu|trace)/")
"""What optax keeps for each parameter, under the parameter's own name."""


def net_in(source: Source, part: str | None) -> tuple[Source, tuple[str, ...]]:
    """The variables of the one net that is meant, by the names that they have in a net alone, and
    notes of what was left out; the file itself if it has no names of nets of Flax's.

    Args:
        source: a file of Flax's.
        part: where the net is, such as `params/backbone/` (Linen) or `model/backbone/` (NNX);
            without, there may be one alone.

    Raises:
        WeightsError: if there are several, or none where `part` says.
    """
    source = _without_values(source)
    names = source.tensors.entries
    linen = _linen_nets(names)
    found = linen or _nnx_nets(names)
    if part is not None:
        wanted, places = part.strip("/"), list(found)
        found = {p: x for p, x in found.items() if p.startswith(f"{wanted}/") or p == part}
        if not found:
            raise WeightsError(
                f"{source.path}: `part`: there is no ResNet at {shown(part)}; there are "
                f"{some(places) or 'none under names that are known'}"
            )
    if not found:
        return source, ()
    if len(found) > 1:
        raise WeightsError(
            f"{source.path}: holds {len(found)} ResNets, and which one is meant is not clear; name "
            f"it (`part`): {some(list(found))}"
        )
    ((place, starts),) = found.items()
    if not starts:
        raise WeightsError(
            f"{source.path}: holds norm statistics at several places, and which of them belong to "
            f"the parameters at {shown(place)} is not clear"
        )
    if all(start == new for start, new in starts.items()):
        return source, ()
    inside: dict[str, str] = {}
    # The longest first: statistics may be kept below parameters.
    for start in sorted(starts, key=len, reverse=True):
        own = [n for n in names if n.startswith(start) and n not in inside]
        inside |= {n: starts[start] + n.removeprefix(start) for n in own}
    left = _topmost([n for n in names if n not in inside], inside)
    notes = (f"left out, beside the net: {some(left)}",) if left else ()
    tensors = LazyArrays({new: names[n] for n, new in inside.items()})
    return replace(source, tensors=tensors), notes


Nets = dict[str, dict[str, str]]
"""The place of each net to what the names of its arrays begin with, and begin with in a net alone;
to nothing, where that is not clear.
"""


def _without_values(source: Source) -> Source:
    """A file without the level that NNX puts below each variable."""
    entries = source.tensors.entries
    if not any(name.endswith("/value") for name in entries):
        return source
    plain = {name.removesuffix("/value"): array for name, array in entries.items()}
    return replace(source, tensors=LazyArrays(plain))


def _linen_nets(names: Iterable[str]) -> Nets:
    places = [(m["above"], m["prefix"]) for name in names if (m := _STEM.fullmatch(name))]
    return {
        f"{above}params/{prefix}": {
            f"{above}{kind}/{prefix}": f"{kind}/" for kind in ("params", "batch_stats")
        }
        for above, prefix in places
        # Averages of gradients have no statistics of norms.
        if any(name.startswith(f"{above}batch_stats/{prefix}") for name in names)
    }


def _nnx_nets(names: Iterable[str]) -> Nets:
    named = [name for name in names if not _OPTIMIZER.search(name)]
    kernels, statistics = (
        dict.fromkeys(m["place"] for name in named if (m := pattern.fullmatch(name)))
        for pattern in (_KERNEL, _STATISTIC)
    )
    found: Nets = {}
    for place in kernels:
        others = [place] if place in statistics or not statistics else list(statistics)
        found[place] = dict.fromkeys((place, *others), "") if len(others) == 1 else {}
    return found


def _topmost(left: Iterable[str], kept: Iterable[str]) -> list[str]:
    """Where what is left out is, by the shortest paths below which nothing is kept."""
    above = {name[: m.start()] for name in kept for m in re.finditer("/", name)}
    places = (
        next((p for m in re.finditer("/", name) if (p := name[: m.start()]) not in above), name)
        for name in left
    )
    return list(dict.fromkeys(places))
