"""A picture of where two implementations part. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_parity import plots
from resnet_parity.trace import rows_of

_LEAST = 1e-18
"""Where an error of zero is drawn: a logarithmic axis has no zero."""


def trace(data: Mapping[str, Any], path: Path) -> None:
    """Errors along depth, as each side computes and on the reference's input, with the bound; from
    the JSON data of a `TraceReport`.
    """
    plt = plots.pyplot()
    figure, axis = plt.subplots(figsize=(max(8, min(len(data["rows"]) / 12, 20)), 4.5))
    blocks = {i for i, row in enumerate(data["rows"]) if row["kind"] == "block"}
    curves = (("propagated", "as computed"), ("forced", "on the reference's input"))
    for number, (key, label) in enumerate(curves):
        found = list(rows_of(data, key))
        places = [(i, max(y, _LEAST)) for i, y in found if 0 <= y < float("inf")]
        # A block errs with its layers: on the curve it would be a peak of its own.
        apart = [(i, y) for i, y in places if key == "forced" and i in blocks]
        along = [place for place in places if place not in apart]
        colour = plots.COLOURS[number]
        plots.line(axis, [i for i, _ in along], [y for _, y in along], label, number)
        axis.plot([i for i, _ in along], [y for _, y in along], ".", color=colour, markersize=4)
        if apart:
            axis.plot(*zip(*apart, strict=True), "s", color=colour, fillstyle="none", markersize=4)
            axis.plot([], [], "s", color=colour, fillstyle="none", label="blocks, on that")
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
    bounds = [row["bound"] for row in data["rows"]]
    axis.plot(range(len(bounds)), bounds, ":", color="#7f7f7f", label="bound", linewidth=1.2)
    for i, row in enumerate(data["rows"]):
        if row["name"] in data["first"]:
            axis.axvline(i, color="#d55e00", linewidth=1, alpha=0.7)
    names = [row["name"] for row in data["rows"]]
    shown = _spread(len(names), 40)
    # A dollar sign would be read as mathematics.
    labels = [names[i].replace("$", r"\$") for i in shown]
    axis.set_xticks(shown, labels, rotation=90, fontsize=6)
    axis.set(yscale="log", ylabel="max|a - b| / max|reference|")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    title = f"{data['model']}: {data['other']} against {data['reference']}, {data['dtype']}"
    axis.set_title(title.replace("$", r"\$"), fontsize=10)
    figure.tight_layout()
    plots.save(figure, path)


def _spread(count: int, most: int) -> Sequence[int]:
    return range(0, count, max(-(-count // most), 1))


__all__ = ["trace"]
