"""Parity in training of whole nets: `check --training` for a list of them, as a Markdown page.

    python benchmarks/training_parity.py --output docs/results/training.md

Each net trains for some steps in every engine in float64, and ResNet-20 in float32 too, with a
picture of how far the engines are from float64.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from resnet_parity.check.result import TrainingReport
from resnet_parity.check.training import QUANTITIES, check_training
from resnet_parity.engines.registry import parse_engines
from resnet_parity.render import plots
from shared_spec import ResNetSpec, resolve
from shared_spec.atomic_write import durable

NETS: dict[str, tuple[ResNetSpec, int]] = {
    "resnet20 (option A)": (resolve("resnet20"), 32),
    "resnet20_b (option B)": (resolve("resnet20_b"), 32),
    "resnet18": (resolve("resnet18"), 40),
    "resnet50": (resolve("resnet50"), 40),
    "seresnet50 with ResNet-D's stem and shortcuts": (
        resolve("resnet50d", {"attention": "se"}),
        40,
    ),
    "resnetv2_50 (pre-activation)": (resolve("resnetv2_50"), 40),
    "resnet50_gn (group norm)": (resolve("resnet50_gn"), 40),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("docs/results/training.md"))
    arguments = parser.parse_args()
    plots.require_picture(arguments.output.with_suffix(".png"))
    rows, first = [], None
    for name, (spec, side) in NETS.items():
        start = time.perf_counter()
        report = check_training(
            spec,
            parse_engines(None),
            name=name,
            steps=arguments.steps,
            batch=arguments.batch,
            size=(side, side),
            on_progress=lambda text, name=name: print(name, text, file=sys.stderr, flush=True),
        )
        first = first or report
        rows.append(row(report, side))
        print(rows[-1], f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        for problem in report.problems:
            print(problem, file=sys.stderr, flush=True)
    single = check_training(
        NETS["resnet20_b (option B)"][0],
        parse_engines(None),
        name="resnet20_b",
        dtype="float32",
        steps=arguments.steps,
        batch=16,
    )
    plots.training_parity(single, arguments.output.with_suffix(".png"))
    assert first is not None
    with durable(arguments.output) as draft:
        draft.write_text(page(arguments, first, rows, single))


def row(report: TrainingReport, side: int) -> str:
    worst = [max(pair[part][1] for pair in report.pairs.values()) for part in QUANTITIES]
    losses = report.losses()["torch"]
    engines = len(report.ran)
    cells = [report.model, f"{side}", str(engines), *(f"{w:.1e}" for w in worst)]
    cells += [f"{losses[0]:.3f} → {losses[-1]:.3f}", "holds" if report.holds else "does not hold"]
    return "| " + " | ".join(cells) + " |"


def page(
    arguments: argparse.Namespace, first: TrainingReport, rows: list[str], single: TrainingReport
) -> str:
    versions = {k: v for ran in first.ran for k, v in ran.versions.items()}
    recipe = ", ".join(f"{k} {v}" for k, v in first.recipe.items())
    lines = [
        "# Parity in training",
        "",
        f"`python benchmarks/training_parity.py`: {arguments.steps} steps on batches of "
        f"{arguments.batch} random images, in float64, from the same random weights (statistics of "
        "norms included). The largest difference between any two of the five engines, relative to "
        "the largest magnitude in the reference: of the first loss; of the gradient of any one "
        "parameter, or of the images; of the weights after the first step; of the norms' running "
        "statistics after any step; of losses, weights and their average after the last.",
        "",
        "| net | pixels | engines | first loss | gradients | first update | statistics | weights "
        "| loss | |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        "Bounds: 1e-10 for the first loss and the gradients, 1e-8 for the rest. The recipe has a "
        f"part in every rule in which frameworks differ: {recipe}.",
        "",
        "The learning rate matters: at 0.01, a ResNet-50 of random weights multiplies any "
        "difference by about 4 a step, and every two of the engines alike are 1e-8 apart after "
        "eight steps. At 0.001 its path is stable, and rounding grows to 1e-12 in twenty.",
        "",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())) + ".",
        "",
        "## In float32",
        "",
        f"ResNet-20 (option B), batches of {single.batch[0]}, against a float64 training from the "
        "same weights. A float32 training is not the float64 one: where a sum falls on the other "
        "side of a ReLU's kink, its path is another, and the distance grows with the steps in "
        "every engine alike.",
        "",
        "![loss, and the distance of loss and statistics from float64, by step](training.png)",
        "",
        "| engine | first loss | gradients | first update | statistics | weights |",
        "|---|---|---|---|---|---|",
    ]
    for engine, parts in single.against_float64.items():
        cells = [engine, *(f"{parts[part][1]:.1e}" for part in QUANTITIES)]
        lines.append("| " + " | ".join(cells) + " |")
    bounds = ", ".join(f"{part} {bound:.1e}" for part, bound in single.tolerances.items())
    lines += ["", f"Bounds, measured by perturbing the weights as float32 rounds: {bounds}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
