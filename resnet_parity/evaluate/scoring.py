"""How right weights are on labelled images, in each engine, and whether the engines agree.

Images are decoded once, and each batch goes through one engine after the other; so all see the
same numbers, and memory and disk hold a few batches, however many images there are. What the nets
are given of an image, and how its scores are averaged, is explained in
`resnet_parity.evaluate.crops`. The loss
is the cross-entropy of the averaged probabilities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.process import EngineError, Start, Worker
from resnet_parity.engines.registry import Device, Engine
from resnet_parity.evaluate.crops import Chunk, image_logits, rounds
from resnet_parity.evaluate.inputs import PreparedEvaluation, spread
from resnet_parity.evaluate.result import Agreement, EngineScores, EvaluationReport
from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, ROUNDING_FACTOR, RULE
from resnet_parity.numerics.rounding import perturbations, rounding_errors
from resnet_parity.numerics.top_k import losses, ranks, summed
from shared_spec.atomic_write import workspace
from shared_spec.errors import ResNetError
from shared_spec.plan.compiler import compile_plan
from shared_spec.weights.state import State, cast_weights, numpy_dtype

_SAMPLE = 8
"""Views on which the effect of rounding is measured."""
_SHOWN = 5
"""Images that are named where two engines disagree."""


def evaluate(
    prepared: PreparedEvaluation,
    engines: Sequence[Engine],
    *,
    dtype: str = "float32",
    device: Device = "cpu",
    on_progress: Callable[[str], None] = lambda text: None,
    advance: Callable[[float], None] = lambda images: None,
    start: Start = Worker,
) -> EvaluationReport:
    """Score the weights in each engine, and compare each engine with each.

    Every engine runs in a process of its own; all are there at the same time, and compute in turn.
    In float64, logits may differ by `FLOAT64_TOLERANCE`. In a narrower dtype they may by twice what
    `check` allows one engine from float64: the effect of rounding, measured on some of the views.

    Args:
        prepared: see `evaluation_inputs.prepare`.
        engines: which engines.
        dtype: of parameters and computation.
        device: cpu, gpu or tpu.
        on_progress: called with a short description as each stage of the work begins.
        advance: called with the number of images that are done, or a fraction of one.
        start: gives the worker of an engine on a device, as a context manager.

    Raises:
        ResNetError: if an image cannot be read.
    """
    numpy_dtype(dtype)
    report = EvaluationReport(
        weights=prepared.weights,
        data=prepared.data,
        images=len(prepared.dataset),
        classes=len(prepared.names),
        crops=prepared.views.crops,
        scales=prepared.views.scales,
        image_size=prepared.views.preprocessing.image_size,
        dtype=dtype,
        notes=prepared.notes,
    )
    with ExitStack() as stack:
        job = EngineJob(stack.enter_context(workspace()), start)
        run = _EvaluationRun(prepared, dtype, job, report)
        # All processes at once: each takes seconds to import its framework.
        for engine in engines:
            with run.excusing(engine.name):
                worker = stack.enter_context(job.begin(engine, device))
                run.tallies[engine.name] = _Tally(engine, worker)
        on_progress("starting engines")
        run.load()
        on_progress("evaluating")
        views = rounds(prepared.views, prepared.dataset, prepared.loader)
        for indices, chunks in stack.enter_context(closing(views)):
            run.round(indices, chunks, advance)
            if not run.tallies:
                break
        run.finish()
        if len(report.ran) > 1 and dtype != "float64":
            on_progress("float64 reference")
            run.measure_rounding(device)
    _judge(report, dtype)
    return report


@dataclass
class _Tally:
    """What is known of one engine so far."""

    engine: Engine
    worker: Worker
    facts: dict[str, Any] = field(default_factory=dict)
    parameters: int = 0
    ranks: list[np.ndarray] = field(default_factory=list)
    losses: list[np.ndarray] = field(default_factory=list)
    largest: float = 0.0
    """Magnitude of any logit."""
    strange: str | None = None
    """An image of which the logits are not finite."""
    seconds: float = 0.0
    timed: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Seconds and images at each scale, of batches for which nothing was compiled."""

    def speed(self, scales: int) -> float | None:
        """Images a second, each at all scales."""
        if len(self.timed) < scales:
            return None
        return 1 / max(sum(seconds / images for seconds, images in self.timed.values()), 1e-9)


@dataclass
class _PairTally:
    """What is known of two engines so far."""

    same: int = 0
    farthest: float = 0.0
    """Largest difference of logits."""
    worst: int = 0
    disagreements: list[dict[str, str]] = field(default_factory=list)


@dataclass
class _EvaluationRun:
    """An evaluation on its way."""

    _p: PreparedEvaluation
    _dtype: str
    _job: EngineJob
    _report: EvaluationReport
    tallies: dict[str, _Tally] = field(default_factory=dict)
    _pairs: dict[tuple[str, str], _PairTally] = field(default_factory=dict)
    _sample: np.ndarray | None = None

    @contextmanager
    def excusing(self, name: str) -> Iterator[None]:
        """Where an engine may fail, after which the others go on without it."""
        try:
            yield
        except (EngineError, ResNetError) as error:
            self._report.failed[name] = str(error)
            self.tallies.pop(name, None)
            self._pairs = {pair: found for pair, found in self._pairs.items() if name not in pair}

    def load(self) -> None:
        """Wait for the engines, and for their models."""
        file = self._job.save("weights", self._p.state)
        net = {"spec": self._p.spec.to_dict(), "weights": file, "dtype": self._dtype}
        for name, tally in list(self.tallies.items()):
            with self.excusing(name):
                tally.facts = tally.worker.call("info")
                tally.parameters = tally.worker.call("classify", net=net)["parameters"]
        names = list(self.tallies)
        self._pairs = {pair: _PairTally() for pair in itertools.combinations(names, 2)}

    def round(
        self, indices: np.ndarray, chunks: Iterator[Chunk], advance: Callable[[float], None]
    ) -> None:
        """Some images, in all engines."""
        p = self._p
        found: dict[str, list[list[np.ndarray]]] = {}
        for chunk in chunks:
            file = self._job.save("images", {"images": chunk.images})
            if self._sample is None:
                self._sample = chunk.images[spread(len(chunk.images), _SAMPLE)].copy()
            logits: dict[str, np.ndarray] = {}
            for name in list(self.tallies):
                with self.excusing(name):
                    logits[name] = self._classified(self.tallies[name], chunk, file)
                advance(len(chunk.which) / (len(p.views.scales) * max(len(self.tallies), 1)))
            self._compare(indices, chunk, logits)
            for name, array in logits.items():
                of_image = found.setdefault(name, [[] for _ in indices])
                for i, views in zip(chunk.which, array, strict=True):
                    of_image[i].append(views)
        left = {name: arrays for name, arrays in found.items() if name in self.tallies}
        self._score(indices, {name: image_logits(arrays) for name, arrays in left.items()})

    def _classified(self, tally: _Tally, chunk: Chunk, file: str) -> np.ndarray:
        """Logits [n, views, classes]."""
        answer, found = self._job.run(tally.worker.call, "classify", images=file)
        logits = found["logits"].astype(np.float64)
        if logits.shape != (len(chunk.images), len(self._p.names)):
            raise EngineError(
                f"gave logits {list(logits.shape)} for {len(chunk.images)} images and "
                f"{len(self._p.names)} classes"
            )
        tally.seconds += answer["seconds"]
        if answer["warm"]:
            seconds, images = tally.timed.get(chunk.scale, (0.0, 0))
            tally.timed[chunk.scale] = seconds + answer["seconds"], images + len(chunk.which)
        return logits.reshape(len(chunk.which), -1, logits.shape[1])

    def _compare(self, indices: np.ndarray, chunk: Chunk, logits: dict[str, np.ndarray]) -> None:
        for name, array in logits.items():
            tally = self.tallies[name]
            magnitudes = np.abs(array).max((1, 2))
            strange = np.flatnonzero(~np.isfinite(magnitudes))
            if len(strange) and tally.strange is None:
                tally.strange = self._p.dataset.where(int(indices[chunk.which[strange[0]]]))
            tally.largest = max(
                tally.largest, float(magnitudes[np.isfinite(magnitudes)].max(initial=0))
            )
        for (a, b), pair in self._pairs.items():
            if a not in logits or b not in logits:
                continue
            with np.errstate(invalid="ignore"):
                apart = np.abs(logits[a] - logits[b]).max((1, 2))
            apart[~np.isfinite(apart)] = math.inf
            place = int(apart.argmax())
            if apart[place] > pair.farthest:
                pair.farthest = float(apart[place])
                pair.worst = int(indices[chunk.which[place]])

    def _score(self, indices: np.ndarray, scores: dict[str, np.ndarray]) -> None:
        labels = self._p.dataset.labels[indices]
        first: dict[str, np.ndarray] = {}
        for name, array in scores.items():
            tally = self.tallies[name]
            tally.ranks.append(ranks(array, labels))
            with np.errstate(invalid="ignore"):
                tally.losses.append(losses(array, labels))
            first[name] = array.argmax(1)
        for (a, b), pair in self._pairs.items():
            different = np.flatnonzero(first[a] != first[b])
            pair.same += len(indices) - len(different)
            for i in different[: _SHOWN - len(pair.disagreements)].tolist():
                pair.disagreements.append(
                    {
                        "image": self._p.dataset.where(int(indices[i])),
                        "label": self._p.names[labels[i]],
                        a: self._p.names[first[a][i]],
                        b: self._p.names[first[b][i]],
                    }
                )

    def finish(self) -> None:
        """Put what was found into the report."""
        p, report = self._p, self._report
        for name, tally in self.tallies.items():
            scores = summed(np.concatenate(tally.ranks), np.concatenate(tally.losses))
            report.ran.append(
                EngineScores(
                    **asdict(scores),
                    engine=name,
                    versions=tally.facts["versions"],
                    device=tally.facts["device"],
                    parameters=tally.parameters,
                    seconds=tally.seconds,
                    images_per_second=tally.speed(len(p.views.scales)),
                )
            )
            if tally.strange is not None:
                report.problems.append(
                    f"{name} gives logits that are not finite numbers, first for {tally.strange}"
                )
        for (a, b), pair in self._pairs.items():
            first, strange = self.tallies[a], self.tallies[a].strange or self.tallies[b].strange
            logits = math.nan if strange else _ratio(pair.farthest, first.largest)
            worst = p.dataset.where(pair.worst) if pair.farthest else None
            same = pair.same / len(p.dataset)
            report.pairs.append(Agreement((a, b), same, logits, worst, pair.disagreements))

    def measure_rounding(self, device: Device) -> None:
        """What rounding may do to these logits: see `rounding_errors`."""
        p, report, job = self._p, self._report, self._job
        tally = next(iter(self.tallies.values()))
        assert self._sample is not None
        asked: dict[str, Any] = {
            "spec": p.spec.to_dict(),
            "dtype": "float64",
            "images": job.save("images", {"images": self._sample}),
        }
        exact = cast_weights(cast_weights(p.state, self._dtype), "float64")
        changed = perturbations(compile_plan(p.spec), exact, self._dtype)
        # Not on an accelerator, which may have no float64.
        where: AbstractContextManager[Worker] = (
            nullcontext(tally.worker) if device == "cpu" else job.worker(tally.engine)
        )
        try:
            with where as worker:

                def run(weights: State) -> State:
                    file = job.save("float64", weights)
                    return job.run(worker.call, "predict", weights=file, **asked)[1]

                error = max(rounding_errors(run(exact), map(run, changed)).values())
        except (EngineError, ResNetError) as failure:
            report.problems.append(f"no float64 reference from {tally.engine.name}: {failure}")
            return
        report.tolerance = 2 * ROUNDING_FACTOR * error
        report.rule = (
            f"{RULE} ≤ {report.tolerance:.1e} between two engines, which is twice "
            f"{ROUNDING_FACTOR:g} times what {self._dtype} rounding is measured to cause"
        )


def _judge(report: EvaluationReport, dtype: str) -> None:
    for name, reason in report.failed.items():
        report.problems.append(f"{name} failed: {reason}")
    if not report.ran:
        report.problems.append("no engine ran")
    if len(report.ran) > 1 and dtype == "float64":
        report.tolerance = FLOAT64_TOLERANCE
        report.rule = f"{RULE} ≤ {FLOAT64_TOLERANCE:.0e}"
    if report.tolerance is None:
        return
    for found in report.pairs:
        # Logits that are no numbers are a problem of their own.
        if not math.isnan(found.logits) and found.logits > report.tolerance:
            report.problems.append(
                f"{' and '.join(found.engines)} differ by {found.logits:.1e}, over "
                f"{report.tolerance:.1e}, most at {found.worst}"
            )


def _ratio(apart: float, largest: float) -> float:
    if apart == 0:
        return 0.0
    return apart / largest if largest else math.inf
