"""Where in a tree of arrays ResNets are, which of them is meant, and what else is there.

A file of PyTorch's may hold several mappings of names to arrays, each with other modules around the
net: every place where the first block of a ResNet stands begins a candidate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from shared_spec.errors import WeightsError, some
from shared_spec.formats.containers.source import Module, Source, shown
from shared_spec.formats.dialects.dialect import COUNTERS, Hint
from shared_spec.formats.heads import Arrays, Head, classifier_of
from shared_spec.weights.lazy_array import LazyArray, LazyArrays
from shared_spec.weights.state import digest

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Modules that are around others without computing anything: of DataParallel, `torch.compile`,
FSDP and activation checkpointing.
"""
_WRAPPED = re.compile(rf"(?:(?<=\.)|(?<=/)|^)(?:{'|'.join(WRAPPERS)})\.")
_FIRST_BLOCK = re.compile(
    r"(?P<prefix>(?:.*[./])?)(?:"
    r"(?:layer1|rl1|res2)\.0\.conv1(?:(?:\.paths\.0)?\.conv)?|"
    r"stages\.0\.(?:blocks\.)?0\.conv1|"
    r"stages\.0\.0\.conv1_(?:1x1|kxk)\.conv|"
    r"s1\.b1\.conv1(?:\.conv)?|"
    r"trunk_output\.block1\.block1-0\.f\.a\.0|"
    r"block1\.layer\.0\.conv1|"
    r"conv2_x\.0\.residual_function\.0|"
    r"res1\.0\.0|"
    r"(?P<number>[34])\.0\.conv1"
    r")\.weight"
)
"""Of a net under the names of each dialect; a number is that of a child in a `Sequential`."""
_BODY = re.compile(
    r"(?:conv[1-3](?=\.weight$)|conv1|conv[2-4](?=\.[01]\.)|bn[123]|attnpool|prelu|maxpool|pool0|"
    r"layer\d+|rl\d+|res\d+|stem|stages|"
    r"norm|block\d+|conv\d+_x|features|s\d+|final_conv|trunk_output)(?=\.|$)"
)
"""The modules of a net before its classifier."""
_HEADS = ("head.pos_embed", "head.pool.tokens.pos_embed", "head.pre_logits.fc.weight")
"""Arrays of heads that are more than a classifier, under our names and timm's: those with an
attention pool, and with a hidden layer.
"""
_OF_HEADS = re.compile(r"head\.(?:(?:pool|fc|[qkv]|proj|norm|pre_logits)\.|pos_embed$)")
_COMPANIONS = re.compile(
    r"(?:fc|classifier|heads?|linear|last_linear|logits|cls|mlp|queue|criterion|loss|aux|decoder|"
    r"pre_?logits|embedding|proj|predict|prototype|cluster|centers?$|memory|temperature|arc|margin|"
    r"segmentation|neck|fpn|rpn|roi|bbox|mask|anchor|n_averaged)",
    re.IGNORECASE,
)
"""Beginnings of names of modules that take what a net gives, or serve its training."""
_CHANNELS = 16
"""Of images, at most."""
_NORMALISER = re.compile(r"(?:^|[._])(?:mu|sigma|mean|std|pixel_mean|pixel_std|new_mean)$")
_ARCHITECTURE = frozenset(
    {"arch", "architecture", "model_name", "model", "backbone", "encoder", "encoder_name", "net"}
    | {"base_model", "network", "backbone_name", "base_encoder", "student_arch", "teacher_arch"}
)
"""Keys of training scripts."""
_UNNUMBERED = 1000
_PLACES = 200
"""Where nets begin in one mapping; each is compared with all names."""
_DILATED = re.compile(
    r"aspp|psp|ppm|decode_head|aux(?:iliary)?_(?:classifier|head)|^classifier\.(?:0\.convs|4$)"
)
"""Modules of segmenters, whose nets are dilated as a rule."""


@dataclass(frozen=True)
class Candidate:
    """A place in a file where a ResNet is."""

    part: str
    """Its place, as `--part` takes it: mappings, each with a slash behind it, then modules, each
    with a dot.
    """
    net: Mapping[str, LazyArray]
    """Its arrays by their names there, without those of a classifier."""
    inside: Mapping[str, LazyArray]
    """What else is in the same module."""
    beside: Mapping[str, LazyArray]
    """What is in the modules around it."""
    others: tuple[str, ...]
    """Places of other nets among those."""
    names: Mapping[str, str]
    """Of the whole mapping, to those that the file has."""
    first: int
    """Where it is children of a `Sequential`, the number of its first stage; else a large one."""

    @property
    def trained(self) -> bool:
        """Whether it has all kinds of arrays, unlike averages of gradients."""
        return any(name.endswith(("running_var", "running_std")) for name in self.net)


@dataclass(frozen=True)
class Part:
    """The net that was chosen in a file."""

    source: Source
    """With its arrays alone."""
    part: str
    """As of a `Candidate`."""
    renamed: Mapping[str, str]
    """Its arrays by their names in the file, to those in `source`."""
    notes: tuple[str, ...]
    modules: Mapping[str, Module]
    """Those of a whole model, by their names as seen from the net, without its head's."""
    company: str
    """A module beside it that works on maps, as those of detectors do; empty if there is none."""
    dilated: bool
    """Whether there are such modules as go with a dilated net."""


def plain(name: str) -> str:
    """A name or place without the modules that only wrap others."""
    return _WRAPPED.sub("", name)


def first_block(names: Iterable[str]) -> str | None:
    """The first of some names that is that of the kernel with which a net's blocks begin."""
    return next((name for name in names if _FIRST_BLOCK.fullmatch(plain(name))), None)


def candidates_in(source: Source) -> list[Candidate]:
    """Every place where a ResNet begins.

    Raises:
        WeightsError: if two arrays of one mapping differ in wrappers alone.
    """
    mappings: dict[str, dict[str, str]] = {}
    for name in source.tensors.entries:
        above, slash, _ = name.rpartition("/")
        where = plain(name)
        names = mappings.setdefault(plain(above + slash), {})
        if where in names:
            raise WeightsError(
                f"{source.path}: holds {shown(where)} twice, under different prefixes"
            )
        names[where] = name
    found = []
    for mapping, names in mappings.items():
        starts: dict[str, str] = {}
        for name in names:
            if match := _FIRST_BLOCK.fullmatch(name):
                number = min(match["number"] or "", starts.get(match["prefix"]) or "9")
                starts[match["prefix"]] = number
        if len(starts) > _PLACES:
            raise WeightsError(
                f"{source.path}: has the names of {len(starts):,} ResNets, more than any file's"
            )
        starts = {p: n for p, n in starts.items() if not n or _has_stem(p, names)}
        for prefix, number in starts.items():
            others = tuple(p for p in starts if p != prefix)
            found.append(_candidate(source, mapping, prefix, number, names, others))
    return found


def _has_stem(prefix: str, names: Mapping[str, str]) -> bool:
    """Whether the children of a `Sequential` are those of a net, which begins with a stem."""
    return f"{prefix}0.weight" in names or f"{prefix}0.0.weight" in names


def _candidate(
    source: Source,
    mapping: str,
    prefix: str,
    number: str,
    names: Mapping[str, str],
    others: tuple[str, ...],
) -> Candidate:
    """The arrays of one mapping, sorted by where they are as seen from a net."""
    net: dict[str, LazyArray] = {}
    inside: dict[str, LazyArray] = {}
    beside: dict[str, LazyArray] = {}
    within = tuple(other for other in others if other.startswith(prefix))
    headed = any(f"{prefix}{name}" in names for name in _HEADS)
    for name, told in names.items():
        array = source.tensors.entries[told]
        if not name.startswith(prefix) or name.startswith(within):
            beside[name.removeprefix(mapping)] = array
            continue
        short = name.removeprefix(prefix)
        body = _is_child(short, int(number)) if number else _BODY.match(short)
        body = body or (headed and _OF_HEADS.match(short))
        (net if body else inside)[short] = array
    short_others = tuple(other.removeprefix(mapping) for other in others)
    first = int(number) if number else _UNNUMBERED
    return Candidate(prefix, net, inside, beside, short_others, names, first)


def _is_child(name: str, first: int) -> bool:
    """Whether an array is of a child before the pool, given the number of the first stage."""
    number, _, rest = name.partition(".")
    if not number.isdecimal() or len(number) > 2:
        return False
    n = int(number)
    return n < 2 or (n >= first and re.match(r"\d+\.", rest) is not None)


def chosen(source: Source, part: str | None) -> Part | None:
    """The net in a file that is meant; None if no names of a ResNet are there.

    Args:
        source: a file of PyTorch's modules.
        part: its place, or the beginning of it; without, there may be one alone.

    Raises:
        WeightsError: if there are several, or something that may belong to the net is unknown.
    """
    found = candidates_in(source)
    found = [c for c in found if c.trained] or found
    if not found and part is None:
        return None
    if part is not None:
        found = _asked(found, part, source)
    first, *rest = found
    if not all(_equal(first, other) for other in rest):
        raise WeightsError(
            f"{source.path}: holds {len(found)} ResNets, and which one is meant is not clear; "
            f"name it (`part`): {some([c.part or '/' for c in found])}"
        )
    notes = []
    if rest:
        same = some([c.part or "/" for c in rest])
        notes.append(f"the ResNet at {first.part or '/'} is also, bit for bit, at {same}")
    return _taken(source, first, notes)


PYRAMID = ("fpn.inner_blocks.0.0.weight", "body.")
SEGMENTER = ("classifier.4.weight", "backbone.")
"""An array of what is behind a net, and the module beside it that torchvision has the net in."""


def with_body(source: Source, behind: tuple[str, str], part: str | None) -> Source | None:
    """A net with its feature pyramid or its head for pixels, as torchvision has them. None if there
    is no such thing, or not at the place named.

    Raises:
        WeightsError: if there are several.
    """
    mark, body = behind
    names = {plain(told): told for told in source.tensors.entries}
    places = [name.removesuffix(mark) for name in names if name.endswith(mark)]
    places = [place for place in places if not place or place.endswith((".", "/"))]
    if part is not None:
        wanted = plain(part).rstrip("./")
        places = [p for p in places if p.rstrip("./") == wanted or p.startswith(f"{wanted}.")]
    if len(places) > 1:
        raise WeightsError(
            f"{source.path}: holds {len(places)} nets, and which one is meant is not clear; name "
            f"it (`part`): {some([p or '/' for p in places])}"
        )
    if not places:
        return None
    (place,) = places
    entries = source.tensors.entries
    inside = {
        n.removeprefix(place): entries[told] for n, told in names.items() if n.startswith(place)
    }
    left = [*dict.fromkeys(_module(n) for n in names if not n.startswith(place))]
    notes = (f"left out, beside the net: {some(left)}",) if left else ()
    tensors = LazyArrays({n.removeprefix(body): array for n, array in inside.items()})
    return replace(source, tensors=tensors, notes=(*source.notes, *notes))


def _asked(found: list[Candidate], part: str, source: Source) -> list[Candidate]:
    """Those at a place, or below it."""
    wanted = plain(part).rstrip("./")
    exact = [c for c in found if c.part.rstrip("./") == wanted]
    below = [c for c in found if c.part.startswith((f"{wanted}/", f"{wanted}."))]
    if not exact and not below:
        there = some([c.part or "/" for c in found]) or "none under names that are known"
        raise WeightsError(
            f"{source.path}: `part`: there is no ResNet at {shown(part)}; there are {there}"
        )
    return exact or below


def _equal(a: Candidate, b: Candidate) -> bool:
    """Whether two nets, with what is in them beside, are one bit for bit."""
    ours, theirs = ({**c.net, **c.inside} for c in (a, b))
    for arrays in (ours, theirs):
        for name in [name for name in arrays if COUNTERS.search(name)]:
            del arrays[name]
    if {k: (v.shape, v.dtype) for k, v in ours.items()} != {
        k: (v.shape, v.dtype) for k, v in theirs.items()
    }:
        return False
    return digest(LazyArrays(ours)) == digest(LazyArrays(theirs))


def _taken(source: Source, found: Candidate, notes: list[str]) -> Part:
    inside = {n: a for n, a in found.inside.items() if not COUNTERS.search(n)}
    strange = [n for n in inside if not _COMPANIONS.match(n) and _number(n) <= found.first]
    if strange:
        raise WeightsError(
            f"{source.path}: {shown(found.part + strange[0])} stands beside {_landmarks(found)}, "
            f"and what the net does with it is not known; expected a classifier or what serves "
            f"training alone"
        )
    outside = {n: a for n, a in found.beside.items() if not COUNTERS.search(n)}
    mapping, slash, place = found.part.rpartition("/")
    mapping += slash
    models = _models(source, found)
    others = tuple(other for other in found.others if other)
    head = classifier_of(
        found.net,
        inside,
        {n: a for n, a in outside.items() if not n.startswith(others)},
        place,
    )
    head, ends = _without_obstacles(head, models, place)
    rest = {**{place + n: a for n, a in inside.items()}, **outside}
    used = {n if n in outside else place + n: new for n, new in head.renamed.items()}
    renamed = {found.names[found.part + n]: n for n in found.net}
    renamed |= {found.names[mapping + n]: new for n, new in used.items()}
    left = dict.fromkeys(_module(n) for n in rest if n not in used)
    nets = [other for other in found.others if any(n.startswith(other) for n in rest)]
    told = [n for n in left if n.removeprefix(place) not in head.left]
    told = [n for n in told if not n.startswith(tuple(nets))] + nets
    if told:
        notes.append(f"left out, beside the net: {some(told)}")
    here = set(found.names.values())
    elsewhere = [n for n in source.tensors.entries if n not in here]
    if elsewhere:
        above = list(dict.fromkeys(n.partition("/")[0] for n in elsewhere))
        notes.append(f"left out, elsewhere in the file: {some(above)}")
    before = [
        n for n, a in rest.items() if _NORMALISER.search(n) and math.prod(a.shape) <= _CHANNELS
    ]
    if before:
        notes.append(f"{some(before)} may normalise images before the net, which is left to you")
    dense = [
        _module(n)
        for n, a in rest.items()
        if len(a.shape) == 4 and n not in used and not n.startswith(found.others)
    ]
    taken = replace(source, tensors=LazyArrays({**found.net, **head.arrays}))
    company = next((n for n in dense if _DILATED.search(n)), dense[0] if dense else "")
    notes += [*head.notes, *ends]
    modules = _of_the_net(models, found.net, place)
    segments = _DILATED.search(company) is not None
    return Part(taken, found.part, renamed, tuple(notes), modules, company, segments)


def _models(source: Source, found: Candidate) -> dict[str, Module]:
    """The modules of the whole model that a net is in, by their names as arrays have them."""
    mapping = found.part.rpartition("/")[0]
    modules = {}
    for name, module in source.modules.items():
        if plain(f"{name}/").rstrip("/") == mapping:
            modules[""] = module  # the model itself, or what only wraps it
        elif plain(f"{name.rpartition('/')[0]}/").rstrip("/") == mapping:
            where = plain(f"{name}.").removesuffix(".")
            modules[where.removeprefix(f"{mapping}/" if mapping else "")] = module
    return modules


def _of_the_net(models: Mapping[str, Module], net: Arrays, place: str) -> dict[str, Module]:
    """Those inside of a net, without its head's; none for arrays that are by themselves."""
    at = place.rstrip(".")
    inside = {n.removeprefix(place): m for n, m in models.items() if n.startswith(place)}
    inside |= {"": models[at]} if at in models else {}
    if not any(_module(name) in inside for name in net):
        return {}
    return {n: m for n, m in inside.items() if not _COMPANIONS.match(n) or _is_own(n, inside)}


def _is_own(name: str, inside: Mapping[str, Module]) -> bool:
    """Whether a module is of timm's own head."""
    head = inside.get("head")
    return name.partition(".")[0] == "head" and head is not None and head.type == _TIMM_HEAD


_TIMM_HEAD = "timm.layers.classifier.ClassifierHead"
_IDLE = (
    *("Linear", "Identity", "Dropout", "Flatten", "Sequential", "ModuleList", "ModuleDict"),
    "AdaptiveAvgPool2d",  # of a mean, or of one that a body has not taken
)
_ENDS = ("Softmax", "LogSoftmax", "Sigmoid")


def _without_obstacles(
    head: Head, models: Mapping[str, Module], place: str
) -> tuple[Head, list[str]]:
    """A head, unless a module of the whole model may change what it gets or gives; and what follows
    it that can be left out.
    """
    dense = next((n.rpartition(".")[0] for n in head.renamed), "")
    at = next((n for n in (place + dense, dense) if n in models), None)
    if not dense or at is None:
        return head, []
    inside = {n.removeprefix(place): m for n, m in models.items() if n.startswith(place)}
    near = {
        place + n: m for n, m in inside.items() if _COMPANIONS.match(n) and not _is_own(n, inside)
    }
    if not at.startswith(place):
        near |= {n: m for n, m in models.items() if not n.startswith(place)}
    notes, order = [], list(models)
    for name, module in near.items():
        kind = module.type.rpartition(".")[2]
        if (
            kind in _IDLE
            or not name
            or f"{at}.".startswith(f"{name}.")
            or place.startswith(f"{name}.")
        ):
            continue
        if kind in _ENDS and order.index(name) > order.index(at):
            notes.append(
                f"left out: the {kind} at {name}; the model here gives the logits before it"
            )
        else:
            told = (
                f"left out: the head {dense}, as the {shown(kind)} at {shown(name)} may change "
                f"what it gets or gives"
            )
            return Head(left=frozenset([dense]), notes=(told,)), []
    return head, notes


def _number(name: str) -> int:
    """That of a child of a `Sequential`; -1 of any other module."""
    first = name.partition(".")[0]
    return int(first) if first.isdecimal() and len(first) < 4 else -1


def _landmarks(found: Candidate) -> str:
    return ", ".join(list(dict.fromkeys(n.partition(".")[0] for n in found.net))[:3])


def _module(name: str) -> str:
    """The module of an array, for a list."""
    return name.rpartition(".")[0] or name


def hints_of(source: Source) -> list[Hint]:
    """What a file says of its architecture in passing, and then its name."""
    found = [
        Hint(value, f"its {key!r}")
        for key, value in source.metadata.items()
        if isinstance(value, str) and key.rpartition("/")[2].lower() in _ARCHITECTURE
    ]
    return [*found, Hint(source.path.stem, "its file name", whole=False)]
