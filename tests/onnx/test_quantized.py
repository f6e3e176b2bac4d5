"""Nets of int8: what is written, what runtimes make of it, and what the proof catches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import resnet_onnx
import resnet_torch
from resnet_onnx import Form, calibration, quantization
from resnet_onnx.calibration import largest, limits_of, write_observed
from resnet_onnx.file import write
from resnet_onnx.quantization import Limits, misfit, points_of
from resnet_onnx.runtimes import RUNTIMES as ONNX_RUNTIMES
from resnet_onnx.runtimes import run_file, started
from resnet_parity.convert.export import Wanted, export
from resnet_parity.convert.quantized import Quantization, compared
from resnet_parity.convert.verify import Proof, verify
from resnet_parity.datasets.dataset import InMemory
from resnet_parity.engines.registry import RUNTIMES
from resnet_parity.numerics.difference import ROUNDING_FACTOR, difference
from resnet_parity.numerics.intervals import paired_difference, share
from resnet_parity.numerics.rounding import perturbed
from shared_spec import (
    Checkpoint,
    ParityError,
    Preprocessing,
    ResNetError,
    ResNetSpec,
    SpecError,
    WeightsError,
    compile_plan,
    random_weights,
    resolve,
)
from shared_spec.formats.canonical_file import save_canonical
from shared_spec.origin import Origin
from shared_spec.plan.folding import inference_form
from shared_spec.weights.folding import weight_entries
from shared_spec.weights.initialize import random_images
from shared_spec.weights.state import State, cast_weights
from tests.command import command, refused
from tests.onnx.families import FAMILIES
from tests.tiers import selected

DIGITS = "resnet_parity/assets/digits_resnet20.safetensors"
BASIC = resolve("resnet18", {"depths": [1, 1], "widths": [8, 16], "num_classes": 5})
WIDE = resolve("resnet50", {"depths": [1, 1], "widths": [16, 32], "num_classes": 7})
NETS: dict[str, ResNetSpec] = {
    "relu6": WIDE.override(activation="relu6"),
    "silu": WIDE.override(activation="silu"),
    "same padding": WIDE.override(padding="same"),
    **{name: spec for name, spec in FAMILIES.items() if not spec.features_only},
}
FEW = (
    *("relu6", "silu", "same padding", "basic", "bottleneck", "ResNeXt", "SE", "ECA", "blur"),
    *("deep stem, average shortcut", "pre-activation", "BiT", "zeros on the shortcut"),
    *("SKNet", "Res2Net", "ResNeSt", "NF-ResNet", "global context"),
    *("RegNetZ, EvoNorm", "CLIP, attention pool", "iresnet"),
)


def quantized(path: Path, spec: ResNetSpec, state: State, images: np.ndarray) -> Limits:
    p = inference_form(compile_plan(spec), True)
    entries = weight_entries(p, state, "float32")
    write_observed(path.with_name("observed.onnx"), p, entries)
    limits = limits_of(largest(onnx.load(path.with_name("observed.onnx")), images))
    write(path, p, entries, "float32", Form().sized(spec), Checkpoint(state, spec), limits)
    return limits


@pytest.mark.parametrize("name", selected(FEW, NETS))
def test_runtimes_run_every_family(name: str, tmp_path: Path) -> None:
    spec, path = NETS[name], tmp_path / "net.onnx"
    p, state = compile_plan(spec), random_weights(compile_plan(spec))
    side = spec.image_size if spec.one_size else 64
    images = random_images((4, side, side, spec.in_channels))
    quantized(path, spec, state, images)
    onnx.checker.check_model(path, full_check=True)
    wide, double = cast_weights(state, "float64"), images.astype(np.float64)

    def judge(weights: State) -> np.ndarray:
        model = resnet_torch.create_model(spec, weights=weights, dtype="float64")
        return resnet_torch.predict(model, double)

    exact = judge(wide)
    trials = (judge(perturbed(p, wide, "int8", seed)) for seed in range(3))
    bound = ROUNDING_FACTOR * max(difference(exact, other).size for other in trials)
    assert bound < 0.6
    for runtime in ONNX_RUNTIMES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RESNET_ONNX_RUNTIME", runtime)
            (found,) = run_file(path, "int8", {"images": images})
        assert difference(exact, found.astype(np.float64)).size < bound, runtime


def test_onnxruntime_computes_in_integers(tmp_path: Path) -> None:
    """Of all convolutions, sums and the dense layer nothing is left in float."""
    import onnxruntime

    for spec in (WIDE, BASIC):
        path = tmp_path / "net.onnx"
        quantized(path, spec, random_weights(compile_plan(spec)), random_images((1, 32, 32, 3)))
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "fused.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found = {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}
        assert {"QLinearConv", "QLinearAdd", "QGemm"} <= found
        assert not found & {"Conv", "FusedConv", "Add", "Gemm", "Relu"}


class Integers:
    """The arithmetic of a quantised file, in numpy: whole numbers until a tensor is rounded."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        self.arrays = {x.name: numpy_helper.to_array(x) for x in self.model.graph.initializer}

    def whole(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps from zero, int64, and the step."""
        steps = self.arrays[name].astype(np.int64) - self.arrays[f"{name}/zero_point"].reshape(
            -1, *[1] * (self.arrays[name].ndim - 1)
        )
        return steps, self.arrays[f"{name}/scale"].astype(np.float64)

    def values(self, point: str, stored: np.ndarray) -> tuple[np.ndarray, float]:
        zero = int(self.arrays[f"{point}/zero_point"])
        return stored.astype(np.int64) - zero, float(self.arrays[f"{point}/scale"])

    def rounded(self, point: str, value: np.ndarray) -> np.ndarray:
        scale, zero = float(self.arrays[f"{point}/scale"]), int(self.arrays[f"{point}/zero_point"])
        return np.rint(value / scale + zero).clip(0, 255).astype(np.uint8)

    def convolved(self, layer: Any, point: str, stored: np.ndarray) -> np.ndarray:
        x, entering = self.values(point, stored)
        kernel, scale = self.whole(f"{layer.name}.weight")
        bias, _ = self.whole(f"{layer.name}.bias")
        # In float64, whose whole numbers reach farther than int32's.
        sums = torch.nn.functional.conv2d(
            *(torch.from_numpy(a.astype(np.float64)) for a in (x, kernel, bias)),
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
        ).numpy()
        assert np.array_equal(sums, np.rint(sums))
        assert np.abs(sums).max() < 2**31
        return sums * (entering * scale)[:, None, None]


def test_the_file_is_integer_arithmetic(tmp_path: Path) -> None:
    """ONNX's reference, tensor by tensor, beside the same in whole numbers."""
    spec, path = BASIC, tmp_path / "net.onnx"
    images = random_images((2, 40, 33, 3))
    quantized(path, spec, random_weights(compile_plan(spec)), images)
    own, model = Integers(path), onnx.load(path)
    points = list(points_of(inference_form(compile_plan(spec), True)))
    for name in points:
        info = helper.make_tensor_value_info(f"{name}/quantized", onnx.TensorProto.UINT8, None)
        model.graph.output.append(info)
    x = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    logits, *rest = started(model, "int8", "onnx:reference")({"images": x})
    theirs = dict(zip(points, rest, strict=True))
    seen = set()

    def agree(point: str, value: np.ndarray) -> None:
        ours = own.rounded(point, value)
        apart = np.abs(ours.astype(int) - theirs[point])
        assert apart.max() <= 1, point
        assert (apart != 0).mean() < 1e-3, point  # float32 may fall on the other side of a half
        seen.add(point)

    agree("images", x.astype(np.float64))
    p = inference_form(compile_plan(spec), True)
    layers = {layer.name: layer for layer in p.layers()}
    agree("act1", np.maximum(own.convolved(layers["conv1"], "images", theirs["images"]), 0))
    maximum = torch.nn.functional.max_pool2d(
        torch.from_numpy(theirs["act1"].astype(np.float64)), 3, 2, 1
    )
    assert np.array_equal(maximum.numpy(), theirs["maxpool"])
    seen.add("maxpool")
    point = "maxpool"
    for block in p.blocks():
        b = block.name
        inner, between = own.convolved(layers[f"{b}.conv1"], point, theirs[point]), f"{b}.act1"
        agree(between, np.maximum(inner, 0))
        agree(f"{b}.conv2", own.convolved(layers[f"{b}.conv2"], between, theirs[between]))
        beside = point
        if block.shortcut:
            beside = block.shortcut[0].name
            agree(beside, own.convolved(block.shortcut[0], point, theirs[point]))
        total = sum(q * s for q, s in (own.values(n, theirs[n]) for n in (f"{b}.conv2", beside)))
        point = block.output[-1].name
        agree(point, np.maximum(total, 0))
    values, scale = own.values(point, theirs[point])
    agree(head := (set(points) - seen).pop(), (values * scale).mean((2, 3)))
    assert seen == set(points)
    q, entering = own.values(head, theirs[head])
    (kernel, scales), (bias, _) = own.whole("fc.weight"), own.whole("fc.bias")
    np.testing.assert_allclose(logits, (q @ kernel.T + bias) * entering * scales, rtol=1e-5)


def test_channels_of_zeros_keep_their_bias(tmp_path: Path) -> None:
    spec, path = BASIC, tmp_path / "net.onnx"
    state = random_weights(compile_plan(spec))
    state["fc.weight"] = state["fc.weight"].copy()
    state["fc.weight"][2] = 0
    quantized(path, spec, state, random_images((1, 32, 32, 3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_ONNX_RUNTIME", "onnxruntime")
        (found,) = run_file(path, "int8", {"images": random_images((1, 32, 32, 3))})
    assert found[0, 2] == pytest.approx(state["fc.bias"][2], rel=1e-6)


def wrong_scale(patch: pytest.MonkeyPatch) -> None:
    right = quantization._Quantized.kernel_scale

    def doubled(self: Any) -> np.ndarray:
        scale = right(self).copy()
        if self.name == "layer2.0.conv1":
            scale[3] *= 2
        return scale

    patch.setattr(quantization._Quantized, "kernel_scale", doubled)


def unfolded_bias(patch: pytest.MonkeyPatch) -> None:
    right = quantization._Quantized.bias
    patch.setattr(
        quantization._Quantized,
        "bias",
        lambda self: right(self) * (self.name != "layer1.0.conv2"),
    )


def foreign_bias_scale(patch: pytest.MonkeyPatch) -> None:
    right = quantization._Quantized.bias_scale
    patch.setattr(quantization._Quantized, "bias_scale", lambda self: right(self) * np.float32(1.5))


def narrow_range(patch: pytest.MonkeyPatch) -> None:
    right = calibration.limits_of

    def cut(found: dict[str, float]) -> Limits:
        limits = dict(right(found))
        limits["layer1.0.act1"] /= 8
        return limits

    patch.setattr(calibration, "limits_of", cut)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (None, None),
        (wrong_scale, r"layer2.0.conv1.bias has another scale|weight is not rounded .* channel 3"),
        (unfolded_bias, r"layer1.0.conv2.bias is not rounded to the nearest step"),
        (foreign_bias_scale, r"conv1.bias has another scale than the sums"),
        (narrow_range, r"onnxruntime in int8 computes something else than the source"),
    ],
    ids=["none", "scale", "bias", "scale of biases", "range"],
)
def test_the_proof_catches_it(
    fault: Any, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    images = InMemory(pixels, np.zeros(8, np.int64), ("",))
    wanted = Wanted(Form(), "int8", quantization=Quantization(images, "noise"))
    proof, path = Proof((RUNTIMES["onnxruntime"],)), tmp_path / "new" / "net.onnx"
    path.parent.mkdir()
    state = random_weights(compile_plan(BASIC))
    save_canonical(tmp_path / "net.safetensors", Checkpoint(state, BASIC))
    origin = Origin(None, str(tmp_path / "net.safetensors"))
    if fault is None:
        done = export(origin, path, wanted, proof)
        assert done.quantized is not None
        assert (done.quantized.images, done.quantized.held_out) == (8, ())
        _, checks = verify(path)
        assert [(c.engine, c.dtype, c.holds) for c in checks] == [("onnxruntime", "int8", True)]
        return
    fault(monkeypatch)
    with pytest.raises(ParityError, match=message):
        export(origin, path, wanted, proof)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("options", "engines"),
    [
        ([], ["onnxruntime", "openvino"]),
        (
            ["--preprocessing", "inside", "--head", "softmax", "--engines", "onnxruntime"],
            ["onnxruntime"],
        ),
    ],
    ids=["images", "pixels"],
)
def test_digits_keep_their_accuracy(options: list[str], engines: list[str], tmp_path: Path) -> None:
    """The trained net, whose calibration is on the other two thirds."""
    path = tmp_path / "digits.onnx"
    arguments = ["export", DIGITS, "-o", path, "--dtype", "int8", "--calibration", "digits"]
    code, out, err = command(*arguments, "--evaluation", "digits", *options, "--json")
    assert code == 0, err
    found = json.loads(out)["quantized"]
    told = json.loads(Path(f"{path}.parity.json").read_text())
    assert told["quantized"] == found
    assert [row["engine"] for row in found["held_out"]] == engines
    assert {check["holds"] for check in told["checks"]} == {True}
    for row in found["held_out"]:
        assert row["images"] == 599
        assert row["float_top1"] > 0.98
        assert abs(row["loss"]) <= 0.005
        assert row["agreement"] >= 0.99
        low, high = row["loss_interval"]
        assert low < row["loss"] < high
    kinds = {x.data_type for x in onnx.load(path).graph.initializer if x.name.endswith(".weight")}
    assert kinds == {onnx.TensorProto.INT8}


def test_two_files_are_equal(tmp_path: Path) -> None:
    state, images = random_weights(compile_plan(WIDE)), random_images((2, 32, 32, 3))
    for name in ("a.onnx", "b.onnx"):
        quantized(tmp_path / name, WIDE, state, images)
    first, second = (tmp_path / name for name in ("a.onnx", "b.onnx"))
    assert first.read_bytes() == second.read_bytes()
    p = inference_form(compile_plan(WIDE), True)
    assert misfit(onnx.load(first), p, weight_entries(p, state, "float32")) is None


@pytest.mark.parametrize("package", [resnet_torch, resnet_onnx], ids=["torch", "onnx"])
def test_the_verb_writes_the_same(package: Any, tmp_path: Path) -> None:
    """As from the command, on normalised images or on files of them."""
    state, images = random_weights(compile_plan(WIDE)), random_images((2, 32, 32, 3))
    quantized(tmp_path / "a.onnx", WIDE, state, images)
    model = package.create_model(WIDE, weights=state)
    path = tmp_path / "b.onnx"
    package.export(model, path, dtype="int8", calibration=images)
    assert path.read_bytes() == (tmp_path / "a.onnx").read_bytes()
    model.preprocessing = Preprocessing.default(WIDE)
    photograph = ["resnet_parity/assets/china.jpg"]
    package.export(model, path, dtype="int8", calibration=photograph, form=Form(size=(224, 224)))
    quantized(tmp_path / "a.onnx", WIDE, state, package.preprocess(model, photograph))
    kept = [onnx.load(x).graph.initializer for x in (path, tmp_path / "a.onnx")]
    assert [x.SerializeToString() for x in kept[0]] == [x.SerializeToString() for x in kept[1]]


VERB: list[tuple[ResNetSpec, str, dict[str, Any], str]] = [
    (WIDE, "n.onnx", {"dtype": "int8"}, "int8 takes images to measure ranges on; give `calib"),
    (WIDE, "n.onnx", {"calibration": ["a.jpg"]}, "calibration: only with dtype='int8'"),
    (WIDE, "n.pt2", {"dtype": "int8"}, "torch.export has no int8 here; choose among float64"),
    (WIDE, "n.onnx", {"dtype": "float16"}, "'float16' is not int8; a model is exported in its own"),
    (WIDE.override(features_only=True), "n.onnx", {"dtype": "int8"}, "for nets that give logits"),
    (
        WIDE,
        "n.onnx",
        {"dtype": "int8", "calibration": np.zeros((1, 32, 33, 3)), "form": Form(size=(32, 32))},
        "size: the calibration's images are of 32x33",
    ),
]


@pytest.mark.parametrize(("spec", "name", "asked", "message"), VERB)
def test_refused_by_the_verb(
    spec: ResNetSpec, name: str, asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ResNetError, match=message):
        resnet_torch.export(resnet_torch.create_model(spec), tmp_path / name, **asked)
    assert not list(tmp_path.iterdir())


def test_int8_is_made_of_float32_as_it_trains(tmp_path: Path) -> None:
    for how, told in (
        ({"dtype": "float64"}, "float64"),
        ({"inference": True}, "in a form for inf"),
    ):
        model = resnet_torch.create_model(WIDE, **how)
        with pytest.raises(SpecError, match=f"float32 as it trains; this is {told}"):
            resnet_torch.export(model, tmp_path / "n.onnx", dtype="int8", calibration=[])


def test_pixels_less_a_mean_image_are_no_pixels(tmp_path: Path) -> None:
    """A graph subtracts one mean a channel."""
    images = InMemory(np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, np.int64), ("",))
    quantization = Quantization(images, "black", mean_image=np.zeros((8, 8, 1)))
    wanted = Wanted(Form(preprocessing=True), "int8", quantization=quantization)
    with pytest.raises(SpecError, match=r"subtracts a mean image .* leave it outside"):
        export(Origin(None, DIGITS), tmp_path / "net.onnx", wanted)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(WeightsError, match="conv1: is not a finite number"):
        limits_of({"images": 1.0, "conv1": float("nan")})
    assert limits_of({"images": 0.0}) == {"images": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet18"], "--dtype int8: name images to measure ranges on: --calibration FOLDER"),
        (["resnet18", "--calibration", "{empty}"], "no image in it"),
        (["resnet18", "--calibration", "nothing"], "recipe: there is no 'nothing'"),
        (
            ["resnet18", "--calibration", "{empty}", "--evaluation", "digits"],
            "--evaluation: fresh weights have no accuracy; name weights",
        ),
        (
            [DIGITS, "--calibration", "digits", "--evaluation", "digits", "--no-verify"],
            "--evaluation: with --no-verify nothing is run",
        ),
        (
            [DIGITS, "--calibration", "{empty}", "--evaluation", "{empty}"],
            "--evaluation: has to be other images than --calibration",
        ),
        ([DIGITS, "--calibration", "digits", "--opset", "17"], "opset: 17 has no int8; give 19"),
        (
            [DIGITS, "--calibration", "digits", "--size", "16"],
            "size: the weights' preprocessing makes images of 8x8",
        ),
        (["{features}", "--calibration", "digits"], "dtype: int8 is for nets that give logits"),
    ],
)
def test_refused_before_work_starts(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    spec = WIDE.override(features_only=True)
    (tmp_path / "features.json").write_text(json.dumps(spec.to_dict()))
    places = {"{empty}": tmp_path / "empty", "{features}": tmp_path / "features.json"}
    given = [str(places.get(x, x)) for x in arguments]
    path = tmp_path / "net.onnx"
    assert message in refused("export", *given, "-o", path, "--dtype", "int8")
    assert not path.exists()


def test_options_of_int8_alone(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    message = refused("export", "resnet18", "-o", path, "--calibration", "digits")
    assert "--calibration and --evaluation: only with --dtype int8" in message


def test_features_have_no_top_1(tmp_path: Path) -> None:
    images = InMemory(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int64), ("",))
    wanted = Wanted(Form(), "int8", quantization=Quantization(images, "black"))
    with pytest.raises(SpecError, match="int8 is for nets that give logits"):
        export(Origin(WIDE.override(num_classes=0), None), tmp_path / "net.onnx", wanted)


def test_intervals() -> None:
    """Wilson's by Newcombe 1998, table 1; the other by hand."""
    assert share(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert share(20, 20)[1] == 1
    low, high = paired_difference(0, 0, 599)
    assert low == -high
    assert high == pytest.approx(1.959964 / 601)
    assert sum(paired_difference(9, 2, 100)) / 2 == pytest.approx(7 / 102)


def test_what_is_compared() -> None:
    expected, found = np.array([0, 1, 2, 2]), np.array([0, 2, 2, 1])
    row = compared(("torch", "onnxruntime"), expected, found, np.array([0, 1, 1, 1]))
    assert (row.float_top1, row.top1, row.loss, row.agreement) == (0.5, 0.5, 0, 0.5)
    assert row == replace(row, float_engine="torch", engine="onnxruntime", images=4)
