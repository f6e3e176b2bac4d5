"""Code in README and docs does what it says: Python runs, specs are valid, commands exist."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from resnet_parity.cli.app import app
from shared_spec import ResNetSpec
from shared_spec.formats.name_map import read_names
from shared_spec.training.recipe import Recipe
from tests.command import command
from tests.docs.blocks import BACKENDS, BEFORE, LEFT_OUT, NOT_RUN, PAGES, ROOT, blocks, commands
from tests.tiers import choice, selected

WITH_PYTHON = [p for p in PAGES if any(b.language == "python" for b in blocks(p))]
NAMED = {"docs/specs.md": "spec", "docs/training.md": "recipe", "docs/weights.md": "names"}
"""What YAML is, on each page that has some."""


def test_every_page_is_known() -> None:
    assert sorted(WITH_PYTHON) == sorted(BEFORE)
    assert {p for p in PAGES for b in blocks(p) if b.language == "yaml"} == set(NAMED)
    assert {b.language for p in PAGES for b in blocks(p)} <= {"", "python", "yaml"}
    lines = [line for p in PAGES for b in blocks(p) for line in b.text.splitlines()]
    for beginning in LEFT_OUT:
        assert any(line.startswith(beginning) for line in lines), beginning


@pytest.mark.frameworks
@pytest.mark.parametrize("page", selected(["README.md"], WITH_PYTHON))
def test_python_runs(page: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["KERAS_BACKEND"] = BACKENDS.get(page, "torch")
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.run_blocks", page],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-3000:]}"
    ran = [line for line in done.stdout.splitlines() if line.startswith(f"ran {page}:")]
    assert len(ran) == sum(block.language == "python" for block in blocks(page))


@pytest.mark.parametrize("page", NAMED)
def test_yaml_is_valid(page: str, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language != "yaml":
            continue
        if NAMED[page] == "names":
            path = tmp_path / "map.yaml"
            path.write_text(block.text)
            assert read_names(path)
        else:
            document = {"spec": ResNetSpec, "recipe": Recipe}[NAMED[page]]
            assert document.model_validate(yaml.safe_load(block.text))


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)])
def test_commands_exist(page: str) -> None:
    group = typer.main.get_command(app)
    for line, words in commands(page):
        name, *arguments = [w for w in words if w != "..."]
        assert name in group.commands, f"{page}:{line}"  # type: ignore[attr-defined]
        try:
            group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
        except Exception as error:
            pytest.fail(f"{page}:{line}: {error}")


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(blocks("docs/specs.md")[0].text)
    ran = set()
    for page in PAGES:
        for line, words in commands(page):
            if words[0] not in NOT_RUN:
                ran.add(words[0])
                done = command(*words)
                assert done.code == 0, f"{page}:{line}: {done.err}"
    assert {"list", "show", "schema", "draw"} <= ran


@pytest.mark.frameworks
@pytest.mark.skipif(choice.tier != "all", reason="a net at full depth in five engines")
def test_readme_converts_and_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resnet_torch

    monkeypatch.chdir(tmp_path)
    resnet_torch.save_weights(resnet_torch.create_model("resnet50"), "resnet50.pth")
    told = ("convert", "verify", "check")
    wanted = [words for _, words in commands("README.md") if words[0] in told]
    assert [words[0] for words in wanted] == list(told)
    for words in wanted:
        done = command(*words)
        assert done.code == 0, (done.out, done.err)
