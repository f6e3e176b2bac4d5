"""The sources of the site: the pages of docs/, and those that are made from the code.

`make docs` runs it, then Zensical on what it wrote, then `links.py` on what that wrote.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from docs.site.nets import cell, write_nets
from docs.site.notebooks import page
from resnet_parity.cli.app import EXAMPLES, app
from shared_spec import ResNetSpec
from shared_spec.training.recipe import Recipe

SITE = Path(__file__).parent
DOCS = SITE.parent
VERBS = {
    "verbs": (
        "Verbs",
        "The same functions in `resnet_torch`, `resnet_keras` and `resnet_flax`, on each "
        "framework's own models. Every name of the catalogue is a function as well.",
        {
            "shared_spec.backend.ModelVerbs": (
                "create_model", "predict", "classify", "transforms", "preprocess", "activations",
                "run_parts", "compiled", "export", "save_pretrained", "push_to_hub",
                "parameter_count",
            ),
            "shared_spec.catalogue": ("list_models",),
        },
    ),
    "weights": (
        "Weights",
        "Verbs that read and write weights; they are in the three packages too.",
        {
            "shared_spec.weight_verbs.WeightVerbs": (
                "export_weights", "load_weights", "save_weights", "read_checkpoint", "dtype_name",
            ),
        },
    ),
    "spec_api": (
        "Specs and plans",
        "What needs no framework: `import shared_spec`.",
        {
            "shared_spec.catalogue.resolve": ("resolve",),
            "shared_spec.spec.files": ("load_spec", "save_spec"),
            "shared_spec.plan.compiler.net": ("compile_plan",),
            "shared_spec.plan.network": ("Plan", "Stage", "Block"),
            "shared_spec.weights.initialize": ("initial_weights", "random_weights"),
            "shared_spec.plan.summary": ("layer_rows", "block_rows", "stage_rows", "macs"),
        },
    ),
}  # fmt: skip
"""Pages of the reference: title, first paragraph, and the members of modules and classes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where Zensical builds; what is there goes")
    parser.add_argument("--nets", help="only these nets, shell-style", default="*")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    pages = arguments.folder / "docs"
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("site", "__pycache__"))
    shutil.copy(SITE / "mkdocs.yml", arguments.folder)
    for name in ("index.md", "site.css", "site.js"):
        shutil.copy(SITE / name, pages)
    changes = (DOCS.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    (pages / "changelog.md").write_text(changes.replace("](docs/", "]("), encoding="utf-8")
    for made in sorted((pages / "notebooks").glob("*.ipynb")):
        text = page(json.loads(made.read_text(encoding="utf-8")), made.stem, made.parent)
        made.with_suffix(".md").write_text(text, encoding="utf-8")
    write_nets(pages / "nets", pages / "results", arguments.nets)
    folder = pages / "reference"
    folder.mkdir()
    for name, (title, about, places) in VERBS.items():
        _write(folder / f"{name}.md", title, [about, *_members(places)])
    _write(folder / "spec.md", "Fields of a spec", _schema(ResNetSpec.json_schema()))
    _write(folder / "recipe.md", "Fields of a recipe", _schema(Recipe.json_schema()))
    _write(folder / "commands.md", "Commands", _commands())


def _write(path: Path, title: str, paragraphs: Sequence[str]) -> None:
    path.write_text("\n\n".join([f"# {title}", *paragraphs]) + "\n", encoding="utf-8")


def _members(places: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for place, names in places.items():
        for name in names:
            yield f"::: {place}.{name}"


def _schema(schema: Mapping[str, Any]) -> Iterator[str]:
    """Tables of the fields of a document and of the records in it."""
    yield "Written from the code that validates it; `resnet-parity schema` prints it for editors."
    records = {"": schema, **schema.get("$defs", {})}
    for name, record in records.items():
        if not record.get("properties"):
            continue
        rows = ["| field | values | default | meaning |", "|---|---|---|---|"]
        for field, about in record["properties"].items():
            needed = field in record.get("required", ())
            default = "required" if needed else f"`{about.get('default')}`"
            told = (f"`{field}`", _values(about), default, about.get("description", ""))
            rows.append(f"| {' | '.join(map(cell, told))} |")
        yield (f"## {name}\n\n" if name else "") + "\n".join(rows)


def _values(about: Mapping[str, Any]) -> str:
    """What a field takes, in words."""
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in about:
        return f"`{about['const']}`"
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    for key in ("anyOf", "oneOf"):
        if key in about:
            return " or ".join(map(_values, about[key]))
    if about.get("type") == "array":
        items = about.get("items") or (about.get("prefixItems") or [{}])[0]
        return f"list of {_values(items)}"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {about[key]:,}" for key, sign in limits.items() if key in about]
    return " ".join([about.get("type", "anything"), ", ".join(bounds)]).strip()


def _commands() -> Iterator[str]:
    """A section for each command: what its `--help` says."""
    yield "Exit codes: 0 where the check holds, 1 where it fails, 2 for bad input."
    plain = {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "88"}
    for example in EXAMPLES.values():
        name = example.split()[0]
        told = CliRunner().invoke(app, [name, "--help"], prog_name="resnet-parity", env=plain)
        text = "\n".join(line.rstrip() for line in told.output.strip().splitlines())
        yield f"## {name}\n\n```text\n{text}\n```"


if __name__ == "__main__":
    main()
