"""How `bench` goes about it, with workers that need no framework."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_parity.bench import cases as bench_cases
from resnet_parity.bench import measure as benching
from resnet_parity.bench import peers
from resnet_parity.bench.measure import bench, farthest_result
from resnet_parity.bench.result import BenchReport, BenchRequest, Latency
from resnet_parity.bench.scaling import ScalingAxis
from resnet_parity.engines import reference_libraries
from resnet_parity.engines.bench_job import Rates
from resnet_parity.engines.reference_libraries import peer_missing
from resnet_parity.engines.registry import ENGINES, Device, Engine, parse_engines
from resnet_parity.engines.roofline import bound_seconds
from shared_spec import ResNetError, compile_plan, resolve
from tests.bench.fakes import RATES, Fakes

SPEC = resolve(
    "resnet18",
    {"depths": [1, 1], "widths": [8, 16], "stem_width": 8, "num_classes": 7, "image_size": 32},
)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has, all engines and libraries seem to be there."""
    monkeypatch.setattr(Engine, "missing", lambda engine: None)
    monkeypatch.setattr(peers, "peer_missing", lambda peer: None)


def request_of(engines: str = "torch,flax", **options: Any) -> BenchRequest:
    given = {"name": "tiny", "spec": SPEC, "batches": (4,), "rounds": 3, "seconds": 0.01} | options
    return BenchRequest(engines=tuple(parse_engines(engines)), **given)


def run(fakes: Fakes, request: BenchRequest | None = None, **options: Any) -> BenchReport:
    return bench(request or request_of(), start=fakes.start, **options)


def test_the_sides_take_turns() -> None:
    fakes = Fakes()
    report = run(fakes, request_of("torch", name="resnet50", spec=resolve("resnet50")))
    sides = ["torch", "torchvision", "torchvision, channels_last", "timm", "timm, channels_last"]
    assert [row.side for row in report.rows] == sides
    timed = [key.split("/")[1] for key in fakes.rounds()]
    # Once each for the length of a round, then by turns, of which each begins with another side.
    assert timed == [*sides, *sides, *sides[1:], sides[0], *sides[2:], *sides[:2]]
    built = [i for i, call in enumerate(fakes.calls) if call[0] == "bench_build"]
    first = fakes.calls.index(("bench_time", fakes.rounds()[0]))
    assert max(built) < first, "a side that is built meanwhile disturbs the others"


def test_every_side_has_a_process_of_its_own() -> None:
    fakes = Fakes()
    run(fakes, request_of("torch", name="resnet50", spec=resolve("resnet50")))
    build = [i for i, (operation, _) in enumerate(fakes.calls) if operation == "bench_build"]
    # Each is started for its side, but that a reference may come between.
    assert all(fakes.calls[i - 1] == ("start", "torch") for i in build)
    assert len(build) == 5


def test_rounds_are_divided_among_fresh_processes() -> None:
    fakes = Fakes()
    calls = [0]

    def error(key: str) -> float:
        calls[0] += 1
        # The second process of the last side, of two sides with two processes each.
        return 1.0 if calls[0] == 4 else 0.0

    fakes.error = error
    report = run(fakes, request_of(rounds=5, processes=2, peers=False))
    torch, flax = report.rows
    assert len(torch.seconds.passes) == 5
    assert [i for i, call in enumerate(fakes.calls) if call == ("start", "torch")][-1] > 10
    told = [(each.engine, each.holds) for each in report.parity]
    assert told == [("torch", True), ("flax", True), ("flax", False)]
    assert flax.refused is not None
    assert "it does not compute" in flax.refused
    # One pass for the length of a round in each process, then two rounds and three.
    timed = [key.split("/")[0] for key in fakes.rounds()]
    assert timed == ["torch", "flax"] * 2 + ["flax", "torch"] + ["torch"] * 4
    assert report.environment["processes"] == 2


BOTH = ["flax", "flax example"]


@pytest.mark.parametrize(
    ("free", "order"),
    [
        (5 * 10**9, ["torch"] * 4 + BOTH * 2 + BOTH[::-1] + BOTH),
        (2 * 10**9, ["torch"] * 4 + ["flax"] * 4 + ["flax example"] * 4),
    ],
)
def test_too_little_memory_goes_engine_by_engine_and_then_side_by_side(
    monkeypatch: pytest.MonkeyPatch, free: int, order: list[str]
) -> None:
    monkeypatch.setattr(bench_cases, "available_memory", lambda: free)
    fakes = Fakes()
    run(fakes)
    assert [key.split("/")[1] for key in fakes.rounds()] == order


@pytest.mark.parametrize(
    ("device", "order"),
    [("gpu", ["torch"] * 4 + ["flax", "flax"] * 4), ("tpu", ["torch"] * 4 + ["flax"] * 8)],
)
def test_processes_share_an_accelerator_as_far_as_they_can(
    device: Device, order: list[str]
) -> None:
    fakes = Fakes()
    report = run(fakes, request_of(device=device))
    assert [key.split("/")[0] for key in fakes.rounds()] == order
    assert report.environment["hardware"] == "an accelerator"
    # On a TPU one side has ended before the next one starts; the references are on the CPU.
    alive = [name for name, _ in fakes.calls if name in ("bench_build", "bench_close")]
    assert alive == (["bench_build", "bench_close"] * 3 if device == "tpu" else alive)


def test_training_needs_memory_for_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cases, "available_memory", lambda: 8 * 10**9)
    cases_of = benching.cases
    small, large = (
        cases_of(request_of(batches=(n,), modes=("train",)), BenchReport(name="tiny"))
        for n in (2, 10**5)
    )
    assert len(list(benching.turns(small))) == 1
    assert len(list(benching.turns(large))) == 3


def test_what_is_measured_is_the_round_over_its_passes() -> None:
    fakes = Fakes(seconds=lambda key: 0.02 if "flax/flax/" in key else 0.005)
    report = run(fakes, request_of(seconds=0.04))
    rows = {row.side: row for row in report.rows}
    assert rows["torch"].images_per_second == pytest.approx(4 / 0.005)
    assert rows["torch"].seconds.passes == pytest.approx([0.005] * 3)
    ours = rows["flax"]
    assert ours.images_per_second == pytest.approx(4 / 0.02)
    assert ours.against == "flax example"
    assert ours.ratio == pytest.approx(0.25)
    assert rows["torch"].against is None, "no library has this net"
    assert rows["flax example"].ratio is None, "a peer is nobody's rival"


@pytest.mark.parametrize("count", [1, 99, 100])
def test_p50_and_p99_are_those_of_the_calls(count: int) -> None:
    calls = [n / 1000 for n in range(count, 0, -1)]
    found = Latency.of(calls)
    assert found is not None
    assert found.p50 == pytest.approx((1 + count) / 2000)
    # The slowest but one, and a hundredth of the way to the slowest; of fewer calls, nothing.
    assert found.p99 == (pytest.approx(0.09901) if count == 100 else None)
    assert found.calls == calls


def test_single_calls_are_timed_if_asked_for() -> None:
    fakes = Fakes(seconds=lambda key: 0.02 if "flax/flax/" in key else 0.005)
    asked = request_of(latency=200, processes=2, modes=("infer", "train"))
    report = run(fakes, asked, scale=ScalingAxis(("batch",), batches=(1,)))
    for row in report.rows:
        if row.mode == "train":
            assert row.latency is None
            continue
        assert row.latency is not None
        assert len(row.latency.calls) == 200
        once = 0.02 if row.side == "flax" else 0.005
        # Four of 200 are slow, which is more than one of 100.
        assert (row.latency.p50, row.latency.p99) == pytest.approx((once, 10 * once))
        assert row.seconds is not None
        assert row.seconds.median == pytest.approx(once), "they are no passes of a round"
    # A share in each round, so that all sides meet the same machine; none for a curve.
    alone = [key for operation, key in fakes.calls if operation == "bench_latency"]
    turns = ["torch", *BOTH, *BOTH, "torch", "flax example", "torch", "flax"]
    assert [key.split("/")[1] for key in alone] == turns
    assert run(Fakes()).rows[0].latency is None
    with pytest.raises(ResNetError, match="--latency times calls in inference"):
        run(Fakes(), request_of(latency=1, modes=("train",)))


def test_a_side_that_breaks_in_a_single_call_is_told() -> None:
    broken = Fakes(breaks=lambda asked, key: "it died" if asked == "bench_latency" else None)
    report = run(broken, request_of(latency=5))
    assert {row.refused for row in report.rows} == {"failed: it died"}
    assert all(row.latency is None for row in report.rows)


def test_ours_is_held_against_the_fastest_peer_that_is_compiled_alike() -> None:
    def seconds(key: str) -> float:
        mine = {"torch": 0.10, "torch, compiled": 0.04}
        theirs = {"timm, channels_last": 0.08, "timm, channels_last, compiled": 0.05}
        return (mine | theirs).get(key.split("/")[1], 0.2)

    asked = request_of(
        "torch", name="resnet50", spec=resolve("resnet50"), compiles=("none", "default")
    )
    rows = {row.side: row for row in run(Fakes(seconds=seconds), asked).rows}
    assert rows["torch"].against == "timm, channels_last"
    assert rows["torch"].ratio == pytest.approx(0.8)
    assert rows["torch, compiled"].against == "timm, channels_last, compiled"
    assert rows["torch, compiled"].ratio == pytest.approx(1.25)


def test_int8_is_held_against_the_float_net_of_its_runtime() -> None:
    mine = {"inference": 0.10, "int8": 0.04}
    fakes = Fakes(seconds=lambda key: mine.get(key.split("/")[1].split(", ")[1], 0.2))
    forms = ("inference", "int8")
    report = run(fakes, request_of("torch,onnxruntime", peers=False, forms=forms))
    rows = {(row.engine, row.form): row for row in report.rows}
    assert set(rows) == {("torch", "inference"), *(("onnxruntime", form) for form in forms)}
    whole = rows["onnxruntime", "int8"]
    assert whole.ratio == pytest.approx(2.5)
    assert whole.against == rows["onnxruntime", "inference"].side
    assert rows["onnxruntime", "inference"].ratio is None
    # Products of integers have no bound, which no framework has the kernels to measure.
    assert whole.share is whole.bound_images_per_second is None
    assert report.notes == ["torch, float32: int8 is a form of float32 nets, for runtimes"]
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_side_that_computes_something_else_gets_no_speed() -> None:
    fakes = Fakes(error=lambda key: 1e-3 if key.startswith("flax/flax/") else 1e-7)
    # The last row of eight errs, which repeats one of the four images.
    report = run(fakes, request_of(batches=(8,)))
    rows = {row.side: row for row in report.rows}
    refused = rows["flax"]
    assert "it does not compute tiny" in str(refused.refused)
    for figure in ("seconds", "images_per_second", "share", "ratio", "first_call", "imported"):
        assert getattr(refused, figure) is None
    assert not any("flax/flax/" in key for key in fakes.rounds()), "it was timed all the same"
    assert rows["torch"].images_per_second
    assert not report.holds
    assert [p.holds for p in report.parity] == [True, False, True]
    assert report.parity[1].error == pytest.approx(1e-3, rel=1e-3)
    assert report.parity[1].bound == pytest.approx(4e-6, rel=1e-3)


def test_a_nan_is_no_agreement() -> None:
    report = run(Fakes(error=lambda key: math.nan if key.startswith("torch/") else 0.0))
    (row,) = (row for row in report.rows if row.side == "torch")
    assert row.images_per_second is None
    assert row.refused is not None
    json.dumps(report.to_dict(), allow_nan=False)


def test_numbers_that_are_not_finite_are_refused() -> None:
    report = run(Fakes(finite=False))
    assert all("not finite" in str(row.refused) for row in report.rows)
    assert "nothing was timed" in report.problems


def bound() -> float:
    """Images a second, of a batch of 4 by the rates of the fakes."""
    seconds = bound_seconds(compile_plan(SPEC), (32, 32), "infer", 4, Rates.from_dict(RATES))
    return 4 / seconds


@pytest.mark.parametrize(("share", "holds"), [(0.99, True), (1.01, False), (100.0, False)])
def test_a_figure_above_the_bound_is_refused(share: float, holds: bool) -> None:
    fakes = Fakes(seconds=lambda key: 4 / bound() / (share if "torch/" in key else 0.5))
    report = run(fakes)
    row = report.rows[0]
    assert row.side == "torch"
    assert row.bound_images_per_second == pytest.approx(bound())
    if holds:
        assert row.share == pytest.approx(share)
        assert report.holds
        return
    assert row.refused is not None
    assert "above the bound" in row.refused
    assert "timing is wrong" in row.refused
    assert row.images_per_second is None
    assert row.bound_images_per_second == pytest.approx(bound())
    assert not report.holds
    assert [r.refused for r in report.rows[1:]] == [None, None]


def test_rates_are_measured_again_before_anything_is_refused() -> None:
    """Whatever else was at work at first makes the bound too low."""
    seconds = 4 / bound() / 1.5
    disturbed = Fakes(seconds=lambda key: seconds, rates=iter([1e10, 1e10, 1e13, 1e13]))
    report = run(disturbed)
    assert report.bounds[0].flops_per_second == 1e13
    assert [operation for operation, _ in disturbed.calls].count("bench_rates") == 4


def test_the_json_has_what_the_report_reads() -> None:
    data = run(
        Fakes(), request_of(command="resnet-parity bench tiny"), scale=ScalingAxis(("batch",))
    ).to_dict()
    assert data["kind"] == "bench"
    assert data["command"] == "resnet-parity bench tiny"
    environment = data["environment"]
    assert environment["threads"] == {"torch": 3}
    assert environment["versions"] == {"torch": "1.0", "flax": "1.0", "timm": "2.0"}
    assert environment["tf32"] is False
    assert environment["variables"] == {"OMP_NUM_THREADS": "3"}
    assert {"device", "hardware", "cores", "memory_bytes", "system", "python"} <= set(environment)
    assert data["bounds"][0]["bytes_per_second"] == 1e10
    row = next(row for row in data["rows"] if row["side"] == "flax")
    assert row["seconds"].keys() == {"median", "low", "high", "passes"}
    assert len(row["seconds"]["passes"]) == 3
    expected = {"mode": "infer", "batch": 4, "size": [32, 32], "dtype": "float32"}
    expected |= {"form": "plain", "compile": "jit", "layout": "channels_last", "peer": False}
    expected |= {"import": 1.0, "build": 2.0, "load": 3.0, "first_call": 4.0}
    expected |= {"peak_host_bytes": 10**9, "peak_device_bytes": None, "refused": None}
    assert {key: row[key] for key in expected} == expected
    assert row["share"] == pytest.approx(row["images_per_second"] / row["bound_images_per_second"])
    point = data["scaling"][0]
    assert {
        "over",
        "side",
        "mode",
        "x",
        "label",
        "images_per_second",
        "share",
        "first_call",
    } <= set(point)
    json.dumps(data, allow_nan=False)


def test_speed_is_measured_over_batch_depth_and_size() -> None:
    scale = ScalingAxis(("batch", "depth", "size"), (20, 56), (1, 4), (32, 48))
    data = run(Fakes(), scale=scale).to_dict()
    points = [(p["over"], p["x"], p["label"]) for p in data["scaling"] if p["side"] == "torch"]
    assert points == [
        ("batch", 1, "batch 1"),
        ("batch", 4, "batch 4"),
        ("depth", 20, "resnet20"),
        ("depth", 56, "resnet56"),
        ("size", 32, "32 px"),
        ("size", 48, "48 px"),
    ]
    assert {p["side"] for p in data["scaling"]} == {"torch", "flax"}, "a peer is scaled"
    depths = [p for p in data["scaling"] if p["over"] == "depth" and p["side"] == "torch"]
    assert depths[0]["share"] < depths[1]["share"], "a bound each"


def test_an_engine_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Engine, "missing", lambda engine: "not installed" if engine.name == "flax" else None
    )
    report = run(Fakes())
    assert report.missing == {"flax": "not installed"}
    assert report.holds
    assert [row.side for row in report.rows] == ["torch"]
    asked = run(Fakes(), request_of(requested=True))
    assert asked.problems == ["flax is missing: not installed"]
    monkeypatch.setattr(Engine, "missing", lambda engine: "not installed")
    with pytest.raises(ResNetError, match="none of these engines is installed"):
        run(Fakes())


def test_a_library_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    at_import = run(Fakes(missing=lambda key: "no module" if "example" in key else None))
    assert at_import.missing == {"flax example": "no module"}
    monkeypatch.setattr(peers, "peer_missing", peer_missing)
    monkeypatch.setattr(reference_libraries, "PEERS", Path("/nowhere"))
    report = run(Fakes())
    assert "fetch_peers" in report.missing["flax example"]
    for found in (report, at_import):
        assert found.holds
        assert [row.side for row in found.rows] == ["torch", "flax"]


@pytest.mark.parametrize("operation", ["bench_build", "bench_time"])
def test_a_side_that_breaks_is_told_and_the_others_go_on(operation: str) -> None:
    def breaks(asked: str, key: str) -> str | None:
        return "it died" if (asked, key.split("/")[0]) == (operation, "torch") else None

    report = run(Fakes(breaks=breaks))
    assert report.rows[0].refused == "failed: it died"
    assert report.rows[1].images_per_second
    assert report.problems == ["torch, torch: failed: it died"]


def test_no_rates_no_bound() -> None:
    def breaks(operation: str, key: str) -> str | None:
        return "no gpu here" if operation == "info" else None

    with pytest.raises(ResNetError, match="no gpu here"):
        run(Fakes(breaks=breaks))


def test_a_net_that_draws_in_training_is_refused() -> None:
    dropping = resolve("resnet18", {"drop_path_rate": 0.1})
    with pytest.raises(ResNetError, match=r"drop_path_rate 0\.1"):
        run(Fakes(), request_of(spec=dropping, modes=("train",)))
    headless = resolve("resnet18", {"num_classes": 0})
    with pytest.raises(ResNetError, match="classes"):
        run(Fakes(), request_of(spec=headless, modes=("train",)))


def test_peers_that_compute_another_net_say_so() -> None:
    found = peers.candidates("resnet50", resolve("resnet50"), list(ENGINES.values()), True, {})
    by_name = {(c.engine.name, c.label): c for c in found}
    assert by_name["torch", "timm"].note == ""
    assert by_name["keras:jax", "KerasHub"].note == ""
    applications = by_name["keras:tensorflow", "keras.applications"]
    assert applications.net == "keras_resnet50"
    assert "fewer MACs" in applications.note
    assert by_name["flax", "flax example"].net == "flax_resnet50"
    assert len(by_name) == 5 + 2 + 3 * 2 + 1
    squeeze = peers.candidates(
        "seresnet50", resolve("seresnet50"), list(ENGINES.values()), True, {}
    )
    assert {c.peer for c in squeeze} == {None, "timm"}


def test_what_rounding_changes_wholly_does_not_judge() -> None:
    exact = {"exact/update/a": np.ones(3), "exact/update/b": np.arange(3.0)}
    trials = {f"trial{i}/update/a": np.ones(3) * 1.5 for i in range(3)}
    trials |= {f"trial{i}/update/b": np.arange(3.0) * (1 + 1e-6) for i in range(3)}
    found = {"update/a": np.ones(3) * 2.5, "update/b": np.arange(3.0) * (1 + 1e-5)}
    name, error, bound = farthest_result(exact | trials, found, 4)
    assert (name, error, bound) == pytest.approx(("update/b", 1e-5, 4e-6))
    # The last digit of what is stored belongs to the bound.
    stored = {"storage/update/b": np.array([1e-4])}
    assert farthest_result(exact | trials | stored, found, 4)[2] == pytest.approx(1.04e-4)
    alone = {"update/a": found["update/a"]}
    assert farthest_result(exact | trials, alone, 4) == pytest.approx(("update/a", 1.5, 2.0))


def test_a_check_that_proves_little_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "ROUNDING_FACTOR", 4e6)
    report = run(Fakes(), request_of("torch"))
    assert "proves little" in report.notes[0]
    assert report.holds
