"""The command line. Imports no framework; engines run in worker processes."""

from __future__ import annotations

import io
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_parity.cli import bench, evaluate, report, trace, train
from resnet_parity.cli.options import (
    DeviceOption,
    JsonOption,
    LabelsOption,
    ModelArgument,
    WeightsOption,
    command_line,
    err,
    print_result,
)
from resnet_parity.engines.registry import ENGINES, parse_device, parse_engines, parse_precision
from resnet_parity.render import tables
from shared_spec.backend import fetched, resolve
from shared_spec.catalogue import CATALOGUE, Entry, list_models
from shared_spec.errors import ParityError, ResNetError
from shared_spec.formats.write import format_names
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.summary import stage_rows, totals
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.labels import read_labels

if TYPE_CHECKING:
    from resnet_parity.check.catalogue import Settings

app = typer.Typer(
    name="resnet-parity",
    help="One ResNet definition, three native frameworks, and the proof that they agree.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point: 0 holds, 1 a check failed, 2 bad input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # As an exception, so that workers are ended and temporary files removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except ResNetError as error:
        err.print(f"[bold red]error:[/] {tables.plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(1 if isinstance(error, ParityError) else 2)
    except MemoryError:
        err.print("[bold red]error:[/] the model does not fit into this machine's memory")
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell-style, such as 'resnet*50*'.")] = "*",
    family: Annotated[
        list[str] | None, typer.Option(help="Only this family; once for each.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Only what comes from there, such as timm or keras.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The models of the catalogue, with parameters and MACs."""
    rows = []
    for entry in _entries(pattern, family or [], source or ""):
        parameters, macs = totals(entry.spec)
        rows.append(
            {
                "name": entry.name,
                "family": entry.family,
                "parameters": parameters,
                "macs": macs,
                "image_size": entry.spec.image_size,
                "source": entry.source,
                "note": entry.note,
            }
        )
    print_result(rows, as_json, tables.catalogue)


@app.command()
def show(
    model: ModelArgument,
    image_size: Annotated[int | None, typer.Option(min=1, help="Height and width.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The table that a paper would print: stages, shapes, parameters, MACs."""
    spec = resolve(model)
    p = compile_plan(spec)
    side = image_size or spec.image_size
    rows = stage_rows(p, (side, side))
    blocks = {stage.name: tables.describe_stage(stage) for stage in p.stages}
    data = {
        "model": model,
        "input": [side, side, p.in_channels],
        "parameters": p.parameter_count(),
        "macs": sum(row.macs for row in rows),
        "stages": [
            {**row._asdict(), "layers": blocks.get(row.name) or tables.describe_chain(chain)}
            for row, chain in zip(rows, [p.stem, *[()] * len(p.stages), p.head], strict=False)
        ],
        "spec": spec.to_dict(),
    }
    print_result(data, as_json, tables.network)


@app.command()
def schema(
    recipe: Annotated[bool, typer.Option("--recipe", help="Of recipes instead.")] = False,
) -> None:
    """The JSON Schema of spec files, for editors."""
    if recipe:
        from shared_spec.training.recipe import Recipe

        print_result(Recipe.json_schema(), True, None)
        return
    print_result(ResNetSpec.json_schema(), True, None)


@app.command()
def check(
    model: Annotated[
        str | None,
        typer.Argument(help="A catalogue name or a spec file; with --all a pattern of names."),
    ] = None,
    engines: Annotated[
        str | None, typer.Option(help=f"Comma-separated; all of {', '.join(ENGINES)} if left out.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float64, float32, float16 or bfloat16.")] = "float64",
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    image_size: Annotated[
        list[str] | None,
        typer.Option(help="H or HxW, once for each size; an even, an odd and a non-square one."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images of each size.")] = 2,
    seed: Annotated[int, typer.Option(help="Of random weights and images.")] = 0,
    precision: Annotated[
        str,
        typer.Option(
            help="Of float32 products: highest, or the frameworks' default, which is TF32 on GPUs."
        ),
    ] = "highest",
    everything: Annotated[
        bool, typer.Option("--all", help="The catalogue, against the libraries that have it too.")
    ] = False,
    family: Annotated[
        list[str] | None, typer.Option(help="With --all: only this family; once for each.")
    ] = None,
    results: Annotated[
        Path, typer.Option(help="With --all: what was found, and where to go on from.")
    ] = Path("resnet-parity-sweep.jsonl"),
    report: Annotated[
        Path | None, typer.Option(help="With --all: a Markdown file for the table.")
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Compare gradients and some steps of training.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="With --training: updates.")] = 20,
    recipe: Annotated[
        Path | None, typer.Option(help="With --training: take optimizer and schedule from it.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="With --training: a picture of the curves.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare parameter counts, shapes, logits and every block's output between engines.

    With --training, compare instead the loss, the gradients of every parameter and of the images,
    and the norms' statistics, losses and weights of some steps of training.

    With --all, compare the logits of every net of the catalogue, at full depth, between engines and
    with torchvision, timm and keras.applications where they have it. A second run goes on where the
    first one ended.
    """
    chosen = parse_engines(engines)
    sizes = [_size(text) for text in image_size] if image_size else None
    if everything:
        if weights is not None:
            raise ResNetError("--weights: the weights of --all are random")
        from resnet_parity.check.catalogue import Settings

        settings = Settings(
            tuple(chosen),
            dtype=dtype,
            device=parse_device(device),
            sizes=None if sizes is None else tuple(sizes),
            batch=batch,
            seed=seed,
            requested=engines is not None,
        )
        _sweep(settings, _entries(model or "*", family or []), results, report, as_json)
        return
    if model is None or family or report is not None:
        option = "MODEL: name one, or" if model is None else "--family and --report: only with"
        raise ResNetError(f"{option} --all")
    from resnet_parity.check.forward import check as run_check
    from resnet_parity.convert.conversion import read_for

    if not training and (plot is not None or recipe is not None):
        raise ResNetError("--plot and --recipe: only with --training")
    spec = resolve(model)
    given = None if weights is None else read_for(spec, fetched(weights))
    if training:
        from resnet_parity.cli.train import check_training

        how = {"dtype": dtype, "batch": max(batch, 2), "steps": steps, "seed": seed}
        how |= {"device": parse_device(device), "requested": engines is not None}
        how |= {"name": model, "weights": None if given is None else dict(given.state)}
        check_training(spec, chosen, sizes, recipe, plot, as_json, how)
        return
    with tables.progress(err) as advance:
        found = run_check(
            spec,
            chosen,
            name=model,
            dtype=dtype,
            weights=None if given is None else dict(given.state),
            device=parse_device(device),
            sizes=sizes,
            batch=batch,
            seed=seed,
            requested=engines is not None,
            precision=parse_precision(precision),
            step=advance,
        )
    print_result({**found.to_dict(), "command": command_line()}, as_json, tables.parity)
    if not found.holds:
        raise typer.Exit(1)


def _sweep(
    settings: Settings, entries: list[Entry], results: Path, report: Path | None, as_json: bool
) -> None:
    from resnet_parity.check.catalogue import Observer, sweep
    from resnet_parity.render.markdown import markdown, summary
    from shared_spec.atomic_write import durable

    if report is not None and not report.resolve().parent.is_dir():
        raise ResNetError(f"{report}: its directory does not exist; create it first")
    if report is not None and (report.is_dir() or report.resolve() == results.resolve()):
        raise ResNetError(f"{report}: is a directory or the file of results; name another path")
    sizes = {entry.name: compile_plan(entry.spec).parameter_count() for entry in entries}
    with tables.SweepProgress(err, sizes) as bar:
        records = sweep(entries, settings, results, Observer(bar.step, bar.done))
    if report is not None:
        with durable(report) as draft:
            draft.write_text(markdown(records))
    data = summary(records)
    print_result(data, as_json, tables.sweep)
    if not data["holds"]:
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(help="A file or directory, hf-hub:owner/name, torchvision:name or a URL."),
    ],
    target: Annotated[
        Path, typer.Argument(help="What to write; no suffix makes an orbax directory.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Name or spec file, where SOURCE does not tell.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(help=f"Where the suffix does not tell it: {', '.join(format_names())}."),
    ] = None,
    labels: LabelsOption = None,
    engines: Annotated[
        str | None,
        typer.Option(help="In which to verify; by default one of the target's framework."),
    ] = None,
    device: DeviceOption = "cpu",
    verify_it: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Whether to compare logits at the end.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Convert weights between the formats of PyTorch, Keras, Flax and the libraries around them.

    What SOURCE is, its content tells. The new file is read back bit for bit, then run in an engine
    of its framework and held against the source; the certificate lies beside it as
    TARGET.parity.json.
    """
    from resnet_parity.convert.conversion import Proof, keep_freed_memory
    from resnet_parity.convert.conversion import convert as run_convert

    if engines is not None and not verify_it:
        raise ResNetError("--engines: with --no-verify none is run; leave one of them out")
    spec = None if model is None else resolve(model)
    names = None if labels is None else read_labels(labels)
    chosen = None if engines is None else tuple(parse_engines(engines))
    keep_freed_memory()
    with tables.progress(err) as advance:
        path = fetched(source, tables.downloading(advance, source))
        advance(f"{source} to {target}")
        proof = Proof(chosen, parse_device(device), advance) if verify_it else None
        named = model in CATALOGUE  # and not by a file that tells channels and classes
        done = run_convert(path, target, spec, to, names, proof, resize=named)
    data = {**asdict(done), "source": source}
    print_result(data, as_json, tables.converted)


@app.command()
def verify(
    target: Annotated[Path, typer.Argument(help="A file or directory that convert wrote.")],
    engines: Annotated[
        str | None,
        typer.Option(help="Comma-separated; by default those of the certificate that are here."),
    ] = None,
    device: DeviceOption = "cpu",
    dtype: Annotated[
        str, typer.Option(help="Comma-separated: float64 and float32; a TPU has no float64.")
    ] = "float64,float32",
    as_json: JsonOption = False,
) -> None:
    """Hold a converted file against its certificate, TARGET.parity.json, here and now.

    The certificate carries the inputs and the source's float64 logits, so neither the source nor
    its framework is needed.
    """
    from resnet_parity.convert.certificate import DTYPES
    from resnet_parity.convert.certificate import verify as run_verify

    dtypes = tuple(dict.fromkeys(dtype.split(",")))
    if not set(dtypes) <= set(DTYPES):
        raise ResNetError(f"dtype: {dtype!r} is not of {', '.join(DTYPES)}")
    chosen = None if engines is None else parse_engines(engines)
    with tables.progress(err) as advance:
        certificate, checks = run_verify(target, chosen, parse_device(device), dtypes, advance)
    holds = all(found.holds for found in checks)
    data = {
        "target": str(target),
        "holds": holds,
        "source": certificate.source,
        "reference": certificate.reference_engine,
        "checks": [asdict(found) for found in checks],
    }
    print_result(data, as_json, tables.verified)
    if not holds:
        raise typer.Exit(1)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[
        str | None, typer.Option(help="Name or spec file, where the weights do not tell.")
    ] = None,
    weights: WeightsOption = None,
    engine: Annotated[str, typer.Option(help=f"One of {', '.join(ENGINES)}.")] = "torch",
    device: DeviceOption = "cpu",
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    labels: LabelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify image files: the most probable classes of each."""
    from resnet_parity.evaluate.predict import classify

    if weights is None:
        raise ResNetError("--weights: name a weights file; an untrained model predicts nothing")
    chosen = parse_engines(engine)
    if len(chosen) != 1:
        raise ResNetError(f"engine: name one of {', '.join(ENGINES)}")
    spec = None if model is None else resolve(model)
    names = None if labels is None else read_labels(labels)
    with tables.progress(err) as advance:
        advance(f"{len(images)} image{'s' if len(images) > 1 else ''} on {chosen[0].name}")
        found = classify(
            images, fetched(weights), spec, chosen[0], parse_device(device), top, names
        )
    print_result(found, as_json, tables.predictions)


def _entries(pattern: str, families: list[str], source: str = "") -> list[Entry]:
    """What the catalogue has under a pattern, in some families or, if none is named, in all, and
    from a source whose description contains these words.
    """
    known = dict.fromkeys(entry.family for entry in CATALOGUE.values())
    for family in families:
        if family not in known:
            raise ResNetError(f"family: {family!r} is not one of {', '.join(known)}")
    entries = [CATALOGUE[name] for name in list_models(pattern)]
    entries = [e for e in entries if not families or e.family in families]
    found = [e for e in entries if source.lower() in e.source.lower()]
    if entries and not found:
        known = dict.fromkeys(e.source for e in entries)
        raise ResNetError(f"source: {source!r} is in none of {'; '.join(known)}")
    if not found:
        raise ResNetError(f"no model matches {pattern!r}; `resnet-parity list` shows all")
    return found


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        size = (0, 0)
    if not all(1 <= n <= 65_536 for n in size):
        raise ResNetError(f"image-size: {text!r} is not a size such as 224 or 97x64")
    return size


app.command()(train.train)
app.command()(train.curves)
app.command()(evaluate.evaluate)
app.command()(trace.trace)
app.command()(bench.bench)
app.command()(report.report)
