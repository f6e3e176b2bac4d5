"""The commands that train and score."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from resnet_parity.cli.options import (
    DeviceOption,
    JsonOption,
    one_engine,
    print_result,
)
from resnet_parity.engines.registry import ENGINES, parse_device, require_training
from resnet_parity.render import plots, tables
from resnet_parity.render.console import err
from resnet_parity.render.progress import TrainingProgress
from resnet_parity.render.text import plain
from shared_spec.errors import FrameworkError, RecipeError


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A YAML, TOML or JSON file, or a name from --list."),
    ] = None,
    engine: Annotated[str, typer.Option(help=f"One of {', '.join(ENGINES)}.")] = "torch",
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; default: runs/RECIPE-ENGINE.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Path of the data, instead of the recipe's.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE of the recipe, such as seed=1; can be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run.")] = False,
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
        bool, typer.Option("--list", help="List the recipes that come with the package.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train by a recipe, in one engine.

    The run's folder gets metrics.jsonl, curves.png, a checkpoint that any engine can resume,
    and the weights with their preprocessing and labels.
    """
    from resnet_parity.train.recipes import changed, find_recipe, shipped

    if show:
        from shared_spec.training.recipe import load_recipe

        rows = {name: load_recipe(path).description for name, path in shipped().items()}
        print_result(rows, as_json, tables.recipes)
        return
    if recipe is None:
        raise RecipeError("RECIPE: name one; --list shows those that come with the package")
    found = changed(find_recipe(recipe), data, change or [])
    chosen = one_engine(engine)
    require_training([chosen])
    missing = chosen.missing()
    if missing is not None:
        raise FrameworkError(f"{chosen.name}: {missing}")
    where = parse_device(device)
    folder = output or Path("runs") / f"{Path(recipe).stem}-{engine.replace(':', '-')}"
    # Before the framework is imported: Keras reads its engine's name only then.
    os.environ.update(chosen.environment(where))
    from resnet_parity.train import run as training
    from resnet_parity.worker import distributed as world

    shard = world.join(chosen, where, distributed)
    prepared = training.prepare(found, shard=shard)
    run = partial(training.train, prepared, chosen, folder, device=where, resume=resume)
    if shard[0]:  # the first process tells
        run()
        world.leave(chosen, shard[1])
        return
    with TrainingProgress(prepared.steps, folder if tensorboard else None) as display:
        done = run(observer=display.observer())
    world.leave(chosen, shard[1])
    try:
        plots.curves({chosen.name: training.read_metrics(folder)}, folder / training.CURVES)
    except FrameworkError as error:
        err.print(f"note: {plain(error)}", highlight=False, soft_wrap=True)
    print_result(done.to_dict(), as_json, tables.trained)


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders written by train.")],
    output: Annotated[Path, typer.Option(help="A .png, .svg or .pdf file.")] = Path("curves.png"),
) -> None:
    """Draw the learning curves of several runs in one picture."""
    from resnet_parity.train import run as training

    plots.require_picture(output)
    names = [folder.name or str(folder) for folder in runs]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in runs]
    found = {name: training.read_metrics(run) for name, run in zip(names, runs, strict=True)}
    plots.curves(found, output)
    err.print(f"wrote {plain(output)}", highlight=False, soft_wrap=True)
