"""The commands `list`, `show`, `draw` and `schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnet_parity.cli.options import JsonOption, ModelArgument, print_result, require_file
from resnet_parity.render import catalogue as tables
from resnet_parity.render.console import out
from resnet_parity.render.text import plain, say
from shared_spec.catalogue import CATALOGUE, Entry, list_models
from shared_spec.errors import ResNetError
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.summary import describe, stage_rows, totals
from shared_spec.spec.resnet_spec import ResNetSpec


def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell-style, such as 'resnet*50*'.")] = "*",
    family: Annotated[
        list[str] | None, typer.Option(help="Only this family; can be repeated.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Only nets of this library, such as timm or keras.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="The published weights of these models.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """The models of the catalogue, with parameters and MACs; or published weights of them, with
    the accuracy that their publishers give.
    """
    if pretrained:
        from shared_spec.catalogue.pretrained import published

        weights = [published()[name] for name in list_models(pattern, pretrained=True)]
        weights = [w for w in weights if (source or "").lower() in w.library.lower()]
        weights = [w for w in weights if not family or CATALOGUE[w.model].family in family]
        if not weights:
            raise ResNetError(
                f"no published weights match {pattern!r} here; --pretrained lists all"
            )
        print_result([one.to_dict() for one in weights], as_json, tables.pretrained)
        return
    rows = []
    for entry in catalogue_entries(pattern, family or [], source or ""):
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


def show(
    model: ModelArgument,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width of the image.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The table that a paper would print: stages, shapes, parameters, MACs."""
    from shared_spec.catalogue.resolve import resolve

    spec = resolve(model)
    p = compile_plan(spec)
    side = image_size or spec.image_size
    rows = stage_rows(p, (side, side))
    layers = describe(p)
    data = {
        "model": model,
        "input": [side, side, p.in_channels],
        "parameters": p.parameter_count(),
        "macs": sum(row.macs for row in rows),
        "stages": [{**row._asdict(), "layers": layers[row.name]} for row in rows],
        "spec": spec.to_dict(),
    }
    print_result(data, as_json, tables.network)


def draw(
    model: ModelArgument,
    compare: Annotated[
        str | None, typer.Option(help="Another name or spec file; what differs is marked.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture.")] = Path("net.svg"),
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width of the image.")
    ] = None,
) -> None:
    """A picture of a net as SVG: its stages, and each kind of block with shapes and parameters.

    No framework is imported. Text can be selected, and colours are light or dark as the reader's.
    """
    from resnet_parity.render import drawing
    from shared_spec.atomic_write import durable
    from shared_spec.catalogue.resolve import resolve

    require_file(output)
    specs = {name: resolve(name) for name in (model, compare) if name is not None}
    nets = []
    for name, spec in specs.items():
        side = image_size or spec.image_size
        nets.append(drawing.Drawn(name, compile_plan(spec), (side, side)))
    if compare is None:
        svg = drawing.draw(nets[0])
    else:
        first, second = specs[model], specs[compare]
        fields = dict.fromkeys((*first.to_dict(), *second.to_dict()))
        both = [(field, getattr(first, field), getattr(second, field)) for field in fields]
        notes = [f"{field}: {ours} → {theirs}" for field, ours, theirs in both if ours != theirs]
        svg = drawing.compare(nets[0], nets[-1], notes)
    with durable(output) as draft:
        draft.write_text(svg, encoding="utf-8")
    say(out, f"Picture: {plain(output)}")


def schema(
    recipe: Annotated[
        bool, typer.Option("--recipe", help="The schema of recipes instead.")
    ] = False,
) -> None:
    """The JSON Schema of spec files, for editors."""
    if recipe:
        from shared_spec.training.recipe import Recipe

        print_result(Recipe.json_schema(), True, None)
        return
    print_result(ResNetSpec.json_schema(), True, None)


def catalogue_entries(pattern: str, families: list[str], source: str = "") -> list[Entry]:
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
