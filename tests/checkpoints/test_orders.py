"""Every option set of the catalogue through the files of three frameworks and back."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from resnet_parity.convert.conversion import convert
from resnet_parity.engines import job
from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import ENGINES, Device, Engine
from shared_spec import (
    Checkpoint,
    ResNetSpec,
    compile_plan,
    digest,
    random_weights,
    read_safetensors,
    write_safetensors,
)
from tests.conftest import Pool
from tests.parity.test_options import DISTINCT
from tests.tiers import choice, selected

ORDERS = list(itertools.permutations([".pth", ".keras", ".msgpack"]))


@pytest.fixture(autouse=True)
def reuse_workers(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(engine: Engine, device: Device) -> AbstractContextManager[Worker]:
        # Of Keras's engines, PyTorch's builds a model soonest: it traces no graph.
        return pool.start(ENGINES["keras:torch"] if "keras" in engine.name else engine)

    monkeypatch.setattr(job, "Worker", start)


@pytest.mark.parametrize(
    "number",
    selected(range(0, len(DISTINCT), 3), range(len(DISTINCT))),
    ids=list(DISTINCT.values()).__getitem__,
)
def test_the_weights_come_back_bit_for_bit(tmp_path: Path, number: int) -> None:
    """An order for every third net, or in tier `all` all six for each."""
    every = choice.tier == "all"
    for order in ORDERS if every else [ORDERS[number // 3 % len(ORDERS)]]:
        around(list(DISTINCT)[number], order, tmp_path)


def around(spec: ResNetSpec, order: tuple[str, ...], folder: Path) -> None:
    state = random_weights(compile_plan(spec), 4)
    expected = digest(state)
    last = folder / "source.safetensors"
    write_safetensors(last, Checkpoint(state, spec))
    for suffix in order:
        target = folder / f"a{suffix}"
        assert convert(last, target, spec).sha256 == expected
        last = target
    convert(last, folder / "back.safetensors", spec)
    found = read_safetensors(folder / "back.safetensors")
    assert digest(found.state) == expected
    assert found.spec == spec
