"""Notebooks: docs/notebooks/NAME.py is the source, NAME.ipynb the same cells with what they gave.

    python -m docs.site.notebooks [NAME ...]

runs each source in a kernel of its own, in an empty folder, and writes the notebook; a cell that
raises ends it. The sources are in the percent format, which editors know as notebooks.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "notebooks"
_TOLD = ("image/png", "text/plain")
"""Kinds of output that are kept, the first of them on a page."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def sources() -> list[Path]:
    """All of them."""
    return sorted(FOLDER.glob("*.py"))


def cells(text: str) -> list[tuple[str, str]]:
    """The kind of each cell of a source, `markdown` or `code`, and its text."""
    found = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        first, _, body = part.partition("\n")
        if "[markdown]" in first:
            lines = [line.removeprefix("#").removeprefix(" ") for line in body.splitlines()]
            found.append(("markdown", "\n".join(lines).strip()))
        else:
            found.append(("code", body.strip()))
    return found


def notebook(source: Path) -> dict[str, Any]:
    """A source as a notebook that has not run."""
    made: list[dict[str, Any]] = []
    for i, (kind, text) in enumerate(cells(source.read_text(encoding="utf-8"))):
        cell = {"cell_type": kind, "id": f"cell-{i}", "metadata": {}, "source": text}
        ran = {"execution_count": None, "outputs": []} if kind == "code" else {}
        made.append(cell | ran)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def execute(source: Path) -> dict[str, Any]:
    """The notebook with the outputs of its cells; what libraries warn of is left out."""
    import nbformat
    from nbclient import NotebookClient

    made = nbformat.from_dict(notebook(source))
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(made, timeout=1800, resources=place, coalesce_streams=True).execute()
    for cell in made.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            for out in cell.outputs:
                if "data" in out:
                    out.data = {kind: out.data[kind] for kind in _TOLD if kind in out.data}
                else:
                    out.text = _COLOUR.sub("", out.text)
    return json.loads(nbformat.writes(made))  # type: ignore[no-any-return]


def page(made: dict[str, Any], name: str, pictures: Path) -> str:
    """An executed notebook as a page of the site; its pictures are written beside it."""
    about = f"[Notebook]({name}.ipynb), and the same [as a program]({name}.py)."
    return "\n\n".join([*_parts(made, name, pictures), about]) + "\n"


def _parts(made: dict[str, Any], name: str, pictures: Path) -> Iterator[str]:
    for i, cell in enumerate(made["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield text
            continue
        yield f"```python\n{text}\n```"
        for j, out in enumerate(cell["outputs"]):
            data = out.get("data", {})
            if "image/png" in data:
                picture = pictures / f"{name}-{i}-{j}.png"
                picture.write_bytes(base64.b64decode("".join(data["image/png"])))
                yield f"![what the cell above drew]({picture.name})"
            elif told := "".join(out.get("text", data.get("text/plain", ""))).rstrip():
                yield f"```text\n{told}\n```"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these")
    names = parser.parse_args().names
    root = str(FOLDER.parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    for source in sources():
        if not names or source.stem in names:
            made = json.dumps(execute(source), indent=1, ensure_ascii=False)
            source.with_suffix(".ipynb").write_text(made + "\n", encoding="utf-8")
            print(f"{source.stem}: {len(made):,} bytes", flush=True)


if __name__ == "__main__":
    main()
