"""Breaking a conversion on purpose: each fault has to be noticed by `check`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_parity.check.forward import check
from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import Device, Engine, parse_engines
from shared_spec import Checkpoint, ResNetSpec, read_safetensors, resolve, write_safetensors
from tests.conftest import Pool

State = dict[str, np.ndarray]

SPEC = resolve(
    "resnext50_32x4d",
    {"depths": [1, 2, 1], "widths": [64, 64, 128], "groups": 4, "base_width": 16, "num_classes": 9},
)
CIFAR = resolve("resnet20", {"depths": [1, 2, 2]})


def swap(a: str, b: str, where: str = "") -> Callable[[State], State]:
    """Exchange the leaves `a` and `b` of every norm whose name contains `where`."""

    def change(state: State) -> State:
        out = dict(state)
        for name in state:
            module, _, leaf = name.rpartition(".")
            if leaf == a and where in name and f"{module}.running_var" in state:
                out[name], out[f"{module}.{b}"] = state[f"{module}.{b}"], state[name]
        return out

    return change


def on(name: str, function: Callable[[np.ndarray], np.ndarray]) -> Callable[[State], State]:
    """Change one array."""
    return lambda state: {**state, name: function(state[name])}


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    bits = array.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(array.dtype)


def exchange_blocks(state: State) -> State:
    out = dict(state)
    for name in state:
        if name.startswith("layer2.1.conv2"):
            other = name.replace("layer2.1", "layer2.0")
            out[name], out[other] = state[other], state[name]
    return out


# Its stem's pool meets negative numbers: there is no activation before it.
PRE_ACTIVATION = resolve("resnetv2_18", {"depths": [1, 1], "widths": [16, 16], "stem_width": 16})

WEIGHT_FAULTS: dict[str, Callable[[State], State]] = {
    "mean and variance swapped": swap("running_mean", "running_var"),
    "mean and variance swapped in one norm": swap("running_mean", "running_var", "layer2.1.bn2"),
    "scale and bias swapped": swap("weight", "bias"),
    "scale and bias swapped in one norm": swap("weight", "bias", "layer1.0.bn1"),
    "bias of one norm negated": on("layer3.0.bn2.bias", np.negative),
    "statistics of one norm left fresh": on("layer3.0.bn1.running_mean", np.zeros_like),
    "in and out swapped in a square kernel": on(
        "layer2.1.conv1.weight",
        lambda w: w.reshape(64, -1)[:, :64].T.reshape(64, 64, 1, 1).repeat(w.shape[1] // 64, 1),
    ),
    "height and width swapped in a square kernel": on(
        "layer1.0.conv2.weight", lambda w: w.transpose(0, 1, 3, 2)
    ),
    "kernel flipped": on("layer1.0.conv2.weight", lambda w: w[:, :, ::-1, ::-1]),
    "groups out of order": on("layer2.0.conv2.weight", lambda w: np.roll(w, w.shape[0] // 4, 0)),
    "channels of the image reversed": on("conv1.weight", lambda w: w[:, ::-1]),
    "classes out of order": on("fc.weight", lambda w: w[::-1]),
    "one kernel through bfloat16": on("layer2.1.conv3.weight", to_bfloat16),
    "one kernel off by as much as float32 rounds": on(
        "layer1.0.conv2.weight", lambda w: w * (1 + 2.0**-24)
    ),
    "kernels of two blocks exchanged": exchange_blocks,
}

SPEC_FAULTS: dict[str, tuple[ResNetSpec, dict[str, Any]]] = {
    "eps 1e-3": (SPEC, {"norm_eps": 1e-3}),
    "eps 1e-6": (SPEC, {"norm_eps": 1e-6}),
    "eps rounded to float32": (SPEC, {"norm_eps": float(np.float32(1e-5))}),
    "same padding": (SPEC, {"padding": "same"}),
    "v1 stride for v1.5": (SPEC, {"stride_on": "1x1"}),
    "shortcut forgotten": (CIFAR, {"shortcut": "none"}),
    "stride of the stem": (SPEC, {"stem_stride": 1}),
    "stem pool forgotten": (SPEC, {"stem_pool": "none"}),
    "zero instead of minus infinity padded": (PRE_ACTIVATION, {"stem_pool": "max_zero"}),
    "groups as one": (CIFAR, {"strides": [1, 1, 2]}),
}


class Faulty:
    """A worker whose weights or network are changed on the way in."""

    def __init__(self, worker: Worker, change: Callable[[State], State], spec: Any) -> None:
        self.worker, self.change, self.spec = worker, change, spec

    def call(self, operation: str, **arguments: Any) -> Any:
        if operation == "run":
            # In a file of its own: the other engines read the same.
            state = self.change(read_safetensors(arguments["weights"]).state)
            arguments["weights"] = str(Path(arguments["weights"]).with_name("faulty.safetensors"))
            write_safetensors(arguments["weights"], Checkpoint(state))
            if self.spec is not None:
                arguments["spec"] = self.spec.to_dict()
        return self.worker.call(operation, **arguments)


def run(
    pool: Pool,
    spec: ResNetSpec,
    victim: str,
    change: Callable[[State], State] = dict,
    other: ResNetSpec | None = None,
) -> Any:
    """`check` of two engines, of which `victim` is fed the fault."""

    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        with pool.remembered(engine) as worker:
            yield Faulty(worker, change, other) if engine.name == victim else worker

    return check(spec, parse_engines("torch,flax"), sizes=[(32, 32), (45, 32)], start=start)


@pytest.mark.parametrize("spec", [SPEC, CIFAR], ids=["bottleneck", "cifar"])
def test_without_a_fault_the_check_holds(pool: Pool, spec: ResNetSpec) -> None:
    assert run(pool, spec, "flax").problems == []


@pytest.mark.parametrize("victim", ["torch", "flax"])
@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_a_fault_in_the_weights_is_caught(pool: Pool, fault: str, victim: str) -> None:
    report = run(pool, SPEC, victim, WEIGHT_FAULTS[fault])
    assert not report.holds
    assert "torch and flax differ at" in report.problems[0]


@pytest.mark.parametrize("fault", SPEC_FAULTS)
def test_a_fault_in_the_network_is_caught(pool: Pool, fault: str) -> None:
    spec, fields = SPEC_FAULTS[fault]
    report = run(pool, spec, "flax", other=spec.override(**fields))
    assert not report.holds


@pytest.mark.parametrize("where", ["layer2.1.bn2", "layer3.0.bn1"])
def test_the_first_block_that_parts_is_named(pool: Pool, where: str) -> None:
    report = run(pool, SPEC, "flax", swap("running_mean", "running_var", where))
    assert f"differ at {where.rpartition('.')[0]} by" in report.problems[0]


def test_a_nan_never_passes(pool: Pool) -> None:
    report = run(pool, SPEC, "flax", on("fc.bias", lambda b: b * np.nan))
    assert not report.holds


def test_a_dead_engine_is_told(pool: Pool) -> None:
    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        if engine.name == "torch":
            yield pool["torch"]
            return
        with Worker(engine, device) as worker:
            worker._process.kill()
            yield worker

    report = check(CIFAR, parse_engines("torch,flax"), sizes=[(16, 16)], start=start)
    assert "SIGKILL" in report.failed["flax"]
    assert any(p.startswith("flax failed") for p in report.problems)
    assert any("nothing was compared" in p for p in report.problems)


@pytest.mark.parametrize("requested", [True, False])
def test_a_missing_engine_is_told(pool: Pool, requested: bool) -> None:
    absent = Engine("other", "resnet_other", ("a_module_that_is_not_there",), "other")
    engines = [*parse_engines("torch,flax"), absent]
    report = check(CIFAR, engines, sizes=[(16, 16)], start=pool.start, requested=requested)
    assert "pip install 'resnet-parity[other]'" in report.missing["other"]
    assert report.holds is not requested


def test_a_comparison_of_nothing_is_an_error(pool: Pool) -> None:
    report = check(CIFAR, parse_engines("torch"), sizes=[(16, 16)], start=pool.start)
    assert report.problems == ["nothing was compared: torch ran alone"]
