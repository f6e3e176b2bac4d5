"""Draw the catalogue: parameters against multiply-accumulates at 224 x 224 pixels.

    python benchmarks/family.py --output docs/family.png

One mark a name, both axes logarithmic; needs matplotlib and no deep learning framework.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from shared_spec import CATALOGUE
from shared_spec.plan.summary import totals

SIDE = 224
# Colours that stay apart for the colour-blind (Okabe and Ito), and a mark for each besides.
FAMILIES = {
    "torchvision": ("torchvision", "#0072B2", "o"),
    "torchvision_segmentation": ("torchvision, segmentation", "#332288", "d"),
    "timm": ("timm, resnet, sknet, res2net, resnest", "#56B4E9", "s"),
    "timm_v2": ("timm, resnetv2", "#009E73", "^"),
    "timm_regnet": ("timm, regnet (torchvision's are among them)", "#F0E442", "X"),
    "timm_byob": ("timm, byobnet", "#882255", "p"),
    "timm_nf": ("timm, nfnet", "#999999", "*"),
    "senet": ("timm, senet", "#000000", "h"),
    "keras": ("keras.applications", "#D55E00", "D"),
    "keras_hub": ("KerasHub", "#E69F00", "v"),
    "flax": ("Flax's example", "#CC79A7", "P"),
}
SMALLEST = "test_resnet"
"""Left out: a net for tests, a tenth of the size of all others."""
# Offset of each label in points.
LABELS = {
    "fcn_resnet50": (-62, 1),
    "deeplabv3_resnet101": (-100, 1),
    "resnet18": (8, -10),
    "resnet34": (-48, -9),
    "resnet50": (9, -16),
    "resnet101": (-54, 0),
    "resnet152": (-54, 0),
    "resnet10t": (8, -4),
    "resnet14t": (-10, -13),
    "resnetrs50": (8, -4),
    "resnetrs101": (8, -5),
    "wide_resnet50_2": (10, -8),
    "wide_resnet101_2": (-100, 3),
    "resnetrs420": (8, -6),
    "senet154": (8, -9),
    "resnext101_32x32d": (-100, 2),
    "ecaresnet50d_pruned": (8, -5),
    "seresnextaa201d_32x8d": (-70, 10),
    "resnetv2_50x3_bit": (9, -4),
    "resnetv2_101x3_bit": (9, -4),
    "resnetv2_152x4_bit": (-104, -2),
}


def draw(axes: Axes) -> int:
    """Put every ImageNet net on `axes`; returns how many."""
    for family, (label, colour, mark) in FAMILIES.items():
        points = {
            entry.name: totals(entry.spec.override(image_size=SIDE))
            for entry in CATALOGUE.values()
            if entry.family == family and entry.name != SMALLEST
        }
        axes.scatter(
            [parameters / 1e6 for parameters, _ in points.values()],
            [macs / 1e9 for _, macs in points.values()],
            s=26, c=colour, marker=mark, label=f"{label} ({len(points)})",
            edgecolors="white", linewidths=0.6, zorder=3,
        )  # fmt: skip
        for name in points.keys() & LABELS.keys():
            parameters, macs = points[name]
            axes.annotate(
                name, (parameters / 1e6, macs / 1e9), xytext=LABELS[name],
                textcoords="offset points", fontsize=8, color="#333333", zorder=4,
            )  # fmt: skip
    return sum(e.family in FAMILIES and e.name != SMALLEST for e in CATALOGUE.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("docs/family.png"))
    output = parser.parse_args().output
    figure, axes = plt.subplots(figsize=(9, 6), dpi=140, layout="constrained")
    count = draw(axes)
    axes.set(xscale="log", yscale="log", xlabel="parameters (millions)")
    axes.set_ylabel(f"multiply-accumulates for one image of {SIDE} x {SIDE} (billions)")
    axes.set_title(f"{count} ResNets, one definition", loc="left", fontweight="bold")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(which="major", color="#dddddd", linewidth=0.7, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(output)
    print(f"{output}: {count} names")


if __name__ == "__main__":
    main()
