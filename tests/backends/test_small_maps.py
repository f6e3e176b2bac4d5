"""Convolutions on small maps in PyTorch: the same function, computed as a product."""

from __future__ import annotations

import pytest

from tests.conftest import Pool

CASES = [
    # k, stride, bias, channels, batch, side; whether it is a product with channels last in memory
    (1, 1, False, 24, 3, 5, True),
    (1, 2, True, 24, 3, 7, True),
    (1, 1, True, 24, 8, 11, False),  # 1,056 positions
    (3, 1, True, 360, 2, 5, True),
    (3, 2, False, 360, 2, 6, True),
    (3, 1, False, 360, 4, 8, False),  # 288 positions
    (3, 1, False, 120, 2, 3, False),  # a small kernel
    (1, 1, False, 24, 2, 1, True),
]


@pytest.mark.parametrize(("k", "stride", "bias", "channels", "batch", "side", "product"), CASES)
def test_a_product_is_the_convolution(
    pool: Pool,
    k: int,
    stride: int,
    bias: bool,
    channels: int,
    batch: int,
    side: int,
    product: bool,
) -> None:
    found = pool["torch"].call(
        "probe",
        function="small_maps:same",
        k=k,
        stride=stride,
        bias=bias,
        channels=channels,
        batch=batch,
        side=side,
    )
    assert found["error"] < 1e-13
    assert (found["last"], found["first"]) == (product, False)


@pytest.mark.parametrize("engine", ["torch", "keras:torch"])
def test_both_backends_use_it(pool: Pool, engine: str) -> None:
    assert pool[engine].call("probe", function="small_maps:used") > 20


@pytest.mark.parametrize("what", ["tools", "lowered", "refused"])
def test_in_pytorch(pool: Pool, what: str) -> None:
    pool["torch"].call("probe", function=f"small_maps:{what}")
