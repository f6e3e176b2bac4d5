"""LiteRT files against the net that they are of: faults that exporters are known for are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from resnet_parity.engines.registry import ENGINES
from resnet_parity.trace.compare import ExportedFile, trace
from resnet_parity.trace.exported import contents
from resnet_parity.trace.result import TraceReport
from shared_spec import (
    Checkpoint,
    ResNetError,
    ResNetSpec,
    compile_plan,
    random_weights,
    read_checkpoint,
    resolve,
)
from shared_spec.export_formats import Form
from shared_spec.formats.canonical_file import write_safetensors
from shared_spec.weights.initialize import random_images
from shared_spec.weights.state import State
from tests.conftest import Pool

SPEC = resolve("resnet50", {"depths": [2, 1], "widths": [16, 32], "num_classes": 7})
IMAGES = random_images((3, 33, 40, 3))


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[State], State]:
    return lambda state: {**state, name: np.ascontiguousarray(change(state[name]))}


def fused(block: str, number: int) -> list[str]:
    """What LiteRT's converter makes one operator of."""
    return [f"{block}.{kind}{number}" for kind in ("conv", "bn", "act")]


FAULTS: dict[str, tuple[ResNetSpec, Callable[[State], State], list[str]]] = {
    "none": (SPEC, dict, []),
    "padding": (SPEC.override(padding="same"), dict, ["conv1", "bn1", "act1"]),
    "eps": (
        SPEC,
        changed("layer1.1.bn2.running_var", lambda x: x + 1e-3 - 1e-5),
        fused("layer1.1", 2),
    ),
    "kernel": (
        SPEC,
        changed("layer2.0.conv2.weight", lambda x: x.swapaxes(2, 3)),
        fused("layer2.0", 2),
    ),
    "order of the flattened": (
        SPEC,
        changed("fc.weight", lambda x: np.roll(x, 1, 1)),
        ["global_pool", "fc"],
    ),
}


def written(pool: Pool, folder: Path, spec: ResNetSpec, state: State) -> ExportedFile:
    source, path = folder / "net.safetensors", folder / "net.tflite"
    write_safetensors(source, Checkpoint(state, spec))
    form = asdict(Form(batch=2, size=(33, 40)))
    asked = {"source": str(source), "output": str(path), "form": form}
    pool["keras:tensorflow"].call("export", **asked, dtype="float32", folded=False)
    return ExportedFile(path)


def traced(pool: Pool, spec: ResNetSpec, file: ExportedFile, state: State) -> TraceReport:
    images = IMAGES if file.path.parent.name != "stock" else random_images((3, 40, 40, 3))
    return trace(
        spec,
        ENGINES["torch"],
        file,
        images,
        dtype="float32",
        weights=state,
        start=pool.start,
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_the_layers_are_named(pool: Pool, tmp_path: Path, fault: str) -> None:
    """An operator of the file stands for a convolution with its norm and activation."""
    spec, change, names = FAULTS[fault]
    state = random_weights(compile_plan(SPEC))
    file = written(pool, tmp_path, spec, change(state))
    report = traced(pool, SPEC, file, state)
    assert report.first == names, report.problems
    assert report.holds == (not names)


def test_padding_is_found_with_the_weights_of_the_file(pool: Pool, tmp_path: Path) -> None:
    state = random_weights(compile_plan(SPEC))
    file = written(pool, tmp_path, SPEC.override(padding="same"), state)
    inside = contents(SPEC, file, pool.start)
    assert inside.size == (33, 40)
    report = traced(pool, inside.spec, file, inside.required(file))
    assert report.first == ["conv1", "bn1", "act1"]
    own = written(pool, tmp_path, SPEC, state)
    inside = contents(SPEC, own, pool.start)
    assert traced(pool, inside.spec, own, inside.required(own)).holds
    other = contents(resolve("resnet18"), own, pool.start)
    with pytest.raises(
        ResNetError, match=r"which of its arrays are layer1.*more; name the weights.*\(--weights\)"
    ):
        other.required(own)


@pytest.mark.parametrize("preact", [False, True])
def test_nets_of_keras_applications(pool: Pool, tmp_path: Path, preact: bool) -> None:
    folder = tmp_path / "stock"
    folder.mkdir()
    pool["keras:tensorflow"].call(
        "probe", function="litert_files:stock", folder=str(folder), preact=preact
    )
    known = read_checkpoint(folder / "net.keras")
    assert known.spec is not None
    file = ExportedFile(folder / "net.tflite")
    state = dict(known.state)
    assert traced(pool, known.spec, file, state).holds
    name = next(name for name in state if name.endswith("conv3.weight"))
    report = traced(pool, known.spec, file, changed(name, lambda x: -x)(state))
    assert name.removesuffix(".weight") in report.first
    assert len(report.first) <= 2
    inside = contents(known.spec, file, pool.start)
    assert traced(pool, inside.spec, file, inside.required(file)).holds


def test_what_is_no_such_file(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(b"TFL3" * 100)
    with pytest.raises(ResNetError, match=r"net\.tflite: is no file that LiteRT runs"):
        contents(SPEC, ExportedFile(path), pool.start)
