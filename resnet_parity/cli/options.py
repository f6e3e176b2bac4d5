"""What the commands share: streams, options, and how a result is printed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from resnet_parity.numerics.record import JsonRecord
from resnet_parity.render.console import out

ModelArgument = Annotated[str, typer.Argument(help="A catalogue name or a spec file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WeightsOption = Annotated[
    str | None, typer.Option(help="Weights, from any source that convert can read.")
]
LabelsOption = Annotated[
    Path | None, typer.Option(help="A file of class names: one per line, or JSON.")
]
DeviceOption = Annotated[str, typer.Option(help="cpu, gpu or tpu.")]


def command_line() -> str:
    """What was typed, to be typed again."""
    return shlex.join(["resnet-parity", *sys.argv[1:]])


def print_result(data: Any, as_json: bool, table: Any) -> None:
    """As JSON, or as `table` draws it."""
    if as_json:
        print(json.dumps(data.to_dict() if isinstance(data, JsonRecord) else data, indent=2))
    else:
        table(out, data)
