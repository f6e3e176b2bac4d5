"""Pictures of what was measured. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_parity.bench.result import BenchReport
from resnet_parity.check.result import TrainingReport
from resnet_parity.trace.result import TraceReport, TraceRow
from shared_spec.atomic_write import durable
from shared_spec.errors import FrameworkError, ResNetError

SUFFIXES = (".png", ".svg", ".pdf")

# Told apart by readers who do not see all colours, and without colour by their dashes.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#7f7f7f", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), "-", "--")


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
        raise FrameworkError(
            "pictures need matplotlib, which is not installed; "
            "run: pip install 'resnet-parity[plots]'"
        ) from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path) -> None:
    """Write a figure durably and close it."""
    with durable(path) as draft:
        # Without a date, equal figures are equal files.
        metadata = {} if path.suffix.lower() == ".png" else {"CreationDate": None}
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else metadata
        figure.savefig(draft, dpi=150, format=path.suffix[1:].lower(), metadata=metadata)
    pyplot().close(figure)


def line(axes: Any, xs: Sequence[float], ys: Sequence[float], label: str, number: int) -> None:
    """One curve, with a colour and a dash of its own."""
    style = number % len(COLOURS)
    axes.plot(xs, ys, label=label, color=COLOURS[style], linestyle=DASHES[style], linewidth=1.6)


def training_parity(report: TrainingReport, path: Path) -> None:
    """The curves of a check of training: losses, and how far they and the norms' statistics are
    from float64, step by step.
    """
    plt = pyplot()
    curves = report.curves
    figure, axes = plt.subplots(1, 3 if curves else 1, figsize=(13 if curves else 6, 4), dpi=150)
    axes = list(axes) if curves else [axes]
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
    figure.tight_layout()
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
    figure.tight_layout()
    save(figure, path)


def picture(report: BenchReport, path: Path) -> None:
    """Speeds with their quartiles, and the bounds, as bars."""
    plt = pyplot()
    rows = [row for row in report.rows if row.spread is not None]
    figure, axis = plt.subplots(figsize=(9, max(2.5, 0.45 * len(rows) + 1.2)))
    for i, row in enumerate(rows):
        speed, (low, high) = row.images_per_second or 0.0, row.spread or (0.0, 0.0)
        spread = [[speed - low], [high - speed]]
        colour = COLOURS[6] if row.peer else COLOURS[0]
        label = "a peer" if row.peer else "ours"
        axis.barh(i, speed, 0.7, color=colour, xerr=spread, label=label, capsize=2)
        bound = row.bound_images_per_second
        axis.plot([bound, bound], [i - 0.4, i + 0.4], color=COLOURS[3], label="bound")
    names = [f"{r.engine}: {r.side}\n{r.mode}, {r.dtype}, {r.batch}" for r in rows]
    axis.set_yticks(range(len(rows)), [name.replace("$", r"\$") for name in names], fontsize=7)
    axis.invert_yaxis()
    axis.set(xlabel="images a second; whiskers are the quartiles of the rounds")
    axis.set_title(f"{report.name} on {report.environment['hardware']}".replace("$", r"\$"))
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axis.legend(unique.values(), unique.keys(), fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    save(figure, path)


def trace(report: TraceReport, path: Path) -> None:
    """Errors along depth, as each side computes and on the reference's input, with the bound."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(max(8, min(len(report.rows) / 12, 20)), 4.5))
    blocks = {i for i, row in enumerate(report.rows) if row.kind == "block"}
    curves = (("propagated", "as computed"), ("teacher_forced", "on the reference's input"))
    sizes = [y for key, _ in curves for _, y in _sized(report.rows, key) if 0 < y < float("inf")]
    # A logarithmic axis has no zero: equal outputs are drawn below all others.
    least = min([*sizes, *(row.bound for row in report.rows)]) / 10
    for number, (key, label) in enumerate(curves):
        found = list(_sized(report.rows, key))
        places = [(i, max(y, least)) for i, y in found if 0 <= y < float("inf")]
        colour = COLOURS[number]
        if key == "propagated":
            line(axis, [i for i, _ in places], [y for _, y in places], label, number)
        else:
            # One by one: what a layer does by itself follows from no other.
            for inside, mark, name in ((False, "o", "layers"), (True, "s", "blocks")):
                some = [place for place in places if (place[0] in blocks) is inside]
                style = {"fillstyle": "none"} if inside else {}
                xs, ys = [i for i, _ in some], [y for _, y in some]
                axis.plot(
                    xs, ys, mark, color=colour, markersize=4, label=f"{name} {label}", **style
                )
        lost = [i for i, y in found if not 0 <= y < float("inf")]
        if lost:
            # NaN and infinity have no height: they stand on the upper edge.
            axis.plot(
                lost,
                [1.0] * len(lost),
                "x",
                color=colour,
                transform=axis.get_xaxis_transform(),
                clip_on=False,
                label=f"{label}: not finite",
            )
    bounds = [row.bound for row in report.rows]
    axis.plot(range(len(bounds)), bounds, ":", color="#7f7f7f", label="bound", linewidth=1.2)
    for i, row in enumerate(report.rows):
        if row.name in report.first:
            axis.axvline(i, color="#d55e00", linewidth=1, alpha=0.7)
    names = [row.name for row in report.rows]
    shown = _spread(len(names), 40)
    # A dollar sign would be read as mathematics.
    labels = [names[i].replace("$", r"\$") for i in shown]
    axis.set_xticks(shown, labels, rotation=90, fontsize=6)
    axis.set(yscale="log", ylabel="max|a - b| / max|reference|")
    axis.axhline(least, color="#7f7f7f", linewidth=0.6)
    axis.annotate("0", (1.005, least), xycoords=("axes fraction", "data"), fontsize=8, va="center")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="best", framealpha=0.9)
    title = f"{report.model}: {report.other} against {report.reference}, {report.dtype}"
    axis.set_title(title.replace("$", r"\$"), fontsize=10)
    figure.tight_layout()
    save(figure, path)


def _sized(rows: Sequence[TraceRow], key: str) -> Iterator[tuple[int, float]]:
    """Place and size of an error of each row that has one."""
    for i, row in enumerate(rows):
        if (size := getattr(row, key)) is not None:
            yield i, size


def _spread(count: int, most: int) -> Sequence[int]:
    return range(0, count, max(-(-count // most), 1))
