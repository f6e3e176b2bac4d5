"""ONNX files by other exporters, with a fault: without `--weights`, `trace` names the layer."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import helper

from resnet_parity.engines.registry import ENGINES
from resnet_parity.trace.compare import ExportedFile, trace
from resnet_parity.trace.exported import contents
from shared_spec import ResNetSpec, WeightsError, compile_plan, plan, read_checkpoint
from shared_spec.spec.files import save_spec
from shared_spec.weights.initialize import random_images
from tests.command import command
from tests.conftest import Pool
from tests.formats.test_onnx_files import KEPT, NETS, exported
from tests.tiers import selected

# At a fault, nothing tells which of their arrays is which.
OTHER_LAYERS = ("_groups", "_fixed", "_se", "_sizes")
FILES = {
    **{path.stem: path for path in KEPT if not path.stem.endswith(("_same", *OTHER_LAYERS))},
    **{f"torch {name}": (name, False) for name in NETS},
    **{f"torch {name}, folded": (name, True) for name in NETS},
}
FEW = ("dynamo", "dynamo_plain", "keras_tensorflow_v2", "torch se", "torch timm v2, folded")


def with_fault(source: Path, target: Path) -> None:
    """As an exporter that rounds pads up and down: the last window of 3 is moved by a pixel."""
    model = onnx.load(source)
    node = [
        x
        for x in model.graph.node
        for a in x.attribute
        if x.op_type == "Conv" and a.name == "kernel_shape" and list(a.ints) == [3, 3]
    ][-1]
    kept = [a for a in node.attribute if a.name not in ("pads", "auto_pad")]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("pads", [0, 0, 2, 2])])
    onnx.save(model, target)


def at_fault(spec: ResNetSpec) -> str:
    *_, last = [
        x for x in compile_plan(spec).layers() if isinstance(x, plan.Conv) and x.kernel_size == 3
    ]
    return last.name


@pytest.mark.parametrize("name", selected(FEW, FILES))
def test_trace_names_the_layer(pool: Pool, tmp_path: Path, name: str) -> None:
    made = FILES[name]
    if isinstance(made, tuple):
        made = exported(tmp_path / "right.onnx", NETS[made[0]](), made[1])
    spec = read_checkpoint(made).spec
    assert spec is not None
    right, wrong = ExportedFile(made), ExportedFile(tmp_path / "wrong.onnx")
    with_fault(made, wrong.path)
    for file, expected in ((right, []), (wrong, [at_fault(spec)])):
        inside = contents(spec, file)
        images = random_images((2, *inside.fitting((64, 64), asked=False), spec.in_channels))
        report = trace(
            inside.spec,
            ENGINES["torch"],
            file,
            images,
            dtype="float32",
            weights=inside.required(file),
            start=pool.start,
        )
        assert report.first[:1] == expected, report.problems
        assert len(report.first) <= 3


@pytest.mark.parametrize(
    "path", [p for p in KEPT if p.stem.endswith("_same")], ids=lambda p: p.stem
)
def test_a_graph_that_takes_pixels(path: Path) -> None:
    spec = read_checkpoint(path).spec
    assert spec is not None
    with pytest.raises(WeightsError, match="normalises pixels by itself; expected a graph of norm"):
        contents(spec, ExportedFile(path))


def test_the_command_takes_what_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = exported(tmp_path / "right.onnx", NETS["torchvision"](), folded=True)
    spec = read_checkpoint(made).spec
    assert spec is not None
    save_spec("net.yaml", spec)
    with_fault(made, Path("wrong.onnx"))
    asked = ("trace", "net.yaml", "--against", "wrong.onnx", "--dtype", "float32", "--json")
    status, out, err = command(*asked)
    assert status == 1, err
    data = json.loads(out)
    assert at_fault(spec) in data["first"]
    assert "the weights are those in wrong.onnx, whose own faults do not show" in data["notes"]
    status, _, err = command("trace", "resnet18", "--against", "wrong.onnx")
    assert status == 2
    assert "cannot tell which of its arrays are" in err
