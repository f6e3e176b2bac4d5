"""What is timed, in the frameworks themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resnet_parity.bench import cases as bench_cases
from resnet_parity.bench import measure as benching
from resnet_parity.bench import peers as bench_peers
from resnet_parity.bench.measure import bench
from resnet_parity.bench.result import BenchReport, BenchRequest
from resnet_parity.engines.registry import Device, Engine, parse_engines
from resnet_parity.worker import contenders
from shared_spec import Checkpoint, ResNetSpec, cast_weights, read_safetensors, resolve
from shared_spec.formats.canonical_file import write_safetensors
from shared_spec.training.optimization import Optimization
from tests.bench.fakes import RATES
from tests.conftest import Pool
from tests.tiers import engines, selected

pytestmark = pytest.mark.optimised


TINY = resolve("resnet18", {"depths": [1, 1], "widths": [8, 16], "stem_width": 8, "num_classes": 7})
WIDE = resolve("resnet18", {"depths": [1, 1], "widths": [64, 128], "num_classes": 7})
"""As narrow as KerasHub has them."""


class Rated:
    """A worker that need not measure the device, and may have one operation replaced."""

    def __init__(self, worker: Any, replaced: dict[str, str]) -> None:
        self.worker, self.replaced = worker, replaced

    def call(self, operation: str, **arguments: Any) -> Any:
        if operation == "bench_rates":
            return RATES | {"dtype": arguments["dtype"]}
        return self.worker.call(self.replaced.get(operation, operation), **arguments)


def run(
    pool: Pool, engines: str, spec: ResNetSpec = TINY, wrap: Any = None, **options: Any
) -> BenchReport:
    """Rows of a batch of two on 32 pixels, one round each."""

    @contextmanager
    def start(engine: Engine, device: Device = "cpu") -> Iterator[Any]:
        with pool.start(engine, device) as worker:
            yield (wrap or (lambda worker: Rated(worker, {})))(worker)

    given = {"name": "tiny", "batches": (2,), "size": (32, 32), "rounds": 1, "seconds": 0.001}
    given |= {"peers": False} | options
    return bench(
        BenchRequest(spec=spec, engines=tuple(parse_engines(engines)), **given), start=start
    )


def assert_timed(report: BenchReport, sides: list[str]) -> None:
    """Every side computes the right thing, and was timed."""
    assert report.problems == []
    data = report.to_dict()
    assert [row["side"] for row in data["rows"]] == sides
    assert len(data["parity"]) == len(sides)
    for row in data["rows"]:
        assert row["images_per_second"] > 0
        assert 0 < row["share"] < 1
        assert row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
        for key in ("import", "build", "load", "first_call"):
            assert row[key] >= 0
        assert row["peak_host_bytes"] > 10**7
        assert row["peak_device_bytes"] is None
    for parity in report.parity:
        assert parity.holds
        assert parity.error <= parity.bound
        # A bound so wide that anything passes would prove nothing.
        assert parity.bound < (1e-3 if parity.dtype == "float32" else 1)


def test_every_engine_is_timed(pool: Pool, engine: str) -> None:
    report = run(pool, engine, modes=("infer", "train"), latency=3)
    assert_timed(report, [engine, engine])
    called, trained = (row.latency for row in report.rows)
    assert trained is None
    assert called is not None
    assert len(called.calls) == 3
    assert 0 < min(called.calls) <= called.p50 <= max(called.calls)
    assert called.p99 is None, "of three calls"
    told = report.environment
    (framework,) = told["threads"]
    assert framework in engine or engine == "flax"
    assert told["matmul_precision"][framework] == "highest"
    assert framework in told["versions"]
    compared = [parity.compared for parity in report.parity]
    assert compared[0] == "logits"
    assert compared[1] in ("update/conv1.weight", "update/fc.bias")


@pytest.mark.parametrize("engine", ["torch", "keras:torch", "flax"])
def test_bfloat16(pool: Pool, engine: str) -> None:
    modes = ("infer",) if engine == "flax" else ("infer", "train")
    report = run(pool, engine, dtypes=("bfloat16",), modes=modes)
    assert_timed(report, [engine] * len(modes))


@pytest.mark.parametrize("engine", ["torch", "keras:tensorflow", "flax", "onnxruntime"])
def test_maps_are_held_to_float64_as_logits_are(pool: Pool, engine: str) -> None:
    features = ResNetSpec.parse(TINY.to_dict() | {"num_classes": 1000, "features_only": True})
    report = run(pool, engine, features, modes=("infer",), batches=(4,))
    side = "onnxruntime, channels_first" if engine == "onnxruntime" else engine
    assert_timed(report, [side])
    assert [one.compared[:8] for one in report.parity] == ["features"]


@pytest.mark.parametrize(
    ("engine", "spec", "name", "peers"),
    [
        ("flax", TINY, "tiny", ["flax example"]),
        ("keras:torch", WIDE, "wide", ["KerasHub"]),
        ("torch", resolve("resnet18"), "resnet18", ["torchvision", "timm"]),
    ],
)
def test_peers_are_timed_beside(
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    spec: ResNetSpec,
    name: str,
    peers: list[str],
) -> None:
    monkeypatch.setattr(bench_cases, "PEER_LAYOUTS", ("channels_first",))
    monkeypatch.setattr(benching, "TRIALS", 1)
    layouts = {"layouts": ("channels_first",)} if engine == "torch" else {}
    report = run(pool, engine, spec, name=name, peers=True, modes=("infer", "train"), **layouts)
    assert report.missing == {}
    ours = "torch, channels_first" if engine == "torch" else engine
    assert_timed(report, [ours, *peers, engine, *peers])
    mine = [row for row in report.rows if not row.peer]
    assert all(row.against in peers for row in mine)
    assert all(row.ratio and row.ratio > 0 for row in mine)


def test_a_peer_that_names_its_maps_is_timed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cases, "PEER_LAYOUTS", ("channels_first",))
    options: dict[str, Any] = {"name": "fcn_resnet50", "peers": True, "modes": ("infer",)}
    options |= {"size": (32, 32), "batches": (1,), "layouts": ("channels_first",)}
    report = run(pool, "torch", resolve("fcn_resnet50"), **options)
    assert_timed(report, ["torch, channels_first", "torchvision"])


def test_keras_applications_is_timed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(bench_peers.TWINS, "KerasHub")
    modes = tuple(selected(["infer"], ["infer", "train"]))
    options = {"name": "keras_resnet50", "peers": True, "modes": modes}
    options |= {"size": (64, 64), "batches": (2,)}
    report = run(pool, "keras:torch", resolve("keras_resnet50"), **options)
    assert_timed(report, ["keras:torch", "keras.applications"] * len(modes))


def test_jit_compile_of_keras(pool: Pool) -> None:
    report = run(pool, "keras:tensorflow", compiles=("none", "default"), modes=("infer", "train"))
    assert_timed(report, ["keras:tensorflow", "keras:tensorflow, compiled", "keras:tensorflow"])
    assert "one way to compile" in report.notes[0]


def test_the_inference_form_is_timed(pool: Pool, engine: str) -> None:
    report = run(pool, engine, forms=("plain", "inference"))
    assert_timed(report, [engine, f"{engine}, inference"])


@pytest.mark.parametrize("engine", selected(["torch"], [engine.name for engine in engines()]))
def test_recomputed_blocks_are_timed(pool: Pool, engine: str) -> None:
    """In training; inference, which has no such form, is timed plainly."""
    report = run(pool, engine, forms=("remat",), modes=("infer", "train"))
    assert_timed(report, [engine, f"{engine}, remat"])


def test_the_form_reaches_the_trainer() -> None:
    seen = []

    def trainer(model: object, how: Optimization, steps: int) -> SimpleNamespace:
        seen.append(how)
        return SimpleNamespace(place=lambda *batch: batch)

    session: Any = SimpleNamespace(resnet=SimpleNamespace(Trainer=trainer, __name__="resnet_torch"))
    for form in ("plain", "remat"):
        job: Any = SimpleNamespace(dtype="float32", form=form, images=None, labels=None)
        contenders._own_trainer(session, job, None)
    assert [how.remat for how in seen] == [False, True]


def test_int8_is_timed(pool: Pool) -> None:
    report = run(pool, "onnxruntime", forms=("inference", "int8"))
    assert report.problems == []
    assert [row.form for row in report.rows] == ["inference", "int8"]
    floats, whole = report.parity
    # It is held to what rounding to 8 bits does, and does not compute the float net.
    assert floats.error < floats.bound < 1e-3 < whole.error < whole.bound < 0.5


def test_layouts_of_pytorch(pool: Pool) -> None:
    report = run(pool, "torch", layouts=("channels_last", "channels_first"))
    assert_timed(report, ["torch", "torch, channels_first"])


class Damaged(Rated):
    """A worker that gets other weights to time: one kernel went through bfloat16."""

    def __init__(self, worker: Any, folder: Path) -> None:
        super().__init__(worker, {})
        self.folder = folder

    def call(self, operation: str, **arguments: Any) -> Any:
        if operation == "bench_build":
            state = dict(read_safetensors(arguments["job"]["weights"]).state)
            name = "layer2.0.conv1.weight"
            narrow = cast_weights({name: state[name]}, "bfloat16")
            state |= {name: narrow[name].astype(np.float32)}
            path = self.folder / "damaged.safetensors"
            write_safetensors(path, Checkpoint(state))
            arguments["job"]["weights"] = str(path)
        return super().call(operation, **arguments)


@pytest.mark.parametrize("engine", ["torch", "flax"])
def test_a_faulty_side_gets_no_speed(pool: Pool, engine: str, tmp_path: Path) -> None:
    report = run(
        pool, engine, wrap=lambda worker: Damaged(worker, tmp_path), modes=("infer", "train")
    )
    for row, parity in zip(report.rows, report.parity, strict=True):
        assert row.images_per_second is None
        assert "does not compute tiny" in str(row.refused)
        assert not parity.holds
        assert parity.error < 0.1, "a small fault, and noticed"
    assert not report.holds


def test_a_missing_wait_is_noticed(pool: Pool) -> None:
    """The side is right, and returns before it has computed."""

    def hasty(worker: Any) -> Rated:
        return Rated(worker, {"bench_time": "unwaited_bench_time"})

    # Enough to do that nothing could do it while a call returns.
    report = run(pool, "torch", WIDE, wrap=hasty, batches=(16,), size=(192, 192))
    assert report.parity[0].holds
    assert "above the bound" in str(report.rows[0].refused)
    assert report.rows[0].images_per_second is None
