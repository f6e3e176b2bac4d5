"""How fast do the engines and their peers compute the same net? Measured side by side.

Every side has a process of its own. Before anything is timed, the very function that will be timed
is compared with float64; a side that computes something else gets no speed. Then the sides take
turns, a short round each, so that whatever the machine does meanwhile meets all of them. A figure
above what the device can do is an error of the timing, and is refused.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from resnet_parity.bench.cases import cases, setting_of, turns
from resnet_parity.bench.environment import measured_on
from resnet_parity.bench.result import BenchReport, BenchRequest, BenchRow, Bound, Case, Parity
from resnet_parity.bench.scaling import ScalingAxis, points
from resnet_parity.engines.bench_job import BenchJob, Rates, distinct
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.process import EngineError, Start, Worker
from resnet_parity.engines.registry import ENGINES, Engine
from resnet_parity.engines.roofline import bound_seconds
from resnet_parity.numerics.difference import COARSE, ROUNDING_FACTOR, difference
from resnet_parity.numerics.rounding import TRIALS, rounding_errors
from resnet_parity.train.recipes import DROP_RATES
from shared_spec.atomic_write import workspace
from shared_spec.errors import ResNetError
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.training.state import require_classes
from shared_spec.weights.initialize import random_weights
from shared_spec.weights.state import State, cast_weights

OnProgress = Callable[[str], None]


def bench(
    request: BenchRequest,
    on_progress: OnProgress = lambda text: None,
    start: Start = Worker,
    scale: ScalingAxis | None = None,
) -> BenchReport:
    """Measure what is requested, and compare it with the peers and the bound.

    Args:
        request: what to measure.
        on_progress: called with a short description as each stage of the work begins.
        start: gives the worker of an engine on a device, as a context manager.
        scale: what to scale besides, and over which values.

    Raises:
        ResNetError: if the net cannot be timed so.
    """
    with workspace() as folder:
        run = Bench(request, on_progress, EngineJob(folder, start))
        run.rows += run.measure(cases(request, run.report))
        run.latency = 0
        for over, x, label, point in points(request, scale or ScalingAxis()):
            rows = run.measure(cases(point, run.report))
            run.points += [(over, x, label, row) for row in rows]
        run.finish()
    return run.report


class Bench:
    """A measurement at work: what has been found, and the files that workers read."""

    def __init__(self, request: BenchRequest, on_progress: OnProgress, job: EngineJob) -> None:
        self.request, self.on_progress, self.job = request, on_progress, job
        self.report = BenchReport(name=request.name, command=request.command)
        self.latency = request.latency
        """Single calls of each side that is measured from now on."""
        self.rows: list[BenchRow] = []
        self.points: list[tuple[str, int, str, BenchRow]] = []
        self.rates: dict[str, Rates] = {}
        self._weights: dict[tuple[ResNetSpec, str], str] = {}
        self._references: dict[tuple[Any, ...], State] = {}
        if "train" in request.modes:
            _check_trainable(request.spec)
        if request.latency and "infer" not in request.modes:
            raise ResNetError("bench: --latency times calls in inference; --modes has no infer")
        compile_plan(request.spec)
        self.report.missing |= {e.name: m for e in request.engines if (m := e.missing())}
        self.engines = [e for e in request.engines if e.name not in self.report.missing]
        if not self.engines:
            reason = "; ".join(f"{name}: {text}" for name, text in self.report.missing.items())
            raise ResNetError(f"bench: none of these engines is installed: {reason}")
        self.report.environment = measured_on(request)
        self._rate()

    def measure(self, found: Sequence[Case]) -> list[BenchRow]:
        """Rows of cases, which take turns where they are of one setting."""
        return [row for turn in turns(found, self.request.device) for row in self._turn(turn)]

    def finish(self) -> None:
        """Judge all rows."""
        report = self.report
        if self._above():
            # Something else may have been at work when the rates were measured.
            self._rate()
        for row in self._above():
            assert row.speed is not None
            row.refused = (
                f"{row.speed:,.0f} images/s is above the bound of {row.bound:,.0f}: the timing is "
                f"wrong, such as a wait for the device that is missing"
            )
        judge_ratios(self.rows)
        for row in self._measured():
            if row.refused is not None:
                report.problems.append(f"{row.case.engine.name}, {row.case.side}: {row.refused}")
        if self.request.requested:
            names = {engine.name for engine in self.request.engines}
            problems = (f"{n} is missing: {t}" for n, t in report.missing.items() if n in names)
            report.problems += problems
        if not any(row.speed for row in self._measured()):
            report.problems.append("nothing was timed")
        report.bounds = [Bound(**rates.to_dict()) for rates in self.rates.values()]
        report.rows = [row.timed for row in self.rows]
        report.scaling = [row.scaled(over, x, label) for over, x, label, row in self.points]

    def _measured(self) -> list[BenchRow]:
        """All that was measured, for its own sake or for a curve."""
        return [*self.rows, *(row for *_, row in self.points)]

    def _above(self) -> list[BenchRow]:
        """Give each row its bound; those that are above."""
        for row in self._measured():
            case = row.case
            if case.form == "int8":
                continue  # no framework has products of integers to measure
            p = compile_plan(case.candidate.spec)
            rates = self.rates[case.dtype]
            seconds = bound_seconds(p, case.size, case.mode, case.batch, rates)
            row.bound = case.batch / seconds
        return [row for row in self._measured() if (row.share or 0) > 1]

    def _rate(self) -> None:
        """The best that any framework reaches, now and before."""
        frameworks: dict[str, Engine] = {}
        able = [engine for engine in self.engines if engine.trains]
        for engine in able or [e for e in ENGINES.values() if e.missing() is None][:1]:
            frameworks.setdefault(engine.framework, engine)
        for framework, engine in frameworks.items():
            self.on_progress(f"what {framework} reaches at best on this device")
            try:
                with self.job.begin(engine, self.request.device) as worker:
                    info = worker.call("info")
                    self.report.environment["versions"] |= info["versions"]
                    if self.request.device != "cpu":
                        self.report.environment["hardware"] = info["device"]
                    for dtype in self.request.dtypes:
                        answer = worker.call("bench_rates", dtype=dtype, tf32=self.request.tf32)
                        found = Rates.from_dict(answer)
                        self.rates[dtype] = self.rates.get(dtype, found).or_better(found)
            except (EngineError, ResNetError) as error:
                self.report.notes.append(f"no rates from {engine.name}: {error}")
        if set(self.rates) != set(self.request.dtypes):
            raise ResNetError(f"bench: no bound without rates; {'; '.join(self.report.notes)}")

    def _turn(self, found: Sequence[Case]) -> list[BenchRow]:
        """Cases in alternation, a round each; the processes of a side share its rounds."""
        rows: dict[str, BenchRow] = {}
        rounds, count = self.request.rounds, self.request.processes
        for i in range(count):
            share = range(i * rounds // count, (i + 1) * rounds // count)
            self._processes(found, rows, share)
        return list(rows.values())

    def _processes(self, found: Sequence[Case], rows: dict[str, BenchRow], rounds: range) -> None:
        """Some of the rounds, in a process of each side."""
        with ExitStack() as stack:
            workers = [(case.key, self._ready(case, rows, stack)) for case in found]
            live = [(rows[key], worker) for key, worker in workers if worker is not None]
            passes = {id(row): self._passes(row, worker) for row, worker in live}
            for number in rounds:
                # No side comes first each time.
                first = number % max(len(live), 1)
                for row, worker in (*live[first:], *live[:first]):
                    if row.refused is None:
                        name = f"{row.case.engine.name}, {row.case.side}"
                        self.on_progress(f"{setting_of(row.case)}, round {number + 1}: {name}")
                        self._round(row, worker, passes[id(row)])
                        self._calls(row, worker, number)
            for row, worker in live:
                with suppress(EngineError):
                    worker.call("bench_close", key=row.case.key)

    def _ready(self, case: Case, rows: dict[str, BenchRow], stack: ExitStack) -> Worker | None:
        """The process of a side that is built and computes the right thing. Its row is the one that
        it has, if this is not its first process.
        """
        again = case.key in rows
        row = rows.get(case.key, BenchRow(case))
        if row.refused is not None:
            return None
        self.on_progress(f"{setting_of(case)}: building {case.engine.name}, {case.side}")
        asked = self._job(case).to_dict()
        try:
            worker = stack.enter_context(self.job.begin(case.engine, self.request.device))
            answer, found = self.job.run(worker.call, "bench_build", key=case.key, job=asked)
            if "missing" in answer:
                self.report.missing[case.candidate.label] = answer["missing"]
                return None
            self._told(answer)
            if not again:
                row.facts = {k: answer[k] for k in ("imported", "build", "load", "first_call")}
            row.refused = self._judge(case, found, not again)
        except (EngineError, ResNetError) as error:
            row.refused = f"failed: {error}"
        rows[case.key] = row
        return None if row.refused else worker

    def _told(self, answer: dict[str, Any]) -> None:
        """What a side says of its settings."""
        environment, given = self.report.environment, answer["settings"]
        environment["versions"] |= answer["versions"]
        environment["variables"] |= given["variables"]
        for name in ("threads", "matmul_precision"):
            environment[name][given["framework"]] = given[name]

    def _passes(self, row: BenchRow, worker: Worker) -> int:
        """How many passes make a round of the length that is requested."""
        self._round(row, worker, 1)
        once = row.seconds.pop() if row.refused is None else 1.0
        return max(1, min(round(self.request.seconds / max(once, 1e-9)), 10_000))

    def _round(self, row: BenchRow, worker: Worker, passes: int) -> None:
        try:
            answer = worker.call("bench_time", key=row.case.key, passes=passes)
        except (EngineError, ResNetError) as error:
            row.refused = f"failed: {error}"
            return
        row.seconds.append(answer["seconds"] / passes)
        row.facts |= answer["peaks"]
        if not answer["finite"]:
            row.refused = "it computes numbers that are not finite"

    def _calls(self, row: BenchRow, worker: Worker, number: int) -> None:
        """The share of a round in the calls that are timed one by one."""
        asked, rounds = self.latency, self.request.rounds
        calls = (number + 1) * asked // rounds - number * asked // rounds
        if row.refused is not None or row.case.mode != "infer" or not calls:
            return
        try:
            row.calls += worker.call("bench_latency", key=row.case.key, calls=calls)
        except (EngineError, ResNetError) as error:
            row.refused = f"failed: {error}"

    def _job(self, case: Case) -> BenchJob:
        return BenchJob(
            peer=case.candidate.peer,
            name=case.candidate.net,
            spec=case.candidate.spec.to_dict(),
            weights=self._weights_file(case),
            tf32=self.request.tf32,
            seed=self.request.seed,
            **{k: getattr(case, k) for k in ("mode", "batch", "size", "dtype", "form")},
            **{k: getattr(case, k) for k in ("layout", "compile")},
        )

    def _weights_file(self, case: Case) -> str:
        """Weights of a case; those of training stay float32."""
        spec, dtype = case.candidate.spec, "float32" if case.mode == "train" else case.dtype
        key = spec, dtype
        if key not in self._weights:
            state = cast_weights(random_weights(compile_plan(spec), self.request.seed), dtype)
            self._weights[key] = self.job.save(f"weights{len(self._weights)}", state)
        return self._weights[key]

    def _judge(self, case: Case, found: State, first: bool) -> str | None:
        """Why a side's results are not those of its net, if they are not; and tell it: of its first
        process, and of one that parts.
        """
        name, error, bound = farthest_result(self._reference(case), found, case.batch)
        holds = error <= bound
        if first or not holds:
            same = ("side", "mode", "batch", "dtype", "form", "compile")
            self.report.parity.append(
                Parity(
                    engine=case.engine.name,
                    net=case.candidate.net,
                    **{name: getattr(case, name) for name in same},
                    compared=name,
                    reference=f"{self._referee().name} in float64",
                    error=error if math.isfinite(error) else None,
                    bound=bound,
                    holds=holds,
                )
            )
        if holds and bound >= 1:
            self.report.note(
                f"{setting_of(case)}: rounding alone may change the {name} of "
                f"{case.candidate.net} by {bound:.1f} times their size, so that the check proves "
                f"little there"
            )
        if holds:
            return None
        what = f"first {name.replace('/', ' of ')}" if name.startswith("update/") else name
        return (
            f"it does not compute {case.candidate.net}: its {what} are {error:.1e} from float64, "
            f"over {bound:.1e}"
        )

    def _referee(self) -> Engine:
        """Whose float64 is the reference."""
        torch = ENGINES["torch"]
        return self.engines[0] if torch.missing() else torch

    def _reference(self, case: Case) -> State:
        narrow = self.request.tf32 and case.dtype == "float32"
        roundoff = COARSE.get(self.request.device, case.dtype) if narrow else case.dtype
        roundoff = "int8" if case.form == "int8" else roundoff
        file = self._weights_file(case)
        key = (file, case.mode, distinct(case.batch), case.size, roundoff)
        if key not in self._references:
            self.on_progress(f"{case.candidate.net} in float64")
            job = self._job(case).to_dict()
            with self.job.begin(self._referee()) as worker:
                _, self._references[key] = self.job.run(
                    worker.call, "bench_reference", job=job, roundoff=roundoff, trials=TRIALS
                )
        return self._references[key]


def farthest_result(reference: State, found: State, batch: int) -> tuple[str, float, float]:
    """The result that is farthest from float64 in units of its bound: its name, error and bound.

    Where rounding may change a result by its own size, it proves nothing, and others are looked at
    if there are any: at small images, the gradient of the first layer is of that kind.
    """
    compared = []
    for name, array in found.items():
        exact = reference[f"exact/{name}"]
        trials = ({name: reference[f"trial{i}/{name}"]} for i in range(TRIALS))
        caused = rounding_errors({name: exact}, trials)[name]
        stored = reference.get(f"storage/{name}", np.zeros(1))
        bound = ROUNDING_FACTOR * caused + float(stored[0])
        if not name.startswith("update/"):
            exact = np.tile(exact, (batch // len(exact), *[1] * (exact.ndim - 1)))
        error = difference(exact, array).maximum
        compared.append((name, math.inf if math.isnan(error) else error, bound))
    telling = [result for result in compared if result[2] < 1] or compared
    return max(telling, key=lambda result: result[1] / result[2])


def judge_ratios(rows: Sequence[BenchRow]) -> None:
    """Hold ours against the fastest peer of its engine in the same setting that is compiled alike,
    or the fastest of all if none is; and int8 against our fastest float net.
    """
    for row in rows:
        if row.case.candidate.peer is not None or row.speed is None:
            continue
        narrow = row.case.form == "int8"
        peers = [
            other
            for other in rows
            if ((other.case.candidate.peer is not None) != narrow)
            and other.case.form != "int8"
            and other.speed is not None
            and other.case.engine == row.case.engine
            and setting_of(other.case) == setting_of(row.case)
        ]
        alike = [other for other in peers if other.case.compile == row.case.compile] or peers
        if alike:
            best = max(alike, key=lambda other: other.speed or 0.0)
            row.against = best.case.side
            # Round by round: whatever slowed both of them down is no difference.
            pairs = zip(best.seconds, row.seconds, strict=False)
            scale = row.case.batch / best.case.batch
            row.ratio = scale * statistics.median(theirs / mine for theirs, mine in pairs)


def _check_trainable(spec: ResNetSpec) -> None:
    require_classes(spec)
    for rate in DROP_RATES:
        if getattr(spec, rate):
            raise ResNetError(
                f"bench: with {rate} {getattr(spec, rate)} each engine draws its own numbers in "
                f"training, so there is nothing to compare with; set it to 0"
            )
