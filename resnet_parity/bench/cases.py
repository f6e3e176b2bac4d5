"""What a bench runs: the cases of a request, and whose turn it is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from resnet_parity.bench.peers import candidates
from resnet_parity.bench.result import FORMS, BenchReport, BenchRequest, Case
from resnet_parity.engines.memory import available_memory, peak_bytes
from resnet_parity.engines.registry import Device
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.summary import layer_rows

PEER_LAYOUTS = ("channels_first", "channels_last")
"""PyTorch's libraries are timed as they come and in the layout that is faster on most devices."""


def cases(request: BenchRequest, report: BenchReport) -> list[Case]:
    """All sides in all settings; what does not exist is listed in the report."""
    engines = [engine for engine in request.engines if engine.name not in report.missing]
    found: list[Case] = []
    sides = candidates(request.name, request.spec, engines, request.peers, report.missing)
    settings = itertools.product(request.dtypes, request.modes, request.batches, sides)
    for dtype, mode, batch, side in settings:
        if mode == "train" and not side.engine.trains:
            report.note(f"{side.engine.name}: it runs models and does not train them")
            continue
        base = Case(side, mode, batch, request.pixels, dtype, "plain", "channels_last", "none")
        found += _variants(base, request, report)
    return list(dict.fromkeys(found))


def _variants(base: Case, request: BenchRequest, report: BenchReport) -> Iterator[Case]:
    """The forms, layouts and ways to compile in which a side is timed."""
    own, engine = base.candidate.peer is None, base.engine
    there_are = FORMS[base.mode] if own else ("plain",)
    forms = [form for form in request.forms if form in there_are]
    if "int8" in forms and (engine.trains or base.dtype != "float32"):
        forms.remove("int8")
        report.note(f"{engine.name}, {base.dtype}: int8 is a form of float32 nets, for runtimes")
    layouts: Iterable[str] = ("channels_last",)
    if engine.name == "torch":
        layouts = request.layouts if own else dict.fromkeys((*PEER_LAYOUTS, *request.layouts))
    if own and base.mode == "train":
        layouts = ("channels_last",)  # the trainer's own choice
    compiles: Iterable[str] = request.compiles
    if engine.framework == "jax":
        compiles = ("jit",)
    elif not engine.trains:
        first = engine.package == "resnet_onnx"
        compiles, layouts = ("none",), ("channels_first" if first else "channels_last",)
    elif own and base.mode == "train" and engine.package == "resnet_keras":
        compiles = ("none",)
        if "default" in request.compiles:
            report.note(f"{engine.name}: its Trainer has one way to compile, and was timed in that")
    for form, compile_, layout in itertools.product(forms or ["plain"], compiles, layouts):
        yield replace(base, form=form, layout=layout, compile=compile_)


def turns(found: Sequence[Case], device: Device = "cpu") -> Iterator[list[Case]]:
    """Cases of one setting take turns; those of one engine, where memory does not hold all of their
    processes, as on an accelerator; and none where it does not hold these either, or on a TPU,
    which belongs to one process at a time.
    """
    if device == "tpu":
        yield from ([case] for case in found)
        return
    free = available_memory()

    def fits(group: Sequence[Case]) -> bool:
        return free is None or sum(map(_memory, group)) <= free * 3 // 4

    for _, together in _grouped(found, setting_of):
        if device == "cpu" and fits(together):
            yield together
            continue
        for _, group in _grouped(together, lambda c: c.engine.name):
            yield from ([group] if device != "cpu" or fits(group) else ([case] for case in group))


def _memory(case: Case) -> int:
    """What the process of a case may hold: training keeps the outputs of all layers."""
    p = compile_plan(case.candidate.spec)
    needed = peak_bytes(p.parameter_count(), "float32")
    if case.mode == "train":
        shapes = (row.shape for row in layer_rows(p, case.size))
        needed += 4 * case.batch * sum(math.prod(shape) for shape in shapes)
    return needed


def _grouped(found: Iterable[Case], key: Callable[[Case], str]) -> Iterable[tuple[str, list[Case]]]:
    groups: dict[str, list[Case]] = {}
    for case in found:
        groups.setdefault(key(case), []).append(case)
    return groups.items()


def setting_of(case: Case) -> str:
    """In words, what the cases that are compared have in common."""
    height, width = case.size
    return f"{case.mode}, {case.dtype}, {case.batch}×{height}×{width}"
