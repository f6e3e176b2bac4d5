"""The command `inspect`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from resnet_parity.cli.options import JsonOption, NamesOption, NetOption, in_options, print_result
from resnet_parity.render import tables
from shared_spec.catalogue import CATALOGUE
from shared_spec.catalogue.resolve import resolve
from shared_spec.formats.detect import open_source
from shared_spec.formats.inspection import command_line, target_for
from shared_spec.formats.inspection import inspect as look
from shared_spec.formats.name_map import read_names
from shared_spec.formats.suggestion import suggestion, write_suggestion
from shared_spec.origin import fetched


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
    given = None if names is None else read_names(names)
    found = look(path, spec, given, resize=model in CATALOGUE)
    typed = None if names is None else str(names)
    data = asdict(found)
    data["problem"] = in_options(found.problem)
    for net, record in zip(found.nets, data["nets"], strict=True):
        record["problem"] = in_options(net.problem)
        record["spec"] = None if net.spec is None else net.spec.to_dict()
        record["command"] = found.command(net, source, model, typed)
    opened = open_source(path)
    data["arrays"] = [
        {"name": name, "shape": array.shape, "dtype": array.dtype.name}
        for name, array in opened.tensors.entries.items()
    ]
    data["suggest"] = data["suggested"] = None
    if found.mappable and suggest is None:
        words = ["--suggest", "map.yaml", *(() if model is None else ("--model", model))]
        data["suggest"] = command_line("inspect", source, *words)
    if suggest is not None:
        proposed = suggestion(opened, spec)
        written = write_suggestion(suggest, proposed, source)
        named = model or str(written or proposed.model)
        words = ["--names", str(suggest), "--model", named]
        command = command_line("convert", source, target_for(source), *words)
        data["suggested"] = {"names": str(suggest), "command": command}
    print_result(data, as_json, tables.inspected)
