"""The degradation of deep plain nets, and what shortcuts do about it, on handwritten digits.

    python examples/degradation.py --output degradation
    python examples/degradation.py --output quick --engine torch --quick

He et al. 2015 (arXiv:1512.03385, figures 1, 4 and 6) train plain nets of 20 to 56 layers on
CIFAR-10 and find that the deeper ones have the higher *training* loss, although they could copy the
shallow one and let the remaining layers pass their input on. With shortcuts that have no parameters
(option A) this is gone. Here four nets, `plain20`, `plain56`, `resnet20` and `resnet56`, train by
one recipe on scikit-learn's 8x8 digits, from several seeds. The twins `plainN` and `resnetN` have
the same parameters, initial weights and batches; all of them have batch norm, as in the paper.

Writes `degradation.json` (every loss) and `degradation.png`. It continues where it was interrupted.
What was measured and what else was tried: `docs/degradation.md`. Needs scikit-learn and matplotlib:
`pip install 'resnet-parity[examples]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from resnet_parity.datasets import Loader, open_dataset
from resnet_parity.engines.registry import ENGINES, Engine
from resnet_parity.numerics.top_k import score
from resnet_parity.render.charts import COLOURS, DASHES
from resnet_parity.render.plots import pyplot, save
from resnet_parity.train.run import PreparedTraining, prepare
from shared_spec import ResNetError, compile_plan
from shared_spec.atomic_write import durable
from shared_spec.training.recipe import Recipe
from shared_spec.training.state import TrainingState
from shared_spec.weights.initialize import initial_weights

FAMILIES = {"plain": "plain", "resnet": "residual"}
CURVES, PICTURE = "degradation.json", "degradation.png"

Run = dict[str, Any]
"""One training: net, seed, parameters, losses (one a step), and looks at the data."""


@dataclass(frozen=True)
class Settings:
    """What is the same for all nets, and the two depths."""

    shallow: int = 20
    deep: int = 56
    width: int = 2
    shift: int = 1
    steps: int = 3000
    seeds: int = 3
    looks: int = 12
    learning_rate: float = 0.1

    @property
    def nets(self) -> list[str]:
        """Names of the catalogue."""
        return [f"{family}{depth}" for family in FAMILIES for depth in (self.shallow, self.deep)]

    @property
    def milestones(self) -> list[int]:
        """Steps at which the learning rate falls."""
        return [self.steps // 2, self.steps * 3 // 4]

    def recipe(self, net: str, seed: int) -> Recipe:
        """The paper's CIFAR-10 recipe with batches of 64 and fewer steps: the learning rate is
        divided by ten after a half and three quarters of them.
        """
        fields = {
            "model": net,
            # The paper's nets are 16 to 64 channels wide, and learn these digits by heart.
            "options": {
                "widths": [self.width, 2 * self.width, 4 * self.width],
                "stem_width": self.width,
            },
            "data": {"format": "digits"},
            "augmentation": [{"name": "shift", "pixels": self.shift}] if self.shift else [],
            "batch_size": 64,
            "steps": self.steps,
            "optimizer": {"name": "sgd", "momentum": 0.9},
            "learning_rate": self.learning_rate,
            "schedule": {"name": "step", "at": self.milestones, "by": 0.1},
            "weight_decay": 1e-4,
            "seed": seed,
        }
        return Recipe.parse(fields, "degradation")


QUICK = Settings(steps=60, seeds=2, looks=2)


class Net:
    """A net and its trainer, which is made once: compiling takes longer than many steps."""

    def __init__(self, resnet: Any, settings: Settings, net: str) -> None:
        self.resnet, self.settings, self.net = resnet, settings, net
        self.trainer: Any = None

    def train(self, seed: int, advance: Callable[[], None]) -> Run:
        """One training from the weights and batches of `seed`."""
        settings, recipe = self.settings, self.settings.recipe(self.net, seed)
        prepared = prepare(recipe, threads=1)
        trainer = self._begin(prepared, seed)
        every = max(settings.steps // settings.looks, 1)
        seen = Loader(
            open_dataset(recipe.data, "train"), (), prepared.preprocessing, recipe.batch_size
        )
        pending: list[Any] = []
        losses: list[float] = []
        looks = []
        for images, labels in prepared.training.batches(0, prepared.steps):
            pending.append(trainer.step(images, labels).loss)
            step = trainer.step_number
            if step % 20 == 0 or step == prepared.steps:
                # Reading a loss waits for the engine, so not after every step.
                losses += [float(f"{float(loss):.6g}") for loss in pending]
                pending.clear()
                if not np.isfinite(losses[-1]):
                    raise ResNetError(f"{self.net}, seed {seed}: the loss is no number any more")
            if step % every == 0 or step == prepared.steps:
                looks.append({"step": step, **self._look(trainer.model, seen, prepared)})
            advance()
        return {
            "net": self.net,
            "seed": seed,
            "parameters": self.resnet.parameter_count(trainer.model),
            "losses": losses,
            "looks": looks,
        }

    def _begin(self, prepared: PreparedTraining, seed: int) -> Any:
        how = prepared.recipe.optimization
        if self.trainer is None:
            model = self.resnet.create_model(prepared.spec, seed=seed)
            self.trainer = self.resnet.Trainer(model, how, prepared.steps)
            return self.trainer
        plan = compile_plan(prepared.spec)
        weights = initial_weights(plan, seed)
        still = {name: np.zeros_like(weights[name]) for name in how.updates(plan)}
        self.trainer.load_state(TrainingState(0, weights, {"momentum": still}).flat())
        return self.trainer

    def _look(self, model: Any, seen: Loader, prepared: PreparedTraining) -> dict[str, float]:
        """Both parts of the data in evaluation mode: unshifted images, running statistics."""

        def predict(images: np.ndarray) -> np.ndarray:
            logits: np.ndarray = self.resnet.predict(model, images)
            return logits

        training = score(predict, seen.held_out_batches())
        held_out = score(predict, prepared.held_out.held_out_batches())
        return {
            "training_loss": training.loss,
            "training_error": 1 - training.top1,
            "held_out_error": 1 - held_out.top1,
        }


def measure(engine: Engine, settings: Settings, path: Path, console: Console) -> list[Run]:
    """All runs; those that `path` holds are taken from there, and each new one is added to it.

    Raises:
        ResNetError: if `path` holds runs of other settings, or the engine is missing.
    """
    missing = engine.missing()
    if missing is not None:
        raise ResNetError(f"{engine.name}: {missing}")
    about = {"engine": engine.name, "settings": asdict(settings)}
    runs = kept(path, about)
    # Before the framework is imported: Keras reads its engine's name only then.
    os.environ.update(engine.environment("cpu"))
    from resnet_parity.worker.session import Session

    resnet = Session(engine.package, "cpu").resnet
    done = {(run["net"], run["seed"]) for run in runs}
    columns = (
        TextColumn("{task.fields[told]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    total = len(settings.nets) * settings.seeds * settings.steps
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=total, completed=len(done) * settings.steps, told="")
        for name in settings.nets:
            net = Net(resnet, settings, name)
            for seed in range(settings.seeds):
                if (name, seed) in done:
                    continue
                progress.update(bar, told=f"{name}, seed {seed}")
                runs.append(net.train(seed, lambda: progress.advance(bar)))
                with durable(path) as draft:
                    draft.write_text(json.dumps({**about, "runs": runs}) + "\n")
    return runs


def kept(path: Path, about: dict[str, Any]) -> list[Run]:
    """The runs of an interrupted measurement."""
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())
        runs: list[Run] = found.pop("runs")
    except (ValueError, KeyError):
        raise ResNetError(f"{path}: is not what this program writes; remove it") from None
    if found != about:
        raise ResNetError(f"{path}: is of other settings or another engine; name another --output")
    return runs


def final(run: Run) -> dict[str, float]:
    """Where a run ended: the training loss is a mean over the last tenth of its steps."""
    last = run["losses"][-max(len(run["losses"]) // 10, 1) :]
    return {"batches": statistics.fmean(last), **run["looks"][-1]}


def table(runs: Sequence[Run], settings: Settings) -> Table:
    """Mean and standard deviation over the seeds."""
    found = Table(
        box=None, pad_edge=False, caption=f"mean ± standard deviation of {settings.seeds} seeds"
    )
    found.add_column("net", no_wrap=True)
    for heading in (
        "parameters",
        "training\nloss",
        "in\nevaluation",
        "training\nerror, %",
        "held-out\nerror, %",
    ):
        found.add_column(heading, justify="right", no_wrap=True)
    for net in settings.nets:
        mine = [run for run in runs if run["net"] == net]
        row = [f"{mine[0]['parameters']:,}"]
        for key in ("batches", "training_loss", "training_error", "held_out_error"):
            unit, digits = (100, 1) if key.endswith("error") else (1, 3)
            values = [unit * final(run)[key] for run in mine]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            row.append(f"{statistics.fmean(values):.{digits}f} ± {spread:.{digits}f}")
        found.add_row(net, *row)
    return found


def draw(runs: Sequence[Run], settings: Settings, path: Path) -> None:
    """Training loss above, held-out error below; plain nets on the left, residual ones on the
    right. Thin lines are seeds, thick ones their mean.
    """
    plt = pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True, sharey="row")
    window = max(settings.steps // 60, 1)
    for column, (family, word) in enumerate(FAMILIES.items()):
        for number, depth in enumerate((settings.shallow, settings.deep)):
            mine = [run for run in runs if run["net"] == f"{family}{depth}"]
            steps = window * np.arange(1, settings.steps // window + 1)
            losses = np.array([binned(run["losses"], window) for run in mine])
            lines(axes[0, column], steps, losses, f"{word}, {depth} layers", number)
            steps = np.array([look["step"] for look in mine[0]["looks"]])
            errors = np.array([[100 * k["held_out_error"] for k in run["looks"]] for run in mine])
            lines(axes[1, column], steps, errors, f"{word}, {depth} layers", number)
        axes[0, column].set_title(f"{word} nets")
        axes[1, column].set_xlabel("step")
    axes[0, 0].set(ylabel=f"training loss (means of {window} steps)")
    axes[1, 0].set(ylabel="held-out error, %")
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis in axes.flat:
        axis.set_yscale("log", nonpositive="clip")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
        for at in settings.milestones:
            axis.axvline(at, color="#777777", linewidth=0.9, linestyle=(0, (1, 3)))
        axis.legend(fontsize=9, handlelength=3.5, loc="best")
    figure.suptitle(
        f"scikit-learn's digits, {settings.seeds} seeds (thin) and their mean (thick); dotted: the "
        "learning rate falls",
        fontsize=11,
    )
    figure.align_ylabels()
    save(figure, path)


def binned(losses: Sequence[float], window: int) -> np.ndarray:
    """Means of consecutive steps."""
    whole = len(losses) // window * window
    found: np.ndarray = np.array(losses[:whole]).reshape(-1, window).mean(1)
    return found


def lines(axis: Any, steps: np.ndarray, curves: np.ndarray, label: str, number: int) -> None:
    """Thin curves [seeds, steps] and their thick mean, told apart by dashes without colour too."""
    style = {"color": COLOURS[(0, 3)[number]], "linestyle": DASHES[number]}
    for curve in curves:
        axis.plot(steps, curve, linewidth=0.7, alpha=0.6, **style)
    axis.plot(steps, curves.mean(0), linewidth=2.4, label=label, **style)


def main() -> None:
    usual = Settings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", default="flax", choices=ENGINES, metavar="|".join(ENGINES))
    parser.add_argument(
        "--output", type=Path, default=Path("degradation"), help="a folder (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a minute's run that shows the form")
    parser.add_argument("--shallow", type=int, help=f"layers ({usual.shallow})")
    parser.add_argument("--deep", type=int, help=f"layers ({usual.deep})")
    parser.add_argument("--width", type=int, help=f"channels of the first stage ({usual.width})")
    parser.add_argument("--shift", type=int, help=f"largest, in pixels ({usual.shift})")
    parser.add_argument("--steps", type=int, help=f"of each training ({usual.steps})")
    parser.add_argument("--seeds", type=int, help=f"trainings of each net ({usual.seeds})")
    parser.add_argument("--learning-rate", type=float, help=f"at first ({usual.learning_rate})")
    arguments = vars(parser.parse_args())
    engine, output = ENGINES[arguments.pop("engine")], arguments.pop("output")
    settings = QUICK if arguments.pop("quick") else usual
    settings = replace(settings, **{k: v for k, v in arguments.items() if v is not None})
    console = Console()
    try:
        if settings.steps < settings.looks or settings.seeds < 1:
            raise ResNetError(f"--steps takes {settings.looks} or more, --seeds 1 or more")
        if settings.deep <= settings.shallow:
            raise ResNetError("--deep has to be above --shallow")
        pyplot()
        for net in settings.nets:  # all is valid before any work starts
            prepare(settings.recipe(net, 0), threads=1)
        output.mkdir(parents=True, exist_ok=True)
        runs = measure(engine, settings, output / CURVES, console)
    except ResNetError as error:
        sys.exit(f"degradation: {error}")
    draw(runs, settings, output / PICTURE)
    console.print(table(runs, settings))
    console.print(f"wrote {output / CURVES} and {output / PICTURE}", soft_wrap=True)


if __name__ == "__main__":
    main()
