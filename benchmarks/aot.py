"""Compile one net of each of several families for devices that are not here, and write the page.

    python benchmarks/aot.py --folder build/aot [--page-only]

Each net, engine, target and mode is a JSON file in the folder, as `resnet-parity aot --output`
writes it; what is there is not compiled again, and the page shows what there is, whoever put it
there. At the compiler's usual effort a step of training takes several times as long:
JAX_EXEC_TIME_OPTIMIZATION_EFFORT=-1 is what the figures in docs/results/aot.md were made with.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from resnet_parity.aot.compile import ENGINES, aot
from resnet_parity.aot.result import AotReport, AotRequest, Compiled
from resnet_parity.aot.targets import CHIPS, GPUS, parse_targets
from resnet_parity.engines.registry import parse_engines
from resnet_parity.render.text import join_words
from shared_spec import resolve
from shared_spec.atomic_write import durable
from shared_spec.errors import some

ROOT = Path(__file__).parents[1]
NAMES = (
    *("resnet20", "resnet18", "resnetv2_18", "legacy_seresnet18"),
    *("regnetx_002", "iresnet18", "nf_resnet26", "resnet_vd_18"),
)
TARGETS = ("tpu:v5e:2x2", "tpu:v6e:2x2", "tpu:v5p:2x2x1", "tpu:v4:2x2x1", "gpu:h100:8")
MODES = {"infer": "Inference", "train": "Training"}


@dataclass(frozen=True)
class Found:
    """A program, and the report that has it."""

    report: AotReport
    row: Compiled

    @property
    def effort(self) -> str:
        """Of the compiler."""
        return self.report.settings.get("JAX_EXEC_TIME_OPTIMIZATION_EFFORT", "usual")

    @property
    def compiler(self) -> str:
        """The version of libtpu, or of XLA's for GPUs."""
        gpu = self.row.target.startswith("gpu:")
        names = ("jax-cuda12-pjrt", "jax-cuda13-pjrt") if gpu else ("libtpu",)
        return next((v for name, v in self.report.versions.items() if name in names), "")

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is of."""
        return self.report.name, self.row.engine, self.row.target, self.row.mode


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "aot")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "aot.md")
    parser.add_argument("--page-only", action="store_true", help="compile nothing")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    if not chosen.page_only:
        measure(chosen.folder)
    everything = [*read(chosen.folder)]
    with durable(chosen.output) as draft:
        draft.write_text(page(everything), encoding="utf-8")
    if any(found.row.stray or found.row.unsummed for found in everything):
        sys.exit(f"{chosen.output}: some programs are not partitioned as data parallel")


def measure(folder: Path) -> None:
    """What the folder has not, inference first."""
    have = {found.key for found in read(folder) if found.row.form == "plain"}
    for mode, engine, target, name in itertools.product(MODES, ENGINES, TARGETS, NAMES):
        if (name, engine, target, mode) in have:
            continue
        print(mode, engine, target, name, flush=True)
        engines = tuple(parse_engines(engine))
        request = AotRequest(name, resolve(name), tuple(parse_targets(target)), engines, (mode,))
        path = folder / f"{name}-{engine}-{target}-{mode}.json".replace(":", "_")
        with durable(path) as draft:
            draft.write_text(json.dumps(aot(request).to_dict(), indent=2))


def read(folder: Path) -> Iterator[Found]:
    """All programs in a folder's files, each once."""
    seen = set()
    for path in sorted(folder.glob("*.json")):
        report = AotReport.from_dict(json.loads(path.read_text()))
        for row in report.rows:
            found = Found(report, row)
            which = (*found.key, row.form, found.effort, found.compiler)
            if which not in seen:
                seen.add(which)
                yield found


def page(everything: list[Found]) -> str:
    """The text of docs/results/aot.md."""
    plain = [found for found in everything if found.row.form == "plain"]
    told = {pair for found in everything for pair in found.report.versions.items()}
    problems = [text for found in everything for text in _problems(found)]
    dates = sorted({found.report.date for found in everything})
    efforts = sorted({found.effort for found in everything})
    wanted = {*itertools.product(NAMES, ENGINES, TARGETS, MODES)}
    missing = len(wanted - {found.key for found in plain})
    nothing = "Nothing: none is refused, no collective is stray, and every gradient is summed.\n"
    parts = [
        _HEAD.format(
            versions=", ".join(f"{name} {version}" for name, version in sorted(told)),
            date=" and ".join(dates),
            efforts=join_words(efforts),
            count=len(everything),
        ),
        f"Not tried yet, of what the command asks for: {missing} of {len(wanted)} programs. "
        f"What was wrong:\n",
        "\n".join(f"- {text}" for text in problems) + "\n" if problems else nothing,
        *(_table(mode, [f for f in plain if f.row.mode == mode]) for mode in MODES),
        _forms(everything),
    ]
    return "\n".join(parts)


_HEAD = """# Compiled ahead of time

`python benchmarks/aot.py --page-only`, of files that `resnet-parity aot --batch 32 --output` wrote
on {date}, with {versions};
JAX_EXEC_TIME_OPTIMIZATION_EFFORT {efforts}: {count} programs for TPUs and
GPUs that were not there, bfloat16 (training in mixed precision), 32 images of the net's own size a
device. Nothing ran.
**images/s is an estimate** for all devices: the larger of the times for arithmetic and for traffic,
at the peak rates that the makers publish; chips reach less, and what they tell one another is not
in it. For TPUs, the compiler counts operations and traffic; for GPUs it does not, and they are
those of the spec, layer by layer. `memory` is what a device needs at once, with what its layouts
pad; on GPUs without what cuDNN takes for its convolutions besides. For TPUs, the tables of
inference and training are of the compiler's least effort, -1, which makes other programs than its
usual one; seconds of compiling are those of a machine of 2 cores with other work beside it.
[../aot.md](../aot.md) says how to read this.
"""


def _problems(found: Found) -> list[str]:
    where = f"{found.report.name}, {found.row.engine}, {found.row.target}, {found.row.what}"
    if found.row.target.startswith("tpu:"):
        where += f" (libtpu {found.compiler}, effort {found.effort})"
    told = [f"{where}: {found.row.refused}"] if found.row.refused else []
    told += [f"{where}: no all-reduce sums the gradient of {name}" for name in found.row.unsummed]
    return told + ([f"{where}: stray: {some(found.row.stray, 1)}"] if found.row.stray else [])


def _table(mode: str, rows: list[Found]) -> str:
    lines = [
        f"## {MODES[mode]}\n",
        "| net | engine | target | devices | memory, MiB | GFLOP | GB | all-reduces | images/s | "
        "bound by | compiled in |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    # What one version of a compiler refused, another may have compiled.
    rows.sort(key=lambda f: (f.row.refused is None, f.effort != "usual"))
    rows = [*{found.key: found for found in rows}.values()]
    compilers = [found.compiler for found in rows if found.row.target.startswith("tpu:")]
    usual = max(compilers, key=compilers.count, default="")
    order = [*NAMES, *sorted({f.report.name for f in rows} - {*NAMES})]
    rows = sorted(rows, key=lambda f: (order.index(f.report.name), f.row.engine, _nth(f)))
    return "\n".join([*lines, *(_line(found, usual) for found in rows)]) + "\n"


def _nth(found: Found) -> int:
    return [*CHIPS, *GPUS].index(found.row.target.split(":")[1])


def _line(found: Found, libtpu: str) -> str:
    row = found.row
    other = row.target.startswith("tpu:") and found.compiler != libtpu
    by = f", libtpu {found.compiler}" if other else ""
    sent = row.collectives.get("all-reduce", 0)
    told = f"{sent} arrays, {row.collective_bytes / 1e6:,.1f} MB" if sent else "none"
    estimate = row.estimate
    speed = ["–", "–"]
    if estimate is not None:
        speed = [f"{estimate.images_per_second:,.0f}", estimate.bound_by]
    counted = [f"{n / 1e9:,.{d}f}" if n else "–" for n, d in ((row.flops, 1), (row.traffic, 2))]
    cells = [
        *(found.report.name, row.engine, row.target, f"{row.devices}"),
        "refused" if row.memory is None else f"{row.memory / 2**20:,.0f}",
        *(*counted, told),
        *(*speed, f"{row.compile_seconds:.0f} s{by}"),
    ]
    return f"| {' | '.join(cells)} |"


def _forms(everything: Iterable[Found]) -> str:
    """The stem on blocks beside the usual one."""
    cycles: dict[tuple[str, str, str], dict[str, Compiled]] = {}
    for found in everything:
        if found.row.mode == "infer" and found.row.engine == "flax":
            key = found.report.name, found.row.target, found.effort
            cycles.setdefault(key, {})[found.row.form] = found.row
    lines = [
        "## Forms of inference\n",
        "Cycles are the sum of what the compiler estimates for each operation, in millions; GB "
        "its count of traffic.\n",
        "| net | target | effort | cycles, inference | space_to_depth | ratio "
        "| GB, inference | space_to_depth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, target, effort), forms in sorted(cycles.items()):
        if {"inference", "space_to_depth"} <= {*forms}:
            known = [forms[f].cycles or 0 for f in ("inference", "space_to_depth")]
            ratio = f"{known[1] / known[0]:.3f}" if known[0] else "–"
            traffic = [(forms[f].traffic or 0) / 1e9 for f in ("inference", "space_to_depth")]
            cells = [*(f"{c / 1e6:,.2f}" for c in known), ratio, *(f"{t:.2f}" for t in traffic)]
            lines.append(f"| {name} | {target} | {effort} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
