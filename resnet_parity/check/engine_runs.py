"""One engine's run of a check, and what a missing engine means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resnet_parity.check.result import CheckReport, Outputs, Ran, TrainingReport
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.process import EngineError, Worker
from resnet_parity.engines.registry import Device, Engine
from shared_spec.errors import ResNetError

Report = CheckReport | TrainingReport


def run_engine(
    job: EngineJob,
    engine: Engine,
    device: Device,
    report: Report,
    work: Callable[[Worker], tuple[Any, Outputs]],
) -> None:
    """Add to a report what an engine's worker answers and gives, or why there is nothing."""
    absent = engine.missing()
    if absent is not None:
        report.missing[engine.name] = absent
        return
    try:
        with job.begin(engine, device) as worker:
            facts = worker.call("info")
            answer, outputs = work(worker)
    except (EngineError, ResNetError) as error:
        report.failed[engine.name] = str(error)
        return
    count, seconds = answer.get("parameters", 0), answer["seconds"]
    versions, hardware = facts["versions"], facts["device"]
    report.ran.append(Ran(engine.name, outputs, count, seconds, versions, hardware))


def judge_presence(report: Report, requested: bool) -> None:
    """Add what keeps a comparison from being one; a missing engine counts if it was `requested`."""
    for engine, reason in report.failed.items():
        report.problems.append(f"{engine} failed: {reason}")
    if requested:
        for engine, reason in report.missing.items():
            report.problems.append(f"{engine} is missing: {reason}")
    # Anything but float64 is compared with float64, for which one engine is enough.
    alone = 1 if report.dtype == "float64" else 0
    if len(report.ran) <= alone:
        ran = f"{report.ran[0].engine} ran alone" if report.ran else "no engine ran"
        report.problems.append(f"nothing was compared: {ran}")
