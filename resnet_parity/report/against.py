"""Two reports compared, such as of before and after an upgrade of a framework: what moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer

from resnet_parity.bench.result import Timed
from resnet_parity.numerics.record import JsonRecord
from resnet_parity.render.text import severity
from resnet_parity.report import number_format, overview, parity, speed
from resnet_parity.report.blocks import Block, Cell, Notice, Table, Text, over
from resnet_parity.report.collect import KINDS, Net, harmless, json_of, of_file, record
from shared_spec.errors import ResNetError

_COMMAND = "resnet-parity report --json"
_ARROW = " → "
_NOTHING = Timed(side="", mode="", batch=0, dtype="", size=[])


@dataclass(frozen=True)
class Change:
    """One thing that the two say; None where one of them does not say it. `net` is empty where it
    is about the whole.
    """

    what: str
    before: Any
    after: Any
    net: str = ""

    @property
    def moved(self) -> bool:
        """Whether they say something else."""
        return bool(self.before != self.after)


def _known(value: float | None) -> float | str | None:
    return value if value is None or value == value else "NaN"


Error = Annotated[float | None, PlainSerializer(_known)]


@dataclass(frozen=True)
class ErrorChange(Change):
    """An error of a check or a trace, with its bound now, or else then."""

    before: Error
    after: Error
    bound: float = 0.0

    @property
    def moved(self) -> bool:
        """Whether it is another in the two digits that are shown."""
        return (self.before is None) != (self.after is None) or (
            number_format.error(self.before) != number_format.error(self.after)
        )

    @property
    def over(self) -> bool:
        """Whether it is over its bound now."""
        return self.after is not None and not self.after <= self.bound


@dataclass(frozen=True)
class SpeedChange(Change):
    """Images a second, and the ratio to a peer; `apart` if no usual pass of one was as fast as one
    of the other.
    """

    before: float | None
    after: float | None
    ratio_before: float | None = None
    ratio_after: float | None = None
    apart: bool = False

    @property
    def moved(self) -> bool:
        """Whether it is more than the spread of the passes, or there is no other to compare."""
        return self.apart or (self.before is None) != (self.after is None)

    @property
    def factor(self) -> float | None:
        """How many times as fast as before."""
        return self.after / self.before if self.before and self.after is not None else None


@dataclass
class Against(JsonRecord):
    """What an earlier report and this one say of the same things. All that both have is here,
    moved or not.
    """

    report: str
    environment: list[Change] = field(default_factory=list)
    verdicts: list[Change] = field(default_factory=list)
    parity: list[ErrorChange] = field(default_factory=list)
    speed: list[SpeedChange] = field(default_factory=list)


def to_dict(net: Net) -> dict[str, Any]:
    """A net as `report --json` prints it, with all that was measured."""
    told = {"name": net.name, "holds": overview.verdict(net), "summary": overview.sentence(net)}
    return told | {key: [found.to_dict() for found in getattr(net, key)] for key in KINDS}


def read_report(path: Path) -> list[Net]:
    """The nets of an earlier report.

    Raises:
        ResNetError: naming the file, if it cannot be read or is none.
    """
    data = json_of(path)
    told = data.get("nets") if isinstance(data, dict) else None
    if not isinstance(told, list) or not told:
        raise ResNetError(f"{path}: is not what `{_COMMAND}` prints (it has no list of nets)")
    nets = []
    for each in told:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise ResNetError(f"{path}: is not what `{_COMMAND}` prints (a net has no name)")
        net = of_file(harmless(each["name"]))
        for key, kind in KINDS.items():
            if not isinstance(each.get(key), list):
                raise ResNetError(
                    f"{path}: is not what `{_COMMAND}` prints ({net.name} has no list of {key})"
                )
            getattr(net, key).extend(record(found, kind, str(path)) for found in each[key])
        nets.append(net)
    return nets


def compare(before: Sequence[Net], after: Sequence[Net], report: str) -> Against:
    """What moved from one report to another; `report` is what the earlier one is called."""
    old, new = ({net.name: net for net in nets} for nets in (before, after))
    was, now = _settings(before), _settings(after)
    found = Against(harmless(report))
    found.environment = [Change(what, was.get(what), now.get(what)) for what in was | now]
    for name in {**old, **new}:
        a, b = (overview.verdict(nets[name]) if name in nets else None for nets in (old, new))
        news = {(True, False): "is no longer there", (False, True): "is new"}
        what = news.get((name in old, name in new), "holds")
        found.verdicts.append(Change(what, a, b, name))
        if what == "holds":
            found.parity += _parity(old[name], new[name])
            found.speed += _speeds(old[name], new[name])
    return found


def _parity(before: Net, after: Net) -> Iterator[ErrorChange]:
    was, now = _errors(before), _errors(after)
    for what in was | now:
        a, b = (side[what][0] if what in side else None for side in (was, now))
        _, bound = now[what] if what in now else was[what]
        yield ErrorChange(what, a, b, before.name, bound)


def _settings(nets: Sequence[Net]) -> dict[str, str]:
    """Versions, devices and settings, each with all values that it has in a report."""
    found: dict[str, dict[str, None]] = {}
    for net in nets:
        for each in overview.engines(net):
            for package, version in each.versions.items():
                found.setdefault(f"version of {package}", {})[version] = None
            if each.device:
                found.setdefault("device of checks and traces", {})[each.device] = None
        for bench in net.benches:
            for key, value in overview.flat(bench.environment):
                package = key.removeprefix("versions ")
                what = f"version of {package}" if package != key else f"benchmark: {key}"
                found.setdefault(what, {})[overview.said(key, value)] = None
    return {what: ", ".join(values) for what, values in found.items()}


def _errors(net: Net) -> dict[str, tuple[float, float]]:
    """Each error with its bound, under what it is of."""
    found: dict[str, tuple[float, float]] = {}
    for check in net.checks:
        sizes = ", ".join(number_format.shape(shape) for shape in check.inputs)
        where = f"in {check.dtype}, images {sizes}"
        bound = parity.pair_bound(check)
        for pair in check.pairs:
            both = " and ".join(pair.engines)
            found[f"logits of {both} {where}"] = pair.logits.maximum, bound
            found[f"worst block of {both} {where}"] = pair.blocks.maximum, bound
        for engine, distance in check.against_float64.items():
            found[f"logits of {engine} {where}"] = distance.maximum, check.tolerance
    for trace in net.traces:
        where = f"in {trace.dtype}, images {number_format.shape(trace.input)}"
        rows = [row for row in trace.rows if row.propagated is not None]
        if rows:
            worst = max(rows, key=lambda row: severity(row.propagated))
            what = f"worst layer of {trace.other} against {trace.reference} {where}"
            found[what] = float(worst.propagated or 0.0), worst.propagated_bound
    return found


def _rows(net: Net) -> dict[str, Timed]:
    """What was timed and not refused, under what it is."""
    return {
        f"{label}, {speed.titled(key).lower()}": row
        for bench in net.benches
        for key, rows in speed.groups(bench).items()
        for label, row in speed.labelled(rows)
        if row.refused is None
    }


def _speeds(before: Net, after: Net) -> Iterator[SpeedChange]:
    sides = _rows(before), _rows(after)
    for what in sides[0] | sides[1]:
        was, now = (side.get(what, _NOTHING) for side in sides)
        a, b = was.spread, now.spread
        apart = a is not None and b is not None and (a[1] < b[0] or b[1] < a[0])
        rates = was.images_per_second, now.images_per_second
        yield SpeedChange(what, *rates, before.name, was.ratio, now.ratio, apart)


def sentences(found: Against) -> list[tuple[str, bool | None]]:
    """What moved, each with whether it is good or bad, where it is one of them."""
    told: list[tuple[str, bool | None]] = [
        (f"{each.what}: {_text(each.before)}{_ARROW}{_text(each.after)}", None)
        for each in found.environment
        if each.moved
    ]
    for each in found.verdicts:
        if each.what != "holds":
            told.append((f"{each.net} {each.what}", None))
        elif each.moved:
            words = f"{each.net}: {_verdict(each.before)}{_ARROW}{_verdict(each.after)}"
            told.append((words, each.after))
    for net in dict.fromkeys(each.net for each in found.verdicts):
        errors = [each for each in found.parity if each.net == net and each.moved]
        if errors:
            worst = max(errors, key=lambda each: (each.over, severity(each.after)))
            total = sum(each.net == net for each in found.parity)
            text = f"{net}: {len(errors)} of {number_format.plural(total, 'parity figure')} moved"
            bound = number_format.bound(worst.bound)
            told.append(
                (
                    f"{text}, the largest being {worst.what}: {_error(worst.before)}{_ARROW}"
                    f"{_error(worst.after)} ({'over ' if worst.over else ''}the bound of {bound})",
                    False if worst.over else None,
                )
            )
        for row in found.speed:
            if row.net == net and row.moved:
                told.append((f"{net}: {row.what}: {_rates(row)}", _faster(row)))
    return told or [("nothing moved", None)]


def blocks(found: Against) -> list[Block]:
    """The same for the page, with all figures."""
    kinds = {True: ("note", "✓"), False: ("bad", "✗"), None: ("note", "i")}
    made: list[Block] = [Text(f"Beside the earlier report {found.report}.")]
    made += [Notice(text, *kinds[good]) for text, good in sentences(found)]
    for net in dict.fromkeys(each.net for each in found.parity):
        rows: list[list[str | Cell]] = [
            [
                each.what,
                _error(each.before),
                over(_error(each.after)) if each.over else _error(each.after),
                number_format.bound(each.bound),
            ]
            for each in found.parity
            if each.net == net
        ]
        columns = ["error", "before", "now", "bound"]
        made.append(Table(f"{net}: errors before and now", columns, rows, kind="details"))
    for net in dict.fromkeys(each.net for each in found.speed):
        chosen = [row for row in found.speed if row.net == net]
        caption = f"{net}: images a second before and now (▲ ▼ beyond the spread of the passes)"
        columns = ["side", "before", "now", "factor", "ratio before", "ratio now"]
        made.append(Table(caption, columns, [_cells(row) for row in chosen], kind="details"))
    return made


def _cells(row: SpeedChange) -> list[str | Cell]:
    factor: str | Cell = number_format.ratio(row.factor)
    if row.apart:
        faster = _faster(row)
        factor = Cell(f"{'▲' if faster else '▼'} {factor}", "up" if faster else "down")
    rates = map(number_format.rate, (row.before, row.after))
    return [
        row.what,
        *rates,
        factor,
        *map(number_format.ratio, (row.ratio_before, row.ratio_after)),
    ]


def _faster(row: SpeedChange) -> bool | None:
    return None if row.factor is None else row.factor > 1


def _rates(row: SpeedChange) -> str:
    rates = (number_format.rate(row.before), number_format.rate(row.after))
    text = f"{_ARROW.join(rates)} images/s"
    if row.factor is not None:
        text += f", {number_format.ratio(row.factor)}"
    if row.ratio_before is not None and row.ratio_after is not None:
        ratios = map(number_format.ratio, (row.ratio_before, row.ratio_after))
        text += f"; beside the peer {_ARROW.join(ratios)}"
    return text


def _error(value: float | None) -> str:
    return number_format.ABSENT if value is None else number_format.error(value)


def _text(value: str | None) -> str:
    return number_format.ABSENT if value is None else value


def _verdict(value: bool | None) -> str:
    return {True: "holds", False: "does not hold", None: "not compared"}[value]
