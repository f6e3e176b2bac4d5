"""What the report shows: read from files, or run here where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from resnet_parity.aot.result import AotReport
from resnet_parity.bench.result import BenchReport
from resnet_parity.check.result import CheckReport
from resnet_parity.engines.process import Start, Worker
from resnet_parity.engines.registry import Device, Engine
from resnet_parity.report import commands
from resnet_parity.trace.result import TraceReport
from shared_spec.catalogue import CATALOGUE
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import ResNetError
from shared_spec.spec.resnet_spec import ResNetSpec

_LONGEST = 2000
"""Characters of a text from a file that the page shows."""

Kind = TypeVar("Kind", CheckReport, TraceReport, BenchReport, AotReport)
KINDS = {
    "checks": CheckReport,
    "traces": TraceReport,
    "benches": BenchReport,
    "ahead": AotReport,
}
"""What a net has lists of."""

_SEED = 0
_BATCH = 2


@dataclass
class Net:
    """All that is known of one net. `spec` is None where a file alone names it."""

    name: str
    spec: ResNetSpec | None = None
    checks: list[CheckReport] = field(default_factory=list)
    traces: list[TraceReport] = field(default_factory=list)
    benches: list[BenchReport] = field(default_factory=list)
    ahead: list[AotReport] = field(default_factory=list)
    """What was compiled ahead of time."""
    refused: list[str] = field(default_factory=list)
    """Why something could not be measured."""


@dataclass(frozen=True)
class Files:
    """What `--json` of the other commands printed."""

    checks: Sequence[Path] = ()
    traces: Sequence[Path] = ()
    benches: Sequence[Path] = ()
    ahead: Sequence[Path] = ()


@dataclass(frozen=True)
class ReportSettings:
    """How to run what no file has."""

    engines: Sequence[Engine]
    dtype: str = "float64"
    device: Device = "cpu"
    speed: bool = False
    requested: bool = False
    """Whether a missing engine was requested by name."""
    start: Start = Worker


def collect(
    names: Sequence[str],
    files: Files,
    settings: ReportSettings,
    on_progress: Callable[[str], None] = lambda text: None,
) -> list[Net]:
    """The nets that are named, then those of the files.

    Raises:
        ResNetError: if a name or a file is not what it should be, or there is neither.
    """
    named = [Net(harmless(name), resolve(name)) for name in dict.fromkeys(names)]
    nets = {net.name: net for net in named}

    def of(name: str) -> Net:
        return nets.setdefault(name, of_file(name))

    for path in files.checks:
        for check in read(path, CheckReport):
            of(check.model).checks.append(check)
    for path in files.traces:
        for trace in read(path, TraceReport):
            of(trace.model).traces.append(trace)
    for path in files.benches:
        for bench in read(path, BenchReport):
            of(bench.name).benches.append(bench)
    for path in files.ahead:
        for compiled in read(path, AotReport):
            of(compiled.name).ahead.append(compiled)
    if not nets:
        raise ResNetError(
            "report: name a net, or give files with --check, --trace, --bench or --aot"
        )
    for net in named:
        _run(net, settings, on_progress)
    return list(nets.values())


def of_file(name: str) -> Net:
    """A net under its name in a file, which is looked up and never opened."""
    entry = CATALOGUE.get(name)
    return Net(name, None if entry is None else entry.spec)


def _run(net: Net, settings: ReportSettings, on_progress: Callable[[str], None]) -> None:
    """What no file has about a net that was named."""
    assert net.spec is not None
    if not net.checks:
        from resnet_parity.check.forward import check

        checked = check(
            net.spec,
            settings.engines,
            batch=_BATCH,
            requested=settings.requested,
            **_alike(net, settings, "check", on_progress),
        )
        net.checks.append(_told(checked, net, settings))
    if not net.traces:
        _trace(net, net.spec, settings, on_progress)
    if settings.speed and not net.benches:
        from resnet_parity.bench.measure import bench
        from resnet_parity.bench.result import BenchRequest

        request = BenchRequest(
            net.name,
            net.spec,
            tuple(settings.engines),
            modes=("infer", "train"),
            device=settings.device,
            requested=settings.requested,
            command=commands.own_bench(net.name, settings.engines, settings.device),
        )
        timed = bench(
            request,
            on_progress=lambda text: on_progress(f"{net.name}: bench, {text}"),
            start=settings.start,
        )
        net.benches.append(record(timed.to_dict(), BenchReport, net.name))


def _trace(
    net: Net, spec: ResNetSpec, settings: ReportSettings, on_progress: Callable[[str], None]
) -> None:
    """Each engine against the first that is installed."""
    from resnet_parity.check.forward import default_sizes
    from resnet_parity.trace.compare import DTYPES, trace
    from shared_spec.weights.initialize import random_images

    if settings.dtype not in DTYPES:
        return
    here = [engine for engine in settings.engines if engine.missing() is None]
    images = random_images((_BATCH, *default_sizes(spec)[0], spec.in_channels), _SEED)
    for other in here[1:]:
        alike = _alike(net, settings, "trace", on_progress)
        try:
            found = trace(spec, here[0], other, images, **alike)
        except ResNetError as error:
            net.refused.append(f"errors along depth of {other.name}: {error}")
        else:
            net.traces.append(_told(found, net, settings))


def _alike(
    net: Net, settings: ReportSettings, what: str, on_progress: Callable[[str], None]
) -> dict[str, Any]:
    """What a check and a trace are told alike."""
    return {
        "name": net.name,
        "dtype": settings.dtype,
        "device": settings.device,
        "seed": _SEED,
        "start": settings.start,
        "on_progress": lambda text: on_progress(f"{net.name}: {what}, {text}"),
    }


Repeated = TypeVar("Repeated", CheckReport, TraceReport)


def _told(found: Repeated, net: Net, settings: ReportSettings) -> Repeated:
    """As it would be read, with the command that measures it again, where the record alone does
    not say everything.
    """
    found = record(found.to_dict(), type(found), net.name)
    if settings.device == "cpu":
        return found
    command = commands.check(found) if isinstance(found, CheckReport) else commands.trace(found)
    return replace(found, command=f"{command} --device {settings.device}")


def read(path: Path, kind: type[Kind]) -> list[Kind]:
    """The records of a JSON file: one, or a list of them.

    Raises:
        ResNetError: naming the file, if it cannot be read or holds something else.
    """
    data = json_of(path)
    found = [record(each, kind, str(path)) for each in (data if isinstance(data, list) else [data])]
    if not found:
        raise ResNetError(f"{path}: holds no record; give what `resnet-parity --json` printed")
    return found


def json_of(path: Path) -> Any:
    """What is in a JSON file.

    Raises:
        ResNetError: naming the file, if it cannot be read or is something else.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ResNetError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ResNetError(f"{path}: is not JSON ({error})") from None


def record(data: Any, kind: type[Kind], where: str) -> Kind:
    """A record from plain JSON data.

    Raises:
        ResNetError: naming `where` it came from and the field, if it is something else.
    """
    command = f"resnet-parity {kind.__name__.removesuffix('Report').lower()} NAME --json"
    try:
        found = kind.from_dict(harmless(data))
    except RecursionError:
        raise ResNetError(f"{where}: is nested too deeply for what `{command}` prints") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ResNetError(
            f"{where}: is not what `{command}` prints ({place}: {first['msg']})"
        ) from None
    if not isinstance(found, BenchReport) and found.holds and data.get("holds") is not True:
        raise ResNetError(f"{where}: does not say that it holds, nor what does not")
    return found


def harmless(data: Any) -> Any:
    """All texts as they may be shown: what does not print, or turns the direction of writing, is
    escaped, and what is too long is cut. What it means in HTML is escaped where the page is made.
    """
    if isinstance(data, str):
        text = data if len(data) <= _LONGEST else f"{data[:_LONGEST]}…"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if isinstance(data, Mapping):
        return {harmless(str(key)): harmless(value) for key, value in data.items()}
    if isinstance(data, list):
        return [harmless(value) for value in data]
    return data
