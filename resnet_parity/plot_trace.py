"""A picture of where two implementations part. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_parity.render import plots
from resnet_parity.trace.result import rows_of


def trace(data: Mapping[str, Any], path: Path) -> None:
    """Errors along depth, as each side computes and on the reference's input, with the bound; from
    the JSON data of a `TraceReport`.
    """
    plt = plots.pyplot()
    figure, axis = plt.subplots(figsize=(max(8, min(len(data["rows"]) / 12, 20)), 4.5))
    blocks = {i for i, row in enumerate(data["rows"]) if row["kind"] == "block"}
    curves = (("propagated", "as computed"), ("forced", "on the reference's input"))
    sizes = [y for key, _ in curves for _, y in rows_of(data, key) if 0 < y < float("inf")]
    # A logarithmic axis has no zero: equal outputs are drawn below all others.
    least = min([*sizes, *(row["bound"] for row in data["rows"])]) / 10
    for number, (key, label) in enumerate(curves):
        found = list(rows_of(data, key))
        places = [(i, max(y, least)) for i, y in found if 0 <= y < float("inf")]
        colour = plots.COLOURS[number]
        if key == "propagated":
            plots.line(axis, [i for i, _ in places], [y for _, y in places], label, number)
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
    axis.axhline(least, color="#7f7f7f", linewidth=0.6)
    axis.annotate("0", (1.005, least), xycoords=("axes fraction", "data"), fontsize=8, va="center")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="best", framealpha=0.9)
    title = f"{data['model']}: {data['other']} against {data['reference']}, {data['dtype']}"
    axis.set_title(title.replace("$", r"\$"), fontsize=10)
    figure.tight_layout()
    plots.save(figure, path)


def _spread(count: int, most: int) -> Sequence[int]:
    return range(0, count, max(-(-count // most), 1))
