"""What differs between two nets, marked in the parts of both."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import zip_longest

from resnet_parity.render.drawing.kinds import Kind, Net, Part, Parts, Placed, kind_of
from shared_spec.plan.network import CHAINS

_TOLD = 2
"""Settings that are written in a box."""


def pairs(a: Net, b: Net) -> list[tuple[Kind | None, Kind | None]]:
    """Kinds of blocks at the same places of both nets, each pair once, what differs marked.

    Where a stage of one net has more blocks, the last one of the other's stage stands beside them.
    """
    groups: dict[Hashable, tuple[dict[str, Placed], dict[str, Placed]]] = {}
    for stages in zip_longest(a.stages, b.stages, fillvalue=("", ())):
        places = [blocks for _, blocks in stages]
        for i in range(max(map(len, places))):
            both = [blocks[min(i, len(blocks) - 1)] if blocks else None for blocks in places]
            key = tuple(one and one.signature for one in both)
            for one, found in zip(both, groups.setdefault(key, ({}, {})), strict=True):
                if one is not None:
                    found[one.block.name] = one
    kinds = ([kind_of([*side.values()]) if side else None for side in g] for g in groups.values())
    return [_marked(first, second) for first, second in kinds]


def marked(a: Parts, b: Parts) -> tuple[Parts, Parts]:
    """Two chains, with the boxes that the other has not marked. Where two boxes say the same and
    their layers differ after all, they say in what.
    """
    first, second = list(a), list(b)
    keys = [[(part.label, part.facts) for part in parts] for parts in (a, b)]
    matcher = SequenceMatcher(None, keys[0], keys[1], autojunk=False)
    for tag, i0, i1, j0, j1 in matcher.get_opcodes():
        if tag != "equal":
            first[i0:i1] = [_different(part, a[i0:i1], b[j0:j1]) for part in a[i0:i1]]
            second[j0:j1] = [_different(part, b[j0:j1], a[i0:i1]) for part in b[j0:j1]]
    return tuple(first), tuple(second)


def _different(part: Part, own: Parts, others: Parts) -> Part:
    place = [one.label for one in own].index(part.label)
    if place < len(others) and others[place].label == part.label:
        facts = sorted(part.facts - others[place].facts)[:_TOLD]
        part = replace(part, label=f"{part.label} ({', '.join(facts)})" if facts else part.label)
    return replace(part, differs=True)


def differs(kind: Kind) -> bool:
    """Whether anything of it is marked."""
    return kind.differs or any(part.differs for parts in kind.chains.values() for part in parts)


def _marked(a: Kind | None, b: Kind | None) -> tuple[Kind | None, Kind | None]:
    if a is None or b is None:
        return a, b
    both = {name: marked(a.chains[name], b.chains[name]) for name in CHAINS}
    way = a.shortcut_from != b.shortcut_from
    first, second = (
        replace(kind, differs=way, chains={name: parts[i] for name, parts in both.items()})
        for i, kind in enumerate((a, b))
    )
    return first, second
