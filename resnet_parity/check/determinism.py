"""Does a net give the same bits however it is run? Each engine against itself, measured.

Kernels are chosen by the size of a batch, the number of threads and the processor, and add up in
other orders. What differs is told with the first layer where it does, and with the layers that
differ on the very same input.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from resnet_parity.check.result import DeterminismReport, Ran, Rerun, StrictPrice
from resnet_parity.check.variations import (
    KNOWN,
    Pick,
    Variation,
    forms_of,
    processes,
    threads,
    within,
)
from resnet_parity.engines.job import EngineJob, ForwardPass
from resnet_parity.engines.machine import cores, processor
from resnet_parity.engines.process import EngineError, Start, Worker
from resnet_parity.engines.registry import ENGINES, Engine
from resnet_parity.numerics.difference import farthest
from shared_spec.atomic_write import workspace
from shared_spec.errors import ResNetError
from shared_spec.kernels.xla import processor_flags
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.dataflow import nodes
from shared_spec.plan.summary import layer_rows
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.initialize import random_images, random_weights
from shared_spec.weights.state import State, cast_weights, check_weights

DTYPES = ("float32", "bfloat16")
ROUNDS = 5
"""Of timing the strict form."""


def check_determinism(  # noqa: PLR0913 a verb
    spec: ResNetSpec,
    engines: Sequence[Engine],
    *,
    name: str = "model",
    dtypes: Sequence[str] | None = None,
    weights: State | None = None,
    size: tuple[int, int] | None = None,
    batch: int = 8,
    seed: int = 0,
    requested: bool = True,
    compiled: bool = False,
    strict: bool = False,
    on_progress: Callable[[str], None] = lambda text: None,
    start: Start = Worker,
) -> DeterminismReport:
    """Run a net in each engine again and again: at other sizes of batches and positions in them, in
    other processes, with other numbers of threads and sets of instructions; and compare the bits.

    Examples:
        >>> report = check_determinism(resolve("resnet20"), parse_engines("torch"), name="resnet20")
        >>> [rerun.variation for rerun in report.reruns if not rerun.equal]

    Args:
        spec: the network.
        engines: which engines; each is compared with itself alone.
        name: what to call the network in the report.
        dtypes: of parameters and computation, one after another; None takes float32 and, in
            frameworks, bfloat16.
        weights: canonical weights; None draws random ones, norm statistics included.
        size: of the images, (H, W); None takes the net's small size.
        batch: images of the run that all others are compared with.
        seed: of random weights and images.
        requested: whether a missing engine is a failure (it was named) or only reported.
        compiled: also run what `compiled` makes, where `predict` does not run that: minutes.
        strict: also run the form whose bits stay, which is one image at a time on one thread, hold
            it to that, and time it.
        on_progress: called with a short description as each stage of the work begins.
        start: gives the worker of an engine on a device, as a context manager.

    Raises:
        ResNetError: if the weights do not fit, the images are too small, or an engine has no strict
            form.
    """
    for engine in engines:
        if strict and not threads(engine, 1):
            raise ResNetError(
                f"strict: {engine.name} takes its threads from no environment variable; "
                f"{', '.join(ENGINES)} do"
            )
    p = compile_plan(spec)
    state = random_weights(p, seed) if weights is None else weights
    pixels = size or (spec.small_size, spec.small_size)
    layer_rows(p, pixels)
    shape = (batch, *pixels, p.in_channels)
    flags = processor_flags()
    known = [flag for flag in KNOWN if flag in flags]
    report = DeterminismReport(name, list(shape), processor(), known, cores())
    with workspace() as folder:
        job = EngineJob(folder, start)
        net = _Net(job, spec, state, dtypes or DTYPES, random_images(shape, seed))
        for engine in engines:
            if (absent := engine.missing()) is not None:
                report.missing[engine.name] = absent
                continue
            asked = dtypes or (DTYPES if engine.trains else DTYPES[:1])
            run = _EngineRun(net, engine, report, on_progress, forms_of(engine, compiled), asked)
            try:
                run.usual(flags)
                if strict:
                    run.strict()
            except (EngineError, ResNetError) as error:
                report.problems.append(f"{engine.name} failed: {error}")
    if requested:
        report.problems += [f"{name} is missing: {why}" for name, why in report.missing.items()]
    if not report.reruns:
        report.problems.append("nothing was compared: no engine ran")
    return report


class _Net:
    """A net in files that workers read: weights in each dtype, and batches of its images."""

    def __init__(
        self,
        job: EngineJob,
        spec: ResNetSpec,
        weights: State,
        dtypes: Sequence[str],
        images: np.ndarray,
    ) -> None:
        self.job, self.spec, self.plan, self.images = job, spec, compile_plan(spec), images
        self._files = dict[Pick, str]()
        self.stages = None if self.plan.outputs else spec.override(features_only=True)
        for dtype in dtypes:
            rounded = cast_weights(weights, dtype)
            check_weights(self.plan, rounded, dtype)
            job.save(dtype, rounded)
            if self.stages is not None:
                body = [q.name for q in compile_plan(self.stages).parameters()]
                job.save(f"stages-{dtype}", {name: rounded[name] for name in body})

    def batch(self, pick: Pick) -> str:
        """The file of some of the images."""
        if pick not in self._files:
            images = {"images": self.images[list(pick)]}
            self._files[pick] = self.job.save(f"images{len(self._files)}", images)
        return self._files[pick]

    def forward(self, dtype: str, form: str, picks: Iterable[Pick], stages: bool) -> ForwardPass:
        """The whole net, or what its stages give, on batches."""
        spec = self.stages if stages and self.stages is not None else self.spec
        weights = self.job.path(f"stages-{dtype}" if stages else dtype)
        files = [self.batch(pick) for pick in picks]
        return ForwardPass(spec.to_dict(), weights, dtype, files, blocks=False, form=form)

    def asked(self, dtype: str) -> dict[str, Any]:
        """What a worker makes the net of."""
        return {"spec": self.spec.to_dict(), "weights": self.job.path(dtype), "dtype": dtype}


@dataclass
class _EngineRun:
    """One engine, and what it gave for all images at once, which the rest is compared with."""

    net: _Net
    engine: Engine
    report: DeterminismReport
    on_progress: Callable[[str], None]
    forms: tuple[str, ...]
    dtypes: Sequence[str]
    base: dict[tuple[str, str, bool], State] = field(default_factory=dict)

    def usual(self, flags: frozenset[str]) -> None:
        """Every form, in every variation."""
        batch = len(self.net.images)
        whole = Variation("all at once", (tuple(range(batch)),), threads(self.engine, cores()))
        with self.worker(whole) as worker:
            count, facts = self.net.plan.parameter_count(), worker.call("info")
            self.report.ran.append(Ran(self.engine.name, parameters=count, **facts))
            for dtype in self.dtypes:
                for form in self.forms:
                    self.on_progress(f"{self.engine.name}, {dtype}, {form}")
                    self.compare(worker, dtype, form, [whole, *within(batch)])
                self.compare_forms(dtype)
        for variation in processes(self.engine, batch, cores(), flags):
            at = f"{self.engine.name}, {variation.name}"
            self.on_progress(at)
            try:
                with self.worker(variation) as worker:
                    for dtype, form in product(self.dtypes, self.forms):
                        at = f"{self.engine.name}, {variation.name}, {dtype}, {form}"
                        self.compare(worker, dtype, form, [variation])
            except (EngineError, ResNetError) as error:
                # Not every kernel knows every set of instructions; others are still to be tried.
                self.report.problems.append(f"{at} failed: {error}")

    def strict(self) -> None:
        """The strict form, in all variations that it is to be the same in, and its price."""
        batch, one = len(self.net.images), threads(self.engine, 1)
        whole = Variation("all at once", (tuple(range(batch)),), one)
        self.on_progress(f"{self.engine.name}, strict")
        with ExitStack() as stack:
            usual = replace(whole, variables=threads(self.engine, cores()))
            workers = [stack.enter_context(self.worker(v)) for v in (usual, whole)]
            for dtype in self.dtypes:
                self.compare(workers[1], dtype, "strict", [whole, *within(batch)])
                self.report.prices.append(self.price(dtype, *workers))
        other = Variation("another process", whole.picks, one)
        with self.worker(other) as worker:
            for dtype in self.dtypes:
                self.compare(worker, dtype, "strict", [other])
        self.report.problems += [
            f"{rerun.engine} in {rerun.dtype}: {rerun.variation} changes the strict form by "
            f"{rerun.relative:.1e}"
            for rerun in self.report.reruns
            if rerun.engine == self.engine.name and rerun.form == "strict" and not rerun.equal
        ]

    def worker(self, variation: Variation) -> Any:
        return self.net.job.begin(variation.of(self.engine))

    def compare(
        self, worker: Worker, dtype: str, form: str, variations: Sequence[Variation]
    ) -> None:
        """Run variations in one process; the first one ever of a form is what others are held
        against.
        """
        if form == "layers":
            for variation in variations:
                self.layers(worker, dtype, variation)
            return
        found = self.passes(worker, dtype, form, variations, False)
        if (dtype, form, False) not in self.base:
            whole, *variations = variations
            self.base[dtype, form, False] = found[whole.name][0]
            if form != "strict" and self.net.stages is not None:
                stages = self.passes(worker, dtype, form, [whole], True)
                self.base[dtype, form, True] = stages[whole.name][0]
        base = self.base[dtype, form, False]
        overs = {v.name: _compared(base, v.picks, found[v.name]) for v in variations}
        parted = [v for v in variations if overs[v.name].names]
        firsts = self.first_stages(worker, dtype, form, parted)
        if self.net.stages is None:  # its maps tell themselves
            results = self.net.plan.results()
            firsts = {
                v.name: next(end for key, end in results.items() if key in overs[v.name].names)
                for v in parted
            }
        for variation in variations:
            name = variation.name
            self.add(dtype, form, name, overs[name], firsts.get(name))

    def first_stages(
        self, worker: Worker, dtype: str, form: str, variations: Sequence[Variation]
    ) -> dict[str, str]:
        """By variation, the last block of the first stage that differs, where the net gives its
        stages and no logits.
        """
        base = self.base.get((dtype, form, True))
        if base is None or self.net.stages is None or not variations:
            return {}
        ends = compile_plan(self.net.stages).results()
        stages = self.passes(worker, dtype, form, variations, True)
        parted = {v.name: _compared(base, v.picks, stages[v.name]).names for v in variations}
        return {
            name: next((ends[key] for key in ends if key in keys), "(head)")
            for name, keys in parted.items()
        }

    def passes(
        self, worker: Worker, dtype: str, form: str, variations: Sequence[Variation], stages: bool
    ) -> dict[str, list[State]]:
        """By variation, what each of its batches gives."""
        picks = [pick for variation in variations for pick in variation.picks]
        asked = self.net.forward(dtype, form, picks, stages)
        arrays = self.net.job.run(worker.call, "run", **asdict(asked))[1]
        each: list[State] = [{} for _ in picks]
        for key, array in arrays.items():
            index, _, name = key.partition("/")
            each[int(index)][name] = array
        rest = iter(each)
        return {v.name: [next(rest) for _ in v.picks] for v in variations}

    def layers(self, worker: Worker, dtype: str, variation: Variation) -> None:
        """Layer by layer: of several batches, the first."""
        pick, job, key = variation.picks[0], self.net.job, (dtype, "layers", False)
        asked = self.net.asked(dtype) | {"images": self.net.batch(pick)}
        if key in self.base:
            reference = {name: array[list(pick)] for name, array in self.base[key].items()}
            asked["reference"] = job.save("reference", reference)
        answer, arrays = job.run(worker.call, "trace", **asked)
        if answer["broken"]:
            raise ResNetError(next(iter(answer["broken"].values())))
        if key not in self.base:
            self.base[key] = arrays
            return
        order = [node.name for node in nodes(self.net.plan) if not node.inside]
        outputs, forced = (
            {f"output/{name}": arrays[f"{kind}/{name}"] for name in order}
            for kind in ("output", "forced")
        )
        base = {name: self.base[key][name] for name in outputs}
        parts = _compared(base, (pick,), [outputs]).names
        alone = _compared(base, (pick,), [forced]).names
        results = [f"output/{name}" for name in self.ends(dtype).values()]
        over = _compared({name: self.base[key][name] for name in results}, (pick,), [arrays])
        first = next((name for name in order if f"output/{name}" in parts), None)
        told = tuple(name for name in order if f"output/{name}" in alone)
        self.add(dtype, "layers", variation.name, over, first, told)

    def ends(self, dtype: str) -> dict[str, str]:
        """What the net returns, with the layer that gives it; of a segmentation net, whose maps no
        layer of one input enlarges to the images, the layers before that.
        """
        results, p = self.base[dtype, "layers", False], self.net.plan
        found = {k: name for k, name in p.results().items() if f"output/{name}" in results}
        return found or {layer.name: layer.name for layer in p.classifiers}

    def compare_forms(self, dtype: str) -> None:
        """Each form beside `predict`."""
        base, pick = self.base[dtype, "predict", False], tuple(range(len(self.net.images)))
        for form in self.forms:
            if form == "predict":
                continue
            found = self.base[dtype, form, False]
            if form == "layers":
                ends = self.ends(dtype)
                if ends.keys() != base.keys():
                    continue  # no layer gives what a segmentation net returns
                found = {key: found[f"output/{name}"] for key, name in ends.items()}
            self.add(dtype, form, "than predict", _compared(base, (pick,), [found]))

    def price(self, dtype: str, usual: Worker, strict: Worker) -> StrictPrice:
        """Seconds for all images, by turns."""
        image = self.net.batch(tuple(range(len(self.net.images))))
        sides: tuple[tuple[Worker, int | None], ...] = ((usual, None), (strict, 1))
        seconds: tuple[list[float], list[float]] = ([], [])
        for worker, _ in sides:
            worker.call("classify", net=self.net.asked(dtype))
        for turn in range(ROUNDS + 1):
            for (worker, at_once), taken in zip(sides, seconds, strict=True):
                asked: dict[str, Any] = {"images": image, "at_once": at_once}
                answer = self.net.job.run(worker.call, "classify", **asked)[0]
                if turn:  # the first compiles
                    taken.append(answer["seconds"])
        return StrictPrice(self.engine.name, dtype, *map(statistics.median, seconds))

    def add(
        self,
        dtype: str,
        form: str,
        variation: str,
        over: _Over,
        first: str | None = None,
        alone: tuple[str, ...] = (),
    ) -> None:
        self.report.reruns.append(
            Rerun(
                self.engine.name,
                dtype,
                form,
                variation,
                not over.names,
                over.largest,
                over.relative,
                first,
                alone,
            )
        )


@dataclass
class _Over:
    """How far outputs are from a reference's, and which differ."""

    names: set[str] = field(default_factory=set)
    largest: float = 0.0
    relative: float = 0.0


def _compared(base: State, picks: Sequence[Pick], found: Sequence[State]) -> _Over:
    """Outputs for batches of images, beside those of the same images in `base`."""
    over = _Over()
    for pick, outputs in zip(picks, found, strict=True):
        for name, whole in base.items():
            a, b = whole[list(pick)], outputs[name]
            kind = np.promote_types(a.dtype, b.dtype)  # widened, what is equal stays equal
            if a.astype(kind).tobytes() == b.astype(kind).tobytes():
                continue
            over.names.add(name)
            relative = farthest(a, b)
            largest = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
            over.largest = float(np.maximum(over.largest, largest))
            over.relative = float(np.maximum(over.relative, relative))
    return over
