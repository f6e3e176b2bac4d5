"""What an installed package contains: whatever its folders hold."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = [ROOT / pattern.rstrip("*") for pattern in SETTINGS["packages"]["find"]["include"]]


def test_every_data_file_is_packaged() -> None:
    globs = SETTINGS["package-data"]
    packaged = {
        file
        for folder in FOLDERS
        for pattern in [f"**/{p}" for p in globs["*"]] + globs.get(folder.name, [])
        for file in folder.glob(pattern)
    }
    data = {
        file
        for folder in FOLDERS
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert data
    assert data <= packaged


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {file.parent for folder in FOLDERS for file in folder.rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)
