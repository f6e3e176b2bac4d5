"""The command `inspect`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from resnet_parity.cli.options import JsonOption, NamesOption, NetOption, print_result
from resnet_parity.render import tables
from shared_spec.backend import fetched
from shared_spec.catalogue.resolve import resolve
from shared_spec.formats.detect import open_source
from shared_spec.formats.inspection import inspect as look
from shared_spec.formats.name_map import read_names
from shared_spec.formats.suggestion import suggestion, write_suggestion


def inspect(
    source: Annotated[str, typer.Argument(help="Anything that convert reads.")],
    model: NetOption = None,
    names: NamesOption = None,
    suggest: Annotated[
        Path | None,
        typer.Option(help="Write a map for --names here, as its arrays' order and shapes suggest."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What is in a file of weights: its arrays, the ResNets among them, and what else there is.

    No framework is imported, nothing in the file is executed, and no array is read.
    """
    path = fetched(source)
    spec = None if model is None else resolve(model)
    found = look(path, spec, None if names is None else read_names(names))
    data = asdict(found)
    for net, record in zip(found.nets, data["nets"], strict=True):
        record["spec"] = None if net.spec is None else net.spec.to_dict()
        record["num_classes"] = None if net.spec is None else net.spec.num_classes
        record["whole"] = net.whole
    data["commands"] = found.commands(model, None if names is None else str(names))
    data["suggested"] = None
    if suggest is not None:
        proposed = suggestion(open_source(path), spec)
        written = write_suggestion(suggest, proposed, source)
        named = proposed.model if written is None else str(written)
        words = ["resnet-parity", "convert", source, f"{path.stem}.safetensors"]
        words += ["--names", str(suggest), "--model", model or str(named)]
        data["suggested"] = {"names": str(suggest), "command": shlex.join(words)}
    print_result(data, as_json, tables.inspected)
