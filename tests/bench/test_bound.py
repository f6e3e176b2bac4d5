"""The bound's arithmetic, against numbers counted by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from resnet_parity.engines.bench_job import Rates
from resnet_parity.engines.roofline import Work, bound_seconds, works
from resnet_parity.worker.device_rates import fastest
from shared_spec import CATALOGUE, compile_plan, resolve
from shared_spec.plan.summary import layer_rows

TINY = compile_plan(
    resolve(
        "resnet20",
        {"depths": [1], "widths": [4], "strides": [1], "stem_width": 4, "num_classes": 2},
    )
)
"""On 4×4 pixels: conv1 3 → 4; one block of two convolutions 4 → 4 and the sum; pool; fc."""
SIZE = (4, 4)
IMAGE, MAP = 4 * 4 * 3, 4 * 4 * 4
MACS = {"conv1": 16 * 27 * 4, "layer1.0.conv1": 16 * 36 * 4, "layer1.0.conv2": 16 * 36 * 4, "fc": 8}
SLOW = Rates("float32", 1e3, "a kernel", ((1, 1e30),))
"""Arithmetic alone takes time."""
NARROW = Rates("float32", 1e30, "a kernel", ((1, 1e3),))
"""Traffic alone takes time."""


def test_macs_and_maps_of_inference_by_hand() -> None:
    assert works(TINY, SIZE, "infer") == [
        Work("conv1", MACS["conv1"], (IMAGE, MAP), 108),
        Work("layer1.0.conv1", MACS["layer1.0.conv1"], (MAP, MAP), 144),
        Work("layer1.0.conv2", MACS["layer1.0.conv2"], (MAP, MAP), 144),
        Work("layer1.0.add", 0, (MAP,)),
        Work("global_pool", 0, (MAP,)),
        Work("fc", 8, (4, 2), 10),
    ]


def test_seconds_of_inference_by_hand() -> None:
    assert bound_seconds(TINY, SIZE, "infer", 3, SLOW) == pytest.approx(
        3 * 2 * sum(MACS.values()) / 1e3
    )
    numbers = 3 * (IMAGE + MAP + 4 * MAP + MAP + MAP + 6) + 108 + 144 + 144 + 10
    assert bound_seconds(TINY, SIZE, "infer", 3, NARROW) == pytest.approx(4 * numbers / 1e3)


def test_training_by_hand() -> None:
    # Three products a convolution, of the first one two.
    products = 3 * sum(MACS.values()) - MACS["conv1"]
    assert bound_seconds(TINY, SIZE, "train", 3, SLOW) == pytest.approx(3 * 2 * products / 1e3)
    # Maps: conv1 twice, two convolutions thrice, three norms 3 + 5, the sum 2, the pool 2.
    maps = 2 * (IMAGE + MAP) + 2 * 3 * 2 * MAP + 3 * 8 * MAP + 2 * MAP + 2 * MAP + 3 * 6
    parameters = 2 * 108 + 3 * (144 + 144 + 10) + 5 * TINY.parameter_count()
    assert bound_seconds(TINY, SIZE, "train", 3, NARROW) == pytest.approx(
        4 * (3 * maps + parameters) / 1e3
    )


def test_each_layer_takes_the_larger_of_its_two_times() -> None:
    rates = Rates("float32", 1e3, "a kernel", ((1, 2e1),))
    expected = math.fsum(
        max(
            2 * 3 * work.macs / 1e3,
            4 * (3 * sum(work.maps) + work.parameters) / 2e1,
        )
        for work in works(TINY, SIZE, "infer")
    )
    found = bound_seconds(TINY, SIZE, "infer", 3, rates)
    assert found == pytest.approx(expected)
    assert found < bound_seconds(TINY, SIZE, "infer", 3, SLOW) * 1e9


def test_no_arithmetic_of_any_net_is_left_out() -> None:
    for name, entry in CATALOGUE.items():
        p, size = compile_plan(entry.spec), (entry.spec.image_size,) * 2
        macs = sum(row.macs for row in layer_rows(p, size))
        counted = {mode: sum(w.macs for w in works(p, size, mode)) for mode in ("infer", "train")}
        assert counted["infer"] == macs, name
        assert 2 * macs < counted["train"] <= 3 * macs, name


def test_resnet50_on_one_accelerator() -> None:
    p = compile_plan(resolve("resnet50"))
    assert sum(work.macs for work in works(p, (224, 224), "infer")) == 4_089_184_256
    # 4.3 TB/s and 790 bf16 TFLOP/s, as measured on one H200.
    rates = Rates("bfloat16", 790e12, "a kernel", ((2**30, 4.3e12),))
    speeds = {
        mode: 256 / bound_seconds(p, (224, 224), mode, 256, rates) for mode in ("infer", "train")
    }
    assert speeds["infer"] == pytest.approx(59_000, rel=0.02)
    assert speeds["train"] == pytest.approx(11_200, rel=0.02)


@pytest.mark.parametrize("name", ["resnetv2_18", "resnet50_gn", "seresnet18", "ecaresnet26t"])
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_every_kind_of_net_has_a_bound(name: str, mode: str) -> None:
    p = compile_plan(resolve(name))
    assert 0 < bound_seconds(p, (64, 64), mode, 2, SLOW) < math.inf


def test_small_arrays_go_at_the_rate_of_small_arrays() -> None:
    rates = Rates("float32", 1e30, "a kernel", ((100, 50.0), (1000, 10.0), (10_000, 20.0)))
    assert rates.bytes_per_second == 20.0
    assert rates.seconds(0, [100]) == pytest.approx(2.0)
    assert rates.seconds(0, [50]) == pytest.approx(1.0)
    assert rates.seconds(0, [999]) == pytest.approx(999 / 50)
    # What a larger array reaches, a smaller one does too.
    assert rates.seconds(0, [1000]) == pytest.approx(50.0)
    assert rates.seconds(0, [1000, 100]) == pytest.approx(52.0)


def test_the_better_of_two_measurements_counts() -> None:
    first = Rates("float32", 10.0, "one", ((1, 5.0), (2, 1.0)))
    second = Rates("float32", 20.0, "two", ((1, 3.0), (2, 4.0)))
    for a, b in ((first, second), (second, first)):
        assert a.or_better(b) == Rates("float32", 20.0, "two", ((1, 5.0), (2, 4.0)))
    assert Rates.from_dict(first.to_dict()) == first


def test_the_fastest_of_many_tries_counts() -> None:
    """By a clock of its own: a call takes 4, 3, 2, 5, 5, ... seconds."""
    now, waited = [0.0], []
    durations: Iterator[float] = iter([4.0, 3.0, 2.0, *[5.0] * 100])

    def run() -> int:
        now[0] += next(durations)
        return 7

    best = fastest(run, waited.append, 20.0, lambda: now[0])
    # Of tries of one call each after the first, which compiles.
    assert best == 2.0
    assert set(waited) == {7}
    assert np.isclose(now[0], 4 + 3 + 2 + 4 * 5)
