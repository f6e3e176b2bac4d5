"""Bugs put into conversions on purpose: the verification at their end has to catch every one, and
to name the layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_parity.convert import certificate as module
from resnet_parity.convert.verify import Proof, Target, certify
from resnet_parity.engines import job
from resnet_parity.engines.registry import ENGINES
from shared_spec import (
    Checkpoint,
    ParityError,
    ResNetSpec,
    compile_plan,
    random_weights,
    read_checkpoint,
    resolve,
    write_safetensors,
)
from tests.conftest import Pool

State = dict[str, np.ndarray]
SPEC = resolve(
    "resnet50",
    {"depths": [1, 2, 1], "widths": [16, 16, 32], "stem_width": 16, "num_classes": 7},
)
STATE = random_weights(compile_plan(SPEC), 8)
NORMS = [name.removesuffix(".running_var") for name in STATE if name.endswith("running_var")]
KERNELS = [name for name, array in STATE.items() if array.ndim == 4]


def exchanged(norm: str, a: str, b: str) -> Callable[[State], State]:
    return lambda state: {
        **state,
        f"{norm}.{a}": np.abs(state[f"{norm}.{b}"]),
        f"{norm}.{b}": np.abs(state[f"{norm}.{a}"]),
    }


def on(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[State], State]:
    return lambda state: {**state, name: np.ascontiguousarray(change(state[name]))}


def bfloat16(array: np.ndarray) -> np.ndarray:
    return (array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def faults() -> Iterator[tuple[str, str, Callable[[State], State]]]:
    """What it is, the layer that it is in, and how it changes the weights."""
    for norm in NORMS:
        yield "mean and variance", norm, exchanged(norm, "running_mean", "running_var")
        yield "scale and bias", norm, exchanged(norm, "weight", "bias")
    for name in KERNELS:
        layer, (out, into, side, _) = name.removesuffix(".weight"), STATE[name].shape
        if side > 1:
            yield "height and width", layer, on(name, lambda w: w.transpose(0, 1, 3, 2))
            yield "convolution for correlation", layer, on(name, lambda w: w[:, :, ::-1, ::-1])
        if out == into:
            yield "HWIO for OIHW", layer, on(name, lambda w: w.transpose(1, 0, 2, 3))
        yield "outputs out of order", layer, on(name, lambda w: np.roll(w, 1, 0))
    yield "RGB for BGR", "conv1", on("conv1.weight", lambda w: w[:, ::-1])
    yield "rounded to bfloat16", "layer2.1.conv1", on("layer2.1.conv1.weight", bfloat16)
    yield (
        "one unit in the last place",
        "layer2.0.conv2",
        on("layer2.0.conv2.weight", lambda w: w * np.float32(1 + 2.0**-23)),
    )
    yield "statistics left fresh", "layer3.0.bn1", on("layer3.0.bn1.running_mean", np.zeros_like)
    yield "bias negated", "fc", on("fc.bias", np.negative)
    yield "classes out of order", "fc", on("fc.weight", lambda w: w[::-1])


NETS: dict[str, tuple[dict[str, Any], str]] = {
    "eps 1e-3": ({"norm_eps": 1e-3}, "bn1"),
    "eps 1.001e-5": ({"norm_eps": 1.001e-5}, "bn1"),
    # By 2e-13 in a norm: it takes a few to be more than the tolerance.
    "eps in float32": ({"norm_eps": float(np.float32(1e-5))}, "layer1.0.bn3"),
    "same padding": ({"padding": "same"}, "conv1"),
    "stride of version 1": ({"stride_on": "1x1"}, "layer2.0.conv1"),
    "zeros around the pool": ({"stem_pool": "max_zero"}, ""),
    "another activation": ({"activation": "gelu"}, "act1"),
}
"""Bugs that give the target another net."""


@pytest.fixture(autouse=True)
def quick(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "Worker", pool.remembered)
    monkeypatch.setattr(module, "_SIDE", 32)


def verdict(folder: Path, change: Callable[[State], State], spec: ResNetSpec) -> str:
    """What the verification says of a conversion with this bug; empty if it passes."""
    source, target = folder / "source.safetensors", folder / "target.safetensors"
    write_safetensors(source, Checkpoint(STATE, SPEC))
    write_safetensors(target, Checkpoint(change(STATE), spec))
    checkpoint = read_checkpoint(source)
    whole = Checkpoint(checkpoint.state, spec)
    try:
        certify(source, Target(target, target, whole), checkpoint, [ENGINES["torch"]], Proof())
    except ParityError as error:
        return str(error)
    return ""


def test_every_bug_is_caught_and_its_layer_named(tmp_path: Path) -> None:
    injected = list(faults())
    assert verdict(tmp_path, dict, SPEC) == ""
    missed, misnamed = [], []
    for what, layer, change in injected:
        said = verdict(tmp_path, change, SPEC)
        if not said:
            missed.append((what, layer))
        elif f"first at {layer};" not in said:
            misnamed.append((what, layer, said))
    print(f"{len(injected)} injected, {len(missed)} missed, {len(misnamed)} named wrongly")
    assert len(injected) >= 50
    assert missed == []
    assert len(misnamed) <= 0.05 * len(injected), misnamed


@pytest.mark.parametrize("fault", NETS)
def test_another_net_is_caught(tmp_path: Path, fault: str) -> None:
    fields, layer = NETS[fault]
    said = verdict(tmp_path, dict, SPEC.override(**fields))
    if fault == "zeros around the pool":  # after a ReLU they are never the largest
        assert said == ""
        return
    assert "computes something else" in said
    named = re.search(r"first at (\S+);", said)
    assert named is not None
    assert named[1] == layer
