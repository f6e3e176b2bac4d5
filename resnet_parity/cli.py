"""The command line. Imports no framework; engines run in worker processes."""

from __future__ import annotations

import io
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from resnet_parity import tables
from resnet_parity.engines import ENGINES, parse_device, parse_engines
from shared_spec.analysis import layer_rows, stage_rows
from shared_spec.api import resolve
from shared_spec.catalogue import CATALOGUE, list_models
from shared_spec.compiler import compile_plan
from shared_spec.errors import ResNetError
from shared_spec.spec import ResNetSpec

app = typer.Typer(
    name="resnet-parity",
    help="One ResNet definition, three native frameworks, and the proof that they agree.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(emoji=False)
err = Console(stderr=True, emoji=False)

ModelArgument = Annotated[str, typer.Argument(help="A catalogue name or a spec file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WeightsOption = Annotated[
    Path | None, typer.Option(help="A weights file in any format that convert reads.")
]
DeviceOption = Annotated[str, typer.Option(help="cpu, gpu or tpu.")]


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
        sys.exit(2)
    except MemoryError:
        err.print("[bold red]error:[/] the model does not fit into this machine's memory")
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell-style, such as 'resnet*50*'.")] = "*",
    family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The models of the catalogue, with parameters and MACs."""
    families = dict.fromkeys(entry.family for entry in CATALOGUE.values())
    if family is not None and family not in families:
        raise ResNetError(f"family: {family!r} is not one of {', '.join(families)}")
    entries = [CATALOGUE[name] for name in list_models(pattern)]
    entries = [e for e in entries if family in (None, e.family)]
    if not entries:
        raise ResNetError(f"no model matches {pattern!r}; `resnet-parity list` shows all")
    rows = []
    for entry in entries:
        side = entry.spec.image_size
        layers = layer_rows(compile_plan(entry.spec), (side, side))
        rows.append(
            {
                "name": entry.name,
                "family": entry.family,
                "parameters": sum(row.parameters for row in layers),
                "macs": sum(row.macs for row in layers),
                "image_size": side,
                "source": entry.source,
                "note": entry.note,
            }
        )
    _print(rows, as_json, tables.catalogue)


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
            for row, chain in zip(rows, [p.stem, *[()] * len(p.stages), p.head], strict=True)
        ],
        "spec": spec.to_dict(),
    }
    _print(data, as_json, tables.network)


@app.command()
def schema() -> None:
    """The JSON Schema of spec files, for editors."""
    print(json.dumps(ResNetSpec.json_schema(), indent=2))


@app.command()
def check(
    model: ModelArgument,
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
    as_json: JsonOption = False,
) -> None:
    """Compare parameter counts, shapes, logits and every block's output between engines."""
    from resnet_parity.check import check as run_check
    from resnet_parity.convert import read_for

    chosen = parse_engines(engines)
    spec = resolve(model)
    given = None if weights is None else read_for(spec, weights)
    with tables.progress(err) as advance:
        report = run_check(
            spec,
            chosen,
            name=model,
            dtype=dtype,
            weights=None if given is None else given.state,
            device=parse_device(device),
            sizes=[_size(text) for text in image_size] if image_size else None,
            batch=batch,
            seed=seed,
            requested=engines is not None,
            step=advance,
        )
    _print(report.to_dict(), as_json, tables.parity)
    if not report.holds:
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="The weights to read.")],
    target: Annotated[
        Path, typer.Argument(help="What to write; no suffix makes an orbax directory.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Name or spec file, where SOURCE does not tell.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert weights: .safetensors, .pth, .pt, .keras, .weights.h5, .msgpack, orbax directory."""
    from resnet_parity.convert import convert as run_convert

    spec = None if model is None else resolve(model)
    with tables.progress(err) as advance:
        advance(f"{source} to {target}")
        done = run_convert(source, target, spec)
    _print(asdict(done), as_json, tables.converted)


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
    as_json: JsonOption = False,
) -> None:
    """Classify image files: the most probable classes of each."""
    from resnet_parity.predict import classify

    if weights is None:
        raise ResNetError("--weights: name a weights file; an untrained model predicts nothing")
    chosen = parse_engines(engine)
    if len(chosen) != 1:
        raise ResNetError(f"engine: name one of {', '.join(ENGINES)}")
    spec = None if model is None else resolve(model)
    with tables.progress(err) as advance:
        advance(f"{len(images)} image{'s' if len(images) > 1 else ''} on {chosen[0].name}")
        found = classify(images, weights, spec, chosen[0], parse_device(device), top)
    _print(found, as_json, tables.predictions)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        size = (0, 0)
    if not all(1 <= n <= 65_536 for n in size):
        raise ResNetError(f"image-size: {text!r} is not a size such as 224 or 97x64")
    return size


def _print(data: Any, as_json: bool, table: Any) -> None:
    if as_json:
        print(json.dumps(data, indent=2))
    else:
        table(out, data)
