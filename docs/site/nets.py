"""A page for each net of the catalogue, and the table that leads to them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import yaml

from resnet_parity.render.drawing import Drawn, draw
from shared_spec.catalogue import CATALOGUE, Entry, list_models
from shared_spec.catalogue.pretrained import Pretrained, published
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.network import Plan
from shared_spec.plan.summary import LayerRow, describe, stage_rows

_FRAMEWORKS = (("PyTorch", "torch"), ("Keras", "keras"), ("Flax", "flax"))


def write_nets(folder: Path, results: Path, pattern: str) -> None:
    """Pages and pictures; `results` has the pages of figures to look for each name in."""
    folder.mkdir()
    figures = {path.name: path.read_text(encoding="utf-8") for path in sorted(results.glob("*.md"))}
    weights: dict[str, list[Pretrained]] = {}
    for one in published().values():
        weights.setdefault(one.model, []).append(one)
    names = list_models(pattern)
    rows = []
    for name in names:
        entry = CATALOGUE[name]
        side = (entry.spec.image_size, entry.spec.image_size)
        plan = compile_plan(entry.spec)
        stages = stage_rows(plan, side)
        (folder / f"{name}.svg").write_text(draw(Drawn(name, plan, side)), encoding="utf-8")
        sections = (
            _facts(entry, plan, stages),
            _picture(name),
            _stages(plan, stages),
            _code(name, weights.get(name, [])),
            _weights(weights.get(name, [])),
            *_measured(name, figures),
        )
        text = "\n\n".join(filter(None, sections))
        (folder / f"{name}.md").write_text(f"# {name}\n\n{text}\n", encoding="utf-8")
        macs = sum(row.macs for row in stages)
        rows.append((entry, plan.parameter_count(), macs, len(weights.get(name, []))))
    (folder / "index.md").write_text(_table(rows), encoding="utf-8")


def cell(text: str) -> str:
    """Of a table of Markdown."""
    return text.replace("|", "\\|").replace("\n", " ")


def _facts(entry: Entry, plan: Plan, stages: Sequence[LayerRow]) -> str:
    side = entry.spec.image_size
    note = f" {entry.note}." if entry.note else ""
    spec = yaml.safe_dump(entry.spec.to_dict(), sort_keys=False, default_flow_style=None)
    return (
        f"{entry.source}.{note} Family `{entry.family}`; on images of {side} × {side} pixels "
        f"{plan.parameter_count():,} parameters and {sum(row.macs for row in stages) / 1e9:.3f} G "
        f"multiply-accumulates.\n\nThe spec, without what is default:\n\n"
        f"```yaml\n{spec}```"
    )


def _picture(name: str) -> str:
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Drawing of {name}">'
        f'<object class="net" tabindex="-1" type="image/svg+xml" data="{name}.svg"></object>'
        "</div>\n\n"
        f"[The picture alone]({name}.svg), as `resnet-parity draw {name}` draws it."
    )


def _stages(plan: Plan, stages: Sequence[LayerRow]) -> str:
    layers = describe(plan)
    rows = ["| stage | layers | output | parameters | MACs |", "|---|---|---|---:|---:|"]
    for row in stages:
        shape = " × ".join(map(str, row.shape))
        told = (row.name, layers[row.name], shape, f"{row.parameters:,}", f"{row.macs:,}")
        rows.append(f"| {' | '.join(map(cell, told))} |")
    return "## Stages\n\n" + "\n".join(rows)


def _code(name: str, weights: Sequence[Pretrained]) -> str:
    more = ", pretrained=True" if weights else ""
    lines = (
        f"import resnet_{package}\n"
        f'model = resnet_{package}.create_model("{name}"{more})    # {framework}'
        for framework, package in _FRAMEWORKS
    )
    code = "\n".join(lines)
    return (
        f"## In each framework\n\n```python\n{code}\n```\n\n"
        f"    resnet-parity check {name}      # all engines that are installed, in float64"
    )


def _weights(weights: Sequence[Pretrained]) -> str:
    if not weights:
        return "## Weights\n\nNo published ones are known here; files of its library are read."
    rows = ["| name | library | classes | top-1 | where |", "|---|---|---:|---:|---|"]
    for one in weights:
        told = one.to_dict()
        top = "" if told["top1"] is None else f"{told['top1']:.2f}"
        name = ".".join(filter(None, (one.model, one.tag)))
        cells = (f"`{name}`", one.library, f"{told['classes']:,}", top, f"`{told['where']}`")
        rows.append(f"| {' | '.join(map(cell, cells))} |")
    table = "\n".join(rows)
    return f"## Weights\n\nAccuracy is what the publishers say.\n\n{table}"


def _measured(name: str, figures: dict[str, str]) -> Iterator[str]:
    """What pages of results have of the net: lines of the parity tables, and where else it is."""
    tables: dict[str, list[str]] = {}
    head: list[str] = []
    for line in figures["catalogue.md"].splitlines():
        if line.startswith("| name |"):
            head = [line]
        elif line.startswith("| ---") or line.startswith("|---"):
            head.append(line)
        elif line.startswith(f"| `{name}` |"):
            tables.setdefault("\n".join(head), []).append(line)
    parts = ["\n".join([above, *lines]) for above, lines in tables.items()]
    if parts:
        link = "[how it was measured](../results/catalogue.md)"
        about = f"Largest difference of the logits, relative to the largest ({link})."
        yield "\n\n".join(["## Parity", about, *parts])
    word = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")
    others = [page for page, text in figures.items() if word.search(text)]
    links = [f"[{page.removesuffix('.md')}](../results/{page})" for page in others]
    if links:
        yield f"Pages of results with figures of it, speed included: {', '.join(links)}."


def _table(rows: Sequence[tuple[Entry, int, int, int]]) -> str:
    lines = []
    for entry, parameters, macs, weights in rows:
        cells = (
            f'<th scope="row"><a href="{entry.name}.html">{entry.name}</a></th>',
            f"<td>{entry.family}</td>",
            f'<td class="figure">{parameters:,}</td>',
            f'<td class="figure">{macs / 1e9:.3f}</td>',
            f'<td class="figure">{entry.spec.image_size}</td>',
            f'<td class="figure">{weights or ""}</td>',
            f"<td>{escape(entry.source)}</td>",
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    titles = ("name", "family", "parameters", "G MACs", "input", "weights", "source")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "\n".join(lines)
    return (
        "# All nets\n\n"
        '<p><label for="filter">Filter by words, such as <code>timm 50d</code>:</label>\n'
        '<input id="filter" type="search" autocomplete="off">\n'
        '<output id="found" for="filter"></output></p>\n\n'
        f'<div class="wide" tabindex="0" role="region" aria-label="All nets">'
        f'<table id="nets"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
    )
