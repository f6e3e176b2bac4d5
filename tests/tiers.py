"""How much each tier runs: the one place where its counts and its selections are written.

`pytest --tier quick|test|all` chooses. `quick` has what no framework is needed for; `test` catches
every injected fault on small samples; `all` has the full counts, from which published figures come.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from itertools import combinations
from typing import Any, Literal, TypeVar

from resnet_parity.engines.registry import ENGINES, Engine
from shared_spec import ResNetSpec

Tier = Literal["quick", "test", "all"]
T = TypeVar("T")

FRAMEWORKS = {"torch", "torchvision", "timm", "transformers", "tensorflow", "keras", "jax", "flax"}

WITHOUT_FRAMEWORKS = (
    "bench/test_aot.py",
    "bench/test_bench.py",
    "bench/test_bound.py",
    "bench/test_cli.py",
    "docs/test_code_blocks.py",
    "docs/test_notebooks.py",
    "docs/test_site.py",
    "formats/test_tensors.py",
    "formats/test_without_frameworks.py",
    "cli/test_cli.py",
    "cli/test_draw.py",
    "cli/test_progress.py",
    "cli/test_sweep.py",
    "hardening/test_corpus.py",
    "hardening/test_hdf5_process.py",
    "parity/test_compare.py",
    "parity/test_determinism.py",
    "report/test_page.py",
    "spec/test_initialize.py",
    "spec/test_labels.py",
    "spec/test_package.py",
    "spec/test_plan.py",
    "spec/test_recipe.py",
    "spec/test_spec.py",
    "test_pytest_options.py",
)
"""The files of `quick`. Single tests of theirs that need an engine after all ask for the fixture
`pool` or are marked `frameworks`.
"""

AMOUNTS: dict[str, tuple[int, int]] = {
    "damaged HDF5 files": (150, 1000),
    "damaged files of another format": (400, 1000),
    "cuts of a header": (60, 150),
    "cuts of data": (15, 50),
    "kills of a conversion": (10, 45),
    "drawn nets": (9, 110),
    "drawn Keras models": (18, 300),
    "drawn PyTorch files": (16, 300),
}
"""For `test` and for `all`."""


class _Choice:
    """What the command line asks for; `tests/conftest.py` fills it in before collection."""

    tier: Tier = "test"
    engines: tuple[str, ...] = tuple(ENGINES)
    seed: int = int(time.time()) // 86_400
    """Of what rotates: another one each day."""


choice = _Choice()
_HIDDEN = "RESNET_PARITY_TESTS_WITHOUT_FRAMEWORKS"


def amount(what: str) -> int:
    """How many of this the tier has."""
    few, many = AMOUNTS[what]
    return many if choice.tier == "all" else few


def without_jax() -> list[Engine]:
    """In tier `test`, those that do not compile with XLA."""
    return [e for e in engines() if choice.tier == "all" or e.name not in ("keras:jax", "flax")]


def only(name: str, wanted: bool) -> list[Engine]:
    """In tier `test`, one that `without_jax` leaves out, where it is wanted after all."""
    return [e for e in engines() if e.name == name and wanted and choice.tier != "all"]


def without_compilers() -> list[Engine]:
    """In tier `test`, those that start at once: of Keras, PyTorch's runs the same code of ours."""
    return [e for e in engines() if choice.tier == "all" or e.name in ("torch", "keras:torch")]


def without_keras_jax() -> list[Engine]:
    """In tier `test`, leave out the slowest engine: `keras:torch` runs the same code of ours."""
    return [e for e in engines() if choice.tier == "all" or e.name != "keras:jax"]


def selected(few: Iterable[T], every: Iterable[T]) -> list[T]:
    """All in tier `all`, and otherwise a few that stand for them."""
    chosen, whole = list(few), list(every)
    unknown = [item for item in chosen if item not in whole]
    assert not unknown, unknown
    return whole if choice.tier == "all" else chosen


def engines() -> list[Engine]:
    """Those that `--engines` names."""
    return [ENGINES[name] for name in choice.engines]


def covering(specs: Iterable[ResNetSpec], size: int) -> list[ResNetSpec]:
    """A few specs that have every combination of `size` options that any of `specs` has; each one
    chosen has the most of those that are still missing.
    """
    missing = {
        spec: set(combinations(sorted((k, str(v)) for k, v in spec.to_dict().items()), size))
        for spec in specs
    }
    chosen: list[ResNetSpec] = []
    while any(missing.values()):
        best = max(missing, key=lambda spec: len(missing[spec]))
        had = set(missing[best])
        chosen.append(best)
        for combination in missing.values():
            combination -= had
    return chosen


def pairs() -> list[tuple[str, str]]:
    """Two and two of them."""
    return list(combinations(choice.engines, 2))


class _WithoutFrameworks(PathFinder):
    """Finds modules as ever, but for the frameworks."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in FRAMEWORKS:
            return None
        return PathFinder.find_spec(fullname, path, target)


def hide_frameworks() -> None:
    """In this process, and in those of the tests that it starts, they seem not to be installed."""
    os.environ[_HIDDEN] = "1"
    sys.meta_path[:] = [_WithoutFrameworks if f is PathFinder else f for f in sys.meta_path]


if _HIDDEN in os.environ:
    hide_frameworks()
