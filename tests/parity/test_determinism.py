"""What changes bits: a dependence that is injected is found where it is, and the strict form keeps
its bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_parity.check import determinism
from resnet_parity.check.determinism import check_determinism
from resnet_parity.check.result import DeterminismReport, Rerun
from resnet_parity.check.variations import SIMD, Variation, processes
from resnet_parity.engines.process import EngineError
from resnet_parity.engines.registry import ALL_ENGINES, ENGINES, Device, Engine
from shared_spec import ResNetSpec, resolve
from shared_spec.formats.canonical_file import read_safetensors, save_canonical
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.dataflow import nodes, recorded
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.state import State
from tests.command import refused
from tests.conftest import Pool
from tests.tiers import choice, selected

TINY = resolve("resnet20", {"depths": [1, 1], "widths": [16, 32], "image_size": 16})
TORCH = ENGINES["torch"]
LAYER = "layer2.0.conv1"
STRAY = 1 + 2.0**-20


class Sums:
    """In the place of a worker: each layer gives an image's sum, so that nothing depends on how it
    is run, but for `stray`, which may change what a layer gives.
    """

    def __init__(self, engine: Engine, stray: Callable[[Engine, str, np.ndarray], Any]) -> None:
        self.engine, self.stray = engine, stray

    def call(self, operation: str, outputs: str = "", **asked: Any) -> Any:
        if operation == "info":
            return {"versions": {}, "device": "none"}
        if operation == "classify":
            count = 1 if asked.get("at_once") is None else 7
            return outputs and self._write(outputs, {"logits": np.zeros(1)}, seconds=count)
        p = compile_plan(ResNetSpec.parse(asked["spec"]))
        if operation == "run":
            found = {}
            for i, file in enumerate(asked["images"]):
                every = self._layers(p, self._images(file, asked["form"]))
                found |= {f"{i}/{key}": every[name] for key, name in p.results().items()}
            return self._write(outputs, found)
        assert operation == "trace"
        every = self._layers(p, self._images(asked["images"]))
        arrays = {f"output/{name}": x for name, x in every.items()}
        if "reference" in asked:
            known = read_safetensors(asked["reference"]).state
            (images,) = self._images(asked["images"])
            x = _sums(images)
            for name in every:
                arrays[f"forced/{name}"] = self.stray(self.engine, name, x)
                x = known[f"output/{name}"]
        return self._write(outputs, arrays) | {"broken": {}}

    def _images(self, file: str, form: str = "") -> Any:
        images = read_safetensors(file).state["images"]
        return [images[i : i + 1] for i in range(len(images))] if form == "strict" else [images]

    def _layers(self, p: Any, batches: list[np.ndarray]) -> State:
        found: dict[str, list[np.ndarray]] = {}
        for images in batches:
            x = _sums(images)
            for name in recorded(nodes(p)):
                x = self.stray(self.engine, name, x)
                found.setdefault(name, []).append(x)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _write(self, outputs: str, arrays: State, **answer: Any) -> dict[str, Any]:
        save_canonical(Path(outputs), Checkpoint(arrays))
        return answer


def _sums(images: np.ndarray) -> np.ndarray:
    return np.array([[image.sum()] for image in images])


def sums(
    stray: Callable[[Engine, str, np.ndarray], Any], spec: ResNetSpec = TINY, **options: Any
) -> DeterminismReport:
    @contextlib.contextmanager
    def start(engine: Engine, device: Device = "cpu") -> Iterator[Any]:
        yield Sums(engine, stray)

    given: dict[str, Any] = {"dtypes": ["float32"], "batch": 4, "start": start} | options
    return check_determinism(spec, [TORCH], **given)


def parted(report: DeterminismReport, form: str) -> dict[str, Rerun]:
    return {r.variation: r for r in report.reruns if r.form == form and not r.equal}


def test_nothing_is_reported_of_what_does_not_vary() -> None:
    report = sums(lambda engine, name, x: x, strict=True)
    assert report.holds
    assert {r.form for r in report.reruns} == {"layers", "predict", "channels_first", "strict"}
    assert all(r.equal and r.largest == 0 and r.first is None for r in report.reruns)
    assert {"once more", "batch 1", "batch 3", "batch 8", "another position", "1 thread"} <= {
        r.variation for r in report.reruns
    }
    assert [price.ratio for price in report.prices] == [7]


def test_a_layer_that_depends_on_the_batch_is_named() -> None:
    def stray(engine: Engine, name: str, x: np.ndarray) -> np.ndarray:
        return x * np.float32(STRAY) if name == LAYER and len(x) == 1 else x

    report = sums(stray, strict=True)
    layers, predict = parted(report, "layers"), parted(report, "predict")
    assert set(layers) == {"batch 1"}
    assert (layers["batch 1"].first, layers["batch 1"].alone) == (LAYER, (LAYER,))
    assert layers["batch 1"].relative == pytest.approx(STRAY - 1, rel=0.2)
    # A batch of three leaves one image alone.
    assert {(v, r.first) for v, r in predict.items()} == {
        ("batch 1", "layer2.0"),
        ("batch 3", "layer2.0"),
    }
    assert not parted(report, "strict")
    assert report.holds


def test_of_a_net_of_maps_the_first_map_is_named() -> None:
    def stray(engine: Engine, name: str, x: np.ndarray) -> np.ndarray:
        return x * np.float32(STRAY) if name == LAYER and len(x) == 1 else x

    report = sums(stray, TINY.override(features_only=True))
    assert parted(report, "layers")["batch 1"].first == LAYER
    assert parted(report, "predict")["batch 1"].first == "layer2.0"


def test_a_layer_that_depends_on_the_position_or_the_process_is_named() -> None:
    def stray(engine: Engine, name: str, x: np.ndarray) -> np.ndarray:
        first, alone = name == "conv1", dict(engine.variables).get("ATEN_CPU_CAPABILITY") == "avx2"
        scale = np.ones((len(x), 1), np.float32)
        scale[0] = STRAY if first else 1
        return x * scale * np.float32(STRAY if alone and name == "fc" else 1)

    report = sums(stray)
    layers = parted(report, "layers")
    assert layers["another position"].first == "conv1"
    if "AVX2" in {r.variation for r in report.reruns}:
        assert (layers["AVX2"].first, layers["AVX2"].alone) == ("fc", ("fc",))
        assert parted(report, "predict")["AVX2"].first == "(head)"


def test_what_another_batch_leaves_behind_is_told_from_the_position() -> None:
    sizes: set[int] = set()

    def stray(engine: Engine, name: str, x: np.ndarray) -> np.ndarray:
        sizes.add(len(x))  # as a program that was made for other sizes and is taken for all
        return x * np.float32(STRAY) if name == LAYER and len(sizes) > 1 else x

    layers = parted(sums(stray), "layers")
    assert layers["after other batches"].first == LAYER
    assert "another position" not in layers


def test_a_process_that_fails_is_told_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stray(engine: Engine, name: str, x: np.ndarray) -> np.ndarray:
        if ("SET", "old") in engine.variables:
            raise EngineError("no such instruction")
        return x

    started = [Variation(name, ((0, 1, 2, 3),), (("SET", name),)) for name in ("old", "older")]
    monkeypatch.setattr(determinism, "processes", lambda *_: started)
    report = sums(stray)
    assert report.problems == ["torch, old, float32, layers failed: no such instruction"]
    assert {r.form for r in report.reruns if r.variation == "older"} == {
        r.form for r in report.reruns
    }


def test_a_strict_form_whose_bits_change_does_not_hold() -> None:
    def stray(engine: Engine, name: str, x: np.ndarray) -> np.ndarray:
        # By threads that were not set back to one.
        return x * np.float32(STRAY) if dict(engine.variables)["OMP_NUM_THREADS"] != "1" else x

    report = sums(stray, strict=True)
    assert parted(report, "layers")["1 thread"].first == "conv1"
    assert report.holds
    jitter = iter(range(10**6))
    report = sums(lambda engine, name, x: x + np.float32(next(jitter)), strict=True)
    assert not report.holds
    assert any("once more changes the strict form" in problem for problem in report.problems)


def test_processes_get_the_switches_of_their_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    flax = {v.name: v.of(ENGINES["flax"]).environment("cpu") for v in
            processes(ENGINES["flax"], 2, 2, {"avx2"})}  # fmt: skip
    assert flax["AVX2"]["XLA_FLAGS"] == "--mine --xla_cpu_max_isa=AVX2"
    assert flax["another process"]["XLA_FLAGS"] == "--mine"
    assert [flax[name]["NPROC"] for name in ("1 thread", "4 threads", "AVX2")] == ["1", "4", "2"]
    assert "AVX-512 alone" not in flax
    assert {"torch", "tensorflow", "jax"} == set.intersection(*(set(s) for _, _, s in SIMD))


def test_a_refused_call() -> None:
    assert "only with --determinism" in refused("check", "resnet20", "--strict")
    both = ("check", "resnet20", "--determinism", "--training")
    assert "--training and --determinism: each is a check of its own" in refused(*both)
    small = ("check", "iresnet18", "--determinism", "--image-size", "64")
    assert "maps of 7 × 7 pixels are flattened" in refused(*small)
    assert "on CPUs" in refused("check", "resnet20", "--determinism", "--device", "gpu")
    runtime = ("check", "resnet20", "--determinism", "--strict", "--engines", "onnxruntime")
    assert "onnxruntime takes its threads from no environment variable" in refused(*runtime)
    assert "'float8'" in refused("check", "resnet20", "--determinism", "--dtype", "float8")


def test_an_engine_with_a_layer_that_depends_on_the_batch(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Straying:
        def call(self, operation: str, **asked: Any) -> Any:
            if operation not in ("run", "trace"):
                return pool["torch"].call(operation, **asked)
            return pool["torch"].call("straying", asked=operation, layer="conv1", **asked)

    @contextlib.contextmanager
    def start(engine: Engine, device: Device = "cpu") -> Iterator[Any]:
        yield Straying()

    monkeypatch.setattr(determinism, "processes", lambda *_: [])
    report = check_determinism(TINY, [TORCH], dtypes=["float32"], batch=2, start=start)
    assert report.holds
    layers = parted(report, "layers")
    assert layers["batch 1"].first == "conv1"
    assert "conv1" in layers["batch 1"].alone
    assert parted(report, "predict")["batch 1"].first == "act1"
    others = [r.first for form in ("layers", "predict") for r in parted(report, form).values()]
    assert others.count("conv1") == others.count("act1") == 1


def test_a_runtime_is_asked_for_float32_alone() -> None:
    @contextlib.contextmanager
    def start(engine: Engine, device: Device = "cpu") -> Iterator[Any]:
        yield Sums(engine, lambda engine, name, x: x)

    for name, dtypes in {"torch": {"float32", "bfloat16"}, "onnxruntime": {"float32"}}.items():
        report = check_determinism(TINY, [ALL_ENGINES[name]], batch=2, start=start)
        assert {r.dtype for r in report.reruns} == dtypes


def test_a_segmentation_net(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it returns is given by no layer of one input."""
    monkeypatch.setattr(determinism, "processes", lambda *_: [])
    shape = {"depths": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "image_size": 32}
    options = {"segmentation": "fcn", "auxiliary": True, "num_classes": 3}
    spec = resolve("resnet18", shape | options)
    report = check_determinism(spec, [TORCH], dtypes=["float32"], batch=2, start=pool.start)
    assert report.holds, report.problems
    compared = {(r.form, r.variation) for r in report.reruns}
    assert {("layers", "batch 1"), ("predict", "batch 1")} <= compared
    assert ("layers", "than predict") not in compared
    assert ("channels_first", "than predict") in compared


@pytest.mark.parametrize("name", selected(["torch", "keras:torch"], ENGINES))
def test_the_strict_form_keeps_its_bits(
    pool: Pool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(determinism, "processes", lambda *_: [])  # the pool's is one
    report = check_determinism(
        TINY, [ENGINES[name]], dtypes=["float32"], batch=2, strict=True, start=pool.start
    )
    assert report.holds, report.problems
    assert {"batch 1", "batch 4", "another position"} <= {
        r.variation for r in report.reruns if r.form == "strict"
    }
    assert all(r.equal for r in report.reruns if r.variation == "once more")


@pytest.mark.parametrize("name", selected(["keras:tensorflow", "keras:jax"], ENGINES))
def test_what_compiled_makes_is_held_to_predict(
    pool: Pool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(determinism, "processes", lambda *_: [])
    dtypes = {"float32": 1e-5, "bfloat16": 5e-2}
    report = check_determinism(
        TINY, [ENGINES[name]], dtypes=list(dtypes), batch=2, compiled=True, start=pool.start
    )
    assert report.holds, report.problems
    for dtype, bound in dtypes.items():
        found = {r.variation: r for r in report.reruns if (r.form, r.dtype) == ("compiled", dtype)}
        assert {"batch 1", "after other batches", "than predict"} <= set(found)
        assert all(r.relative <= bound for r in found.values())
        assert found["once more"].equal


@pytest.mark.skipif(choice.tier != "all", reason="starts a dozen processes")
@pytest.mark.parametrize("name", list(ENGINES))
@pytest.mark.frameworks
def test_the_strict_form_keeps_its_bits_over_processes(name: str) -> None:
    report = check_determinism(resolve("resnet18"), [ENGINES[name]], batch=3, strict=True)
    assert report.holds, report.problems
    assert "another process" in {r.variation for r in report.reruns if r.form == "strict"}
