"""Faults that exporters are known for: the proof catches each, and `trace` names its layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

import resnet_onnx
from resnet_onnx import Form, file
from resnet_parity.convert import export as exporting
from resnet_parity.convert.export import Wanted
from resnet_parity.convert.verify import Proof
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.registry import ENGINES, RUNTIMES
from resnet_parity.trace.compare import ExportedFile, trace
from resnet_parity.trace.exported import contents
from shared_spec import Checkpoint, ParityError, compile_plan, random_weights, resolve
from shared_spec.formats.canonical_file import write_safetensors
from shared_spec.origin import origin_of
from shared_spec.weights.initialize import random_images
from tests.conftest import Pool

SPEC = resolve(
    "resnet50d",
    {"depths": [1, 1], "widths": [16, 32], "stem_width": 8, "num_classes": 7, "image_size": 33},
)
IMAGES = random_images((2, 33, 40, 3))


def node(model: ModelProto, name: str) -> Any:
    return next(x for x in model.graph.node if x.name == name)


def setting(model: ModelProto, name: str, key: str, value: Any) -> None:
    found = node(model, name)
    kept = [x for x in found.attribute if x.name != key]
    del found.attribute[:]
    found.attribute.extend([*kept, helper.make_attribute(key, value)])


def array(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(x for x in model.graph.initializer if x.name == name)
    changed = np.ascontiguousarray(change(numpy_helper.to_array(tensor)))
    tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), name))


def biased(model: ModelProto) -> None:
    """A variance that was estimated otherwise: n / (n - 1) times as large."""
    array(model, "bn1.running_var", lambda x: x * 64 / 63)


def rows_first(model: ModelProto) -> None:
    """Features in another order than the dense layer has them, as maps flattened in NHWC give."""
    array(model, "fc.weight", lambda x: np.roll(x, 1, axis=1))


FAULTS: dict[str, tuple[Callable[[ModelProto], None], str]] = {
    "pads": (lambda m: setting(m, "layer2.0.conv2", "pads", [0, 0, 2, 2]), "layer2.0.conv2"),
    "eps": (lambda m: setting(m, "layer1.0.bn2", "epsilon", 1e-3), "layer1.0.bn2"),
    "kernel": (
        lambda m: array(m, "layer1.0.conv2.weight", lambda x: x.transpose(0, 1, 3, 2)),
        "layer1.0.conv2",
    ),
    "variance": (biased, "bn1"),
    "ceil_mode": (
        lambda m: (
            setting(m, "maxpool", "ceil_mode", 1),
            setting(m, "maxpool", "pads", [0, 0, 1, 1]),
        ),
        "maxpool",
    ),
    "count_include_pad": (
        lambda m: (
            setting(m, "layer2.0.downsample.0", "pads", [0, 0, 1, 1]),
            setting(m, "layer2.0.downsample.0", "count_include_pad", 1),
        ),
        "layer2.0.downsample.0",
    ),
    "order of the flattened": (rows_first, "fc"),
    "swapped statistics": (
        lambda m: (
            array(m, "layer2.0.bn1.running_mean", np.abs),
            array(m, "layer2.0.bn1.running_var", lambda x: x[::-1]),
        ),
        "layer2.0.bn1",
    ),
}


def names_lost(model: ModelProto) -> None:
    """As foreign exporters number tensors."""
    names = {x: f"t{i}" for i, node in enumerate(model.graph.node) for x in node.output}
    names = {k: v for k, v in names.items() if k != "logits"}
    for item in model.graph.node:
        item.name = ""
        for places in (item.input, item.output):
            places[:] = [names.get(name, name) for name in places]
    del model.graph.value_info[:]


@pytest.mark.parametrize("named", [True, False], ids=["named", "numbered"])
@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_trace_names_the_layer(pool: Pool, tmp_path: Path, fault: str | None, named: bool) -> None:
    state = random_weights(compile_plan(SPEC))
    path = tmp_path / "net.onnx"
    _write(path, state, None if fault is None else FAULTS[fault][0], named)
    report = trace(
        SPEC, ENGINES["torch"], ExportedFile(path), IMAGES, weights=state, start=pool.start
    )
    if fault is None:
        assert report.problems == []
    else:
        assert report.first == [FAULTS[fault][1]], report.problems


@pytest.mark.parametrize("named", [True, False], ids=["named", "numbered"])
@pytest.mark.parametrize("fault", [None, "pads", "eps", "ceil_mode", "count_include_pad"])
def test_trace_takes_the_weights_of_the_file(
    pool: Pool, tmp_path: Path, fault: str | None, named: bool
) -> None:
    """What computes something else than the net has the net's weights all the same."""
    state = random_weights(compile_plan(SPEC))
    file = ExportedFile(tmp_path / "net.onnx")
    _write(file.path, state, None if fault is None else FAULTS[fault][0], named)
    inside = contents(SPEC, file)
    found = inside.required(file)
    assert (inside.spec, found.keys()) == (SPEC, state.keys())
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array)
    report = trace(SPEC, ENGINES["torch"], file, IMAGES, weights=found, start=pool.start)
    assert report.first == ([] if fault is None else [FAULTS[fault][1]]), report.problems


def test_maps_as_wide_as_they_have_channels(pool: Pool, tmp_path: Path) -> None:
    """The shape does not tell which axis the channels are."""
    spec = SPEC.override(widths=(16, 16))
    state = random_weights(compile_plan(spec))
    path = tmp_path / "net.onnx"
    resnet_onnx.export(resnet_onnx.create_model(spec, weights=state), path)
    images = random_images((2, 64, 64, 3))
    report = trace(
        spec, ENGINES["torch"], ExportedFile(path), images, weights=state, start=pool.start
    )
    assert report.holds, report.problems


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_the_proof_catches_it(
    pool: Pool, tmp_path: Path, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "net.safetensors", tmp_path / "net.onnx"
    write_safetensors(source, Checkpoint(random_weights(compile_plan(SPEC)), SPEC))
    monkeypatch.setattr(
        "resnet_parity.convert.verify.EngineJob", partial(EngineJob, start=pool.start)
    )
    if fault is not None:
        save = file.save
        monkeypatch.setattr(
            file, "save", lambda out, model, weights: _faulty(save, out, model, weights, fault)
        )
    proof = Proof((RUNTIMES["onnx:reference"],))
    origin = origin_of(str(source))
    if fault is None:
        done = exporting.export(origin, target, Wanted(Form()), proof)
        assert [check.holds for check in done.checks] == [True]
        return
    with pytest.raises(ParityError, match=r"net\.onnx: onnx:reference in float64 computes"):
        exporting.export(origin, target, Wanted(Form()), proof)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["net.safetensors"]


def _faulty(save: Any, out: Any, model: ModelProto, weights: Any, fault: str) -> None:
    whole = file.in_memory(model, weights)
    FAULTS[fault][0](whole)
    out.write(whole.SerializeToString())


def _write(path: Path, state: Any, fault: Any, named: bool) -> None:
    resnet_onnx.export(resnet_onnx.create_model(SPEC, weights=state), path)
    model = onnx.load(path)
    if fault is not None:
        fault(model)
    if not named:
        names_lost(model)
    onnx.save(model, path)
