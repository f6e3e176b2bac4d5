"""What the commands share: streams, options, and how a result is printed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_parity.engines.registry import ALL_ENGINES, ENGINES, RUNTIMES, Engine, parse_engines
from resnet_parity.numerics.record import JsonRecord
from resnet_parity.render.console import out
from shared_spec.errors import ResNetError, reworded

if TYPE_CHECKING:
    from shared_spec.formats.read import Asked

ModelArgument = Annotated[str, typer.Argument(help="A catalogue name or a spec file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WeightsOption = Annotated[
    str | None, typer.Option(help="Weights, from any source that convert can read.")
]
LabelsOption = Annotated[
    Path | None, typer.Option(help="A file of class names: one per line, or JSON.")
]
NetOption = Annotated[
    str | None, typer.Option(help="Name or spec file, if the weights do not identify their net.")
]
PartOption = Annotated[
    str | None,
    typer.Option(help="Which of several nets in a file, by its place: teacher/backbone."),
]
NamesOption = Annotated[
    Path | None,
    typer.Option(help="A YAML file of lines 'name in the file: canonical name', or beginnings."),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, gpu or tpu.")]
EnginesOption = Annotated[
    str | None,
    typer.Option(
        help=f"Comma-separated; default: {', '.join(ENGINES)}. Also {', '.join(RUNTIMES)}."
    ),
]
EngineOption = Annotated[str, typer.Option(help=f"One of {', '.join(ALL_ENGINES)}.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the random weights and images.")]


_OPTIONS = {
    "spec": "--model",
    "part": "--part",
    "names": "--names",
    "format": "--to",
    "weights": "--weights",
}


def in_options(text: str) -> str:
    """A message about Python's arguments with the command line's options."""
    return reworded(text, _OPTIONS)


def command_line() -> str:
    """What was typed, to be typed again."""
    return shlex.join(["resnet-parity", *sys.argv[1:]])


def print_result(data: Any, as_json: bool, table: Any) -> None:
    """As JSON, or as `table` draws it."""
    if as_json:
        print(json.dumps(data.to_dict() if isinstance(data, JsonRecord) else data, indent=2))
    else:
        table(out, data)


def conclude(result: Any, as_json: bool, table: Any, code: int = 1) -> None:
    """Print what was found, a record with the command; exit with `code` if it does not hold."""
    if isinstance(result, JsonRecord):
        result.command = command_line()  # type: ignore[attr-defined]
    print_result(result, as_json, table)
    if not (result["holds"] if isinstance(result, dict) else result.holds):
        raise typer.Exit(code)


def asked_of(weights: object, part: str | None, names: Path | None = None) -> Asked:
    """Which net of a weights file is meant.

    Raises:
        ResNetError: if there is no such file, or `names` is not a map.
    """
    if weights is None and (part is not None or names is not None):
        raise ResNetError("--part and --names: only with --weights")
    from shared_spec.formats.name_map import read_names
    from shared_spec.formats.read import Asked

    return Asked(part, None if names is None else read_names(names))


def one_engine(text: str) -> Engine:
    """The engine of a command that takes one.

    Raises:
        ResNetError: if there are several, or it is unknown.
    """
    engines = parse_engines(text)
    if len(engines) != 1:
        raise ResNetError(f"engine: {text!r}; name one of {', '.join(ALL_ENGINES)}")
    return engines[0]


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Height and width out of `224` or `97x64`.

    Raises:
        ResNetError: if it is neither.
    """
    height, _, width = text.lower().partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        size = (0, 0)
    if not all(1 <= n <= 65_536 for n in size):
        raise ResNetError(f"{option}: {text!r} is not a size such as 224 or 97x64")
    return size


def parse_names(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Names out of a comma-separated list, each once.

    Raises:
        ResNetError: if there is none, or one is not among those `known`.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names or ("",):
        if name not in known:
            raise ResNetError(f"{option}: {name!r} is not one of {', '.join(known)}")
    return names


def require_file(path: Path | None) -> None:
    """Refuse an output that could not be written, before minutes of work.

    Raises:
        ResNetError: saying what is in the way.
    """
    if path is None:
        return
    if not path.resolve().parent.is_dir():
        raise ResNetError(f"{path}: its directory does not exist; create it first")
    if path.is_dir():
        raise ResNetError(f"{path}: is a directory; name a file")


def require_factory(against: str) -> None:
    """Raise a `ResNetError` unless `--against` is of the form `module:function`."""
    module, _, function = against.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise ResNetError(
            f"--against: {against!r} is not of the form MODULE:FUNCTION, such as my_net:make_model"
        )
