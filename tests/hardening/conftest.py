"""One process that reads damaged files, for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hardening.attack.child import Child
from tests.hardening.attack.samples import make_samples


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid file of every format."""
    folder = tmp_path_factory.mktemp("samples")
    make_samples(folder)
    return folder


@pytest.fixture(scope="module")
def child(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """It has 1 GiB of address space."""
    child = Child(samples, tmp_path_factory.mktemp("work"))
    yield child
    child.close()
