"""Nets of every family in every format: each file is run by what it is for and held against
PyTorch, or is refused before anything is traced.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import resnet_torch
from resnet_parity.engines.process import EngineError
from shared_spec import (
    Checkpoint,
    ResNetError,
    SpecError,
    compile_plan,
    random_weights,
    save_spec,
)
from shared_spec.export_formats import EXPORT_FORMATS, Form
from shared_spec.plan.summary import layer_rows
from shared_spec.weights.initialize import random_images
from tests.conftest import Pool
from tests.onnx.families import EVERY_LAYER, FAMILIES
from tests.onnx.test_formats import OTHERS, Runner, exact, farthest
from tests.tiers import selected

PAIRS = [(name, net) for net in FAMILIES for name in OTHERS]
FEW = [(OTHERS[i % len(OTHERS)], net) for i, net in enumerate(EVERY_LAYER)]
"""Every kind of layer in one format, and every format on a few of them."""

MEET = "cannot tell that the maps which meet in {} are equally large at every size; give one, such"
CLOSED = {
    "average anti-aliasing": MEET.format("layer2.0"),
    "features, same padding": MEET.format("layer2.0"),
    "CLIP, attention pool": "has no attention pool for maps of any size; give one, such as 224",
    "CLIP, average": MEET.format("stages.1.0"),
    "Flax": MEET.format("layer2.0"),
    "d2l, same padding": MEET.format("layer2.0"),
}
"""Nets of which StableHLO takes one size alone, and why."""


def test_every_layer_is_there() -> None:
    def kinds(net: str) -> set[tuple[str, bool]]:
        p = compile_plan(FAMILIES[net])
        found = (*p.layers(), *p.leaves())
        return {(type(x).__name__, getattr(x, "padding", 0) == "same") for x in found}

    assert set().union(*map(kinds, EVERY_LAYER)) == set().union(*map(kinds, FAMILIES))


def takes(net: str, size: tuple[int, int]) -> bool:
    """Whether a net has an output there: averages part from strides at odd sizes."""
    try:
        layer_rows(compile_plan(FAMILIES[net]), size)
    except SpecError:
        return False
    return True


@pytest.mark.parametrize(("name", "net"), selected(FEW, PAIRS))
def test_files_compute_what_the_net_does(pool: Pool, name: str, net: str, tmp_path: Path) -> None:
    """On any number of images, and of any size where the format has that: even, odd, not square."""
    spec, runner = FAMILIES[net], Runner(pool, tmp_path, name)
    state = random_weights(compile_plan(spec))
    fixed = name == "stablehlo" and net in CLOSED
    own = (spec.image_size, spec.image_size) if spec.one_size else (40, 48)
    size = None if runner.format.any_size and not fixed else own
    form = Form(batch=None if runner.format.any_batch else 2, size=size).sized(spec)
    runner.write(Checkpoint(state, spec), form)
    for count, at in ((3, own), (1, form.size or (45, 33)), (2, form.size or (64, 56))):
        if takes(net, at):
            images = random_images((count, *at, spec.in_channels))
            reference, rounding = exact(spec, state, images)
            assert farthest(reference, runner.run(images=images)) < 4 * rounding


@pytest.mark.parametrize("net", FAMILIES)
def test_open_sizes_are_refused_from_the_plan(net: str) -> None:
    """Those that JAX cannot trace, which the next test and the one above hold against JAX."""
    p, wanted = compile_plan(FAMILIES[net]), EXPORT_FORMATS["stablehlo"]
    if net not in CLOSED:
        wanted.check_net(Form().sized(FAMILIES[net]), p)
        return
    with pytest.raises(SpecError, match=f"^size: StableHLO {CLOSED[net]}"):
        wanted.check_net(Form(), p)
    wanted.check_net(Form(size=(64, 64)), p)


@pytest.mark.parametrize("net", selected(["Flax", "CLIP, average"], CLOSED))
def test_jax_cannot_trace_what_is_refused(
    pool: Pool, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, runner = FAMILIES[net], Runner(pool, tmp_path, "stablehlo")
    known = Checkpoint(random_weights(compile_plan(spec)), spec)
    pool["flax"].call("probe", function="exporters:broken", name="stablehlo")
    try:
        with pytest.raises(ResNetError, match=CLOSED[net]):
            runner.write(known, Form())
    finally:
        pool["flax"].call("probe", function="exporters:mended")
    pool["flax"].call("probe", function="exporters:unchecked")
    try:
        with pytest.raises(ResNetError, match="StableHLO: what writes it failed on this net"):
            runner.write(known, Form())
    finally:
        pool["flax"].call("probe", function="exporters:mended")


def test_images_smaller_than_any_that_the_net_takes(pool: Pool, tmp_path: Path) -> None:
    """A program of any size has the net's own limit."""
    spec, runner = FAMILIES["blur"], Runner(pool, tmp_path, "stablehlo")
    runner.write(Checkpoint(random_weights(compile_plan(spec)), spec), Form())
    with pytest.raises(ResNetError, match="input image is too small"):
        layer_rows(compile_plan(spec), (4, 4))
    assert runner.run(images=random_images((1, 5, 5, 3)))[0].shape == (1, 5)
    with pytest.raises(EngineError, match="refining shapes"):
        runner.run(images=random_images((1, 4, 4, 3)))


_REFUSALS = """
import json, sys
from pathlib import Path
from resnet_parity.convert.export import Wanted, export
from resnet_parity.convert.verify import Proof
from shared_spec import ResNetError
from shared_spec.export_formats import Form, export_format
from shared_spec.origin import origin_of

def watch(event, arguments):
    if event == "subprocess.Popen":
        raise AssertionError("a process was started")

sys.addaudithook(watch)
said = []
for net, target, batch, size, dtype in json.loads(sys.argv[1]):
    form = Form(batch=batch, size=None if size is None else tuple(size))
    path = Path(target)
    try:
        export(origin_of(net), path, Wanted(form, dtype, format=export_format(path)), Proof())
    except ResNetError as error:
        said.append(str(error))
frameworks = {"torch", "keras", "tensorflow", "jax", "flax", "onnx"} & set(sys.modules)
print(json.dumps([said, [*frameworks], [*map(str, Path().iterdir())]]))
"""


def test_no_framework_is_needed_to_refuse(tmp_path: Path) -> None:
    """No process is started for one, nothing imported, nothing written."""
    nets, work = tmp_path / "nets", tmp_path / "work"
    nets.mkdir()
    work.mkdir()
    for net in CLOSED:
        save_spec(nets / f"{net}.yaml", FAMILIES[net])
    asked = [
        *((str(nets / f"{net}.yaml"), "net.stablehlo", 1, None, "float32") for net in CLOSED),
        ("resnet18", "net.tflite", None, [32, 32], "float32"),
        ("resnet18", "net.tflite", 1, None, "float32"),
        ("resnet18", "net.tflite", 1, [32, 32], "float16"),
        ("iresnet18", "net.pt2", 1, [64, 64], "float32"),
    ]
    command = [sys.executable, "-c", _REFUSALS, json.dumps(asked)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=work)
    said, frameworks, left = json.loads(answer.stdout)
    assert (frameworks, left) == ([], [])
    expected = [
        *(f"size: StableHLO {why}" for why in CLOSED.values()),
        "batch: LiteRT has a fixed number of images; give 1, or so",
        "size: LiteRT has a fixed size of images; give 224, or so",
        "dtype: LiteRT has no float16 here; choose among float32",
        "size: (64, 64); the net takes images of (112, 112) pixels alone",
    ]
    assert len(said) == len(expected)
    for message, start in zip(said, expected, strict=True):
        assert message.startswith(start)


@pytest.mark.parametrize("net", ["SKNet", "Res2Net", "global context"])
def test_models_with_chains_in_layers_are_saved(net: str, tmp_path: Path) -> None:
    """And a layer put into such a chain is seen."""
    import torch

    spec = FAMILIES[net]
    state = random_weights(compile_plan(spec))
    model = resnet_torch.create_model(spec, weights=state)
    found = resnet_torch.export_weights(model)
    assert {k: a.tobytes() for k, a in found.items()} == {k: a.tobytes() for k, a in state.items()}
    sequences = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Sequential) and ("paths.0" in name or "mlp_add" in name)
    ]
    sequences[0][1].append(torch.nn.ReLU())
    with pytest.raises(ResNetError, match="was replaced in this model by a layer"):
        resnet_torch.export_weights(model)
