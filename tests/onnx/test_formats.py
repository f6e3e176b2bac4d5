"""Files of every format, written and run by what they are for, and held against PyTorch."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_onnx
import resnet_torch
from resnet_parity.check.forward import check
from resnet_parity.convert import export as exporting
from resnet_parity.convert.certificate import file_digest
from resnet_parity.convert.export import Wanted, export
from resnet_parity.convert.verify import Proof, verify
from resnet_parity.engines.registry import ALL_ENGINES
from resnet_parity.numerics.rounding import perturbed
from resnet_parity.trace import trace
from shared_spec import (
    Checkpoint,
    ParityError,
    Preprocessing,
    ResNetError,
    ResNetSpec,
    compile_plan,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from shared_spec.export_formats import EXPORT_FORMATS, TOLD, Form, export_format
from shared_spec.origin import Origin
from shared_spec.weights.initialize import random_images
from shared_spec.weights.state import State, cast_weights
from tests.conftest import Pool
from tests.onnx.test_writing import farthest, outputs

CUT = {"depths": [1, 1], "widths": [16, 32], "num_classes": 7}
NETS: dict[str, ResNetSpec] = {
    "bottleneck": resolve("resnet50", CUT),
    "basic, SE, blur pool": resolve("resnet18", CUT | {"attention": "se", "anti_alias": "blur"}),
    "BiT, ECA": resolve("resnetv2_50x1_bit", CUT | {"attention": "eca", "norm_groups": 8}),
}
OTHERS = [name for name in EXPORT_FORMATS if name != "onnx"]


class Runner:
    """Writes a net in a format, and runs the file."""

    def __init__(self, pool: Pool, folder: Path, name: str) -> None:
        self.pool, self.folder, self.format = pool, folder, EXPORT_FORMATS[name]
        self.path = folder / f"net{self.format.suffix}"

    def write(self, known: Checkpoint, form: Form, dtype: str = "float32", **how: bool) -> Path:
        source = self.folder / "source.safetensors"
        write_safetensors(source, known)
        request = {"source": str(source), "output": str(self.path), "form": asdict(form)}
        engine = "torch" if self.format.from_plan else self.format.engines[0]
        self.pool[engine].call("export", **request, dtype=dtype, folded=how.get("folded", False))
        return self.path

    def run(self, dtype: str = "float32", **given: np.ndarray) -> list[np.ndarray]:
        paths = [self.folder / f"{name}.safetensors" for name in ("images", "outputs")]
        write_safetensors(paths[0], Checkpoint(given))
        # Of ONNX's runtimes, the last has all dtypes.
        self.pool[self.format.engines[-1]].call(
            "run_exported",
            source=str(self.path),
            dtypes=[dtype],
            images=str(paths[0]),
            outputs=str(paths[1]),
        )
        state = read_safetensors(paths[1]).state
        return [state[key] for key in sorted(state)]


def exact(spec: ResNetSpec, state: State, images: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Float64 outputs, and how far rounding the weights moves them."""
    p, wide = compile_plan(spec), cast_weights(state, "float64")
    found = []
    for weights in (wide, perturbed(p, wide, "float32", 0)):
        model = resnet_torch.create_model(spec, weights=weights, dtype="float64")
        found.append(outputs(model, images.astype(np.float64)))
    return found[0], farthest(found[0], found[1])


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("name", OTHERS)
def test_files_that_take_pixels_and_give_probabilities(
    pool: Pool, name: str, order: Any, tmp_path: Path
) -> None:
    """Folded, of a fixed number and size, and with what is known of them inside."""
    spec = NETS["bottleneck"].override(num_classes=2)
    prepare = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), channel_order=order)
    state, runner = random_weights(compile_plan(spec)), Runner(pool, tmp_path, name)
    form = Form(batch=2, size=(40, 33), preprocessing=True, head="softmax")
    known = Checkpoint(state, spec, prepare, ("cat", "dog"))
    runner.write(known, form, folded=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 33, 3), np.uint8)
    (found,) = runner.run(pixels=pixels)
    ours = resnet_torch.create_model(spec, weights=state, dtype="float64")
    logits = resnet_torch.predict(ours, prepare.normalise(pixels / 255).astype(np.float64))
    np.testing.assert_allclose(
        found, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=2e-5
    )
    if name != "stablehlo":
        told = told_in(runner.path)
        back = Checkpoint.from_metadata({}, told, "file")
        assert (back.spec, back.preprocessing, back.labels) == (spec, prepare, ("cat", "dog"))
        assert told["graph"]["batch"] == 2


def told_in(path: Path) -> Any:
    """What a file tells of itself, read without what wrote it, where that goes."""
    if path.is_dir():
        return json.loads((path / "assets.extra" / TOLD).read_text())
    if path.suffix == ".xml":
        import openvino

        read = openvino.Core().read_model(path)
        return json.loads(read.get_rt_info(["resnet_parity"]).astype(str))
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(TOLD))
        return json.loads(archive.read(name))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("name", ["pt2", "stablehlo", "savedmodel", "onnx"])
def test_other_dtypes(pool: Pool, name: str, dtype: str, tmp_path: Path) -> None:
    spec = NETS["bottleneck"]
    state = cast_weights(random_weights(compile_plan(spec)), dtype)
    runner = Runner(pool, tmp_path, name)
    runner.write(Checkpoint(state, spec), Form(size=(32, 32)), dtype)
    images = random_images((2, 32, 32, 3)).astype(np.float64)
    reference, _ = exact(spec, state, images)
    found = runner.run(dtype, images=images)
    assert {x.dtype.name for x in found} == {"float64" if dtype == "float64" else "float32"}
    assert farthest(reference, found) < (1e-13 if dtype == "float64" else 4e-2)


def test_every_package_writes_the_same_onnx(pool: Pool, tmp_path: Path) -> None:
    spec = NETS["bottleneck"]
    known = Checkpoint(random_weights(compile_plan(spec)), spec)
    model = resnet_onnx.create_model(spec, weights=known.state)
    resnet_onnx.export(model, tmp_path / "ours.onnx")
    runner = Runner(pool, tmp_path, "onnx")
    for engine in ("torch", "keras:torch", "flax"):
        source, output = tmp_path / "source.safetensors", tmp_path / "theirs.onnx"
        write_safetensors(source, known)
        asked = {"source": str(source), "output": str(output), "form": asdict(Form())}
        pool[engine].call("export", **asked, dtype="float32", folded=False)
        assert output.read_bytes() == (tmp_path / "ours.onnx").read_bytes()
    assert runner.format.title == "ONNX"


def source_of(folder: Path) -> Origin:
    spec = NETS["bottleneck"].override(image_size=32)
    path = folder / "net.safetensors"
    write_safetensors(path, Checkpoint(random_weights(compile_plan(spec)), spec))
    return Origin(None, str(path))


def test_another_function_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, target = source_of(tmp_path), tmp_path / "net.xml"
    wanted = Wanted(Form(), format=EXPORT_FORMATS["openvino"])
    done = export(origin, target, wanted, Proof())
    assert [(c.engine, c.dtype, c.holds) for c in done.checks] == [("openvino", "float32", True)]
    before = file_digest(target), (tmp_path / "net.bin").read_bytes()
    entries = exporting.weight_entries

    def wrong(p: Any, state: State, dtype: str) -> Any:
        changed = {k: np.array(a) * (1.01 if k == "fc.weight" else 1) for k, a in state.items()}
        return entries(p, changed, dtype)

    monkeypatch.setattr(exporting, "weight_entries", wrong)
    with pytest.raises(ParityError, match="openvino in float32 computes something else"):
        export(origin, target, wanted, Proof())
    assert before == (file_digest(target), (tmp_path / "net.bin").read_bytes())
    verify(target)
    # Its weights lie beside the file that the certificate is of.
    with (tmp_path / "net.bin").open("r+b") as file:
        file.seek(100)
        file.write(b"\x01")
    with pytest.raises(ParityError, match="is not the file of its certificate"):
        verify(target)


def test_weights_in_the_place_of_others(tmp_path: Path) -> None:
    """The graph goes before weights that another file of that name had."""
    origin, target = source_of(tmp_path), tmp_path / "net.xml"
    wanted = Wanted(Form(), format=EXPORT_FORMATS["openvino"])
    for folded in (False, True):
        export(origin, target, Wanted(Form(), folded=folded, format=wanted.format))
    once = file_digest(target)
    export(origin, tmp_path / "other.xml", Wanted(Form(), folded=True, format=wanted.format))
    assert sorted(x.name for x in tmp_path.glob("*.*")) == [
        "net.bin",
        "net.safetensors",
        "net.xml",
        "other.bin",
        "other.xml",
    ]
    assert (tmp_path / "net.bin").read_bytes() == (tmp_path / "other.bin").read_bytes()
    assert file_digest(target) == once


REFUSED: list[tuple[str, Form, str, str]] = [
    ("litert", Form(size=(32, 32)), "float32", "batch: LiteRT has a fixed number of images"),
    ("litert", Form(batch=1), "float32", "size: LiteRT has a fixed size of images"),
    ("litert", Form(batch=1, size=(32, 32)), "float16", "dtype: LiteRT has no float16 here"),
    ("openvino", Form(), "bfloat16", "dtype: OpenVINO IR has no bfloat16 here"),
    ("pt2", Form(opset=17), "float32", "opset: torch.export has no versions of operators"),
]


@pytest.mark.parametrize(("name", "form", "dtype", "message"), REFUSED)
def test_refused_before_work_starts(
    name: str, form: Form, dtype: str, message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(exporting, "_source", None)
    wanted = Wanted(form, dtype, format=EXPORT_FORMATS[name])
    with pytest.raises(ResNetError, match=message):
        export(Origin("resnet18", None), tmp_path / "net", wanted)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        ("net.mlmodel", None, "unknown suffix '.mlmodel'; known: .onnx for ONNX, .xml for"),
        ("net.onnx", "pt3", "there is no format 'pt3'; did you mean 'pt2'"),
        ("net.onnx", "pt2", "a file of torch.export ends in .pt2"),
        ("net.onnx", "savedmodel", "ends as a file of ONNX does"),
    ],
)
def test_names_of_formats(path: str, name: str | None, message: str) -> None:
    with pytest.raises(ResNetError, match=message):
        export_format(Path(path), name)


def test_refused_by_a_package(pool: Pool, tmp_path: Path) -> None:
    model = resnet_torch.create_model(NETS["bottleneck"])
    form = Form(batch=1, size=(32, 32))
    with pytest.raises(ResNetError, match="resnet_torch writes no LiteRT"):
        resnet_torch.export(model, tmp_path / "net.tflite", form=form)
    with pytest.raises(ResNetError, match="preprocessing: the weights have none"):
        resnet_torch.export(model, tmp_path / "net.pt2", form=Form(preprocessing=True))
    known = Checkpoint(random_weights(compile_plan(NETS["bottleneck"])), NETS["bottleneck"])
    source = tmp_path / "source.safetensors"
    write_safetensors(source, known)
    asked = {"source": str(source), "output": str(tmp_path / "net"), "form": asdict(Form())}
    with pytest.raises(ResNetError, match="written on Keras's TensorFlow engine, and this is torc"):
        pool["keras:torch"].call("export", **asked, dtype="float32", folded=False)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "mine.txt").touch()
    with pytest.raises(ResNetError, match="is a directory that holds other files"):
        pool["keras:tensorflow"].call("export", **asked, dtype="float32", folded=False)
    assert [x.name for x in (tmp_path / "net").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", OTHERS)
def test_what_an_exporter_raises_is_told_in_a_sentence(
    pool: Pool, name: str, tmp_path: Path
) -> None:
    spec, runner = NETS["bottleneck"], Runner(pool, tmp_path, name)
    engine = "torch" if runner.format.from_plan else runner.format.engines[0]
    known = Checkpoint(random_weights(compile_plan(spec)), spec)
    pool[engine].call("probe", function="exporters:broken", name=name)
    try:
        with pytest.raises(
            ResNetError,
            match=r"RuntimeError: no such operator\); ONNX has every|"
            r"LiteRT lacks what the net needs \(no such operator\)",
        ):
            runner.write(known, Form(batch=2, size=(32, 32)))
    finally:
        pool[engine].call("probe", function="exporters:mended")
    assert not runner.path.exists()


@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_images_without_a_pixel_left_are_refused(pool: Pool, name: str, tmp_path: Path) -> None:
    spec = NETS["basic, SE, blur pool"]
    known = Checkpoint(random_weights(compile_plan(spec)), spec)
    with pytest.raises(ResNetError, match=r"image is too small: maxpool.* give a larger height"):
        Runner(pool, tmp_path, name).write(known, Form(batch=1, size=(1, 1)))


def test_the_engine_litert(pool: Pool) -> None:
    """It is compared, and traced layer by layer."""
    spec, engines = NETS["BiT, ECA"], [ALL_ENGINES[name] for name in ("torch", "litert")]
    report = check(
        spec, engines, sizes=[(33, 40)], dtype="float32", compiled=False, start=pool.start
    )
    assert report.problems == []
    images = random_images((2, 33, 40, 3))
    traced = trace(spec, *engines, images, dtype="float32", start=pool.start)
    assert (traced.first, traced.holds) == ([], True)
    assert len(traced.rows) > 20
    report = check(spec, engines, sizes=[(32, 32)], compiled=False, start=pool.start)
    refused = "litert failed: litert does not compute in float64; it does in float32"
    assert refused in report.problems
