"""What stands behind a net in a file: its classifier, or a head that no spec can express."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared_spec.errors import some
from shared_spec.weights.lazy_array import LazyArray

Arrays = Mapping[str, LazyArray]
_WORDS = ("fc", "linear", "classifier", "head", "heads", "last_linear", "logits", "cls", "cls_head")
"""What the module of a classifier, or the one that it is in, is called; the first counts most."""
_ELSEWHERE = re.compile(r"^(?:stem|conv1)\.|downsample|shortcut|subsample", re.IGNORECASE)
"""Kernels of stems and shortcuts."""
_LABELLED = re.compile(r"(?:^|[._])(?:queue|memory|bank|centers?|prototypes?|criterion|loss)", re.I)
"""What training compares features with."""


@dataclass(frozen=True)
class Head:
    """What was found behind a net."""

    arrays: Arrays = field(default_factory=dict)
    """Of its classifier, by the names that they have in a whole net; empty without one."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Names in the file, as seen from the net or the modules around it, to those."""
    left: frozenset[str] = frozenset()
    """Modules of a head that was left out."""
    notes: tuple[str, ...] = ()


def classifier_of(net: Arrays, inside: Arrays, outside: Arrays, place: str) -> Head:
    """The one dense layer behind a net, if that is all there is behind it.

    Args:
        net: its arrays by name.
        inside: what else is in the same module.
        outside: what is in the modules around it, which counts if nothing inside does.
        place: where the net is in `outside`, such as `model.backbone.`.
    """
    modules, arrays = _behind(inside, "", -1), inside
    around = place.rstrip(".")
    while not modules and around:
        around, _, last = around.rpartition(".")
        number = int(last) if last.isdecimal() else -1
        modules, arrays = _behind(outside, f"{around}." if around else "", number), outside
    if not modules:
        return Head()
    module, features = modules[0], _features(net)
    level = "" if arrays is inside else around and f"{around}."
    beside = {
        n: a for n, a in arrays.items() if n.startswith(level) and not n.startswith(place or "/")
    }
    between = _between(beside, modules, features)
    if arrays is inside and modules == [_own_name(net, module)] and not between:
        # A whole net's own, to be held against it as it is.
        found = {n: a for n, a in inside.items() if n.rpartition(".")[0] == module}
        return Head(found, {n: n for n in found})
    weight, bias = (arrays.get(f"{module}.{leaf}") for leaf in ("weight", "bias"))
    why = ""
    if len(modules) > 1 or not _is_dense(module, arrays) or weight is None or bias is None:
        why = "which is not one dense layer with a bias"
    elif weight.shape[1] != features:
        why = f"which does not take the {features} features of the net"
    elif module.endswith(".0") and weight.shape[0] == features:
        why = "which gives as many features as it takes, as the first layer of a projection does"
    elif between:
        why = f"which {between} may stand before"
    if why or weight is None or bias is None:
        told = f"left out: the head {some(modules)}, {why}"
        return Head(left=frozenset(modules), notes=(told,))
    own = _own_name(net, module if arrays is inside else "")
    if any(name.startswith("stages.") for name in net) and len(weight.shape) == 2:
        weight = weight.reshaped((*weight.shape, 1, 1))
    found = {f"{own}.weight": weight, f"{own}.bias": bias}
    names = {f"{module}.{leaf}": f"{own}.{leaf}" for leaf in ("weight", "bias")}
    note = (
        f"the dense layer {module} is taken as the classifier; layers around it without arrays, "
        f"such as a dropout, are not known"
    )
    return Head(found, names, notes=(note,))


def _behind(arrays: Arrays, place: str, after: int) -> list[str]:
    """The modules that can be a head among those at a place: of the first word that is there, or
    all that are numbered after the net in a `Sequential`.
    """
    found: dict[str, dict[str, None]] = {}
    for name in arrays:
        if not name.startswith(place):
            continue
        first = name.removeprefix(place).partition(".")[0]
        key = "number" if first.isdecimal() and int(first) > after else first
        found.setdefault(key, {})[name.rpartition(".")[0]] = None
    numbered = ("number",) if after >= 0 or not place else ()
    words = [w for w in (*_WORDS, *numbered) if w in found]
    dense = [w for w in words if len(found[w]) == 1 and _is_dense(next(iter(found[w])), arrays)]
    return list(found[(dense or words)[0]]) if words else []


def _between(beside: Arrays, head: list[str], features: int) -> str:
    """A module that gives as many features as the net does, so that it may stand between the two;
    empty if there is none.
    """
    for name, array in beside.items():
        module = name.rpartition(".")[0]
        gives = array.shape[:1] == (features,) and not _LABELLED.search(name)
        if module and module not in head and gives:
            return module
    return ""


def _is_dense(module: str, arrays: Arrays) -> bool:
    """Whether a module has a matrix and a bias, and nothing else."""
    weight, bias = (arrays.get(f"{module}.{leaf}") for leaf in ("weight", "bias"))
    leaves = [name for name in arrays if name.rpartition(".")[0] == module]
    return (
        weight is not None
        and bias is not None
        and len(leaves) == 2
        and (len(weight.shape) == 2 or (len(weight.shape) == 4 and weight.shape[2:] == (1, 1)))
        and bias.shape == weight.shape[:1]
    )


def _features(net: Arrays) -> int:
    """The channels of a net's last block: its last kernel's, by the numbers in names."""
    kernels = {n: a for n, a in net.items() if len(a.shape) == 4 and not _ELSEWHERE.search(n)}
    last = max(kernels, key=_natural, default="")
    return kernels[last].shape[0] if last else 0


def _natural(name: str) -> list[tuple[int, str]]:
    """In the order in which people count."""
    return [(int(x), "") if x.isdecimal() else (-1, x) for x in re.split(r"(\d+)", name)]


def _own_name(net: Arrays, module: str) -> str:
    """What the classifier is called in a whole net under such names."""
    if any(name.startswith(("stages.", "s1.")) for name in net):
        return "head.fc"
    if "res1.0.0.weight" in net:
        return module or "classifier.3"
    if any(name.startswith("layer0.") for name in net):
        return "last_linear"
    detectron = any(name.startswith("res") for name in net)
    return "linear" if detectron or module == "linear" else "fc"
