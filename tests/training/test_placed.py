"""Batches that are placed on the device before their step."""

from __future__ import annotations

import pytest

from resnet_parity.engines.registry import ENGINES
from shared_spec import resolve
from tests.conftest import Pool


@pytest.mark.parametrize("engine", ENGINES)
def test_a_placed_batch_trains_as_its_arrays_do(pool: Pool, engine: str) -> None:
    spec = resolve("resnet20").to_dict()
    found = pool[engine].call("probe", function="training:placed", spec=spec)
    arrays, placed = found["losses"]
    assert arrays == placed  # bit for bit
    assert len(set(arrays)) == 4  # it does train
    assert found["same"]
    out, missing = found["refused"][:2]
    assert found["refused"] == [out, missing, out, missing]
    assert "the net has 10 classes" in out
    assert missing == (
        "labels of shape [] and type object: expected 4 whole numbers, and at least one"
    )
