"""The commands that measure what the report shows."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from functools import partial

from resnet_parity.aot.result import AotReport
from resnet_parity.bench.result import BenchReport
from resnet_parity.check.result import CheckReport
from resnet_parity.engines.registry import ENGINES, Engine
from resnet_parity.trace.result import TraceReport

_PROGRAM = "resnet-parity"


def check(found: CheckReport) -> str:
    """What measures a check again, with the random weights and images of the default seed."""
    if found.command:
        return found.command
    sizes = [f"--image-size {h}x{w}" for _, h, w, *_ in _shaped(found.inputs)]
    batch = [f"--batch {shape[0]}" for shape in found.inputs[:1]]
    return _again("check", found, _asked(found), [*sizes, *batch])


def trace(found: TraceReport) -> str:
    """What measures a trace again."""
    if found.command:
        return found.command
    options = ["--gradients"] if found.gradients else []
    options += [f"--image-size {h} --batch {n}" for n, h, *_ in _shaped([found.input])]
    if len(found.engines) == 1:
        against = f"--against {shlex.quote(found.other)}"
        return _again("trace", found, [found.reference], [against, *options])
    return _again("trace", found, [found.reference, found.other], options)


def _again(
    command: str, found: CheckReport | TraceReport, engines: Sequence[str], options: Sequence[str]
) -> str:
    settings = shlex.join(["--engines", ",".join(engines), "--dtype", found.dtype])
    return " ".join([_PROGRAM, command, named(found.model), settings, *options])


def bench(found: BenchReport) -> str:
    """What measures a benchmark again."""
    return found.command or missing_bench(found.name)


def aot(found: AotReport) -> str:
    """What compiles again."""
    return found.command or f"{_PROGRAM} aot {named(found.name)} --target tpu:v5e:2x2"


def _missing(command: str, options: str, name: str) -> str:
    """What would measure what is missing of a net."""
    return f"{_PROGRAM} {command} {named(name)}{options} --json > {command}.json"


missing_check = partial(_missing, "check", "")
missing_trace = partial(_missing, "trace", " --engines torch,flax")
missing_bench = partial(_missing, "bench", "")
missing_scaling = partial(_missing, "bench", " --scaling batch,depth,size")


def drawing(name: str) -> str:
    """What draws a net into a file of its own."""
    return f"{_PROGRAM} draw {named(name)}"


def own_bench(name: str, engines: Sequence[Engine], device: str) -> str:
    """What measures the speed that a report measures by itself."""
    chosen = ",".join(engine.name for engine in engines)
    settings = f"--engines {chosen} --modes infer,train --device {device}"
    return f"{_PROGRAM} bench {named(name)} {settings}"


def whole(names: Sequence[str], checks: Iterable[CheckReport], speed: bool) -> str:
    """The command that makes such a report again, in the engines of its checks."""
    asked = dict.fromkeys(name for found in checks for name in _asked(found) if name in ENGINES)
    engines = ["--engines", ",".join(asked)] if asked else []
    words = [_PROGRAM, "report", *map(named, names), *engines, *["--speed"] * speed]
    return " ".join([*words, "-o", "report.html"])


def _asked(found: CheckReport) -> list[str]:
    """The engines of a check, with those that did not run."""
    return [*(ran.engine for ran in found.ran), *found.missing, *found.failed]


def named(name: str) -> str:
    """A name as an argument in a shell: of a file, if it begins like an option."""
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def _shaped(shapes: Iterable[Sequence[int]]) -> list[Sequence[int]]:
    return [shape for shape in shapes if len(shape) == 4]
