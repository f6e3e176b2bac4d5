"""ONNX files of every option set, run by runtimes and held against PyTorch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import resnet_onnx
import resnet_torch
from resnet_onnx import Form, file
from resnet_onnx.runtimes import run_file, started, widened
from resnet_parity.numerics.difference import difference
from resnet_parity.numerics.rounding import perturbed
from shared_spec import (
    Checkpoint,
    Preprocessing,
    ResNetSpec,
    SpecError,
    compile_plan,
    random_weights,
    resolve,
)
from shared_spec.weights.initialize import random_images
from shared_spec.weights.state import State, cast_weights
from tests.parity.test_more_families import SPECS as SMALL_FAMILIES
from tests.parity.test_options import DISTINCT, PAIRS
from tests.tiers import selected

SMALL = resolve("resnet50", {"depths": [1, 1], "widths": [16, 32], "num_classes": 7})
BEFORE = resolve("resnetv2_50", {"depths": [1, 1], "widths": [16, 32], "num_classes": 7})
ACTIVATIONS = ("relu6", "leaky_relu", "elu", "selu", "silu", "mish", "gelu_tanh", "hardswish")
NORMS: dict[str, dict[str, Any]] = {
    "batch": {"norm": "batch"},
    "group": {"norm": "group", "norm_groups": 8},
    "frn": {"norm": "frn"},
    "evonorm_s0": {"norm": "evonorm_s0", "norm_groups": 8},
}
ANY = Form()
SETS = {
    **DISTINCT,
    **{SMALL.override(activation=name): name for name in ACTIVATIONS},
    BEFORE.override(norm="frn"): "frn",
    BEFORE.override(norm="evonorm_s0", norm_groups=8): "evonorm_s0",
    SMALL.override(padding="same"): "same",
    SMALL.override(padding="same", shortcut_pool="avg"): "same, average",
    SMALL.override(output_stride=4): "output stride",
    SMALL.override(features_only=True): "features",
    SMALL.override(num_classes=0): "no classes",
    SMALL.override(head_pool="catavgmax"): "both pools",
    resolve("resnet20", {"depths": [1, 1, 1]}): "zeros on the shortcut",
    resolve("plain20", {"depths": [1, 1, 1]}): "no shortcut",
    resolve("nf_resnet26", {"depths": [1], "widths": [16], "skip_gain": True}): "skip gain",
    **{spec: name for name, spec in SMALL_FAMILIES.items()},
}


def outputs(model: Any, images: np.ndarray) -> list[np.ndarray]:
    found = resnet_torch.predict(model, images)
    return found if isinstance(found, list) else [found]


def farthest(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return max(difference(x, y.astype(np.float64)).size for x, y in zip(a, b, strict=True))


def sizes_of(spec: ResNetSpec) -> list[tuple[int, int]]:
    even = spec.anti_alias == "avg" or spec.shortcut_pool == "avg"
    if spec.one_size:
        return [(spec.image_size, spec.image_size)]
    return [(32, 32), (48, 64)] if even else [(32, 32), (45, 33)]


def written(
    path: Path, spec: ResNetSpec, state: State, *, form: Form = ANY, folded: bool = False
) -> Path:
    dtype = next(iter(state.values())).dtype.name
    model = resnet_onnx.create_model(spec, weights=state, dtype=dtype, inference=folded)
    resnet_onnx.export(model, path, form=form)
    return path


@pytest.mark.parametrize("folded", [False, True], ids=["norms", "folded"])
@pytest.mark.parametrize("spec", SETS, ids=SETS.__getitem__)
def test_the_reference_agrees_in_float64(spec: ResNetSpec, folded: bool, tmp_path: Path) -> None:
    """The file's own float32 weights, on images of any number and size."""
    state = random_weights(compile_plan(spec))
    ours = resnet_torch.create_model(spec, weights=state, dtype="float64")
    # Folding rounds: its weights are compared before that.
    kept = cast_weights(state, "float64") if folded else state
    path = written(tmp_path / "net.onnx", spec, kept, folded=folded)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    run = started(model if folded else widened(model), "float64", "onnx:reference")
    for count, size in enumerate(sizes_of(spec), 1):
        images = random_images((count, *size, spec.in_channels)).astype(np.float64)
        found = run({"images": np.moveaxis(images, -1, 1)})
        assert farthest(outputs(ours, images), [np.moveaxis(x, 1, -1) for x in found]) < 1e-12


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("spec", selected(PAIRS, DISTINCT), ids=DISTINCT.__getitem__)
def test_runtimes_agree_in_float32(spec: ResNetSpec, runtime: str, tmp_path: Path) -> None:
    p = compile_plan(spec)
    state = random_weights(p)
    wide = cast_weights(state, "float64")
    ours = resnet_torch.create_model(spec, weights=wide, dtype="float64")
    changed = resnet_torch.create_model(
        spec, weights=perturbed(p, wide, "float32", 0), dtype="float64"
    )
    run = started(onnx.load(written(tmp_path / "net.onnx", spec, state)), "float32", runtime)
    for count, size in enumerate(sizes_of(spec), 1):
        images = random_images((count, *size, spec.in_channels))
        exact = outputs(ours, images.astype(np.float64))
        rounding = farthest(exact, outputs(changed, images.astype(np.float64)))
        found = run({"images": np.ascontiguousarray(np.moveaxis(images, -1, 1))})
        assert farthest(exact, [np.moveaxis(x, 1, -1) for x in found]) < 4 * rounding


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_the_canonical_ones_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    state = cast_weights(random_weights(compile_plan(SMALL)), dtype)
    model = onnx.load(written(tmp_path / "net.onnx", SMALL, state))
    found = {x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer}
    for name, array in state.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes()
    layers = {layer.name for layer in compile_plan(SMALL).layers()}
    given = {name for node in model.graph.node for name in node.output}
    assert layers - given <= {"fc"}  # which is called logits
    assert {"images", "logits"} == {x.name for x in (*model.graph.input, *model.graph.output)}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("norm", NORMS)
def test_halves_compute_what_they_should(dtype: str, norm: str, tmp_path: Path) -> None:
    spec = BEFORE.override(**NORMS[norm], attention="eca")
    state = cast_weights(random_weights(compile_plan(spec)), dtype)
    ours = resnet_torch.create_model(spec, weights=state, dtype="float64")
    path = written(tmp_path / "net.onnx", spec, state)
    onnx.checker.check_model(path, full_check=True)
    images = random_images((2, 33, 40, 3)).astype(np.float64)
    exact = outputs(ours, images)
    assert farthest(exact, run_as(path, "onnx:reference", "float64", images)) < 1e-12
    error = farthest(exact, run_as(path, "openvino", dtype, images))
    assert error < (5e-3 if dtype == "float16" else 4e-2)


def run_as(path: Path, runtime: str, dtype: str, images: np.ndarray) -> list[np.ndarray]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_ONNX_RUNTIME", runtime)
        return run_file(path, dtype, {"images": images})


@pytest.mark.parametrize("opset", range(file.OLDEST, onnx.defs.onnx_opset_version() + 1))
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_operators_of_every_version(opset: int, norm: str, tmp_path: Path) -> None:
    spec = SMALL.override(**NORMS[norm], activation="gelu", stem_pool="max_zero")
    state = random_weights(compile_plan(spec))
    path = written(tmp_path / "net.onnx", spec, state, form=Form(opset=opset))
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [x.version for x in model.opset_import] == [opset]
    images = random_images((1, 33, 40, 3)).astype(np.float64)
    ours = resnet_torch.create_model(spec, weights=state, dtype="float64")
    assert (
        farthest(outputs(ours, images), run_as(path, "onnx:reference", "float64", images)) < 1e-12
    )


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_graph_that_takes_pixels_and_gives_probabilities(
    runtime: str, order: Any, tmp_path: Path
) -> None:
    prepare = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), channel_order=order)
    state = random_weights(compile_plan(SMALL))
    model = resnet_onnx.create_model(SMALL, weights=state)
    model.preprocessing = prepare
    form = Form(batch=2, size=(40, 33), preprocessing=True, head="softmax")
    resnet_onnx.export(model, tmp_path / "net.onnx", form=form)
    net = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(net, full_check=True)
    (given,), (taken,) = net.graph.output, net.graph.input
    assert (taken.name, given.name) == ("pixels", "probabilities")
    assert [d.dim_value for d in taken.type.tensor_type.shape.dim] == [2, 40, 33, 3]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 33, 3), np.uint8)
    (found,) = started(net, "float32", runtime)({"pixels": pixels})
    ours = resnet_torch.create_model(SMALL, weights=state, dtype="float64")
    logits = resnet_torch.predict(ours, prepare.normalise(pixels / 255).astype(np.float64))
    np.testing.assert_allclose(
        found, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=2e-5
    )


def test_two_files_are_equal_and_tell_their_net(tmp_path: Path) -> None:
    spec = SMALL.override(num_classes=2)
    model = resnet_onnx.create_model(spec)
    model.labels = ("cat", "dog")
    for name in ("a.onnx", "b.onnx"):
        resnet_onnx.export(model, tmp_path / name)
    first, second = (tmp_path / name for name in ("a.onnx", "b.onnx"))
    assert first.read_bytes() == second.read_bytes()
    told = {x.key: x.value for x in onnx.load(first).metadata_props}
    data = json.loads(told["resnet_parity"])
    known = Checkpoint.from_metadata({}, data, "file")
    assert (known.spec, known.labels) == (spec, ("cat", "dog"))


def test_weights_beyond_one_file_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "INLINE", 10_000)
    state = random_weights(compile_plan(SMALL))
    path = written(tmp_path / "net.onnx", SMALL, state)
    (beside,) = tmp_path.glob("*.data")
    assert beside.name == f"net.onnx.{hashlib.sha256(beside.read_bytes()).hexdigest()[:12]}.data"
    onnx.checker.check_model(path, full_check=True)
    images = random_images((1, 32, 32, 3)).astype(np.float64)
    ours = resnet_torch.create_model(SMALL, weights=state, dtype="float64")
    assert (
        farthest(outputs(ours, images), run_as(path, "onnx:reference", "float64", images)) < 1e-12
    )
    # Another net takes its place, with what it had beside it.
    written(path, SMALL, random_weights(compile_plan(SMALL), 1))
    (other,) = tmp_path.glob("*.data")
    assert other != beside
    monkeypatch.undo()
    written(path, SMALL, state)
    assert [x.name for x in tmp_path.iterdir()] == ["net.onnx"]


_MEASURED = """
import sys
from pathlib import Path
from resnet_parity.convert.export import Wanted, export
from shared_spec.export_formats import Form
from shared_spec.origin import origin_of
export(origin_of(sys.argv[1]), Path(sys.argv[2]), Wanted(Form(), folded=sys.argv[3] == "folded"))
frameworks = {"torch", "keras", "tensorflow", "jax", "flax"} & set(sys.modules)
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) / 1024, *frameworks)
"""


@pytest.mark.parametrize("form", ["plain", "folded"])
def test_one_array_at_a_time_and_no_framework(form: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MEASURED, "resnet50", str(tmp_path / "net.onnx"), form]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert len(answer) == 1, answer
    largest = max(q.size for q in compile_plan(resolve("resnet50")).parameters()) * 4 / 2**20
    assert float(answer[0]) < 250 + largest


@pytest.mark.parametrize(
    ("spec", "form", "message"),
    [
        (SMALL, {"opset": 16}, "opset: 16 is not one of 17 to"),
        (SMALL, {"batch": 0}, "batch: 0 is not a number of images"),
        (SMALL, {"head": "sigmoid"}, "head: 'sigmoid' is not one of logits, softmax"),
        (SMALL, {"preprocessing": True}, "preprocessing: the weights have none"),
        (SMALL.override(features_only=True), {"head": "softmax"}, "has no logits"),
        (SMALL.override(num_classes=0), {"head": "softmax"}, "has no logits"),
        (SMALL, {"size": (2, 2)}, None),
        (SMALL.override(anti_alias="blur"), {"size": (2, 2)}, "the input image is too small"),
    ],
)
def test_refused(
    spec: ResNetSpec, form: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    model = resnet_onnx.create_model(spec)
    path = tmp_path / "net.onnx"
    if message is None:
        resnet_onnx.export(model, path, form=Form(**form))
        return
    with pytest.raises(SpecError, match=message):
        resnet_onnx.export(model, path, form=Form(**form))
    assert not path.exists()
