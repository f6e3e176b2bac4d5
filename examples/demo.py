"""One trained checkpoint in five engines, on real handwritten digits.

    python examples/demo.py --output demo

Loads the ResNet-20 that ships with the package into PyTorch, Keras (on TensorFlow, JAX and PyTorch)
and Flax, classifies the 599 held-out digits with each, prints one table, and writes one picture.
Exits with 1 if anything disagrees. Needs all engines: `pip install 'resnet-parity[all,examples]'`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import digits
import numpy as np
from rich.console import Console
from rich.table import Table

from resnet_parity.assets import DIGITS
from resnet_parity.engines.process import EngineError, Worker
from resnet_parity.engines.registry import ENGINES
from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, difference
from resnet_parity.render.progress import progress
from resnet_parity.render.text import plain
from shared_spec import Checkpoint, ResNetError, compile_plan, read_safetensors, write_safetensors

ACCURACY = 0.98
REPEAT = 5


@dataclass(frozen=True)
class Result:
    """What one engine gave for the held-out digits."""

    engine: str
    parameters: int
    float32: np.ndarray
    float64: np.ndarray
    images_per_second: float


def run(engine: str, checkpoint: Checkpoint, inputs: Path, folder: Path) -> Result:
    """Logits of one engine in float32 and float64, and its speed in float32.

    Raises:
        EngineError: if the engine is missing or dies.
    """
    assert checkpoint.spec is not None
    found: dict[str, Any] = {}
    seconds: list[float] = []
    with Worker(ENGINES[engine]) as worker:
        for dtype in ("float32", "float64"):
            outputs = folder / "logits.safetensors"
            answer = worker.call(
                "predict",
                spec=checkpoint.spec.to_dict(),
                weights=str(DIGITS),
                dtype=dtype,
                images=str(inputs),
                outputs=str(outputs),
                repeat=REPEAT if dtype == "float32" else 0,
            )
            found[dtype] = read_safetensors(outputs).state["logits"]
            seconds += answer["seconds"]
    speed = len(found["float32"]) / statistics.median(seconds)
    return Result(engine, answer["parameters"], found["float32"], found["float64"], speed)


def judge(results: list[Result], labels: np.ndarray, parameters: int) -> list[str]:
    """Everything that disagrees, one sentence each."""
    problems = []
    reference = results[0].float64
    for r in results:
        if r.parameters != parameters:
            problems.append(f"{r.engine} has {r.parameters:,} parameters, the plan {parameters:,}")
        apart = difference(reference, r.float64).maximum
        if not apart <= FLOAT64_TOLERANCE:
            problems.append(f"{r.engine} is {apart:.1e} from {results[0].engine} in float64")
        other = int((r.float32.argmax(1) != reference.argmax(1)).sum())
        if other:
            problems.append(f"{r.engine} classifies {other} digits otherwise than float64")
        accuracy = float((r.float32.argmax(1) == labels).mean())
        if not accuracy >= ACCURACY:
            problems.append(f"{r.engine} gets {accuracy:.2%} right, under {ACCURACY:.0%}")
    return problems


def table(results: list[Result], labels: np.ndarray) -> Table:
    """One line an engine."""
    reference = results[0].float64
    columns = ("engine", "parameters", "accuracy", "top-1\nagreement", "max\n|Δlogit|", "float64",
               "images/s")  # fmt: skip
    out = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        out.add_column(name, justify="left" if name == "engine" else "right", no_wrap=True)
    for r in results:
        out.add_row(
            r.engine,
            f"{r.parameters:,}",
            f"{(r.float32.argmax(1) == labels).mean():.2%}",
            f"{(r.float32.argmax(1) == reference.argmax(1)).mean():.2%}",
            f"{np.abs(r.float32 - reference).max():.1e}",
            f"{difference(reference, r.float64).maximum:.1e}",
            f"{r.images_per_second:,.0f}",
        )
    return out


def picture(path: Path, pixels: np.ndarray, labels: np.ndarray, results: list[Result]) -> None:
    """Held-out digits with what the engines say: every mistake, then others in their order."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    said = np.array([r.float32.argmax(1) for r in results])
    wrong = (said != labels).any(0)
    chosen = np.argsort(~wrong, kind="stable")[:40]
    figure, axes = pyplot.subplots(5, 8, figsize=(8, 6.6), layout="constrained")
    for axis, i in zip(axes.flat, chosen, strict=True):
        axis.imshow(pixels[i, :, :, 0], cmap="gray_r", vmin=0, vmax=1)
        axis.set_xticks([])
        axis.set_yticks([])
        answers = "/".join(str(n) for n in dict.fromkeys(said[:, i]))
        mark = "✗" if wrong[i] else "✓"
        truth = f", is {labels[i]}" if wrong[i] else ""
        axis.set_title(f"{answers} {mark}{truth}", fontsize=10, color="C3" if wrong[i] else "C2")
    figure.suptitle(
        f"{len(results)} engines on {len(labels)} held-out digits: all {int(wrong.sum())} mistakes,"
        f" then the first of the others"
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder (demo)")
    output: Path = parser.parse_args().output
    console = Console()
    checkpoint = read_safetensors(DIGITS)
    assert checkpoint.spec is not None
    assert checkpoint.preprocessing is not None
    _, held_out = digits.load()
    results: list[Result] = []
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder, progress(console) as step:
        inputs = Path(folder) / "images.safetensors"
        images = checkpoint.preprocessing.normalise(held_out.pixels)
        write_safetensors(inputs, Checkpoint({"images": images}))
        for engine in ENGINES:
            step(engine)
            try:
                results.append(run(engine, checkpoint, inputs, Path(folder)))
            except (EngineError, ResNetError) as error:
                problems.append(f"{engine}: {error}")
    if results:
        console.print(
            f"ResNet-20, one checkpoint, {len(held_out)} held-out digits in {len(results)} "
            f"engines\n"
        )
        console.print(table(results, held_out.labels))
        console.print(
            "\nmax |Δlogit|: float32 against float64. float64: max |Δ| / max |reference| between "
            f"the engine and {results[0].engine}, both in float64.",
            highlight=False,
        )
        problems += judge(results, held_out.labels, compile_plan(checkpoint.spec).parameter_count())
        output.mkdir(parents=True, exist_ok=True)
        picture(output / "digits.png", held_out.pixels, held_out.labels, results)
        console.print(f"wrote {output / 'digits.png'}", highlight=False)
    for problem in problems:
        console.print(f"[red]✗[/] {plain(problem)}", highlight=False)
    console.print("[red]✗ they disagree[/]" if problems else "[green]✓ all engines agree[/]")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
