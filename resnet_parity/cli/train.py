"""The commands that train and score."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from resnet_parity.cli.options import DeviceOption, JsonOption, command_line, err, print_result
from resnet_parity.engines.registry import ENGINES, Engine, parse_device, parse_engines
from resnet_parity.render import plots, tables
from shared_spec.errors import FrameworkError, RecipeError, ResNetError, did_you_mean
from shared_spec.spec.files import SUFFIXES
from shared_spec.spec.resnet_spec import ResNetSpec

if TYPE_CHECKING:
    from shared_spec.training.recipe import Recipe

EVENTS = "events"
Sizes = list[tuple[int, int]] | None


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(files("resnet_parity") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(text: str) -> Recipe:
    """A recipe from the name of one that comes with the package, or from a file.

    Raises:
        RecipeError: if there is no such recipe, or it is not valid.
    """
    from shared_spec.training.recipe import load_recipe

    known = shipped()
    if text in known:
        return load_recipe(known[text])
    if Path(text).suffix.lower() in SUFFIXES:
        return load_recipe(text)
    near = did_you_mean(text, known) or f"; known: {', '.join(known)}, or the path of a YAML file"
    raise RecipeError(f"recipe: there is no {text!r}{near}")


def check_training(
    spec: ResNetSpec,
    engines: Sequence[Engine],
    sizes: Sizes,
    recipe: Path | None,
    plot: Path | None,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """`check --training`."""
    from resnet_parity.check import training as checking

    if sizes is not None and len(sizes) > 1:
        raise ResNetError("--image-size: --training takes one")
    plots.require_picture(plot)
    how = None if recipe is None else find_recipe(str(recipe)).optimization
    with tables.progress(err) as advance:
        found = checking.check_training(
            spec, engines, how=how, size=sizes[0] if sizes else None, step=advance, **options
        )
    if plot is not None:
        plots.training_parity(found.to_dict(), plot)
    print_result({**found.to_dict(), "command": command_line()}, as_json, tables.training)
    if not found.holds:
        raise typer.Exit(1)


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A YAML, TOML or JSON file, or the name of one that is shipped."),
    ] = None,
    engine: Annotated[str, typer.Option(help=f"One of {', '.join(ENGINES)}.")] = "torch",
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/RECIPE-ENGINE if left out.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the data are, in the place of the recipe's path.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE of the recipe, such as seed=1; once for each."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run.")] = False,
    device: DeviceOption = "cpu",
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed", help="Train with other processes: torchrun's, or those that JAX finds."
        ),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's event files too.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--list", help="Tell the recipes that are shipped.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train by a recipe, in one engine.

    The run's folder gets metrics.jsonl, curves.png, a checkpoint from which any engine goes on, and
    the weights with their preprocessing and labels.
    """
    if show:
        from shared_spec.training.recipe import load_recipe

        rows = {name: load_recipe(path).description for name, path in shipped().items()}
        print_result(rows, as_json, tables.recipes)
        return
    if recipe is None:
        raise RecipeError("RECIPE: name one; --list tells those that are shipped")
    found = changed(find_recipe(recipe), data, change or [])
    (chosen,) = parse_engines(engine)[:1]
    if "," in engine:
        raise FrameworkError(f"engine: {engine!r}: a training has one")
    missing = chosen.missing()
    if missing is not None:
        raise FrameworkError(f"{chosen.name}: {missing}")
    where = parse_device(device)
    folder = output or Path("runs") / f"{Path(recipe).stem}-{engine.replace(':', '-')}"
    # Before the framework is imported: Keras reads its engine's name only then.
    os.environ.update(chosen.environment(where))
    from resnet_parity.train.run import run as training
    from resnet_parity.worker import distributed as world

    shard = world.join(chosen, where, distributed)
    prepared = training.prepare(found, shard=shard)
    if shard[0]:  # the first process tells
        training.train(prepared, chosen, folder, device=where, resume=resume)
        world.leave(chosen, shard[1])
        return
    with _Display(prepared.steps, folder if tensorboard else None) as display:
        done = training.train(
            prepared, chosen, folder, device=where, resume=resume, observer=display.observer()
        )
    world.leave(chosen, shard[1])
    try:
        plots.curves({chosen.name: training.read_metrics(folder)}, folder / training.CURVES)
    except FrameworkError as error:
        err.print(f"note: {tables.plain(error)}", highlight=False, soft_wrap=True)
    print_result(done.to_dict(), as_json, tables.trained)


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs of train.")],
    output: Annotated[Path, typer.Option(help="A .png, .svg or .pdf.")] = Path("curves.png"),
) -> None:
    """Draw the learning curves of runs into one picture."""
    from resnet_parity.train.run import run as training

    plots.require_picture(output)
    names = [folder.name or str(folder) for folder in runs]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in runs]
    found = {name: training.read_metrics(run) for name, run in zip(names, runs, strict=True)}
    plots.curves(found, output)
    err.print(f"wrote {tables.plain(output)}", highlight=False, soft_wrap=True)


def changed(recipe: Recipe, data: str | None, changes: Sequence[str]) -> Recipe:
    """A recipe with fields replaced; `a.b=c` reaches into one.

    Raises:
        RecipeError: if a change is not of that form, or the recipe is no longer valid.
    """
    import yaml

    from shared_spec.training.recipe import Recipe

    fields, whole = recipe.to_dict(), recipe.model_dump(mode="json")
    if data is not None:
        fields["data"] = {**fields["data"], "path": data}
    for text in changes:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise RecipeError(f"--set: {text!r} is not of the form FIELD=VALUE")
        *outer, last = name.split(".")
        inner, full = fields, whole
        for part in outer:
            known = full.get(part)
            full = known if isinstance(known, dict) else {}
            inner = inner.setdefault(part, full)
            if not isinstance(inner, dict):
                raise RecipeError(f"--set: {part!r} of {name!r} has no fields")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"--set: {value!r} is not a value that YAML knows") from None
        if parsed is None:
            inner.pop(last, None)
        else:
            inner[last] = parsed
        # Of the two ways to give the length, the one that is set counts.
        if name in ("steps", "epochs"):
            fields.pop("epochs" if name == "steps" else "steps", None)
    return Recipe.parse(fields)


class _Display:
    """A bar of the steps, and TensorBoard's files if asked for."""

    def __init__(self, steps: int, events: Path | None) -> None:
        self._steps = steps
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
        )
        self._bar = self._progress.add_task("", total=steps, told="")
        self._folder = events or Path()
        self._writer = None if events is None else _event_writer()
        self._events: Any = None
        self._told: dict[str, str] = {}

    def observer(self) -> Any:
        """For `train`."""
        from resnet_parity.train.run import Observer

        return Observer(self._step, self._held_out, lambda text: err.print(text, highlight=False))

    def _step(self, step: int, steps: int, loss: float, accuracy: float) -> None:
        self._told |= {"loss": f"{loss:.4f}", "accuracy": f"{accuracy:.1%}"}
        self._show(step)
        self._record(step, {"training/loss": loss, "training/accuracy": accuracy})

    def _held_out(self, step: int, scores: Any) -> None:
        self._told["held out"] = f"{scores.top1:.2%}"
        self._show(step)
        told = {"top1": scores.top1, "top5": scores.top5, "loss": scores.loss}
        self._record(step, {f"held_out/{name}": value for name, value in told.items()})

    def _record(self, step: int, values: dict[str, float]) -> None:
        if self._writer is None:
            return
        if self._events is None:
            # Not before there is something to tell: the run's folder has to be its own first.
            self._events = self._writer(logdir=str(self._folder / EVENTS), purge_step=step)
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def _show(self, step: int) -> None:
        told = ", ".join(f"{name} {value}" for name, value in self._told.items())
        self._progress.update(self._bar, completed=step, told=told)

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
        if self._events is not None:
            self._events.close()


def _event_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise FrameworkError(
            "--tensorboard needs tensorboardX, which is not installed; "
            "run: pip install 'resnet-parity[tensorboard]'"
        ) from None
    return SummaryWriter


__all__ = ["changed", "check_training", "curves", "find_recipe", "shipped", "train"]
