"""Pictures of what was measured. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_parity.bench.result import BenchReport
from resnet_parity.check.result import TrainingReport
from resnet_parity.render.charts import Bar, Series, bars, depth, line
from resnet_parity.trace.result import TraceReport
from shared_spec.atomic_write import durable
from shared_spec.errors import ResNetError, framework_missing

SUFFIXES = (".png", ".svg", ".pdf")


def require_picture(path: Path | None) -> None:
    """Raise an error now if a picture could not be drawn to `path` later."""
    if path is None:
        return
    if path.suffix.lower() not in SUFFIXES:
        raise ResNetError(f"{path}: a picture's name ends in one of {', '.join(SUFFIXES)}")
    if not path.resolve().parent.is_dir():
        raise ResNetError(f"{path}: its directory does not exist; create it first")
    pyplot()


def pyplot() -> Any:
    """The pyplot of matplotlib, drawing to files alone.

    Raises:
        FrameworkError: if it is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise framework_missing("a picture", "matplotlib", "plots") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path) -> None:
    """Lay a figure out, write it durably and close it."""
    figure.tight_layout()
    with durable(path) as draft:
        # Without a date, equal figures are equal files.
        metadata = {} if path.suffix.lower() == ".png" else {"CreationDate": None}
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else metadata
        figure.savefig(draft, dpi=150, format=path.suffix[1:].lower(), metadata=metadata)
    pyplot().close(figure)


def training_parity(report: TrainingReport, path: Path) -> None:
    """The curves of a check of training: losses, and how far they and the norms' statistics are
    from float64, step by step.
    """
    plt = pyplot()
    curves = report.curves
    count, width = (3, 13) if curves else (1, 6)
    figure, (axes,) = plt.subplots(1, count, figsize=(width, 4), dpi=150, squeeze=False)
    for number, row in enumerate(report.engines):
        line(axes[0], range(1, report.steps + 1), row["losses"], row["engine"], number)
    axes[0].set(title="loss", xlabel="step")
    for axis, key in zip(axes[1:], ("loss", "statistics"), strict=False):
        for number, row in enumerate(report.engines):
            ys = curves.get(row["engine"], {}).get(key)
            if ys:
                line(axis, range(1, len(ys) + 1), ys, row["engine"], number)
        axis.set(title=f"{key}: distance from float64", xlabel="step", yscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{report.model}, {report.dtype}, batches of {report.batch[0]}")
    save(figure, path)


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Learning curves of runs, from the lines of their metrics: the training loss, a mean over a
    hundredth of the steps, and the error on the held-out data.
    """
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for number, (name, lines) in enumerate(runs.items()):
        steps = [row["step"] for row in lines if "loss" in row]
        losses = [row["loss"] for row in lines if "loss" in row]
        window = max(len(steps) // 100, 1)
        means = [
            sum(losses[i : i + window]) / window for i in range(0, len(steps) - window + 1, window)
        ]
        line(left, steps[window - 1 :: window], means, name, number)
        seen = [row for row in lines if "held_out" in row]
        errors = [1 - row["held_out"]["top1"] for row in seen]
        line(right, [row["step"] for row in seen], errors, name, number)
    left.set(title="training loss", xlabel="step")
    right.set(title="held-out error (top 1)", xlabel="step")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    if len(runs) > 1:
        left.legend(fontsize=8)
    save(figure, path)


def picture(report: BenchReport, path: Path) -> None:
    """Speeds with their quartiles, and the bounds, as bars."""
    rows = [
        Bar(
            f"{row.engine}: {row.side}, {row.mode}, {row.dtype}, {row.batch}",
            row.images_per_second,
            "a peer" if row.peer else "",
            row.spread,
            row.bound_images_per_second,
            row.peer,
        )
        for row in report.rows
        if row.spread is not None
    ]
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(9, max(2.5, 0.45 * len(rows) + 1.2)))
    bars(axis, rows, "images a second; whiskers are the quartiles of the rounds, ticks the bounds")
    axis.set_title(f"{report.name} on {report.environment['hardware']}", parse_math=False)
    save(figure, path)


def trace(report: TraceReport, path: Path) -> None:
    """Errors along depth, as each side computes and on the reference's input, with the bound."""
    rows = report.rows

    def points(key: str, *blocks: bool) -> list[tuple[float, float, str]]:
        found = [(i, getattr(row, key), row) for i, row in enumerate(rows)]
        return [
            (i, y, r.name) for i, y, r in found if y is not None and (r.kind == "block") in blocks
        ]

    # What a layer does on the reference's input follows from no other layer: no line joins them.
    forced, where = "teacher_forced", "on the reference's input"
    series = [
        Series("as computed", 0, points("propagated", False, True)),
        Series(f"layers {where}", 1, points(forced, False), joined=False),
        Series(f"blocks {where}", 2, points(forced, True), joined=False),
    ]
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(max(8, min(len(rows) / 12, 20)), 4.5))
    depth(axis, series, [row.bound for row in rows], [])
    for i, row in enumerate(rows):
        if row.name in report.first:
            axis.axvline(i, color="#d55e00", linewidth=1, alpha=0.7)
    shown = range(0, len(rows), max(-(-len(rows) // 40), 1))
    names = [rows[i].name for i in shown]
    axis.set_xticks(shown, names, rotation=90, fontsize=6, parse_math=False)
    axis.set(ylabel="max|a - b| / max|reference|")
    axis.legend(fontsize=8, loc="best", framealpha=0.9)
    title = f"{report.model}: {report.other} against {report.reference}, {report.dtype}"
    axis.set_title(title, fontsize=10, parse_math=False)
    save(figure, path)
