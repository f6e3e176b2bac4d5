"""The sources of the site, and the checker of its links. `make docs` builds it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.site import pages
from docs.site.links import problems
from resnet_parity.cli.app import EXAMPLES
from shared_spec import ResNetSpec, compile_plan, resolve
from shared_spec.training.recipe import Recipe
from tests.docs.blocks import ROOT

DOCS = Path(pages.__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pages", str(folder), "--nets", "re[sg]net*[5y][01_]*"])
        pages.main()
    return folder


def named(entry: Any) -> list[str]:
    """The pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in entry for value in part.values() for page in named(value)]


def test_navigation_has_every_page(site: Path) -> None:
    settings = yaml.safe_load((site / "mkdocs.yml").read_text())
    listed = named(settings["nav"])
    assert len(listed) == len(set(listed))
    found = {str(path.relative_to(site / "docs")) for path in (site / "docs").rglob("*.md")}
    inner = {page for page in found if page.startswith("nets/") and page != "nets/index.md"}
    assert set(listed) == found - inner
    assert "nets/resnet50d.md" in inner
    source = {
        str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if "site" not in path.parts
    }
    assert source <= found


def test_page_of_a_net(site: Path) -> None:
    text = (site / "docs/nets/resnet50.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block
    assert ResNetSpec.model_validate(yaml.safe_load(block[1])) == resolve("resnet50")
    assert f"{compile_plan(resolve('resnet50')).parameter_count():,}" in text
    assert 'resnet_flax.create_model("resnet50", pretrained=True)' in text
    assert "`resnet50.a1_in1k`" in text
    assert "## Parity" in text
    assert "(../results/speed.md)" in text
    assert (site / "docs/nets/resnet50.svg").read_text().startswith("<svg")
    judged = (ROOT / "docs/results/catalogue.md").read_text(encoding="utf-8")
    for name in ("resnet51q", "regnety_320"):
        told = "## Parity" in (site / f"docs/nets/{name}.md").read_text()
        assert told == (f"| `{name}` |" in judged)


def test_reference_has_every_field_and_command(site: Path) -> None:
    reference = site / "docs/reference"
    for document, page in ((ResNetSpec, "spec.md"), (Recipe, "recipe.md")):
        text = (reference / page).read_text()
        assert [f for f in document.model_fields if f"| `{f}` |" not in text] == []
    commands = (reference / "commands.md").read_text()
    for example in EXAMPLES.values():
        assert f"## {example.split()[0]}\n" in commands
        assert f"Example: resnet-parity {example}" in re.sub(r"\s+", " ", commands)
    for page, (_, _, places) in pages.VERBS.items():
        text = (reference / f"{page}.md").read_text()
        for place, names in places.items():
            assert all(f"::: {place}.{name}" in text for name in names)


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h2 id="there"></h2><a href="#there"></a><a href="b.html#x"></a><img src="p.png">'
        '<a href="https://example.org/"></a><link rel="canonical" href="https://example.org/">'
    )
    (tmp_path / "b.html").write_text('<p id="x"><a href="a.html">')
    (tmp_path / "p.png").write_bytes(b"")
    assert problems(tmp_path) == []
    (tmp_path / "b.html").write_text(
        '<a href="c.html"></a><a href="a.html#gone"></a><object data="n.svg"></object>'
        '<script src="https://example.org/x.js"></script>'
        '<link rel="stylesheet" href="//example.org/x.css">'
    )
    found = problems(tmp_path)
    assert len(found) == 6
    for said in ("c.html is not", "#gone: there is no", "n.svg is not", "x.js is loaded", "x.css"):
        assert any(said in line for line in found)
