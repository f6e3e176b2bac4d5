"""Estimate how data-parallel training of ResNet-50 scales with the number of chips.

    python benchmarks/scaling.py --folder build/scaling [--page-only]

A cost model, of which docs/scaling.md says what it assumes; the tables of that page and its picture
are written by this script. What a TPU computes is read from programs that `resnet-parity aot`
compiled, a JSON file in the folder for each kind of chip; those that are missing are compiled
(needs libtpu) unless --page-only is given. JAX_EXEC_TIME_OPTIMIZATION_EFFORT=-1 is what the page
was made with.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from resnet_parity.aot import targets
from resnet_parity.aot.collectives import ALONE, calls, summed
from resnet_parity.aot.compile import aot
from resnet_parity.aot.result import AotReport, AotRequest, Compiled
from resnet_parity.aot.targets import CHIPS, Chip, parse_targets
from resnet_parity.engines.bench_job import Rates
from resnet_parity.engines.registry import parse_engines
from resnet_parity.engines.roofline import bound_seconds
from resnet_parity.render import plots
from resnet_parity.render.charts import line
from shared_spec import compile_plan, resolve
from shared_spec.atomic_write import durable
from shared_spec.plan.network import Plan

ROOT = Path(__file__).parents[1]
NAME, SIZE, BATCH = "resnet50", (224, 224), 128
IMAGES = 1_281_167
"""Of ImageNet's training set."""
HIDDEN = 2 / 3
"""The share of a step's arithmetic that is its backward pass, during which gradients travel."""


# What devices tell one another.


@dataclass(frozen=True)
class Sums:
    """What all devices sum in a step: the bytes of gradients, sent in some calls, and the calls
    for norms' statistics, each of which waits for the one before it.
    """

    gradients: float
    calls: int
    statistics: int


def sums(p: Plan, width: int, together: int) -> Sums:
    """Those of a plan, where a gradient's number has `width` bytes."""
    return Sums(width * p.parameter_count(), together, calls(p) - 2)


# Networks. A call of `n` devices takes a time however little it sends, and sends at a rate.


@dataclass(frozen=True)
class Torus:
    """Chips in a grid; an axis of at least `closed` chips is a ring, a shorter one is a line."""

    link: float
    """Bytes/s to a neighbour, in one direction."""
    closed: int
    shapes: Mapping[int, tuple[int, ...]]
    hop: float = 1e-6

    def small(self, n: int) -> float:
        """Seconds of a sum of few numbers: there and back along each axis in turn."""
        return self.hop * sum(
            k if k >= self.closed else 2 * (k - 1) for k in self.shapes[n] if k > 1
        )

    large = small

    def rate(self, n: int) -> float:
        """Bytes/s that a chip sends, on all axes at once."""
        return sum((2 if k >= self.closed else 1) * self.link for k in self.shapes[n] if k > 1)


@dataclass(frozen=True)
class Cluster:
    """Machines of 8 GPUs, with a network adapter for each."""

    inside: float
    """Bytes/s of a GPU to the others of its machine, in one direction."""
    adapter: float
    counts: tuple[int, ...] = (1, 8, 64, 128, 256, 512)

    @property
    def shapes(self) -> dict[int, str]:
        """How the GPUs are spread over machines."""
        return {n: f"{-(-n // 8)} × {min(n, 8)}" for n in self.counts}

    def small(self, n: int) -> float:
        """Seconds of a tree over few numbers, by the constants that NCCL chooses by."""
        return 1e-6 * (6.8 + self._steps(n, 0.6, 5.0))

    def large(self, n: int) -> float:
        """Seconds that a call takes beside sending, by the same constants for many numbers."""
        return 1e-6 * (8.4 + self._steps(n, 4.0, 14.0))

    def _steps(self, n: int, inside: float, across: float) -> float:
        return 2 * ((min(n, 8) - 1) * inside + math.log2(max(n / 8, 1)) * across)

    def rate(self, n: int) -> float:
        """Bytes/s of rings, each of which leaves a machine by one adapter."""
        return self.inside if n <= 8 else min(self.inside, 8 * self.adapter)


_CUBES = {
    **{1: (1, 1, 1), 4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 64: (4, 4, 4), 256: (4, 8, 8)},
    **{1024: (8, 8, 16), 2048: (8, 16, 16), 3456: (12, 12, 24), 4096: (16, 16, 16)},
}
_SQUARES = {1: (1, 1), 4: (2, 2), 16: (4, 4), 64: (8, 8), 256: (16, 16)}

NETWORKS: dict[str, Torus | Cluster] = {
    # v4: all-reduce bandwidth of a pod, 1.1 PB/s for 4,096 chips of 6 links. The others: ICI
    # bandwidth of a chip in both directions, 400, 1,200 and 800 GB/s, for 4, 6 and 4 links.
    "v4": Torus(1.1e15 / 4096 / 6, 4, _CUBES),
    "v5e": Torus(400e9 / 2 / 4, 16, _SQUARES),
    "v5p": Torus(1200e9 / 2 / 6, 4, _CUBES),
    "v6e": Torus(800e9 / 2 / 4, 16, _SQUARES),
    # NVLink, 600 and 900 GB/s in both directions; adapters of 200 and 400 Gbit/s.
    "A100": Cluster(300e9, 25e9),
    "H100": Cluster(450e9, 50e9),
}
GPUS = {
    name: Rates("bfloat16", chip.flops_per_second, chip.source, ((1, chip.bytes_per_second),))
    for name, chip in (("A100", targets.GPUS["a100"]), ("H100", targets.GPUS["h100"]))
}
BUCKETS = 5
"""`DistributedDataParallel` sends ResNet-50's 102 MB in so many: one of 1 MiB, the rest of 25."""


# What a device computes.

Bound = Callable[[int], float]
"""Of images of a device: the least seconds of a step."""


def gpu_bound(p: Plan, rates: Rates) -> Bound:
    """Of each layer, the larger of its arithmetic and its traffic (`resnet_parity.bench`)."""
    return cache(lambda batch: bound_seconds(p, SIZE, "train", batch, rates))


def tpu_bound(chip: Chip, row: Compiled) -> Bound:
    """The larger of a compiled program's arithmetic and its traffic at a chip's published rates,
    in proportion to images.
    """
    assert row.flops is not None
    assert row.traffic is not None
    each = max(row.flops / chip.flops_per_second, row.traffic / chip.bytes_per_second) / row.batch
    return lambda batch: each * batch


@dataclass(frozen=True)
class Fit:
    """How far a device is from its bound: a step takes `bound / share + fixed` seconds."""

    share: float
    fixed: float

    def seconds(self, bound: float) -> float:
        """Of a step that has this bound."""
        return bound / self.share + self.fixed


def fitted(two: Sequence[tuple[float, float]]) -> Fit:
    """From two steps: the bound of each, and the seconds that it took."""
    (x, s), (y, t) = two
    slope = (s - t) / (x - y)
    return Fit(1 / slope, s - slope * x)


@dataclass(frozen=True)
class Step:
    """The parts of a step in seconds."""

    computing: float
    backward: float
    gradients: float
    statistics: float

    def seconds(self, *, hidden: bool) -> float:
        """All of it; gradients travel during the backward pass if `hidden`."""
        left = max(self.gradients - self.backward, 0) if hidden else self.gradients
        return self.computing + self.statistics + left


@dataclass(frozen=True)
class Model:
    """A kind of chip, its network, and the net on it."""

    chip: str
    bound: Bound
    fit: Fit
    sums: Sums

    @property
    def name(self) -> str:
        """As it is told on the page."""
        return self.chip if self.chip in GPUS else f"TPU {self.chip}"

    def step(self, n: int, batch: int, *, synchronous: bool = True) -> Step:
        """Of `n` chips with `batch` images each; norms are of the whole batch if `synchronous`."""
        bound, network = self.bound(batch), NETWORKS[self.chip]
        computing, backward = self.fit.seconds(bound), HIDDEN * bound / self.fit.share
        if n == 1:
            return Step(computing, backward, 0.0, 0.0)
        sent = 2 * (n - 1) / n * self.sums.gradients / network.rate(n)
        gradients = self.sums.calls * network.large(n) + sent
        statistics = self.sums.statistics * network.small(n) if synchronous else 0.0
        return Step(computing, backward, gradients, statistics)

    def speed(self, n: int, *, hidden: bool | None = None, synchronous: bool = True) -> float:
        """Images/s of `n` chips with `BATCH` images each. Gradients travel during the backward pass
        with PyTorch, and after it in the step that XLA compiles, which sends them all at once.
        """
        step = self.step(n, BATCH, synchronous=synchronous)
        return n * BATCH / step.seconds(hidden=self.chip in GPUS if hidden is None else hidden)

    def efficiency(self, n: int, *, hidden: bool | None = None, synchronous: bool = True) -> float:
        """That, compared with `n` times one chip."""
        return self.speed(n, hidden=hidden, synchronous=synchronous) / (n * self.speed(1))


# What was published.


@dataclass(frozen=True)
class Entry:
    """Of MLPerf Training, closed division, ResNet: how many chips, and images/s."""

    round: str
    system: str
    chip: str
    n: int
    batch: int
    """Of all chips."""
    speed: float
    fixes: bool = False
    """Whether the model's two numbers of this family come from it."""

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.batch / self.speed


# NVIDIA's logs tell the images/s of training (the median over a run's epochs, of the run whose time
# is the median of five). Google's do not: all images over the whole run, evaluations included.
ENTRIES = (
    Entry("v1.0", "dgxa100", "A100", 8, 3264, 26732),
    Entry("v2.0", "dgxa100", "A100", 8, 3264, 27217, fixes=True),
    Entry("v1.0", "dgxa100_n8", "A100", 64, 13056, 198684),
    Entry("v2.0", "dgxa100_n8", "A100", 64, 3264, 167678, fixes=True),
    Entry("v2.0", "dgxa100_n128", "A100", 1024, 35840, 2362824),
    Entry("v2.1", "dgxh100_preview", "H100", 8, 3200, 52512),
    Entry("v3.0", "dgxh100", "H100", 8, 3200, 56056),
    Entry("v2.1", "dgxh100_n4_preview", "H100", 32, 3200, 169076),
    Entry("v3.0", "dgxh100_n8", "H100", 64, 3200, 294983),
    Entry("v3.0", "dgxh100_n64", "H100", 512, 20480, 2243704),
    Entry("v3.0", "dgxh100_n96", "H100", 768, 32256, 3409916),
    Entry("v3.0", "coreweave_hgxh100_n448", "H100", 3584, 57344, 10094725),
    Entry("v0.7", "tpu-v4-16-TF", "v4", 8, 2048, 26379),
    Entry("v0.7", "tpu-v4-128-TF", "v4", 64, 8192, 199508),
    Entry("v1.0", "tpu-v4-128-TF", "v4", 64, 8192, 208510, fixes=True),
    Entry("v0.7", "tpu-v4-512-TF", "v4", 256, 8192, 516614),
    Entry("v1.0", "tpu-v4-4096-TF", "v4", 2048, 32768, 4496112, fixes=True),
    Entry("v1.0", "tpu-v4-6912-TF", "v4", 3456, 55296, 7403985),
    Entry("v2.0", "cloud-tpu-v4-6912-TF", "v4", 3456, 55296, 7429747),
    Entry("v2.0", "cloud-tpu-v4-8192-TF", "v4", 4096, 32768, 6807476),
)


def models(rows: Mapping[str, Compiled]) -> dict[str, Model]:
    """One for each kind of chip."""
    p = compile_plan(resolve(NAME))
    bounds = {chip: gpu_bound(p, rates) for chip, rates in GPUS.items()}
    bounds |= {chip.name: tpu_bound(chip, rows[chip.name]) for chip in CHIPS.values()}
    fits = {}
    for chip in ("A100", "v4"):
        known = [e for e in ENTRIES if e.chip == chip and e.fixes]
        fits[chip] = fitted([(bounds[chip](e.batch // e.n), e.seconds) for e in known])
    found = {}
    for chip, bound in bounds.items():
        # XLA sends the gradients of a TPU's step in bfloat16 in one call, PyTorch in float32.
        sent = sums(p, 4, BUCKETS) if chip in GPUS else sums(p, 2, 1)
        found[chip] = Model(chip, bound, fits["A100" if chip in GPUS else "v4"], sent)
    return found


# The page.


def _tables(found: Mapping[str, Model], rows: Mapping[str, Compiled]) -> dict[str, str]:
    p = compile_plan(resolve(NAME))
    gpus, tpus = [c for c in found if c in GPUS], [c for c in found if c not in GPUS]
    return {
        "programs": _programs(p, rows),
        "fits": _fits(found),
        "tpus": _speeds([found[c] for c in tpus]),
        "gpus": _speeds([found[c] for c in gpus]),
        "parts": _parts(found.values()),
        "checks": _checks(found),
    }


def _table(head: str, lines: Iterable[Sequence[str]]) -> str:
    columns = head.count("|") + 1
    told = [f"| {head} |", f"|{'---|' * columns}", *(f"| {' | '.join(row)} |" for row in lines)]
    return "\n".join(told)


def _programs(p: Plan, rows: Mapping[str, Compiled]) -> str:
    lines = []
    for chip, row in rows.items():
        each = ((row.flops or 0) / row.batch / 1e9, (row.traffic or 0) / row.batch / 1e6)
        lines.append(
            [
                *(chip, row.target, f"{row.batch}", f"{each[0]:.1f}", f"{each[1]:.0f}"),
                *(f"{len(summed(p)) + ALONE}", f"{row.collectives['all-reduce']}"),
                *(
                    f"{row.collective_bytes / 1e6:.1f}",
                    f"{1 / tpu_bound(CHIPS[chip], row)(1):,.0f}",
                ),
            ]
        )
    return _table(
        "chip | program for | images a device | GFLOP an image | MB of traffic an image | arrays "
        "summed, by the plan | in the program | MB summed | bound, images/s a chip",
        lines,
    )


def _fits(found: Mapping[str, Model]) -> str:
    return _table(
        "family | share of the bound | time a step that no smaller batch saves | fixed by",
        (
            [
                name,
                f"{found[chip].fit.share:.2f}",
                f"{1e3 * found[chip].fit.fixed:.1f} ms",
                " and ".join(
                    f"{e.system}, {e.round}" for e in ENTRIES if e.chip == chip and e.fixes
                ),
            ]
            for name, chip in (("GPUs", "A100"), ("TPUs", "v4"))
        ),
    )


def _speeds(those: Sequence[Model]) -> str:
    counts = sorted({n for m in those for n in NETWORKS[m.chip].shapes} - {2048, 3456})
    head = " | ".join(["chips", "images a step", *(m.name for m in those)])

    def cell(m: Model, n: int) -> str:
        if n not in NETWORKS[m.chip].shapes:
            return "–"
        return f"{m.speed(n):,.0f} ({100 * m.efficiency(n):.0f} %)"

    return _table(
        head, ([f"{n:,}", f"{n * BATCH:,}", *(cell(m, n) for m in those)] for n in counts)
    )


def _parts(those: Iterable[Model]) -> str:
    lines = []
    for m in those:
        for n in _shown(m.chip):
            step = m.step(n, BATCH)
            ms = (step.computing, step.gradients, step.statistics)
            shares = [m.efficiency(n, hidden=hidden) for hidden in (False, True)]
            shares.append(m.efficiency(n, hidden=True, synchronous=False))
            grid = NETWORKS[m.chip].shapes[n]
            shape = grid if isinstance(grid, str) else "×".join(map(str, grid))
            lines.append([m.name, f"{n:,} ({shape})", *(f"{1e3 * t:.2f}" for t in ms)])
            lines[-1] += [f"{100 * share:.0f} %" for share in shares]
    return _table(
        "chip | chips | computing, ms | gradients, ms | statistics, ms | efficiency, nothing "
        "hidden | gradients hidden | and norms of each chip's own batch",
        lines,
    )


def _shown(chip: str) -> list[int]:
    """A machine, the middle, and the most."""
    counts = [n for n in NETWORKS[chip].shapes if n > 1 and n not in (2048, 3456)]
    return sorted({counts[0], counts[len(counts) // 2], counts[-1]})


def predicted(m: Model, entry: Entry) -> float:
    """Images/s: norms of each chip's own batch and gradients of 16 bits, as in these entries."""
    half = Model(m.chip, m.bound, m.fit, sums(compile_plan(resolve(NAME)), 2, 1))
    step = half.step(entry.n, entry.batch // entry.n, synchronous=False)
    return entry.batch / step.seconds(hidden=True)


def _checks(found: Mapping[str, Model]) -> str:
    lines = []
    for e in ENTRIES:
        told = predicted(found[e.chip], e)
        off = 100 * (told / e.speed - 1)
        within = "fixes the model" if e.fixes else "yes" if abs(off) <= 25 else "**no**"
        size = [f"{e.n:,}", f"{e.batch // e.n}"]
        speeds = [f"{e.speed:,.0f}", f"{told:,.0f}", f"{off:+.0f} %", within]
        lines.append([e.round, e.system, e.chip, *size, *speeds])
    return _table(
        "round | entry | chip | chips | images a chip | images/s, published | by the model | "
        "difference | within 25 %",
        lines,
    )


def write(page: Path, tables: Mapping[str, str]) -> None:
    """Put the tables between their marks."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        pattern = re.compile(f"({re.escape(begin)}).*?({re.escape(end)})", re.DOTALL)
        text, count = pattern.subn(lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text)
        assert count == 1, f"{page}: {count} places for {name}"
    with durable(page) as draft:
        draft.write_text(text, encoding="utf-8")


def draw(found: Mapping[str, Model], path: Path) -> None:
    """Throughput against chips above, efficiency below."""
    figure, (top, below) = plots.pyplot().subplots(
        2, 1, figsize=(8, 8), sharex=True, height_ratios=(3, 2)
    )
    for number, m in enumerate(found.values()):
        counts = [n for n in NETWORKS[m.chip].shapes if n not in (2048, 3456)]
        line(top, counts, [m.speed(n) for n in counts], m.name, number)
        line(below, counts, [100 * m.efficiency(n) for n in counts], m.name, number)
        ideal = [n * m.speed(1) for n in counts]
        top.plot(counts, ideal, color="#7f7f7f", linewidth=0.6, zorder=0)
    top.set(xscale="log", yscale="log", ylabel="images/s (thin lines: n times one chip)")
    below.set(ylim=(0, 105), ylabel="efficiency, %", xlabel=f"chips, {BATCH} images each")
    top.set_title("ResNet-50, training, estimated: no speed was measured", loc="left")
    for axis in (top, below):
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_formatter("{x:,.0f}")
    top.yaxis.set_major_formatter("{x:,.0f}")
    top.legend(fontsize=8)
    plots.save(figure, path)


def read(folder: Path) -> dict[str, Compiled]:
    """The program of each kind of chip; where there is none, that of v5e, whose counts of a net are
    nearly those of other chips.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        report = AotReport.from_dict(json.loads(path.read_text()))
        for row in report.rows:
            step = report.name == NAME and row.mode == "train" and row.batch == BATCH
            if step and row.refused is None:
                found[row.target.split(":")[1]] = row
    return {chip: found.get(chip, found["v5e"]) for chip in CHIPS}


def measure(folder: Path) -> None:
    """Compile what the folder has not."""
    folder.mkdir(parents=True, exist_ok=True)
    for chip in CHIPS.values():
        if chip.devices > 1:
            continue  # half a batch each is another program: docs/scaling.md
        path = folder / f"{chip.name}.json"
        if not path.exists():
            print(chip.name, flush=True)
            grid = "x".join(["2", "2", "1"][: chip.dimensions])
            places = tuple(parse_targets(f"tpu:{chip.name}:{grid}"))
            engines = tuple(parse_engines("flax"))
            request = AotRequest(NAME, resolve(NAME), places, engines, ("train",), batch=BATCH)
            with durable(path) as draft:
                draft.write_text(json.dumps(aot(request).to_dict(), indent=2))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "scaling")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "scaling.md")
    parser.add_argument("--page-only", action="store_true", help="compile nothing")
    chosen = parser.parse_args()
    if not chosen.page_only:
        measure(chosen.folder)
    rows = read(chosen.folder)
    found = models(rows)
    write(chosen.output, _tables(found, rows))
    draw(found, chosen.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
