"""Pictures of what was measured. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_parity.render import plots
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


def training_parity(data: Mapping[str, Any], path: Path) -> None:
    """The curves of a check of training: losses, and how far they and the norms' statistics are
    from float64, step by step.
    """
    plt = pyplot()
    curves = data["curves"]
    figure, axes = plt.subplots(1, 3 if curves else 1, figsize=(13 if curves else 6, 4), dpi=150)
    axes = list(axes) if curves else [axes]
    for number, row in enumerate(data["engines"]):
        line(axes[0], range(1, data["steps"] + 1), row["losses"], row["engine"], number)
    axes[0].set(title="loss", xlabel="step")
    for axis, key in zip(axes[1:], ("loss", "statistics"), strict=False):
        for number, row in enumerate(data["engines"]):
            ys = curves.get(row["engine"], {}).get(key)
            if ys:
                line(axis, range(1, len(ys) + 1), ys, row["engine"], number)
        axis.set(title=f"{key}: distance from float64", xlabel="step", yscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{data['model']}, {data['dtype']}, batches of {data['batch'][0]}")
    figure.tight_layout()
    save(figure, path)


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Learning curves of runs, from the lines of their metrics: the training loss, a mean over a
    hundredth of the steps, and the error on the held-out part.
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


def picture(data: dict[str, Any], path: Path) -> None:
    """Speeds with their quartiles, and the bounds, as bars; from the JSON data of a report."""
    plt = plots.pyplot()
    rows = [row for row in data["rows"] if row["refused"] is None]
    figure, axis = plt.subplots(figsize=(9, max(2.5, 0.45 * len(rows) + 1.2)))
    for i, row in enumerate(rows):
        speed, seconds, batch = row["images_per_second"], row["seconds"], row["batch"]
        spread = [[speed - batch / seconds["high"]], [batch / seconds["low"] - speed]]
        colour = plots.COLOURS[6] if row["peer"] else plots.COLOURS[0]
        label = "a peer" if row["peer"] else "ours"
        axis.barh(i, speed, 0.7, color=colour, xerr=spread, label=label, capsize=2)
        bound = row["bound_images_per_second"]
        axis.plot([bound, bound], [i - 0.4, i + 0.4], color=plots.COLOURS[3], label="bound")
    names = [f"{r['engine']}: {r['side']}\n{r['mode']}, {r['dtype']}, {r['batch']}" for r in rows]
    axis.set_yticks(range(len(rows)), [name.replace("$", r"\$") for name in names], fontsize=7)
    axis.invert_yaxis()
    axis.set(xlabel="images a second; whiskers are the quartiles of the rounds")
    axis.set_title(f"{data['name']} on {data['environment']['hardware']}".replace("$", r"\$"))
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axis.legend(unique.values(), unique.keys(), fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    plots.save(figure, path)
