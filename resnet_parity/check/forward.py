"""Do the engines compute the same network? Counts, shapes, logits and every block, measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from resnet_parity.check.engine_runs import judge_presence, run_engine
from resnet_parity.check.result import CheckReport, Pair, Ran
from resnet_parity.engines.job import EngineJob, ForwardPass
from resnet_parity.engines.process import Start, Worker
from resnet_parity.engines.registry import Device, Engine, Precision
from resnet_parity.numerics.difference import (
    COARSE,
    FLOAT64_TOLERANCE,
    ROUNDING_FACTOR,
    RULE,
    difference,
)
from resnet_parity.numerics.rounding import perturbations, rounding_errors
from shared_spec.atomic_write import workspace
from shared_spec.errors import ResNetError
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.network import Plan
from shared_spec.plan.summary import block_rows
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.initialize import random_images, random_weights
from shared_spec.weights.state import State, cast_weights, check_weights, numpy_dtype


def default_sizes(spec: ResNetSpec) -> list[tuple[int, int]]:
    """An even, an odd and a non-square input (H, W): `same` padding and floor divisions differ at
    odd sizes, swapped axes at non-square ones. The one size of a net that takes no other.
    """
    side = spec.small_size
    if spec.one_size:
        return [(side, side)]
    return [(side, side), (side + 1, side + 1), (side + side // 2 + 1, side)]


def check(  # noqa: PLR0913 a verb
    spec: ResNetSpec,
    engines: Sequence[Engine],
    *,
    name: str = "model",
    dtype: str = "float64",
    weights: State | None = None,
    device: Device = "cpu",
    sizes: Sequence[tuple[int, int]] | None = None,
    batch: int = 2,
    seed: int = 0,
    requested: bool = True,
    compiled: bool = True,
    precision: Precision = "highest",
    on_progress: Callable[[str], None] = lambda text: None,
    start: Start = Worker,
) -> CheckReport:
    """Run every engine on the same weights and images, and compare every two of them.

    Args:
        spec: the network.
        engines: which engines; each runs in a process of its own, one after another.
        name: what to call the network in the report.
        dtype: of parameters and computation.
        weights: canonical weights; None draws random ones, norm statistics included.
        device: cpu, gpu or tpu.
        sizes: input sizes (H, W); None takes `default_sizes`.
        batch: images of each size.
        seed: of random weights and images.
        requested: whether a missing engine is a failure (it was named) or only reported.
        compiled: whether engines compile the net as a whole, as `predict` does, or run it layer by
            layer, which starts sooner.
        precision: of the products of float32 numbers; `default` leaves TF32 and bfloat16 passes
            to the frameworks, and the bound grows by what they round.
        on_progress: called with a short description as each stage of the work begins.
        start: gives the worker of an engine on a device, as a context manager.

    Raises:
        ResNetError: if the weights do not fit or an image size is too small.
    """
    p = compile_plan(spec)
    sizes = list(sizes or default_sizes(spec))
    expected = [_expected_shapes(p, size, batch) for size in sizes]
    numpy_dtype(dtype)
    if weights is None:
        weights = random_weights(p, seed)
    # Rounded once, here: the comparison is of computations on the same weights.
    weights = cast_weights(weights, dtype)
    check_weights(p, weights, dtype)
    shapes = [(batch, *size, p.in_channels) for size in sizes]
    report = CheckReport(name, dtype, list(shapes), p.parameter_count(), FLOAT64_TOLERANCE, RULE)
    report.precision = precision
    if precision == "default" and dtype == "float32":
        report.coarse = COARSE.get(device)
    with workspace() as folder:
        job = EngineJob(folder, start)
        batches = ({"images": random_images(shape, seed)} for shape in shapes)
        asked = ForwardPass(
            spec=spec.to_dict(),
            weights=job.save("weights", weights),
            dtype=dtype,
            images=[job.save(f"images{i}", batch) for i, batch in enumerate(batches)],
            compiled=compiled,
            precision=precision,
        )

        def work(worker: Worker) -> tuple[Any, State]:
            return job.run(worker.call, "run", **asdict(asked))

        for engine in engines:
            on_progress(engine.name)
            run_engine(job, engine, device, report, work)
        referee = next((e for e in engines if report.ran and e.name == report.ran[0].engine), None)
        if dtype == "float64" and device != "cpu" and referee is not None:
            on_progress("float64 reference")
            # Before all others: what an accelerator's kernels have in common would not be seen
            # between engines that all use them.
            others, report.ran = report.ran, []
            run_engine(job, referee, "cpu", report, work)
            here = [replace(ran, engine=f"{ran.engine} (cpu)") for ran in report.ran]
            report.ran = here + others
        judge_presence(report, requested)
        for ran in report.ran:
            _judge_engine(report, ran, p, expected)
        if dtype != "float64" and referee is not None:
            on_progress("float64 reference")
            exact = cast_weights(weights, "float64")
            roundoff = report.coarse or dtype
            changed = perturbations(p, exact, roundoff, seed, on_progress)
            _judge_rounding(job, asked, report, referee, exact, changed)
    _judge_pairs(report)
    return report


def _expected_shapes(p: Plan, size: tuple[int, int], batch: int) -> dict[str, tuple[int, ...]]:
    """Output shapes by the plan: of every block, and of what the model returns."""
    every = {row.name: (batch, *row.shape) for row in block_rows(p, size)}
    wanted = {block.name: block.name for block in p.blocks()} | p.results()
    return {key: every[name] for key, name in wanted.items()}


def _is_result(key: str) -> bool:
    """Whether an output is what the model returns, and not a block's."""
    return key.rpartition("/")[2].startswith(("logits", "features", "out", "aux"))


def _judge_engine(
    report: CheckReport, ran: Ran, p: Plan, expected: Sequence[dict[str, tuple[int, ...]]]
) -> None:
    if ran.parameters != report.parameters:
        report.problems.append(
            f"{ran.engine} has {ran.parameters:,} parameters, the plan {report.parameters:,}"
        )
    wanted = {f"{i}/{k}": v for i, shapes in enumerate(expected) for k, v in shapes.items()}
    for key in sorted(wanted.keys() | ran.outputs.keys()):
        given = ran.outputs[key].shape if key in ran.outputs else None
        if given != wanted.get(key):
            report.problems.append(
                f"{ran.engine}: {key} has shape {given}, the plan says {wanted.get(key)}"
            )


def _judge_pairs(report: CheckReport) -> None:
    """Every two engines; the earlier one is the reference."""
    # Two engines that are each within the bound of the float64 result may differ by twice as much.
    tolerance = report.tolerance * (1 if report.dtype == "float64" else 2)
    for a, b in itertools.combinations(report.ran, 2):
        try:
            found = {key: difference(a.outputs[key], b.outputs[key]) for key in a.outputs}
        except (ResNetError, KeyError) as error:
            report.problems.append(f"{a.engine} and {b.engine} cannot be compared: {error}")
            continue
        logits = {k: d for k, d in found.items() if _is_result(k)}
        # Features of the stem alone need no block.
        blocks = {k: d for k, d in found.items() if k not in logits} or logits
        worst = max(blocks, key=lambda k: blocks[k].size)
        report.pairs.append(
            Pair(
                (a.engine, b.engine),
                max(logits.values(), key=lambda d: d.size),
                worst.partition("/")[2],
                blocks[worst],
            )
        )
        first = next((k for k, d in found.items() if not d.within(tolerance)), None)
        bad = [k for k, d in blocks.items() if not d.within(tolerance)]
        if first is not None:
            name = (bad or [first])[0]
            index, _, layer = name.partition("/")
            report.problems.append(
                f"{a.engine} and {b.engine} differ at {layer} by {found[name].maximum:.1e} "
                f"(input {list(report.inputs[int(index)])}, index {list(found[name].worst)}), "
                f"over {tolerance:.1e}"
            )


def _judge_rounding(
    job: EngineJob,
    asked: ForwardPass,
    report: CheckReport,
    engine: Engine,
    exact: State,
    changed: Iterable[State],
) -> None:
    """Hold every engine against float64, within a bound measured there; see `rounding_errors`."""
    try:
        with job.worker(engine) as worker:

            def run(weights: State) -> State:
                file = job.save("float64", weights)
                wide = replace(asked, weights=file, dtype="float64", blocks=False)
                return job.run(worker.call, "run", **asdict(wide))[1]

            reference = run(exact)
            errors = rounding_errors(reference, map(run, changed))
    except ResNetError as failure:
        report.problems.append(f"no float64 reference: {failure}")
        return
    report.tolerance = ROUNDING_FACTOR * max(errors.values())
    cause = f"{report.dtype} rounding"
    if report.coarse:
        how = "which is how this device's own precision multiplies"
        cause = f"rounding as in {report.coarse}, {how} {report.dtype},"
    report.rule = (
        f"{RULE} to float64 ≤ {report.tolerance:.1e}, which is {ROUNDING_FACTOR:g} times what "
        f"{cause} is measured to cause; twice that between two engines"
    )
    for ran in report.ran:
        try:
            found = [difference(reference[k], ran.outputs[k]) for k in reference]
        except (ResNetError, KeyError) as failure:
            report.problems.append(f"{ran.engine} cannot be compared with float64: {failure}")
            continue
        worst = max(found, key=lambda d: d.size)
        report.against_float64[ran.engine] = worst
        if not worst.within(report.tolerance):
            report.problems.append(
                f"{ran.engine} is {worst.maximum:.1e} from float64, over {report.tolerance:.1e}"
            )
