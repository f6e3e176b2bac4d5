"""Where two implementations diverge: every layer and block, as computed and on the other's input.

Errors propagate: after a faulty layer, all later outputs are wrong as well. So each layer and block
of one side is also run separately, on the input that the reference has there (teacher forcing).
What is wrong then is at fault itself; the rest inherits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.process import Start, Worker
from resnet_parity.engines.registry import RUNTIMES, Device, Engine, require_training
from resnet_parity.numerics.difference import (
    FLOAT64_TOLERANCE,
    GRADIENT_TOLERANCE,
    ROUNDING_FACTOR,
    UNIT_ROUNDOFF,
    VANISHING,
    farthest,
)
from resnet_parity.numerics.rounding import perturbations, rounding_errors
from resnet_parity.numerics.teacher_forcing import inputs_of
from resnet_parity.trace.result import EngineFacts, TraceReport, TraceRow, rule_in, shown
from resnet_parity.train.recipes import comparison_optimization, without_drops
from shared_spec.atomic_write import workspace
from shared_spec.errors import ResNetError
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.dataflow import IMAGES, Node, nodes, recorded
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.training.state import require_classes
from shared_spec.weights.initialize import generator, random_weights
from shared_spec.weights.state import State, cast_weights, check_weights

DTYPES = ("float64", "float32")
LITE = ".tflite"
"""Of LiteRT's files, which compute in float32."""
RESULT = "(result)"
"""The row of what a model returns."""

_VAGUE = 0.1
"""A bound on gradients above which a comparison says nothing: norms over a few numbers amplify
rounding so.
"""


@dataclass(frozen=True)
class UserModel:
    """A user's own model: `module:function` that makes it, and canonical names to its own."""

    factory: str
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportedFile:
    """A file that was exported, by anybody."""

    path: Path

    @property
    def runtime(self) -> Engine:
        """What runs it."""
        return RUNTIMES["litert" if self.path.suffix == LITE else "onnx:reference"]


def trace(  # noqa: PLR0913 a verb
    spec: ResNetSpec,
    reference: Engine,
    other: Engine | UserModel | ExportedFile,
    images: np.ndarray,
    *,
    name: str = "model",
    dtype: str = "float64",
    weights: State | None = None,
    device: Device = "cpu",
    seed: int = 0,
    gradients: bool = False,
    on_progress: Callable[[str], None] = lambda text: None,
    start: Start = Worker,
) -> TraceReport:
    """Compare every layer and block of two implementations on the same weights and images.

    Args:
        spec: the network.
        reference: the engine that the other is compared with.
        other: another engine; a user's own model, which runs in the reference's framework; or an
            ONNX or LiteRT file, which onnx.reference or LiteRT runs.
        images: [N, H, W, C], normalised.
        name: what to call the network in the report.
        dtype: float64, or float32 within what rounding is measured to cause in the reference.
        weights: canonical weights; None draws random ones, norm statistics included.
        device: cpu, gpu or tpu.
        seed: of random weights and labels.
        gradients: compare the gradients of every parameter too.
        on_progress: called with a short description as each stage of the work begins.
        start: gives the worker of an engine on a device, as a context manager.

    Raises:
        ResNetError: if weights, images or a user's model do not fit, or an engine is missing or
            fails.
    """
    if dtype not in DTYPES:
        raise ResNetError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    if isinstance(other, ExportedFile) and other.path.suffix == LITE and dtype != "float32":
        raise ResNetError(f"dtype: LiteRT computes in float32, and this is {dtype}")
    if gradients and not isinstance(other, Engine):
        raise ResNetError("--gradients: compares engines, not a model of your own")
    if gradients and isinstance(other, Engine):
        require_training([reference, other])
        require_classes(spec)
    p = compile_plan(spec)
    weights = cast_weights(random_weights(p, seed) if weights is None else weights, dtype)
    check_weights(p, weights, dtype)
    named = other.name if isinstance(other, Engine) else _name(other)
    rule = rule_in(dtype, FLOAT64_TOLERANCE)
    report = TraceReport(name, reference.name, named, dtype, list(images.shape), rule)
    with workspace() as folder:
        job = EngineJob(folder, start)
        run = _TraceRun(job, spec, p, weights, images, dtype, device, on_progress)
        report.rows = run.compare(reference, other, report)
        if gradients and isinstance(other, Engine):
            _compare_gradients(run, reference, other, report, seed)
    _judge(report, {part.name: part for part in nodes(p)})
    return report


@dataclass(frozen=True)
class _TraceRun:
    """A net on images, in two engines."""

    job: EngineJob
    spec: ResNetSpec
    plan: Plan
    weights: State
    images: np.ndarray
    dtype: str
    device: Device
    on_progress: Callable[[str], None]

    def compare(
        self, reference: Engine, other: Engine | UserModel | ExportedFile, report: TraceReport
    ) -> list[TraceRow]:
        """The rows; what the workers said about themselves goes into the report."""
        asked: dict[str, Any] = {
            "spec": self.spec.to_dict(),
            "weights": self.job.save("weights", self.weights),
            "images": self.job.save("images", {"images": self.images}),
            "dtype": self.dtype,
        }
        self.on_progress(reference.name)
        with self.job.worker(reference, self.device) as worker:
            report.engines.append(EngineFacts(reference.name, **worker.call("info")))
            answer, ours = self.job.run(worker.call, "trace", "reference", **asked)
            if answer["broken"]:
                raise ResNetError(f"{reference.name}: {next(iter(answer['broken'].values()))}")
        asked["reference"] = self.job.path("reference")
        self.on_progress(report.other)
        if isinstance(other, UserModel):
            with self.job.worker(reference, self.device) as worker:
                own = asdict(other)
                answer, theirs = self.job.run(worker.call, "trace_model", own=own, **asked)
        elif isinstance(other, ExportedFile):
            with self.job.worker(other.runtime) as worker:
                report.engines.append(EngineFacts(other.runtime.name, **worker.call("info")))
                source = str(other.path.resolve())
                answer, theirs = self.job.run(worker.call, "trace_file", source=source, **asked)
        else:
            with self.job.worker(other, self.device) as worker:
                report.engines.append(EngineFacts(other.name, **worker.call("info")))
                answer, theirs = self.job.run(worker.call, "trace", **asked)
        report.notes += answer.get("notes", [])
        rows = self.rows(ours, theirs, answer["broken"])
        if self.dtype != "float64":
            self.bounds(reference, asked, rows)
        return rows

    def rows(self, ours: State, theirs: State, broken: Mapping[str, str]) -> list[TraceRow]:
        found = nodes(self.plan)
        rows = []
        entering = inputs_of(
            found, self.images, {name: ours[f"output/{name}"] for name in recorded(found)}
        )
        for part in found:
            row = TraceRow(part.name, part.kind, note=broken.get(part.name, ""))
            mine = ours[f"output/{part.name}"]
            row.propagated = _error(mine, theirs.get(f"output/{part.name}"), row)
            row.teacher_forced = _error(mine, theirs.get(f"forced/{part.name}"), row)
            row.entered = _error(entering[part.name], theirs.get(f"input/{part.name}"))
            if part.name in broken:
                row.teacher_forced = math.inf
            if not np.isfinite(mine).all():
                row.note = "the reference itself is not finite there"
            rows.append(row)
        if IMAGES in broken and not any(row.errs for row in rows):
            rows.append(TraceRow(RESULT, "result", propagated=math.inf, note=broken[IMAGES]))
        for key, part_name in self.plan.results().items():
            if f"result/{key}" in theirs:
                row = TraceRow(f"{RESULT} {key}", "result")
                row.propagated = _error(ours[f"output/{part_name}"], theirs[f"result/{key}"], row)
                rows.append(row)
        return rows

    def bounds(self, engine: Engine, asked: dict[str, Any], rows: list[TraceRow]) -> None:
        """Set the bounds by what rounding is measured to do in float64, at each layer apart."""
        exact = cast_weights(self.weights, "float64")

        def run(weights: State, **more: Any) -> State:
            given = {**asked, "dtype": "float64", "weights": self.job.save("float64", weights)}
            return self.job.run(worker.call, "trace", **given, **more)[1]

        with self.job.worker(engine) as worker:
            self.on_progress("float64 reference")
            base = run(exact)
            changed = perturbations(self.plan, exact, self.dtype, on_progress=self.on_progress)
            trials = (run(w, rounding=[self.dtype, i]) for i, w in enumerate(changed))
            worst = rounding_errors(base, trials, lambda name, a, b: farthest(a, b))
        least = UNIT_ROUNDOFF[self.dtype]
        ends = {f"{RESULT} {k}": name for k, name in self.plan.results().items()}
        for row in rows:
            name = ends.get(row.name, row.name)
            if name == RESULT:
                continue
            row.bound = 2 * ROUNDING_FACTOR * max(worst[f"forced/{name}"], least)
            row.propagated_bound = 2 * ROUNDING_FACTOR * max(worst[f"output/{name}"], least)


def _name(other: UserModel | ExportedFile) -> str:
    return other.factory if isinstance(other, UserModel) else other.path.name


def _error(mine: np.ndarray, other: np.ndarray | None, row: TraceRow | None = None) -> float | None:
    if other is None:
        return None
    if mine.shape != other.shape:
        if row is not None:
            row.note = f"has shape {list(other.shape)}, the reference {list(mine.shape)}"
        return math.inf
    return farthest(mine, other)


def _judge(report: TraceReport, known: Mapping[str, Node]) -> None:
    """Name what is at fault first: by the forced errors, and if a user's model shows few layers,
    by what enters and leaves those that it shows.
    """
    erring = {row.name for row in report.rows if row.errs}
    report.errs = [
        row.name
        for row in report.rows
        # A faulty layer makes its block faulty; the block is named if none of its layers is.
        if row.errs and not (row.kind == "block" and erring & set(known[row.name].inside))
    ]
    report.unseen = [
        row.name for row in report.rows if row.propagated is None and row.teacher_forced is None
    ]
    first = _first(report.rows, known)
    if first is None:
        return
    row, report.first = first
    which = " or ".join(report.first)
    text = f"{report.other} differs from {report.reference} at {which}"
    if row.errs:
        text += (
            f" by {shown(row.teacher_forced)} on the reference's own input, over {row.bound:.1e}"
        )
        if row.kind == "block":
            seen = [name for name in known[row.name].inside if name not in report.unseen]
            text += ", though none of its layers is at fault when run separately" if seen else ""
    elif row.name not in report.first:
        text += f": what enters {row.name} is off by {shown(row.entered)}"
    else:
        text += (
            f" by {shown(row.propagated)}, over {row.propagated_bound:.1e}; no layer is "
            f"at fault on the reference's own input"
        )
    others = [name for name in report.errs if name not in report.first]
    if others:
        text += f"; {', '.join(others[:5])}{' and so on' if len(others) > 5 else ''} "
        text += "is at fault itself too" if len(others) == 1 else "are at fault themselves too"
    report.problems.insert(0, text + (f" ({row.note})" if row.note else ""))


def _first(
    rows: Sequence[TraceRow], known: Mapping[str, Node]
) -> tuple[TraceRow, list[str]] | None:
    """The first row in which something is off, and the names of what may be to blame for it."""
    unseen: list[str] = []
    for row in rows:
        if row.errs:
            return row, [row.name]
        if row.entered is not None and not row.entered <= row.propagated_bound:
            # Right on the right input, and all that was seen before is right.
            inside = known[row.name].inside
            blamed = [name for name in unseen if name not in inside]
            return row, blamed or [f"the input of {row.name}"]
        if row.propagated is None:
            unseen += [row.name] if row.kind != "block" else []
        elif not row.diverges:
            unseen = []
        elif row.teacher_forced is None:
            return row, [*(unseen if row.entered is None else []), row.name]
    # Each layer is right by itself: errors within the bound add up.
    over = next((row for row in rows if row.diverges), None)
    return None if over is None else (over, [over.name])


def _compare_gradients(
    run: _TraceRun, reference: Engine, other: Engine, report: TraceReport, seed: int
) -> None:
    """The gradients of a loss on the images, in the order of the backward pass, into the report."""
    report.gradient_rule = rule_in(run.dtype, GRADIENT_TOLERANCE)
    spec, dropped = without_drops(run.spec)
    if dropped:
        report.notes.append(
            f"gradients: {', '.join(dropped)} set to 0, since engines draw different random numbers"
        )
    images = (
        np.concatenate([run.images, run.images[::-1] * 0.5]) if len(run.images) < 2 else run.images
    )
    labels = generator(seed, "labels").integers(0, spec.num_classes, len(images)).astype(np.int64)
    batches: State = {"0/images": images.astype(np.float32), "0/labels": labels}
    asked: dict[str, Any] = {"spec": spec.to_dict(), "batches": run.job.save("batches", batches)}

    def gradients(engine: Engine, dtype: str, weights: State, device: Device) -> State:
        run.on_progress(f"gradients of {engine.name}")
        recipe = comparison_optimization(dtype).model_dump(mode="json")
        file = run.job.save("start", weights)
        with run.job.worker(engine, device) as worker:
            _, found = run.job.run(worker.call, "train", weights=file, recipe=recipe, **asked)
        marks = "gradient/"
        return {k.removeprefix(marks): a for k, a in found.items() if k.startswith(marks)}

    ours = gradients(reference, run.dtype, run.weights, run.device)
    theirs = gradients(other, run.dtype, run.weights, run.device)
    order = [q.name for q in run.plan.parameters() if q.name in ours][::-1]
    bounds, zero = dict.fromkeys(order, GRADIENT_TOLERANCE), set()
    if run.dtype != "float64":
        exact = cast_weights(run.weights, "float64")
        base = gradients(reference, "float64", exact, "cpu")
        least = VANISHING * _largest(base)
        changed = perturbations(run.plan, exact, run.dtype)
        trials = (gradients(reference, "float64", weights, "cpu") for weights in changed)
        errors = rounding_errors(base, trials, lambda name, a, b: farthest(a, b, least))
        usual = float(np.median([errors[name] for name in order]))
        bounds = {name: 2 * ROUNDING_FACTOR * max(errors[name], usual) for name in order}
        zero = {name for name in order if np.max(np.abs(base[name])) <= least}
    smallest = VANISHING * _largest(ours)
    for name in order:
        row = TraceRow(name, "gradient", bound=bounds[name], propagated_bound=bounds[name])
        if name in zero:
            row.note = "is zero except for rounding"
        else:
            known = name in theirs
            row.propagated = farthest(ours[name], theirs[name], smallest) if known else math.inf
        report.gradients.append(row)
    vague = [name for name, bound in bounds.items() if not bound <= _VAGUE]
    if vague:
        told = (
            f"rounding alone changes the gradients of {len(vague)} of {len(order)} parameters so "
            f"much that no verdict is possible; take more or larger images, or float64"
        )
        (report.undecided if len(vague) > len(order) // 2 else report.notes).append(told)
    over = [row for row in report.gradients if row.diverges]
    if over:
        report.first_gradient = over[0].name
        report.problems.append(
            f"going backwards, {report.other} first differs from {report.reference} in the "
            f"gradient of {over[0].name} by {shown(over[0].propagated)}, over {over[0].bound:.1e} "
            f"({len(over)} of {len(order)} gradients do)"
        )


def _largest(arrays: State) -> float:
    return max(float(np.max(np.abs(array))) for array in arrays.values())
