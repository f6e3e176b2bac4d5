"""What the packages look like: rules that keep folders small and names where they belong."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = (
    "shared_spec",
    "resnet_onnx",
    "resnet_torch",
    "resnet_keras",
    "resnet_flax",
    "resnet_parity",
)
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MOST = 14
"""Files of a folder beside its `__init__`, as many as are seen at a glance."""


def test_no_folder_has_more_files_than_are_seen_at_a_glance() -> None:
    counts = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    assert {str(folder): n for folder, n in counts.items() if n > MOST} == {}


def exports(tree: ast.Module) -> bool:
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def private_imports(tree: ast.Module) -> list[str]:
    """Names with an underscore that come from another module of the packages."""
    return [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES
        for alias in node.names
        if alias.name.startswith("_")
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_names_are_told_at_the_door_and_private_ones_stay_inside(package: str) -> None:
    listed, private = [], {}
    for path in MODULES:
        if ROOT / package in path.parents:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            name = str(path.relative_to(ROOT))
            listed += [name] if exports(tree) and path.name != "__init__.py" else []
            private |= {name: names} if (names := private_imports(tree)) else {}
    assert (listed, private) == ([], {})


def contains(source: Path, text: str) -> bool:
    return text in source.read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["shared_spec/formats", "resnet_parity/worker"])
def test_the_page_of_a_folder_names_its_files(folder: str) -> None:
    page = ROOT / folder / "README.md"
    inside = [p for p in (ROOT / folder).iterdir() if p.suffix == ".py" or p.is_dir()]
    names = [p.stem for p in inside if not p.name.startswith("__")]
    assert [name for name in names if not contains(page, name)] == []
