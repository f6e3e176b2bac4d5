"""Do the engines train the same network alike? Gradients, statistics and trajectories, measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from resnet_parity.check.engine_runs import judge_presence, run_engine
from resnet_parity.check.result import TrainingReport
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.process import Start, Worker
from resnet_parity.engines.registry import Device, Engine, require_training
from resnet_parity.numerics.difference import (
    GRADIENT_TOLERANCE,
    ROUNDING_FACTOR,
    RULE,
    TRAINED_TOLERANCE,
    VANISHING,
    farthest,
)
from resnet_parity.numerics.rounding import perturbations, rounding_errors
from resnet_parity.train.recipes import comparison_optimization, random_labels, without_drops
from shared_spec.atomic_write import workspace
from shared_spec.errors import ResNetError
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.training.optimization import Optimization
from shared_spec.training.state import require_classes
from shared_spec.weights.initialize import random_images, random_weights
from shared_spec.weights.state import State, cast_weights, check_weights

QUANTITIES = ("loss", "gradients", "update", "statistics", "weights")
"""What is compared: the first loss, the gradients of it, the weights after the first step, and what
all steps leave."""


def check_training(  # noqa: PLR0913 a verb
    spec: ResNetSpec,
    engines: Sequence[Engine],
    *,
    name: str = "model",
    optimization: Optimization | None = None,
    dtype: str = "float64",
    weights: State | None = None,
    device: Device = "cpu",
    size: tuple[int, int] | None = None,
    batch: int = 4,
    steps: int = 20,
    seed: int = 0,
    requested: bool = True,
    on_progress: Callable[[str], None] = lambda text: None,
    start: Start = Worker,
) -> TrainingReport:
    """Train in every engine from the same weights, on the same batches and with the same recipe,
    and compare every two of them.

    Args:
        spec: the network; its dropout is left out, since engines draw different numbers.
        engines: which engines; each runs in a process of its own, one after another.
        name: what to call the network in the report.
        optimization: optimizer and schedule; None takes `comparison_optimization`.
        dtype: float64 is judged; float32 and bfloat16 are compared with a float64 training, and
            their first gradients are judged by what rounding is measured to do to them.
        weights: canonical weights to start from; None draws random ones, statistics included.
        device: cpu, gpu or tpu.
        size: of the images (H, W); None takes the net's own, but at most 64.
        batch: images of each step.
        steps: updates.
        seed: of random weights, images and labels.
        requested: whether a missing engine is a failure (it was named) or only reported.
        on_progress: called with a short description as each stage of the work begins.
        start: gives the worker of an engine on a device, as a context manager.

    Raises:
        ResNetError: if the weights do not fit, or the net has no classes.
    """
    require_training(engines)
    require_classes(spec, pixels=True)
    recipe = (optimization or comparison_optimization()).model_copy(update={"precision": dtype})
    side = spec.small_size
    shape = (batch, *(size or (side, side)), spec.in_channels)
    report = TrainingReport(name, dtype, steps, shape, recipe.to_dict())
    spec, dropped = without_drops(spec)
    if dropped:
        report.notes.append(f"{', '.join(dropped)} set to 0: engines draw different numbers")
    p = compile_plan(spec)
    weights = random_weights(p, seed) if weights is None else weights
    weights = cast_weights(weights, recipe.dtype)
    check_weights(p, weights, recipe.dtype)
    with workspace() as folder:
        job = EngineJob(folder, start)
        batches = _batches(spec, shape, steps, seed)
        asked: dict[str, Any] = {
            "spec": spec.to_dict(),
            "weights": job.save("weights", weights),
            "batches": job.save("batches", batches),
            "recipe": recipe.model_dump(mode="json"),
        }
        for engine in engines:
            on_progress(engine.name)
            run_engine(job, engine, device, report, lambda w: job.run(w.call, "train", **asked))
        judge_presence(report, requested)
        if dtype == "float64":
            report.tolerances = dict.fromkeys(QUANTITIES, TRAINED_TOLERANCE)
            report.tolerances |= dict.fromkeys(("loss", "gradients"), GRADIENT_TOLERANCE)
        elif report.ran:
            referee = next(e for e in engines if e.name == report.ran[0].engine)
            first = job.save("first", {k: batches[k] for k in ("0/images", "0/labels")})
            _hold_against_float64(job, referee, asked, first, report, weights, on_progress)
    for a, b in itertools.combinations(report.ran, 2):
        found = _compared(p, a.outputs, b.outputs)
        report.pairs[a.engine, b.engine] = {what: worst(rows) for what, rows in found.items()}
        if dtype == "float64":
            _judge(report, a.engine, b.engine, found)
    return report


def _batches(spec: ResNetSpec, shape: tuple[int, int, int, int], steps: int, seed: int) -> State:
    found: State = {}
    for i in range(steps):
        found[f"{i}/images"] = random_images(shape, seed + 1000 * i)
        found[f"{i}/labels"] = random_labels(spec, shape, seed, f"labels{i}")
    return found


Rows = list[tuple[str, float]]
"""Where, and by how much, in the order in which a training computes them."""


def _compared(p: Plan, a: State, b: State) -> dict[str, Rows]:
    """Every array of two trainings, by what it is."""
    found: dict[str, Rows] = {quantity: [] for quantity in QUANTITIES}
    distance = _distance_from(a)
    for key in _in_order(p, a.keys() | b.keys()):
        by = distance(key, a[key], b[key]) if key in a and key in b else math.inf
        quantity, where = _told(key)
        found[quantity].append((where, by))
    return found


def _distance_from(reference: State) -> Callable[[str, np.ndarray, np.ndarray], float]:
    """How far arrays of a training are from those of the reference: gradients that vanish beside
    its largest are equal.
    """
    gradients = [x for k, x in reference.items() if k.startswith("gradient/")]
    least = VANISHING * max((float(np.max(np.abs(x))) for x in gradients), default=0.0)
    return lambda key, a, b: farthest(a, b, least if key.startswith("gradient/") else 0.0)


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


def _told(key: str) -> tuple[str, str]:
    """Which quantity an array is of, and where it is, in words."""
    head, _, rest = key.partition("/")
    index, _, name = rest.partition("/")
    if key in ("loss/0", "gradient.loss"):
        return "loss", "the first loss"
    if head in ("gradient", "gradient.images"):
        return "gradients", rest or "images"
    if head == "updated":
        return "update", f"{rest} after step 1"
    if head == "statistics":
        return "statistics", f"{name} after step {int(index) + 1}"
    if head == "loss":
        return "weights", f"the loss of step {int(index) + 1}"
    return "weights", f"the average of {rest}" if head == "average" else rest


def worst(rows: Iterable[tuple[str, float]]) -> tuple[str, float]:
    """The largest difference and where it is; NaN is larger than any number. A net without running
    statistics has none of them.
    """
    return max(rows, key=lambda row: math.inf if math.isnan(row[1]) else row[1], default=("", 0.0))


def _judge(report: TrainingReport, a: str, b: str, found: dict[str, Rows]) -> None:
    """Name the first thing that differs: whatever comes later inherits the difference."""
    for quantity in QUANTITIES:
        bound = report.tolerances[quantity]
        over = [row for row in found[quantity] if not row[1] <= bound]
        if over:
            where, by = over[0]
            of = "the gradient of " if quantity == "gradients" else ""
            report.problems.append(
                f"{a} and {b} differ in {of}{where} by {by:.1e}, over {bound:.1e} "
                f"({len(over)} of {len(found[quantity])} {quantity} do)"
            )
            return


def _hold_against_float64(
    job: EngineJob,
    engine: Engine,
    asked: dict[str, Any],
    first: str,
    report: TrainingReport,
    weights: State,
    on_progress: Callable[[str], None],
) -> None:
    """Every engine against a float64 training from the same weights; the first gradients within
    what rounding is measured to do to them (see `rounding_errors`).
    """
    p, exact = compile_plan(ResNetSpec.parse(asked["spec"])), cast_weights(weights, "float64")
    asked = asked | {"recipe": asked["recipe"] | {"precision": "float64"}}
    rounding = "bfloat16" if report.dtype == "bfloat16" else "float32"
    try:
        with job.worker(engine) as worker:

            def run(weights: State, batches: str = first) -> State:
                given = asked | {"weights": job.save("float64", weights), "batches": batches}
                return job.run(worker.call, "train", **given)[1]

            on_progress("float64 reference")
            reference = run(exact, asked["batches"])
            changed = perturbations(p, exact, rounding, on_progress=on_progress)
            report.tolerances = _bounds(reference, map(run, changed))
    except ResNetError as failure:
        report.problems.append(f"no float64 reference: {failure}")
        return
    report.rule = (
        f"{RULE} to float64; the first loss and gradients within {ROUNDING_FACTOR:g} times what "
        f"{report.dtype} rounding is measured to cause, the rest reported"
    )
    for ran in report.ran:
        found = _compared(p, reference, ran.outputs)
        report.against_float64[ran.engine] = {what: worst(rows) for what, rows in found.items()}
        report.curves[ran.engine] = {
            "loss": _curve(reference, ran.outputs, "loss", report.steps),
            "statistics": _curve(reference, ran.outputs, "statistics", report.steps),
        }
        for quantity, bound in report.tolerances.items():
            where, by = report.against_float64[ran.engine][quantity]
            if not by <= bound:
                report.problems.append(
                    f"{ran.engine} is {by:.1e} from float64 in {where} ({quantity}), "
                    f"over {bound:.1e}"
                )


def _bounds(reference: State, trials: Iterable[State]) -> dict[str, float]:
    """Of the first loss and of gradients."""
    bounds = {"loss": 0.0, "gradients": 0.0}
    first = {k: a for k, a in reference.items() if _told(k)[0] in bounds}
    for key, error in rounding_errors(first, trials, _distance_from(reference)).items():
        quantity = _told(key)[0]
        bounds[quantity] = max(bounds[quantity], ROUNDING_FACTOR * error)
    return bounds


def _curve(a: State, b: State, what: str, steps: int) -> list[float]:
    """The largest difference at every step."""
    return [
        worst((k, farthest(a[k], b[k])) for k in a if f"{k}/".startswith(f"{what}/{i}/"))[1]
        for i in range(steps)
    ]
