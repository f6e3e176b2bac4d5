"""What the report shows: read from files, or run here where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from resnet_parity.check.result import CheckReport
from resnet_parity.engines.process import Start, Worker
from resnet_parity.engines.registry import Device, Engine
from resnet_parity.report import commands, records
from resnet_parity.report.records import Bench
from resnet_parity.trace.result import TraceReport
from shared_spec.catalogue import CATALOGUE
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import ResNetError
from shared_spec.spec.resnet_spec import ResNetSpec

_SEED = 0
_BATCH = 2


@dataclass
class Net:
    """All that is known of one net. `spec` is None where a file alone names it."""

    name: str
    spec: ResNetSpec | None = None
    checks: list[CheckReport] = field(default_factory=list)
    traces: list[TraceReport] = field(default_factory=list)
    benches: list[Bench] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Why something could not be measured."""


@dataclass(frozen=True)
class Files:
    """What `--json` of the other commands printed."""

    checks: Sequence[Path] = ()
    traces: Sequence[Path] = ()
    benches: Sequence[Path] = ()


@dataclass(frozen=True)
class Settings:
    """How to run what no file tells."""

    engines: Sequence[Engine]
    dtype: str = "float64"
    device: Device = "cpu"
    speed: bool = False
    requested: bool = False
    """Whether a missing engine was asked for by name."""
    start: Start = Worker


def collect(
    names: Sequence[str],
    files: Files,
    settings: Settings,
    on_progress: Callable[[str], None] = lambda text: None,
) -> list[Net]:
    """The nets that are named, then those of the files.

    Raises:
        ResNetError: if a name or a file is not what it should be, or there is neither.
    """
    nets = {name: Net(records.harmless(name), resolve(name)) for name in dict.fromkeys(names)}
    _read(nets, files)
    if not nets:
        raise ResNetError("report: name a net, or give files with --check, --trace or --bench")
    for name in dict.fromkeys(names):
        _run(nets[name], name, settings, on_progress)
    return list(nets.values())


def _read(nets: dict[str, Net], files: Files) -> None:
    known = {net.name: key for key, net in nets.items()}

    def of(name: str) -> Net:
        key = known.setdefault(name, name)
        # A name from a file is looked up and never opened.
        entry = CATALOGUE.get(name)
        return nets.setdefault(key, Net(name, None if entry is None else entry.spec))

    for path in files.checks:
        for check in records.read(path, CheckReport):
            of(check.model).checks.append(check)
    for path in files.traces:
        for trace in records.read(path, TraceReport):
            of(trace.model).traces.append(trace)
    for path in files.benches:
        for bench in records.read(path, Bench):
            of(bench.name).benches.append(bench)


def _run(net: Net, name: str, settings: Settings, on_progress: Callable[[str], None]) -> None:
    """What no file tells of a net that was named."""
    assert net.spec is not None
    if not net.checks:
        net.checks.append(_check(name, net.spec, settings, on_progress))
    if not net.traces:
        _trace(net, name, settings, on_progress)
    if settings.speed and not net.benches:
        net.benches.append(_bench(name, net.spec, settings, on_progress))


def _check(
    name: str, spec: ResNetSpec, settings: Settings, on_progress: Callable[[str], None]
) -> CheckReport:
    from resnet_parity.check.forward import check

    found = check(
        spec,
        settings.engines,
        name=name,
        dtype=settings.dtype,
        device=settings.device,
        batch=_BATCH,
        seed=_SEED,
        requested=settings.requested,
        start=settings.start,
        on_progress=lambda text: on_progress(f"{name}: check, {text}"),
    )
    return _told(records.record(found.to_dict(), CheckReport, name), settings)


def _trace(net: Net, name: str, settings: Settings, on_progress: Callable[[str], None]) -> None:
    from resnet_parity.check.forward import default_sizes
    from resnet_parity.trace.compare import DTYPES, trace
    from shared_spec.weights.initialize import random_images

    if settings.dtype not in DTYPES:
        return
    assert net.spec is not None
    here = [engine for engine in settings.engines if engine.missing() is None]
    images = random_images((_BATCH, *default_sizes(net.spec)[0], net.spec.in_channels), _SEED)
    for other in here[1:]:
        try:
            found = trace(
                net.spec,
                here[0],
                other,
                images,
                name=name,
                dtype=settings.dtype,
                device=settings.device,
                seed=_SEED,
                start=settings.start,
                on_progress=lambda text: on_progress(f"{name}: trace, {text}"),
            )
        except ResNetError as error:
            net.refused.append(f"errors along depth of {other.name}: {error}")
            continue
        net.traces.append(_told(records.record(found.to_dict(), TraceReport, name), settings))


Kind = TypeVar("Kind", CheckReport, TraceReport)


def _told(found: Kind, settings: Settings) -> Kind:
    """With the command that measures it again, where the record alone does not tell all of it."""
    if settings.device == "cpu":
        return found
    command = commands.check(found) if isinstance(found, CheckReport) else commands.trace(found)
    return replace(found, command=f"{command} --device {settings.device}")


def _bench(
    name: str, spec: ResNetSpec, settings: Settings, on_progress: Callable[[str], None]
) -> Bench:
    from resnet_parity.bench.measure import bench
    from resnet_parity.bench.result import Request

    request = Request(
        name,
        spec,
        tuple(settings.engines),
        modes=("infer", "train"),
        device=settings.device,
        requested=settings.requested,
        command=commands.own_bench(name, settings.engines, settings.device),
    )
    found = bench(
        request,
        on_progress=lambda text: on_progress(f"{name}: bench, {text}"),
        start=settings.start,
    )
    return records.record(found.to_dict(), Bench, name)
