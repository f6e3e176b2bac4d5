"""What a report says of a whole net, and of where and how all was measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from resnet_parity.bench.result import BenchReport
from resnet_parity.check.result import Ran
from resnet_parity.render import drawing
from resnet_parity.render.text import join_words, pairs
from resnet_parity.report import commands, number_format, parity, speed
from resnet_parity.report.blocks import Block, Commands, Drawing, Facts, Notice, Table, Text
from resnet_parity.report.collect import Net
from resnet_parity.trace.result import EngineFacts
from shared_spec.errors import SpecError
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.network import Plan
from shared_spec.plan.summary import describe, stage_rows

_EXACT = {"highest", "float32", "ieee", "none", "null"}
"""Settings of the precision of matrix products that keep all of float32."""


def verdict(net: Net) -> bool | None:
    """Whether all that was measured holds; None if nothing was compared."""
    found = [check.holds for check in net.checks]
    found += [trace.holds for trace in net.traces if trace.verdict != "undecided"]
    found += [each.holds for bench in net.benches for each in bench.parity]
    found += [compiled.holds for compiled in net.ahead]
    return all(found) if found else None


def sentence(net: Net) -> str:
    """What holds, with the worst figure."""
    parts = [_parity(net), _traced(net), _fastest(net), _compiled(net)]
    return "; ".join(part for part in parts if part) + "."


def facts(net: Net) -> Facts:
    """The figures that stand out."""
    found: list[tuple[str, str]] = []
    for check in net.checks:
        if (worst := parity.worst(check)) is not None:
            bound = number_format.bound(parity.pair_bound(check))
            what = f"largest difference of logits in {check.dtype}; the bound is {bound}"
            found.append((number_format.error(worst.maximum), what))
    if net.checks:
        check = net.checks[0]
        named = {ran.engine for ran in check.ran} | {*check.missing, *check.failed}
        found.append((f"{len(check.ran)} of {len(named)}", "engines ran"))
    if net.spec is not None:
        plan = compile_plan(net.spec)
        side = (net.spec.image_size, net.spec.image_size)
        macs = sum(row.macs for row in stage_rows(plan, side))
        found.append((number_format.count(plan.parameter_count()), "parameters"))
        size = number_format.shape(side)
        found.append((number_format.scaled(macs, "MAC"), f"for an image of {size} pixels"))
    elif net.checks:
        found.append((number_format.count(net.checks[0].parameters), "parameters"))
    for key, label, row in filter(None, map(speed.best, net.benches)):
        share = "" if row.share is None else f", {number_format.percent(row.share)} of the bound"
        what = f"images a second: {label}. {speed.titled(key)}{share}"
        found.append((number_format.rate(row.images_per_second), what))
    return Facts(found)


def network(net: Net) -> list[Block]:
    """Stages with their shapes, parameters and work."""
    if net.spec is None:
        unknown = "is not in the catalogue here, so its stages are unknown"
        return [Text(f"{net.name} {unknown}; name its spec file to see them.")]
    plan = compile_plan(net.spec)
    side = (net.spec.image_size, net.spec.image_size)
    rows = stage_rows(plan, side)
    made = describe(plan)
    cells = []
    for row in rows:
        counts = map(number_format.count, (row.parameters, row.macs))
        cells.append([row.name, made.get(row.name, ""), number_format.shape(row.shape), *counts])
    total = [sum(row.parameters for row in rows), sum(row.macs for row in rows)]
    last = ["total", "", "", *map(number_format.count, total)]
    size = number_format.shape((*side, plan.in_channels))
    caption = f"{net.name} on an image of {size} (height × width × channels)"
    columns = ["stage", "layers", "output", "parameters", "MACs"]
    table = Table(caption, columns, [*cells, last], words=(1,), kind="total")
    return [*_drawn(net.name, plan, side), table]


def _drawn(name: str, plan: Plan, side: tuple[int, int]) -> list[Block]:
    try:
        picture = drawing.draw(drawing.Drawn(name, plan, side))
    except SpecError as error:
        return [Notice(f"No picture: {error}", "note", "i")]
    # Its style is part of the page's.
    picture = picture.replace(f"<style>{drawing.STYLE}</style>", "")
    caption = f"{name}, as `{commands.drawing(name)}` draws it"
    return [Drawing(caption, Markup(picture))]  # noqa: S704 every text in it is escaped


def precision(benches: Sequence[BenchReport]) -> list[Block]:
    """A warning where float32 products have reduced precision: how far engines differ, and why."""
    found: list[Block] = []
    for bench in benches:
        settings = ", ".join(lowered(bench.environment))
        if not settings:
            continue
        told = [p for p in bench.parity if p.dtype in (None, "float32") and p.error is not None]
        differ = " By how much was not measured; this benchmark holds no comparison."
        text = (
            f"{bench.name} was measured with {settings}: products of float32 are then "
            f"computed from factors rounded to 10 bits after the point (TF32) or 7 (bfloat16) "
            f"where float32 has 23, and each framework decides for itself where. Engines differ by "
            f"that rounding and not by what they compute."
        )
        if told:
            worst = max(told, key=lambda p: p.error or 0.0)
            least = min(told, key=lambda p: p.error or 0.0)
            differ = (
                f" Here they are between {number_format.error(least.error)} ({least.side}) and "
                f"{number_format.error(worst.error)} ({worst.side}) from {worst.reference}"
            )
            if worst.bound and worst.error is not None:
                times = f"{worst.error / worst.bound:,.2g} times"
                differ += f", the latter {times} the bound of {number_format.bound(worst.bound)}"
            differ += "."
        found.append(Notice(text + differ, "warn", "!"))
    return found


def lowered(environment: Mapping[str, Any]) -> Iterator[str]:
    """Settings that lower the precision of products, in words; of a framework or of all."""
    for key, value in flat(environment):
        words = key.replace("_", " ").lower()
        if "tf32" in words and str(value).lower() in ("true", "on", "1", "yes"):
            yield words.replace("tf32", "TF32") + " on"
        elif "precision" in words and str(value).lower() not in _EXACT:
            yield f"{words} {value}"


def engines(net: Net) -> list[Ran | EngineFacts]:
    """What ran in its checks and traces."""
    found: list[Ran | EngineFacts] = [ran for check in net.checks for ran in check.ran]
    return found + [facts for trace in net.traces for facts in trace.engines]


def environment(nets: Sequence[Net]) -> list[Block]:
    """What ran where: a row for each engine and device, then the settings of benchmarks."""
    rows: dict[tuple[str, ...], None] = {}
    for net in nets:
        for ran in engines(net):
            versions = pairs(ran.versions)
            rows[ran.engine, versions, ran.device or number_format.ABSENT] = None
    found: list[Block] = []
    if rows:
        caption = (
            "Engines of checks and traces. In them TF32 is off and products have the highest "
            "precision"
        )
        found.append(Table(caption, ["engine", "versions", "on"], list(rows), words=(1, 2)))
    for bench in itertools.chain.from_iterable(net.benches for net in nets):
        settings = [
            [key.removesuffix("_bytes").replace("_", " "), said(key, value)]
            for key, value in flat(bench.environment)
        ]
        if settings:
            caption = f"Benchmark of {bench.name}"
            found.append(Table(caption, ["setting", "value"], settings, words=(1,)))
    return found or [Text("Nothing ran, so that there is nothing to say of where.")]


def repeat(nets: Sequence[Net]) -> list[Block]:
    """The commands that measured what is shown, and the one that makes such a report."""
    checks = [check for net in nets for check in net.checks]
    page = commands.whole([net.name for net in nets], checks, any(net.benches for net in nets))
    lines = [("Everything, and this page", page)]
    for net in nets:
        lines += [(f"Parity of {net.name} in {c.dtype}", commands.check(c)) for c in net.checks]
        lines += [
            (f"{t.other} against {t.reference}, {net.name} in {t.dtype}", commands.trace(t))
            for t in net.traces
        ]
        lines += [(f"Speed of {net.name}", commands.bench(b)) for b in net.benches]
        lines += [(f"{net.name} ahead of time", commands.aot(a)) for a in net.ahead]
    return [Commands(list(dict.fromkeys(lines)))]


def _parity(net: Net) -> str:
    told = []
    for check in net.checks:
        worst = parity.worst(check)
        engines = number_format.plural(len(check.ran), "engine")
        bound = number_format.bound(parity.pair_bound(check))
        if not check.holds:
            first = f": {check.problems[0].rstrip('.')}" if check.problems else ""
            told.append(f"{engines} do not agree in {check.dtype}{first}")
        elif worst is not None:
            told.append(
                f"{engines} agree in {check.dtype}, logits within "
                f"{number_format.error(worst.maximum)} of one another (bound {bound})"
            )
        else:
            far = [d.maximum for d in check.against_float64.values()]
            largest = number_format.error(max(far, default=None))
            bound = number_format.bound(check.tolerance)
            told.append(f"in {check.dtype} logits are within {largest} of float64 (bound {bound})")
    return "; ".join(told) or "parity was not measured"


def _traced(net: Net) -> str:
    said = [text for trace in net.traces for text in trace.problems]
    said += [text for trace in net.traces for text in trace.undecided if not trace.problems]
    if said:
        return said[0].rstrip(".")
    errors = [
        (row.propagated, row.name)
        for row in itertools.chain.from_iterable(trace.rows for trace in net.traces)
        if row.propagated is not None
    ]
    if not errors:
        return ""
    value, name = max(errors)
    return f"no layer differs, the worst being {name} with {number_format.error(value)}"


def _fastest(net: Net) -> str:
    told = []
    for bench in net.benches:
        if (best := speed.best(bench)) is not None:
            key, label, row = best
            place = speed.titled(key)
            rate = number_format.rate(row.images_per_second)
            text = f"the fastest engine is {label} with {rate} images/s"
            told.append(f"{text} ({place[0].lower()}{place[1:]})")
        wrong = [each for each in bench.parity if not each.holds]
        refused = sum(1 for row in bench.rows if row.refused)
        if wrong:
            told.append(f"{wrong[0].side} computes something else than {wrong[0].reference}")
        if refused:
            told.append(f"{number_format.plural(refused, 'figure')} of speed refused")
    return "; ".join(told) or "speed was not measured"


def _compiled(net: Net) -> str:
    problems = [text for report in net.ahead for text in report.problems]
    if problems:
        return f"ahead of time: {problems[0].rstrip('.')}"
    targets = {row.target for report in net.ahead for row in report.rows}
    return f"it compiles for {join_words(sorted(targets))}" if targets else ""


def flat(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings with those inside of them, under the words of their places."""
    for key, value in data.items():
        name = f"{before} {key}" if before else str(key)
        if isinstance(value, Mapping):
            yield from flat(value, name)
        else:
            yield name, value


def said(key: str, value: Any) -> str:
    """The value of a setting in words."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return number_format.ABSENT
    if key.endswith("bytes") and isinstance(value, int | float):
        return number_format.scaled(value, "B")
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
