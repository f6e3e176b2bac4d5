"""Whether a net compiles for devices, whether it fits, and what its chips tell one another."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from resnet_parity.aot.collectives import collectives, strays, unsummed
from resnet_parity.aot.result import FORMS, AotReport, AotRequest, Compiled, Estimate, problems_of
from resnet_parity.aot.targets import Target
from resnet_parity.engines.aot_job import AotJob, Program
from resnet_parity.engines.pool import Start, WorkerPool
from resnet_parity.engines.process import EngineError, Worker
from resnet_parity.engines.registry import Engine
from resnet_parity.engines.roofline import bound_seconds, works
from shared_spec.errors import FrameworkError, RecipeError, ResNetError
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.summary import layer_rows
from shared_spec.training.state import require_classes

ENGINES = ("flax", "keras:jax")
"""XLA compiles for devices that are not here, and these are the engines whose programs it gets."""

STEP = 8
"""Images; the largest batch is found to within so many, or a sixteenth."""

OnProgress = Callable[[str], None]
Compile = Callable[[int], Program]
"""Of a batch a device."""


def aot(
    request: AotRequest, on_progress: OnProgress = lambda text: None, start: Start = Worker
) -> AotReport:
    """Compile a net for devices that are not here.

    Raises:
        ResNetError: if an engine is not installed or cannot do that, or the net cannot be trained.
    """
    layer_rows(compile_plan(request.spec), request.pixels)
    if "train" in request.modes:
        try:
            require_classes(request.spec)
        except RecipeError as error:
            raise ResNetError(f"modes: train: {error}, or ask for infer alone") from None
    for engine in request.engines:
        if engine.name not in ENGINES:
            known = " and ".join(ENGINES)
            raise FrameworkError(
                f"engines: {engine.name} compiles nothing ahead of time; {known} do"
            )
    report = AotReport(name=request.name, dtype=request.dtype, size=list(request.pixels))
    report.date = datetime.now(UTC).date().isoformat()
    with WorkerPool(start) as pool:
        for engine in request.engines:
            facts = _facts(pool, engine)
            report.versions |= facts["versions"]
            report.settings |= facts["settings"]
            call = partial(pool.call, engine, "cpu")
            for target, mode in itertools.product(request.targets, request.modes):
                for form in [f for f in request.forms if f in FORMS[mode]] or ["plain"]:
                    compiled = partial(_compiled, request, target, (mode, form), call)
                    on_progress(f"{engine.name}, {target.name}, {mode}, {form}")
                    report.rows.append(_row(request, engine, target, (mode, form), compiled))
    report.problems = [problem for row in report.rows for problem in problems_of(row)]
    return report


def _facts(pool: WorkerPool, engine: Engine) -> dict[str, dict[str, str]]:
    """Versions, and settings that programs depend on."""
    try:
        found: dict[str, dict[str, str]] = pool.call(engine, "cpu", "aot_info")
    except EngineError as error:
        absent = engine.missing()
        if absent is not None:
            raise FrameworkError(f"{engine.name}: {absent}") from None
        raise ResNetError(f"{engine.name} failed: {error}") from None
    return found


def _compiled(
    request: AotRequest,
    target: Target,
    what: tuple[str, str],
    call: Callable[..., object],
    batch: int,
) -> Program:
    (mode, form), net, where = what, request.spec.to_dict(), target.topology
    job = AotJob(net, mode, batch, request.pixels, request.dtype, where, form)
    begun = time.perf_counter()
    try:
        return Program.from_dict(call("aot_compile", job=job.to_dict()))
    except EngineError as error:
        # Some programs crash libtpu. The pool starts another process for the next one.
        took = time.perf_counter() - begun
        return Program(target.devices, took, refused=f"compiling it failed: {error}")


def _row(
    request: AotRequest, engine: Engine, target: Target, what: tuple[str, str], compiled: Compile
) -> Compiled:
    (mode, form), p, found = what, compile_plan(request.spec), compiled(request.batch)
    told = collectives("\n".join(found.text))
    spread = mode == "train" and found.devices > 1 and found.refused is None
    sought = request.largest and (found.refused is None or found.exceeds is not None)
    largest = largest_batch(compiled, request.batch, target.memory) if sought else None
    return Compiled(
        engine=engine.name,
        target=target.name,
        devices=found.devices,
        mode=mode,
        form=form,
        batch=request.batch,
        compile_seconds=found.seconds,
        refused=found.refused,
        arguments=found.arguments,
        outputs=found.outputs,
        aliased=found.aliased,
        temporary=found.temporary,
        code=found.code,
        memory=found.memory,
        unpadded=found.unpadded,
        device_memory=target.memory,
        largest_batch=largest,
        flops=found.flops,
        traffic=found.traffic,
        cycles=found.cycles,
        collectives=dict(Counter(c.kind for c in told)),
        collective_bytes=sum(c.bytes for c in told),
        stray=[str(c) for c in strays(told, p, mode)],
        unsummed=unsummed(told, p) if spread else [],
        estimate=_estimate(request, target, found, what),
    )


def _estimate(
    request: AotRequest, target: Target, found: Program, what: tuple[str, str]
) -> Estimate | None:
    mode, form = what
    rates = target.rates(request.dtype)
    if found.refused is not None or rates is None or (found.memory or 0) > target.memory:
        return None
    if found.flops and found.traffic:
        arithmetic = found.flops / rates.flops_per_second
        seconds = max(arithmetic, found.traffic / rates.bytes_per_second)
        where = rates.kernel
    elif target.chip.platform == "gpu" and form != "remat":  # what is computed again is not counted
        p, images = compile_plan(request.spec), request.batch
        seconds = bound_seconds(p, request.pixels, mode, images, rates)
        macs = sum(work.macs for work in works(p, request.pixels, mode))
        # Where arithmetic takes less than half of the time, layers that memory binds take more.
        arithmetic = 2 * (2 * macs * images / rates.flops_per_second)
        where = (
            f"{rates.kernel}; counted from the spec, layer by layer: XLA counts nothing for GPUs"
        )
    else:
        return None
    return Estimate(
        seconds=seconds,
        images_per_second=request.batch * found.devices / seconds,
        bound_by="memory" if seconds > arithmetic else "arithmetic",
        rates=where,
    )


def largest_batch(compiled: Compile, first: int, memory: int) -> int | None:
    """The largest batch that fits, within `STEP` images or a sixteenth; None if not even `STEP`
    images do. Bytes grow nearly in proportion to the batch: each guess follows the line through
    the two programs before it, and halves what is open where that leads nowhere.
    """
    fits, exceeds = 0, None
    needed: dict[int, float] = {}
    guess: int = max(first // STEP * STEP, STEP)
    while exceeds is None or exceeds - fits > max(STEP, fits // 16):
        found = compiled(guess)
        bytes_needed = found.exceeds if found.refused is not None else found.memory
        if bytes_needed is not None:
            needed[guess] = bytes_needed
        # XLA for GPUs compiles what no device has the memory for.
        if found.refused is None and (found.memory or 0) <= memory:
            fits = guess
        else:
            exceeds = guess
        if exceeds is not None and exceeds <= STEP:
            return None
        guess = _next(fits, exceeds, needed, memory)
    return fits


def _next(fits: int, exceeds: int | None, needed: dict[int, float], memory: int) -> int:
    """The next batch to try: more than fits, and less than does not."""
    guess = 2 * fits if exceeds is None else (fits + exceeds) // 2
    nearest = sorted(needed, key=lambda batch: abs(needed[batch] - memory))[:2]
    if len(nearest) == 2 and needed[nearest[0]] != needed[nearest[1]]:
        a, b = nearest
        guess = a + int((memory - needed[a]) * (a - b) / (needed[a] - needed[b]))
    most = exceeds - STEP if exceeds is not None else 64 * fits
    return max(min(guess // STEP * STEP, most), fits + STEP)
