"""The catalogue at full depth: each name in each engine, and against the libraries that have it."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.check.forward import default_sizes, planned_shapes
from resnet_parity.check.record_file import (
    LibraryVerdict,
    SweepRecord,
    append_record,
    code_digest,
    digest_of,
    finite,
    read_records,
    versions_of,
)
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.memory import available_memory, fitting_dtype, peak_bytes
from resnet_parity.engines.pool import Start, WorkerPool
from resnet_parity.engines.process import EngineError, Worker
from resnet_parity.engines.reference_libraries import Reference, recast, references_of
from resnet_parity.engines.registry import ENGINES, Device, Engine
from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, ROUNDING_FACTOR, difference
from resnet_parity.numerics.rounding import TRIALS, perturbed_array, rounding_errors
from shared_spec.atomic_write import workspace
from shared_spec.catalogue import Entry
from shared_spec.errors import ResNetError, SpecError
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.network import Plan
from shared_spec.plan.summary import layer_rows
from shared_spec.weights.initialize import random_images, random_weights

Results = dict[str, np.ndarray]
"""`<index of the input>/logits` to array; `out` and `aux` of a net that gives classes of pixels."""

Memory = Callable[[], int | None]
DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class SweepSettings:
    """What a sweep runs. `sizes` of None takes one for each net, which is neither square nor even
    where the net allows that; `requested` says whether a missing engine was requested by name.
    """

    engines: tuple[Engine, ...]
    dtype: str = "float64"
    device: Device = "cpu"
    sizes: tuple[tuple[int, int], ...] | None = None
    batch: int = 2
    seed: int = 0
    requested: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ResNetError(f"dtype: {self.dtype!r}; a sweep takes {' or '.join(DTYPES)}")


@dataclass(frozen=True)
class SweepObserver:
    """What a sweep reports: each step (name and what runs), and each result, fresh or old."""

    on_progress: Callable[[str, str], None] = lambda name, what: None
    done: Callable[[SweepRecord, bool], None] = lambda record, fresh: None


def sweep(
    entries: Sequence[Entry],
    settings: SweepSettings,
    results: Path,
    observer: SweepObserver,
    *,
    start: Start = Worker,
    available: Memory = available_memory,
) -> list[SweepRecord]:
    """Run every entry that `results` has no valid record of, and append what is found to it.

    A record is valid if it holds, and if spec, code, settings and installed versions are what they
    were. The weights are random and the same for all; a net that does not fit into memory in
    float64 runs in float32.

    Raises:
        ResNetError: if `results` cannot be read or written.
    """
    known = read_records(results)
    found = []
    with WorkerPool(start) as pool:
        for entry in entries:
            blank = _blank(entry, settings)
            record = known.get(entry.name)
            fresh = record is None or record.key != blank.key or not record.holds
            if record is None or fresh:
                with workspace() as folder:
                    job = EngineJob(folder)
                    run = _EntryRun(entry, settings, blank, pool, job, observer.on_progress)
                    record = run.finish(available)
                append_record(results, record)
            observer.done(record, fresh)
            found.append(record)
    return found


def _blank(entry: Entry, settings: SweepSettings) -> SweepRecord:
    """A record with what is known beforehand."""
    references = references_of(entry)
    wanted: list[Engine | Reference] = [*settings.engines, *references]
    missing = {x.name: text for x in wanted if (text := x.missing()) is not None}
    versions = versions_of(m for x in wanted if x.name not in missing for m in x.requires)
    sizes = list(settings.sizes or [_size(entry)])
    facts = {
        "spec": entry.spec.to_dict(),
        "sizes": sizes,
        "settings": [settings.dtype, settings.device, settings.batch, settings.seed],
        "engines": [e.name for e in settings.engines],
        "requested": settings.requested,
        "references": [r.name for r in references],
        "versions": versions,
        "code": code_digest(),
    }
    return SweepRecord(
        entry.name,
        entry.family,
        digest_of(facts),
        datetime.datetime.now(datetime.UTC).date().isoformat(),
        settings.dtype,
        settings.device,
        sizes,
        settings.batch,
        compile_plan(entry.spec).parameter_count(),
        versions,
        missing=missing,
    )


def _size(entry: Entry) -> tuple[int, int]:
    """The last of `default_sizes`, or twice as high as wide where the net takes no odd size."""
    *_, (height, width) = default_sizes(entry.spec)
    try:
        layer_rows(compile_plan(entry.spec), (height, width))
    except SpecError:
        return 2 * width, width
    return height, width


@dataclass
class _EntryRun:
    """One name."""

    entry: Entry
    settings: SweepSettings
    record: SweepRecord
    pool: WorkerPool
    job: EngineJob
    on_progress: Callable[[str, str], None]
    images: list[str] = field(default_factory=list)
    outputs: dict[str, Results] = field(default_factory=dict)
    plan: Plan = field(init=False)
    references: list[Reference] = field(init=False)

    def __post_init__(self) -> None:
        self.plan = compile_plan(self.entry.spec)
        absent = self.record.missing
        self.references = [r for r in references_of(self.entry) if r.name not in absent]

    def finish(self, available: Memory) -> SweepRecord:
        """Run everything and judge it."""
        record = self.record
        try:
            for size in record.sizes:
                layer_rows(self.plan, size)
            record.dtype = self._choose_dtype(available)
            weights = self._draw()
        except ResNetError as error:
            record.problems.append(str(error))
            return record
        for engine in self.settings.engines:
            self._run_engine(engine, weights)
        if len(self.outputs) + len(self.references) < 2:
            record.problems.append("nothing was compared")
        record.tolerance = self._tolerance()
        self._judge_engines()
        for reference in self.references:
            record.references[reference.name] = self._judge(reference, weights)
        return record

    def _choose_dtype(self, available: Memory) -> str:
        count, wanted = self.record.parameters, self.record.dtype
        found = fitting_dtype(count, wanted, available())
        if found != wanted:
            self.pool.close()  # idle workers hold some
            found = fitting_dtype(count, wanted, available())
        if found is None:
            need, have = (n / 2**30 for n in (peak_bytes(count, "float32"), available() or 0))
            raise ResNetError(f"needs {need:.1f} GiB of memory in float32, and {have:.1f} are free")
        return found

    def _draw(self) -> str:
        self.on_progress(self.entry.name, "drawing weights")
        for index, size in enumerate(self.record.sizes):
            shape = (self.record.batch, *size, self.plan.in_channels)
            images = random_images(shape, self.settings.seed)
            self.images.append(self.job.save(f"images{index}", {"images": images}))
        return self.job.save("weights", random_weights(self.plan, self.settings.seed))

    def _call(
        self, engine: Engine, device: Device, operation: str, weights: str, **more: Any
    ) -> tuple[Any, Results]:
        """The worker's answer and what the net gives, of the shapes that the plan says."""
        call = partial(self.pool.call, engine, device)
        files: dict[str, Any] = {"weights": weights, "images": self.images}
        answer, found = self.job.run(call, operation, dtype=self.record.dtype, **files, **more)
        expected: dict[str, tuple[int, ...]] = {}
        for index, size in enumerate(self.record.sizes):
            results = {f"{index}/{key}": name for key, name in self.plan.results().items()}
            expected |= planned_shapes(self.plan, size, self.record.batch, results)
        shapes = {key: array.shape for key, array in found.items()}
        if shapes != expected:
            raise ResNetError(f"the results have the shapes {shapes}, expected {expected}")
        for key, array in found.items():
            if array.dtype.name != self.record.dtype:
                raise ResNetError(f"{key} is {array.dtype}, not {self.record.dtype}")
        return answer, found

    def _call_engine(self, engine: Engine, weights: str) -> tuple[Any, Results]:
        facts = {"spec": self.entry.spec.to_dict(), "blocks": False, "compiled": False}
        return self._call(engine, self.settings.device, "run", weights, **facts)

    def _run_engine(self, engine: Engine, weights: str) -> None:
        record = self.record
        absent = record.missing.get(engine.name)
        if absent is not None:
            if self.settings.requested:
                record.problems.append(f"{engine.name} is missing: {absent}")
            return
        self.on_progress(self.entry.name, engine.name)
        try:
            answer, found = self._call_engine(engine, weights)
        except (EngineError, ResNetError) as error:
            record.problems.append(f"{engine.name} failed: {error}")
            return
        record.engines[engine.name] = answer["seconds"]
        self.outputs[engine.name] = found
        record.problems += self._miscounted(engine.name, answer["parameters"])

    def _miscounted(self, name: str, count: int) -> list[str]:
        planned = self.record.parameters
        text = f"{name} has {count:,} parameters, the plan {planned:,}"
        return [] if count == planned else [text]

    def _tolerance(self) -> float | None:
        """The bound between any two results: in float32, from what rounding is measured to do.

        As in `check`, except that there is no float64 to measure against: the net's own results in
        float32 are compared with those on weights that are perturbed as rounding does.
        """
        if self.record.dtype == "float64":
            return FLOAT64_TOLERANCE
        if not self.outputs:
            return None
        engine = ENGINES[next(iter(self.outputs))]

        def changed(trial: int) -> Results:
            self.on_progress(self.entry.name, f"rounding on {engine.name}, {trial + 1} of {TRIALS}")
            return self._call_engine(engine, self._perturb(self.settings.seed + trial))[1]

        try:
            errors = rounding_errors(self.outputs[engine.name], map(changed, range(TRIALS)))
        except (EngineError, ResNetError) as failure:
            self.record.problems.append(f"no bound from {engine.name}: {failure}")
            return None
        # Two engines, each within the bound of the exact result, may differ by twice as much.
        return 2 * ROUNDING_FACTOR * max(errors.values())

    def _perturb(self, seed: int) -> str:
        """Another file of weights; array by array, since a net that comes here is large."""
        state = random_weights(self.plan, self.settings.seed)
        for q in self.plan.parameters():
            array = perturbed_array(q, state[q.name], "float32", seed)
            state[q.name] = array.astype(np.float32)
        return self.job.save("perturbed", state)

    def _judge_engines(self) -> None:
        record = self.record
        worst = -1.0
        for a, b in itertools.combinations(self.outputs, 2):
            size, problems = self._difference(self.outputs[a], self.outputs[b], f"{a} and {b}")
            record.problems += problems
            if size > worst:
                worst, record.between, record.pair = size, finite(size), [a, b]

    def _judge(self, reference: Reference, weights: str) -> LibraryVerdict:
        self.on_progress(self.entry.name, reference.name)
        compared = LibraryVerdict(recast=recast(reference, self.entry, self.record.dtype))
        facts = {"library": reference.name, "name": self.entry.name}
        try:
            host = ENGINES[reference.engine]
            answer, results = self._call(host, "cpu", "reference", weights, **facts)
        except (EngineError, ResNetError) as error:
            compared.problems.append(f"{reference.name} failed: {error}")
            return compared
        compared.parameters = answer["parameters"]
        compared.problems += self._miscounted(reference.name, compared.parameters)
        if not self.outputs:
            compared.problems.append(f"no engine was compared with {reference.name}")
        for engine, outputs in self.outputs.items():
            size, problems = self._difference(results, outputs, f"{reference.name} and {engine}")
            compared.differences[engine] = finite(size)
            compared.problems += problems
        return compared

    def _difference(self, a: Results, b: Results, pair: str) -> tuple[float, list[str]]:
        """The largest over all inputs, infinite if there is a NaN, and what is wrong with it."""
        try:
            worst = max(difference(a[index], b[index]).size for index in a)
        except ResNetError as error:
            return math.inf, [f"{pair} cannot be compared: {error}"]
        tolerance = self.record.tolerance
        if tolerance is not None and worst <= tolerance:
            return worst, []
        over = "with no bound" if tolerance is None else f"over {tolerance:.1e}"
        return worst, [f"{pair} differ by {worst:.1e}, {over}"]
