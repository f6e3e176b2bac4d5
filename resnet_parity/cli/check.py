"""The command `check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from resnet_parity.check.result import DeterminismReport, TrainingReport
from resnet_parity.cli.catalogue import catalogue_entries
from resnet_parity.cli.options import (
    DeviceOption,
    EnginesOption,
    JsonOption,
    NamesOption,
    PartOption,
    SeedOption,
    WeightsOption,
    asked_of,
    conclude,
    parse_names,
    parse_size,
    require_file,
)
from resnet_parity.engines.registry import parse_device, parse_engines, parse_precision
from resnet_parity.render import plots, tables
from resnet_parity.render.console import err
from resnet_parity.render.determinism import table as determinism_table
from resnet_parity.render.progress import SweepProgress, progress
from shared_spec.catalogue import Entry
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import ResNetError
from shared_spec.origin import fetched
from shared_spec.plan.compiler import compile_plan
from shared_spec.weights.state import DTYPES as KNOWN_DTYPES


def check(
    model: Annotated[
        str | None,
        typer.Argument(help="A catalogue name or a spec file; with --all a pattern of names."),
    ] = None,
    engines: EnginesOption = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float64, float32, float16 or bfloat16; default: float64, with --determinism "
            "float32,bfloat16."
        ),
    ] = None,
    weights: WeightsOption = None,
    part: PartOption = None,
    names: NamesOption = None,
    device: DeviceOption = "cpu",
    image_size: Annotated[
        list[str] | None,
        typer.Option(
            help="H or HxW; repeat for each size. Default: an even, an odd and a non-square one."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of images of each size; default: 2, with --determinism 8."
        ),
    ] = None,
    seed: SeedOption = 0,
    precision: Annotated[
        str,
        typer.Option(
            help="Of float32 products: highest, or the frameworks' default (TF32 on GPUs)."
        ),
    ] = "highest",
    everything: Annotated[
        bool, typer.Option("--all", help="Check the whole catalogue, also against other libraries.")
    ] = False,
    family: Annotated[
        list[str] | None, typer.Option(help="With --all: only this family; can be repeated.")
    ] = None,
    results: Annotated[
        Path,
        typer.Option(help="With --all: the file of results, from which a later run continues."),
    ] = Path("resnet-parity-sweep.jsonl"),
    report: Annotated[
        Path | None, typer.Option(help="With --all: write the table to this Markdown file.")
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Compare gradients and a few training steps.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="With --training: number of updates.")] = 20,
    recipe: Annotated[
        Path | None, typer.Option(help="With --training: a recipe for optimizer and schedule.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="With --training: write the curves to this picture.")
    ] = None,
    determinism: Annotated[
        bool,
        typer.Option(
            "--determinism", help="Compare each engine's bits with its own, run in other ways."
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="With --determinism: hold one image at a time on one thread to giving the same "
            "bits, and time it.",
        ),
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compiled", help="With --determinism: also what `compiled` makes, minutes in PyTorch."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare parameter counts, shapes, logits and every block's output between engines.

    With --training, compare the loss, the gradients of every parameter and of the images, and the
    norms' statistics, losses and weights over a few training steps instead.

    With --determinism, run each engine again with other sizes of batches, positions in them,
    processes, threads, layouts and sets of instructions, compiled and not, and tell which of these
    change bits, by how much, and the first layer that differs.

    With --all, compare the logits of every net of the catalogue, at full depth, between engines and
    with torchvision, timm and keras.applications where they have it. A second run continues where
    the first one ended.
    """
    run: dict[str, Any] = {"engines": tuple(parse_engines(engines)), "dtype": dtype or "float64"}
    run |= {"batch": batch or 2, "seed": seed, "requested": engines is not None}
    run |= {"device": parse_device(device)}
    asked = asked_of(weights, part, names)
    run["sizes"] = tuple(parse_size("image-size", text) for text in image_size or ()) or None
    kinds = {"--all": everything, "--training": training, "--determinism": determinism}
    if len(named := [option for option, given in kinds.items() if given]) > 1:
        raise ResNetError(f"{' and '.join(named)}: each is a check of its own; name one")
    if everything:
        if weights is not None:
            raise ResNetError("--weights: the weights of --all are random")
        entries = catalogue_entries(model or "*", family or [])
        conclude(_catalogue(entries, run, results, report), as_json, tables.sweep)
        return
    if model is None or family or report is not None:
        option = "MODEL: name one, or" if model is None else "--family and --report: only with"
        raise ResNetError(f"{option} --all")
    if (strict or compiled) and not determinism:
        raise ResNetError("--strict and --compiled: only with --determinism")
    if not training and (plot is not None or recipe is not None):
        raise ResNetError("--plot and --recipe: only with --training")
    from resnet_parity.check.forward import check as run_check
    from resnet_parity.convert.read import read_for

    spec = resolve(model)
    given = None if weights is None else read_for(spec, fetched(weights), asked)
    run |= {"spec": spec, "name": model, "weights": None if given is None else dict(given.state)}
    if determinism:
        run |= {"batch": batch or 8, "strict": strict, "compiled": compiled}
        conclude(_determinism(run, dtype), as_json, determinism_table)
        return
    if training:
        run |= {"batch": max(run["batch"], 2), "steps": steps}
        conclude(_training(run, recipe, plot), as_json, tables.training)
        return
    run |= {"precision": parse_precision(precision)}
    with progress(err) as advance:
        found = run_check(on_progress=advance, **run)
    conclude(found, as_json, tables.parity)


def _training(run: dict[str, Any], recipe: Path | None, plot: Path | None) -> TrainingReport:
    from resnet_parity.check.training import check_training
    from resnet_parity.train.recipes import find_recipe

    sizes = run.pop("sizes") or (None,)
    if len(sizes) > 1:
        raise ResNetError("--image-size: --training takes one")
    plots.require_picture(plot)
    run |= {"optimization": None if recipe is None else find_recipe(str(recipe)).optimization}
    with progress(err) as advance:
        found = check_training(size=sizes[0], on_progress=advance, **run)
    if plot is not None:
        plots.training_parity(found, plot)
    return found


def _determinism(run: dict[str, Any], dtypes: str | None) -> DeterminismReport:
    from resnet_parity.check.determinism import check_determinism

    sizes = run.pop("sizes") or (None,)
    if len(sizes) > 1:
        raise ResNetError("--image-size: --determinism takes one")
    if run.pop("device") != "cpu":
        raise ResNetError("--device: --determinism is about what varies on CPUs")
    known = tuple(KNOWN_DTYPES)
    run["dtypes"] = None if dtypes is None else parse_names("dtype", dtypes, known)
    run.pop("dtype")
    with progress(err) as advance:
        return check_determinism(size=sizes[0], on_progress=advance, **run)


def _catalogue(
    entries: list[Entry], run: dict[str, Any], results: Path, report: Path | None
) -> dict[str, Any]:
    from resnet_parity.check.catalogue import SweepObserver, SweepSettings, sweep
    from resnet_parity.render.markdown import markdown, summary
    from shared_spec.atomic_write import durable

    if report is not None and (report.is_dir() or report.resolve() == results.resolve()):
        raise ResNetError(f"{report}: is a directory or the file of results; name another path")
    require_file(report)
    settings = SweepSettings(**run)
    counts = {entry.name: compile_plan(entry.spec).parameter_count() for entry in entries}
    with SweepProgress(err, counts) as bar:
        records = sweep(entries, settings, results, SweepObserver(bar.step, bar.done))
    if report is not None:
        with durable(report) as draft:
            draft.write_text(markdown(records))
    return summary(records)
