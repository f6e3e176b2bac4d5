"""Every engine against every other, in float64: counts, shapes, logits and each block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import resnet_torch
from resnet_parity.check.forward import check, default_sizes
from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import ENGINES, Device, Engine
from resnet_parity.numerics.difference import FLOAT64_TOLERANCE
from shared_spec import (
    Checkpoint,
    ResNetSpec,
    cast_weights,
    compile_plan,
    random_images,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from tests.conftest import Pool
from tests.specs import SPECS
from tests.tiers import choice, engines, pairs, selected


def test_the_tolerance_is_the_published_one() -> None:
    assert FLOAT64_TOLERANCE == 1e-12


FEW = ["resnet20 (A)", "plain20", "d2l_resnet18_same", "LayerScale"]
FRAMEWORKS = ("torch", "keras:tensorflow", "flax")
COMPILED = {"resnet18", "resnet50", "resnet20 (A)"}
"""As a whole too; compiling every net at three sizes would take most of the suite's time."""


@pytest.mark.parametrize("name", selected(FEW, SPECS))
def test_five_engines_agree_in_float64(pool: Pool, name: str) -> None:
    spec = SPECS[name]
    # The odd one is left out in tier `test`: the one that is not square has an odd side too.
    every = default_sizes(spec)
    sizes = selected([every[0], every[2]], every)
    assert {h % 2 for h, w in sizes} == {0, 1}
    assert any(h != w for h, w in sizes)
    report = check(
        spec,
        engines(),
        name=name,
        sizes=sizes,
        compiled=name in COMPILED,
        start=pool.start,
    )
    assert report.problems == []
    assert [ran.engine for ran in report.ran] == list(choice.engines)
    assert [pair.engines for pair in report.pairs] == list(pairs())
    blocks = len(list(compile_plan(spec).blocks()))
    for ran in report.ran:
        assert len(ran.outputs) == len(sizes) * (blocks + 1)
        assert ran.parameters == compile_plan(spec).parameter_count()
        assert all(array.dtype == np.float64 for array in ran.outputs.values())
    for pair in report.pairs:
        assert pair.logits.maximum <= 1e-12
        assert pair.blocks.maximum <= 1e-12


def test_a_published_net_agrees_at_its_full_width(pool: Pool) -> None:
    """In tier `all` it is one of the above, at three sizes."""
    report = check(SPECS["resnet50"], engines(), sizes=[(65, 48)], compiled=False, start=pool.start)
    assert report.problems == []
    assert [pair.engines for pair in report.pairs] == list(pairs())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lower_precision_is_held_against_float64(pool: Pool, dtype: str) -> None:
    spec = SPECS["resnet20 (B)"]
    sizes = selected(default_sizes(spec)[1:2], default_sizes(spec))
    report = check(
        spec, engines(), dtype=dtype, sizes=sizes, compiled=dtype == "float32", start=pool.start
    )
    assert report.problems == []
    assert set(report.against_float64) == set(choice.engines)
    # The measured bound is not so wide that anything passes.
    assert report.tolerance < {"float32": 1e-4, "bfloat16": 1.0}[dtype]


@pytest.mark.optimised
def test_a_deep_net_agrees_too(pool: Pool) -> None:
    spec: ResNetSpec = SPECS["resnet20 (A)"].override(depths=[18, 18, 18])
    ran = [engine for engine in engines() if choice.tier == "all" or engine.name in FRAMEWORKS]
    report = check(spec, ran, sizes=[(33, 32)], start=pool.start)
    assert report.problems == []
    assert len(report.pairs) == len(ran) * (len(ran) - 1) // 2


@pytest.mark.parametrize("name", ["resnet1202", "plain1202", "ecaresnet269d", "resnetv2_152"])
def test_random_weights_keep_the_scale_of_activations(name: str) -> None:
    """A net whose activations grow or fade in depth is ill-conditioned: engines would part by
    rounding alone.
    """
    spec = resolve(name)
    state = cast_weights(random_weights(compile_plan(spec)), "float32")
    model = resnet_torch.create_model(name, weights=state)
    found = resnet_torch.activations(model, random_images((1, 33, 33, 3)))
    scales = [
        float(np.sqrt(np.square(array.astype(np.float64)).mean())) for array in found.values()
    ]
    assert min(scales) > 0.03
    assert max(scales) < 100


def test_an_accelerator_is_held_against_the_cpu(pool: Pool) -> None:
    """What all engines get wrong alike on it, such as a kernel that rounds, is seen too."""

    class Narrow:
        """A worker on a device that rounds every image to float16."""

        def __init__(self, worker: Worker) -> None:
            self.worker = worker

        def call(self, operation: str, **arguments: Any) -> Any:
            if operation == "run":
                given = arguments["images"]
                arguments["images"] = [f"{path}.narrow" for path in given]
                for path, narrow in zip(given, arguments["images"], strict=True):
                    images = read_safetensors(path).state["images"].astype(np.float16)
                    write_safetensors(narrow, Checkpoint({"images": images.astype(np.float64)}))
            return self.worker.call(operation, **arguments)

    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        worker = pool[engine.name]
        yield Narrow(worker) if rounds and device == "gpu" else worker

    two = [ENGINES["torch"], ENGINES["flax"]]
    for rounds in (False, True):
        report = check(
            SPECS["resnet20 (B)"],
            two,
            device="gpu",
            sizes=[(33, 32)],
            compiled=False,
            start=start,
        )
        assert [ran.engine for ran in report.ran] == ["torch (cpu)", "torch", "flax"]
        assert report.pairs[-1].engines == ("torch", "flax")
        assert report.pairs[-1].logits.within(FLOAT64_TOLERANCE)
        assert report.holds != rounds


def test_default_precision_has_a_bound_of_its_own(pool: Pool) -> None:
    """A GPU that multiplies in TF32 rounds 2^13 times as much, and the report says so."""
    two = [ENGINES["torch"], ENGINES["flax"]]
    options: dict[str, Any] = {"device": "gpu", "sizes": [(33, 32)], "compiled": False}
    options |= {"dtype": "float32", "start": pool.remembered}
    full = check(SPECS["resnet20 (B)"], two, **options)
    coarse = check(SPECS["resnet20 (B)"], two, precision="default", **options)
    assert coarse.tolerance == pytest.approx(2**13 * full.tolerance, rel=0.2)
    assert "rounding as in float16" in coarse.rule
    assert "float16" not in full.rule
    assert coarse.to_dict()["precision"] == "default"
    options["dtype"] = "float64"
    wide = check(SPECS["resnet20 (B)"], two, precision="default", **options)
    assert wide.tolerance == FLOAT64_TOLERANCE  # float64 has no such products


def test_default_precision_reaches_the_frameworks(worker: Worker) -> None:
    found = worker.call("probe", function="precision:kept")
    assert found["default"] != found["highest"]
    assert found["after"] == found["highest"]
