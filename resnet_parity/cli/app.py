"""The command line. Imports no framework; engines run in worker processes."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, cast

import typer

from resnet_parity.cli.options import in_options
from resnet_parity.render.console import err, out
from resnet_parity.render.text import plain
from shared_spec.errors import ParityError, ResNetError, WeightsError, WeightsWarning

EXAMPLES = {
    "catalogue.list_command": "list 'resnet*50*' --family timm",
    "catalogue.show": "show resnet50d --image-size 288",
    "catalogue.draw": "draw resnet50 --compare resnet50d -o net.svg",
    "catalogue.schema": "schema > resnet.schema.json",
    "check.check": "check resnet50 --engines torch,flax",
    "convert.convert": "convert hf-hub:timm/resnet50.a1_in1k resnet50.weights.h5",
    "convert.certify": "certify runs/digits-torch/weights.safetensors",
    "convert.verify": "verify resnet50.weights.h5",
    "export.export": "export resnet50.a1_in1k -o resnet50.onnx --preprocessing inside",
    "inspect.inspect": "inspect checkpoint.pth",
    "download.download": "download resnet50.a1_in1k 'resnet18*' --library timm",
    "predict.predict": "predict cat.jpg --weights resnet50.weights.h5",
    "train.train": "train digits --engine flax --set epochs=5",
    "train.curves": "curves runs/digits-torch runs/digits-flax --output curves.png",
    "evaluate.evaluate": "evaluate resnet50.pth --data imagenet/val --format folder",
    "trace.trace": "trace resnet18 --against my_net:make_model",
    "bench.bench": "bench resnet50 --engines torch,flax --batch 8",
    "bench.aot": "aot resnet50 --target tpu:v5e:2x2 --batch 64",
    "report.report": "report resnet18 --speed --output report.html",
}
"""Each command's function, by module here, with an example that begins with the command's name."""


class _Commands(Mapping[str, Any]):
    """The commands by name, each loaded when it is asked for: one that is quick does not wait for
    what the others import.
    """

    def __init__(self) -> None:
        self._places = {example.split()[0]: place for place, example in EXAMPLES.items()}

    def __getitem__(self, name: str) -> Any:
        place = self._places[name]
        module, _, function = place.partition(".")
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        command = getattr(import_module(f"resnet_parity.cli.{module}"), function)
        alone.command(name, epilog=f"Example: resnet-parity {EXAMPLES[place]}")(command)
        return typer.main.get_command(alone)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _Group(typer.core.TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = cast(Any, _Commands())


app = typer.Typer(
    name="resnet-parity",
    cls=_Group,
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
    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    try:
        app()
    except ResNetError as error:
        text = in_options(str(error))
        if isinstance(error, WeightsError) and error.mismatches and "--json" in sys.argv:
            told = {"error": text, "mismatches": error.mismatches}
            print(json.dumps(told, indent=2))
        err.print(f"[bold red]error:[/] {plain(text)}", highlight=False, soft_wrap=True)
        sys.exit(1 if isinstance(error, ParityError) else 2)
    except MemoryError:
        err.print("[bold red]error:[/] the model does not fit into this machine's memory")
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)


def _show_warning(usual: Callable[..., None], message: Warning | str, *where: Any) -> None:
    """What was left out of a file of weights is a line for people, and not one of Python's."""
    if isinstance(message, WeightsWarning):
        err.print(f"Note: {plain(in_options(str(message)))}", highlight=False, soft_wrap=True)
    else:
        usual(message, *where)


def _print_versions(wanted: bool) -> None:
    if not wanted:
        return
    for name in ("resnet-parity", "torch", "keras", "tensorflow", "jax", "flax"):
        release = "is not installed"
        # TensorFlow's build without GPUs is a package of its own.
        for package in (f"{name}-cpu", name):
            with contextlib.suppress(PackageNotFoundError):
                release = version(package)
        out.print(f"{name} {release}", highlight=False)
    raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_versions,
            help="Print the versions of this package and of the frameworks.",
        ),
    ] = False,
) -> None:
    """One ResNet definition, three native frameworks, and the proof that they agree."""
