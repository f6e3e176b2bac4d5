"""The command `draw`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnet_parity.cli.options import ModelArgument, require_file
from resnet_parity.render import drawing
from resnet_parity.render.console import out
from resnet_parity.render.drawing import Drawn
from resnet_parity.render.text import plain, say
from shared_spec.atomic_write import durable
from shared_spec.catalogue.resolve import resolve
from shared_spec.plan.compiler import compile_plan


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
    require_file(output)
    specs = {name: resolve(name) for name in (model, compare) if name is not None}
    nets = []
    for name, spec in specs.items():
        side = image_size or spec.image_size
        nets.append(Drawn(name, compile_plan(spec), (side, side)))
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
