"""Do the engines train the same network alike? Gradients, statistics and trajectories, measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.check.engine_runs import judge_presence, run_engine
from resnet_parity.check.result import TrainingReport
from resnet_parity.engines.process import EngineError, Start, Worker
from resnet_parity.engines.registry import Device, Engine
from resnet_parity.numerics.difference import (
    GRADIENT_TOLERANCE,
    ROUNDING_FACTOR,
    RULE,
    TRAINED_TOLERANCE,
    VANISHING,
    farthest,
)
from resnet_parity.numerics.rounding import perturbed
from shared_spec.atomic_write import workspace
from shared_spec.errors import ResNetError
from shared_spec.formats.canonical_file import read_safetensors
from shared_spec.formats.canonical_file import write_safetensors as write
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.training.optimization import Optimization, optimization
from shared_spec.training.state import require_classes
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.initialize import generator, random_images, random_weights
from shared_spec.weights.state import State, cast_weights, check_weights

PARTS = ("loss", "gradients", "update", "statistics", "weights")
"""What is compared: the first loss, the gradients of it, the weights after the first step, and what
all steps leave."""

_DROPS = ("drop_rate", "drop_path_rate", "drop_block_rate")


def default_optimization(precision: str = "float64") -> Optimization:
    """What `check_training` trains with: every rule in which frameworks differ has a part in it.

    The learning rate is one at which a net of random weights trains along a stable path. At ten
    times as much, a ResNet-50 multiplies any difference by about 4 a step: rounding would be 1e-8
    after eight steps, between any two engines, and what is compared would be chaos.
    """
    return optimization(
        optimizer={"name": "sgd", "momentum": 0.9, "nesterov": True},
        learning_rate=1e-3,
        warmup={"steps": 2, "start": 0.5},
        schedule={"name": "step", "at": [8, 16], "by": 0.5},
        weight_decay=1e-3,
        decay_norms=False,
        label_smoothing=0.1,
        clip_norm=1.0,
        ema_decay=0.9,
        precision=precision,
    )


def check_training(
    spec: ResNetSpec,
    engines: Sequence[Engine],
    *,
    name: str = "model",
    how: Optimization | None = None,
    dtype: str = "float64",
    weights: State | None = None,
    device: Device = "cpu",
    size: tuple[int, int] | None = None,
    batch: int = 4,
    steps: int = 20,
    seed: int = 0,
    requested: bool = True,
    step: Callable[[str], None] = lambda text: None,
    start: Start = Worker,
) -> TrainingReport:
    """Train in every engine from the same weights, on the same batches and with the same recipe,
    and compare each with each.

    Args:
        spec: the network; its dropout is left out, since engines draw different numbers.
        engines: which engines; each runs in a process of its own, one after another.
        name: what to call the network in the report.
        how: optimizer and schedule; None takes `default_optimization`.
        dtype: float64 is judged; float32 and bfloat16 are held against a float64 training, and
            their first gradients are judged by what rounding is measured to do to them.
        weights: canonical weights to start from; None draws random ones, statistics included.
        device: cpu, gpu or tpu.
        size: of the images (H, W); None takes the net's own, but at most 64.
        batch: images of each step.
        steps: updates.
        seed: of random weights, images and labels.
        requested: whether a missing engine is a failure (it was asked for by name) or only told.
        step: called with a few words as each part of the work begins.
        start: gives the worker of an engine on a device, as a context manager.

    Raises:
        ResNetError: if the weights do not fit, or the net has no classes.
    """
    require_classes(spec)
    how = (how or default_optimization()).model_copy(update={"precision": dtype})
    report = _report(spec, name, dtype, steps, batch, size, how)
    dropped = [field for field in _DROPS if getattr(spec, field)]
    if dropped:
        spec = spec.override(**dict.fromkeys(dropped, 0.0))
        report.notes.append(f"{', '.join(dropped)} set to 0: engines draw different numbers")
    p = compile_plan(spec)
    weights = random_weights(p, seed) if weights is None else weights
    weights = cast_weights(weights, how.dtype)
    check_weights(p, weights, how.dtype)
    with workspace() as folder:
        job = _Job(spec, how, folder, device, start, _batches(spec, report.batch, steps, seed))
        for engine in engines:
            step(engine.name)
            run_engine(engine, device, start, report, lambda w: job.run(w, weights, dtype))
        judge_presence(report, requested)
        if dtype == "float64":
            report.tolerances = {
                "loss": GRADIENT_TOLERANCE,
                "gradients": GRADIENT_TOLERANCE,
                "update": TRAINED_TOLERANCE,
                "statistics": TRAINED_TOLERANCE,
                "weights": TRAINED_TOLERANCE,
            }
        elif report.ran:
            _hold_against_float64(job, report, engines, weights, step)
    for a, b in itertools.combinations(report.ran, 2):
        found = _compared(p, a.outputs, b.outputs)
        report.pairs[a.engine, b.engine] = {part: worst(rows) for part, rows in found.items()}
        if dtype == "float64":
            _judge(report, a.engine, b.engine, found)
    return report


def _report(
    spec: ResNetSpec,
    name: str,
    dtype: str,
    steps: int,
    batch: int,
    size: tuple[int, int] | None,
    how: Optimization,
) -> TrainingReport:
    side = min(64, max(spec.image_size, 8))
    shape = (batch, *(size or (side, side)), spec.in_channels)
    recipe = how.model_dump(mode="json", exclude_defaults=True)
    return TrainingReport(name, dtype, steps, shape, recipe)


@dataclass
class _Job:
    spec: ResNetSpec
    how: Optimization
    folder: Path
    device: Device
    start: Start
    batches: State

    def run(self, worker: Worker, weights: State, precision: str) -> tuple[Any, State]:
        """What the worker's `train` answers, and the arrays that it wrote."""
        files = {
            key: str(self.folder / f"{key}.safetensors")
            for key in ("weights", "batches", "outputs")
        }
        write(files["weights"], Checkpoint(weights))
        write(files["batches"], Checkpoint(self.batches))
        recipe = self.how.model_copy(update={"precision": precision}).model_dump(mode="json")
        arguments: dict[str, Any] = {"spec": self.spec.to_dict(), "recipe": recipe, **files}
        answer = worker.call("train", **arguments)
        found = {k: np.array(a) for k, a in read_safetensors(files["outputs"]).state.items()}
        Path(files["outputs"]).unlink()
        return answer, found


def _batches(spec: ResNetSpec, shape: tuple[int, ...], steps: int, seed: int) -> State:
    found: State = {}
    n, height, width, channels = shape
    for i in range(steps):
        found[f"{i}/images"] = random_images((n, height, width, channels), seed + 1000 * i)
        labels = generator(seed, f"labels{i}").integers(0, spec.num_classes, n)
        found[f"{i}/labels"] = labels.astype(np.int64)
    return found


Rows = list[tuple[str, float]]
"""Where, and by how much, in the order in which a training computes them."""


def _compared(p: Plan, a: State, b: State) -> dict[str, Rows]:
    """Every array of two trainings, by part."""
    found: dict[str, Rows] = {part: [] for part in PARTS}
    gradients = [x for k, x in a.items() if k.startswith("gradient/")]
    largest = max((float(np.max(np.abs(x))) for x in gradients), default=0.0)
    for key in _in_order(p, a.keys() | b.keys()):
        by = math.inf
        if key in a and key in b:
            least = VANISHING * largest if key.startswith("gradient/") else 0.0
            by = farthest(a[key], b[key], least)
        found[_part(key)].append((_told(key), by))
    return found


def _in_order(p: Plan, keys: Iterable[str]) -> list[str]:
    """As a training computes them, so that what comes first is not inherited: steps one after
    another, layers forwards, gradients backwards.
    """
    place = {q.name: i for i, q in enumerate(p.parameters())}

    def order(key: str) -> tuple[float, int]:
        head, _, rest = key.partition("/")
        if head == "gradient":
            return 0, -place[rest]
        if head == "statistics":
            index, _, name = rest.partition("/")
            return int(index), place[name]
        return (int(rest), -1) if head == "loss" else (math.inf, place.get(rest, len(place)))

    return sorted(keys, key=order)


def _part(key: str) -> str:
    if key in ("loss/0", "gradient.loss"):
        return "loss"
    head = key.partition("/")[0]
    if head.startswith("gradient"):
        return "gradients"
    return {"updated": "update", "statistics": "statistics"}.get(head, "weights")


def _told(key: str) -> str:
    head, _, rest = key.partition("/")
    if key == "gradient.images":
        return "images"
    if key in ("loss/0", "gradient.loss"):
        return "the first loss"
    if head == "loss":
        return f"the loss of step {int(rest) + 1}"
    if head == "statistics":
        index, _, name = rest.partition("/")
        return f"{name} after step {int(index) + 1}"
    if head == "updated":
        return f"{rest} after step 1"
    return f"the average of {rest}" if head == "average" else rest


def worst(rows: Iterable[tuple[str, float]]) -> tuple[str, float]:
    """The largest difference and where it is; NaN is larger than any number. A net without running
    statistics has none of them.
    """
    return max(rows, key=lambda row: math.inf if math.isnan(row[1]) else row[1], default=("", 0.0))


def _judge(report: TrainingReport, a: str, b: str, found: dict[str, Rows]) -> None:
    """Name the first thing that parts: what comes after it inherits."""
    for part in PARTS:
        bound = report.tolerances[part]
        over = [row for row in found[part] if not row[1] <= bound]
        if over:
            where, by = over[0]
            of = "the gradient of " if part == "gradients" else ""
            report.problems.append(
                f"{a} and {b} part in {of}{where} by {by:.1e}, over {bound:.1e} "
                f"({len(over)} of {len(found[part])} {part} do)"
            )
            return


def _hold_against_float64(
    job: _Job,
    report: TrainingReport,
    engines: Sequence[Engine],
    weights: State,
    step: Callable[[str], None],
) -> None:
    """Every engine against a float64 training from the same weights; the first gradients within
    what rounding is measured to do to them (see `resnet_parity.numerics.rounding.perturbed`).
    """
    engine = next(e for e in engines if e.name == report.ran[0].engine)
    exact = cast_weights(weights, "float64")
    try:
        with job.start(engine, "cpu") as worker:
            step("float64 reference")
            _, reference = job.run(worker, exact, "float64")
            bounds = _gradient_bounds(job, worker, report.dtype, exact, reference, step)
    except (EngineError, ResNetError) as failure:
        report.problems.append(f"no float64 reference from {engine.name}: {failure}")
        return
    report.tolerances = bounds
    report.rule = (
        f"{RULE} to float64; the first loss and gradients within {ROUNDING_FACTOR:g} times what "
        f"{report.dtype} rounding is measured to cause, the rest reported"
    )
    for ran in report.ran:
        found = _compared(compile_plan(job.spec), reference, ran.outputs)
        report.against_float64[ran.engine] = {part: worst(rows) for part, rows in found.items()}
        report.curves[ran.engine] = {
            "loss": _curve(reference, ran.outputs, "loss/{}", report.steps),
            "statistics": _curve(reference, ran.outputs, "statistics/{}/", report.steps),
        }
        for part, bound in bounds.items():
            where, by = report.against_float64[ran.engine][part]
            if not by <= bound:
                report.problems.append(
                    f"{ran.engine} is {by:.1e} from float64 in {where} ({part}), over {bound:.1e}"
                )


def _gradient_bounds(
    job: _Job,
    worker: Worker,
    dtype: str,
    exact: State,
    reference: State,
    step: Callable[[str], None],
) -> dict[str, float]:
    p: Plan = compile_plan(job.spec)
    first = _Job(job.spec, job.how, job.folder, job.device, job.start, _first(job.batches))
    kept = {k: a for k, a in reference.items() if _part(k) in ("loss", "gradients")}
    error = dict.fromkeys(("loss", "gradients"), 0.0)
    for trial in range(3):
        step(f"float64 reference, perturbation {trial + 1} of 3")
        rounding = "bfloat16" if dtype == "bfloat16" else "float32"
        _, found = first.run(worker, perturbed(p, exact, rounding, trial), "float64")
        rows = _compared(p, kept, {k: a for k, a in found.items() if k in kept})
        error = {part: max(error[part], worst(rows[part])[1]) for part in error}
    return {part: ROUNDING_FACTOR * value for part, value in error.items()}


def _first(batches: State) -> State:
    return {key: array for key, array in batches.items() if key.startswith("0/")}


def _curve(a: State, b: State, prefix: str, steps: int) -> list[float]:
    """The largest difference at every step."""
    curve = []
    for i in range(steps):
        start = prefix.format(i)
        keys = [k for k in a if k == start or (start.endswith("/") and k.startswith(start))]
        rows = [(k, farthest(a[k], b[k])) for k in keys]
        curve.append(worst(rows)[1] if rows else 0.0)
    return curve
