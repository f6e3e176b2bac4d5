"""What the chips of a partitioned program tell one another, and what of that has to be."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from resnet_parity.engines.aot_job import PIECES
from shared_spec.plan.layers import BatchNorm
from shared_spec.plan.network import Plan

_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
_LINE = re.compile(rf"%?(\S+) = (.*?) ({'|'.join(_KINDS)})(-start)?\(")
_ARRAY = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\]")
_ORIGIN = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Collective:
    """An array that an instruction gives, or a piece of it, and where in the traced function it
    came from.
    """

    instruction: str
    kind: str
    shape: tuple[int, ...]
    bytes: int
    origin: str

    def __str__(self) -> str:
        shape = "×".join(map(str, self.shape)) or "one number"
        return f"{self.instruction} ({self.kind} of {shape}, from {self.origin or 'the compiler'})"


def collectives(program: str) -> list[Collective]:
    """Those of a program in HLO's text (`Program.text`), one for each array."""
    return [found for line in program.splitlines() for found in _of(line)]


def _of(line: str) -> Iterator[Collective]:
    match = _LINE.search(line)
    if match is None:
        return
    instruction, types, kind, started = match.groups()
    line, _, pieces = line.partition(PIECES)
    origin = _ORIGIN.search(line)
    arrays = _ARRAY.findall(pieces if pieces and kind == "all-reduce" else types)
    if kind == "all-gather" and started:
        arrays = arrays[len(arrays) // 2 :]  # before them stands what is gathered
    for letters, bits, sizes in arrays:
        shape = tuple(int(n) for n in sizes.split(",") if n)
        width = max(int(bits or 8) // 8, 1) if letters != "pred" else 1
        told = origin[1] if origin else ""
        yield Collective(instruction, kind, shape, width * math.prod(shape), told)


def strays(found: Iterable[Collective], p: Plan, mode: str) -> list[Collective]:
    """Those that data parallelism does not need. Inference needs none; a step of training sums
    gradients, what norms sum over a batch (a number a channel), and single numbers: the loss and
    the answers that were right. A sum of the size of a flattened map, which iresnet's step has, is
    taken for a norm's gradient, summed over images before it is summed over places.
    """
    if mode == "infer":
        return list(found)
    known = {1, *_sizes(p)}
    return [c for c in found if c.kind != "all-reduce" or math.prod(c.shape) not in known]


def unsummed(found: Iterable[Collective], p: Plan) -> list[str]:
    """The parameters whose gradients no all-reduce sums, as far as sizes tell. The gradient of a
    standardised kernel's gain needs no sum, since it is computed from the kernel's.
    """
    sums = Counter(math.prod(c.shape) for c in found if c.kind == "all-reduce")
    missing = []
    for q in p.parameters():
        if q.trainable and q.role != "conv_gain":
            size = math.prod(q.shape)
            sums[size] -= 1
            missing += [q.name] if sums[size] < 0 else []
    return missing


ALONE = 3
"""Single numbers that a step sums beside the arrays of `summed`."""


def summed(p: Plan, of_a_norm: int = 4) -> dict[str, int]:
    """How many numbers a step of training sums over devices, an entry for each array, of a net
    whose only norms are batch norms: the gradients, and what a norm sums besides (in Flax's step
    its mean, its variance, and two sums for their gradients; in Keras's three). Where the sum of a
    block has a norm on both sides, their biases have one gradient, which XLA sums once.
    """
    found = {q.name: math.prod(q.shape) for q in p.parameters() if q.trainable}
    for q in p.parameters():
        if q.role == "norm_scale":
            found |= {f"{q.name}, sum {i}": q.shape[0] for i in range(of_a_norm)}
    for b in p.blocks():
        ends = [layers[-1] for layers in (b.branch, b.shortcut) if layers]
        if len(ends) == 2 and all(isinstance(end, BatchNorm) for end in ends):
            del found[f"{ends[1].name}.bias"]
    return found


def calls(p: Plan) -> int:
    """In how many all-reduces XLA sums those: four for each batch norm, one after another, one for
    what can wait until all gradients are there, and one for a count of right answers.
    """
    return 4 * sum(q.role == "norm_scale" for q in p.parameters()) + 2


def _sizes(p: Plan) -> Iterator[int]:
    """How many numbers a sum over images may have."""
    for q in p.parameters():
        yield math.prod(q.shape)
        if q.role == "dense_kernel":
            yield q.shape[1]
