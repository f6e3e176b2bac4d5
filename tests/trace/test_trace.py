"""Where two implementations part: agreement, damaged layers that have to be named, own models."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_parity.engines.registry import ENGINES, Device, Engine
from resnet_parity.numerics.teacher_forcing import inputs_of
from resnet_parity.render import plots
from resnet_parity.trace.compare import UserModel, trace
from resnet_parity.trace.result import TraceReport, TraceRow
from shared_spec import ResNetError, ResNetSpec, resolve
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.dataflow import nodes
from shared_spec.weights.initialize import random_images
from tests.command import command
from tests.conftest import Pool

NARROW = {"depths": [1, 1], "widths": [8, 16], "stem_width": 8, "num_classes": 5}
GROUPS = {**NARROW, "norm_groups": 4}

SPECS: dict[str, ResNetSpec] = {
    "basic": resolve("resnet18", {**NARROW, "depths": [1, 2]}),
    "bottleneck": resolve("resnext50_32x4d", {**NARROW, "groups": 4, "base_width": 32}),
    "squeeze": resolve("resnet50d", {**NARROW, "attention": "se", "conv_bias": True}),
    "cifar": resolve("resnet20", {"depths": [1, 1], "widths": [16, 32]}),
    "pre": resolve("resnetv2_50x1_bit", {**GROUPS, "layer_scale": 0.3}),
    "evo": resolve("resnetv2_50d_evos", {**GROUPS, "depths": [1], "widths": [8]}),
    "frn": resolve("resnetv2_50d_frn", {**NARROW, "depths": [1], "widths": [8]}),
    "eca": resolve("ecaresnet50d", NARROW),
    "blur": resolve("resnetblur50", NARROW),
}
IMAGES = random_images((2, 24, 20, 3))


@dataclass(frozen=True)
class Case:
    """A fault of one layer or block, which is what has to be named."""

    spec: str
    layer: str
    fault: str | tuple[tuple[str, Any], ...]

    @property
    def id(self) -> str:
        fault = self.fault if isinstance(self.fault, str) else dict(self.fault)
        return f"{self.spec} {self.layer} {fault}"

    def to_dict(self) -> dict[str, Any]:
        key = "weights" if isinstance(self.fault, str) else "plan"
        return {
            "layer": self.layer,
            key: self.fault if isinstance(self.fault, str) else dict(self.fault),
        }


def plan_case(spec: str, layer: str, **change: Any) -> Case:
    return Case(spec, layer, tuple(change.items()))


PRE = "stages.1.blocks.0"
CASES = [
    *(
        Case("basic", layer, fault)
        for layer in ("bn1", "layer2.0.downsample.1")
        for fault in (
            "scale and bias swapped",
            "mean and variance swapped",
            "mean forgotten",
            "variance forgotten",
            "bias negated",
        )
    ),
    Case("basic", "conv1", "channels out of order"),
    Case("basic", "layer1.0.conv1", "height and width swapped"),
    Case("basic", "layer1.0.conv2", "kernel flipped"),
    Case("basic", "layer2.0.conv2", "in and out swapped"),
    Case("basic", "layer2.1.conv1", "through bfloat16"),
    Case("basic", "layer2.1.conv2", "off by a float32's rounding"),
    Case("basic", "fc", "classes out of order"),
    Case("basic", "fc", "bias dropped"),
    plan_case("basic", "layer1.0.bn2", eps=1e-3),
    plan_case("basic", "layer1.0.bn2", eps=1.0001e-5),
    plan_case("basic", "conv1", padding="same"),
    plan_case("basic", "layer2.0.conv1", padding="same"),
    plan_case("basic", "layer2.0.conv2", dilation=2, padding=2),
    plan_case("basic", "maxpool", padding="same"),
    plan_case("basic", "maxpool", becomes="AvgPool"),
    plan_case("basic", "act1", function="elu"),
    plan_case("basic", "layer1.0.act1", function="leaky_relu"),
    plan_case("basic", "layer2.1.act2", function="silu"),
    plan_case("basic", "global_pool", kind="max"),
    plan_case("basic", "layer2.1", shortcut_from=None),
    Case("bottleneck", "layer1.0.conv2", "groups out of order"),
    Case("bottleneck", "layer2.0.downsample.0", "in and out swapped"),
    plan_case("bottleneck", "layer2.0.downsample.1", eps=1e-3),
    Case("squeeze", "layer1.0.se", "gate's bias dropped"),
    Case("squeeze", "layer2.0.se", "gate's first bias negated"),
    Case("squeeze", "layer2.0.se", "gate's kernel reversed"),
    Case("squeeze", "layer2.0.conv2", "bias dropped"),
    plan_case("squeeze", "layer2.0.downsample.0", becomes="MaxPool"),
    plan_case("squeeze", "layer1.0.se", becomes="Identity"),
    plan_case("cifar", "layer2.0.downsample", before=0, after=16),
    plan_case("cifar", "layer2.0.act2", becomes="Identity"),
    plan_case("cifar", "global_pool", kind="avgmax"),
    Case("pre", f"{PRE}.norm1", "scale and bias swapped"),
    Case("pre", f"{PRE}.conv2", "kernel flipped"),
    Case("pre", "stages.0.blocks.0.layer_scale", "scale forgotten"),
    plan_case("pre", f"{PRE}.norm2", eps=1e-3),
    plan_case("pre", f"{PRE}.norm3", groups=2),
    plan_case("pre", f"{PRE}.conv3", standardize_eps=1e-4),
    plan_case("pre", f"{PRE}.conv2", standardize_eps=None),
    plan_case("pre", "stem.pool", becomes="AvgPool"),
    plan_case("pre", "norm", eps=1e-6),
    Case("evo", "stages.0.blocks.0.norm1", "gate forgotten"),
    plan_case("evo", "stem.norm2", groups=2),
    plan_case("evo", "stages.0.blocks.0.norm2", eps=1e-3),
    Case("frn", "stages.0.blocks.0.norm3", "threshold forgotten"),
    plan_case("frn", "stem.norm1", eps=1e-6),
    Case("eca", "layer1.0.se", "line reversed"),
    plan_case("eca", "layer2.0.se", becomes="Identity"),
    plan_case("blur", "maxpool.1", becomes="AvgPool", kernel_size=2, padding=0),
    plan_case("blur", "layer2.0.aa", becomes="MaxPool", kernel_size=1, padding=0),
]
"""They are put into PyTorch and Flax by turns, and the first of a kind of layer into Keras too."""


class Faulty:
    """A worker whose `trace` is damaged."""

    def __init__(self, worker: Any, fault: dict[str, Any]) -> None:
        self.worker, self.fault = worker, fault

    def call(self, operation: str, **arguments: Any) -> Any:
        if operation == "trace":
            return self.worker.call("faulty_trace", fault=self.fault, **arguments)
        return self.worker.call(operation, **arguments)


class Remembering:
    """A worker of the reference, which computes each net once."""

    def __init__(self, worker: Any, folder: Path) -> None:
        self.worker, self.folder = worker, folder

    def call(self, operation: str, **arguments: Any) -> Any:
        if operation != "trace":
            return self.worker.call(operation, **arguments)
        key = json.dumps([self.worker.engine.name, arguments["spec"]], sort_keys=True)
        kept = self.folder / f"{abs(hash(key))}.safetensors"
        if not kept.exists():
            self.worker.call(operation, **arguments)
            shutil.copy(arguments["outputs"], kept)
        shutil.copy(kept, arguments["outputs"])
        return {"broken": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("references")


def damaged(
    pool: Pool, folder: Path, case: Case, victim: str, reference: str | None = None
) -> TraceReport:
    reference = reference or ("flax" if victim == "torch" else "torch")

    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        worker = pool[engine.name]
        if engine.name == victim:
            yield Faulty(worker, case.to_dict())
        else:
            yield Remembering(worker, folder)

    return trace(SPECS[case.spec], ENGINES[reference], ENGINES[victim], IMAGES, start=start)


def in_keras() -> list[Case]:
    """The first fault of each kind of layer."""
    kinds: dict[tuple[str, bool], Case] = {}
    for case in CASES:
        found = nodes(compile_plan(SPECS[case.spec]))
        kind = next(part.kind for part in found if part.name == case.layer)
        kinds.setdefault((kind, isinstance(case.fault, str)), case)
    return list(kinds.values())


INJECTED = [(case, ("torch", "flax")[i % 2]) for i, case in enumerate(CASES)]
INJECTED += [
    (case, ("keras:torch", "keras:jax", "keras:tensorflow")[i % 3])
    for i, case in enumerate(in_keras())
]


@pytest.mark.parametrize(
    ("case", "victim"), INJECTED, ids=[f"{v} {case.id}" for case, v in INJECTED]
)
def test_a_damaged_layer_is_named(pool: Pool, folder: Path, case: Case, victim: str) -> None:
    report = damaged(pool, folder, case, victim)
    assert report.first == [case.layer], report.problems
    assert report.errs == [case.layer]
    assert f"differs from {report.reference} at {case.layer} by" in report.problems[0]


def test_there_are_enough_faults() -> None:
    assert len({case.id for case in CASES}) >= 50
    kinds = {
        type(layer).__name__ for spec in SPECS.values() for layer in compile_plan(spec).layers()
    }
    hurt = {
        next(p.kind for p in nodes(compile_plan(SPECS[c.spec])) if p.name == c.layer) for c in CASES
    }
    assert kinds - hurt == {"Identity", "ZeroPad", "Flatten"}


OTHERS = ("keras:tensorflow", "keras:jax", "keras:torch", "flax")
AGREEING = [(spec, other) for spec in ("basic", "squeeze") for other in OTHERS]
# The rest by turns: each damaged net has to agree everywhere but in one layer, too.
AGREEING += [
    (spec, ("flax", "keras:torch")[i % 2])
    for i, spec in enumerate(s for s in SPECS if s not in ("basic", "squeeze"))
]


@pytest.mark.parametrize(("spec", "other"), AGREEING)
def test_engines_agree(pool: Pool, folder: Path, spec: str, other: str) -> None:
    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        worker = pool[engine.name]
        yield Remembering(worker, folder) if engine.name == "torch" else worker

    report = trace(SPECS[spec], ENGINES["torch"], ENGINES[other], IMAGES, start=start)
    assert report.problems == []
    p = compile_plan(SPECS[spec])
    names = {layer.name for layer in p.layers()} | {block.name for block in p.blocks()}
    assert {row.name for row in report.rows if row.teacher_forced is not None} == names
    assert {row.name for row in report.rows if row.propagated is not None} == names
    assert max(row.teacher_forced or 0 for row in report.rows) < 1e-13


def test_what_enters_a_part_is_what_the_plan_says(pool: Pool) -> None:
    """The reference on its own inputs, which are taken from the plan, gives its own outputs."""
    for name in SPECS:
        report = trace(SPECS[name], ENGINES["torch"], ENGINES["torch"], IMAGES, start=pool.start)
        assert all(row.teacher_forced == row.propagated == 0 for row in report.rows), name


def test_inputs_are_sums_of_sources() -> None:
    found = {part.name: part for part in nodes(compile_plan(SPECS["basic"]))}
    assert found["layer2.0.act2"].sources == ("layer2.0.bn2", "layer2.0.downsample.1")
    assert found["layer2.1.act2"].sources == ("layer2.1.bn2", "layer2.0")
    assert found["layer2.1"].sources == ("layer2.0",)
    assert found["conv1"].sources == ("",)
    outputs = {name: np.full((1, 1), i, np.float64) for i, name in enumerate(found)}
    inputs = inputs_of(list(found.values()), np.zeros((1, 1)), outputs)
    assert inputs["layer2.1.act2"] == outputs["layer2.1.bn2"] + outputs["layer2.0"]


def test_several_faults_are_all_told(pool: Pool, folder: Path) -> None:
    """Those that come later are found too: teacher forcing does not let them inherit."""
    worker = pool["flax"]

    class Twice:
        def call(self, operation: str, **arguments: Any) -> Any:
            if operation != "trace":
                return worker.call(operation, **arguments)
            fault = {"layer": "bn1", "weights": "mean forgotten"}
            from shared_spec import Checkpoint, read_safetensors, write_safetensors
            from tests.trace.faults import WEIGHTS

            state = dict(read_safetensors(arguments["weights"]).state)
            state = WEIGHTS["kernel flipped"](state, "layer2.0.conv1")
            write_safetensors(arguments["weights"], Checkpoint(state))
            return worker.call("faulty_trace", fault=fault, **arguments)

    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        yield Twice() if engine.name == "flax" else pool[engine.name]

    report = trace(SPECS["basic"], ENGINES["torch"], ENGINES["flax"], IMAGES, start=start)
    assert report.first == ["bn1"]
    assert report.errs == ["bn1", "layer2.0.conv1"]
    assert "layer2.0.conv1 is at fault itself too" in report.problems[0]


@pytest.mark.parametrize("victim", ["torch", "flax"])
def test_a_stride_in_the_wrong_place_is_told(pool: Pool, folder: Path, victim: str) -> None:
    """Both convolutions err: the stride of the second is in the first."""
    case = plan_case("bottleneck", "layer2.0.conv1", stride=2)
    case = Case(case.spec, case.layer, (*case.fault, ("and", ("layer2.0.conv2", {"stride": 1}))))
    report = damaged(pool, folder, case, victim)
    assert report.errs == ["layer2.0.conv1", "layer2.0.conv2"]
    assert report.first == ["layer2.0.conv1"]


@pytest.mark.parametrize("victim", ["torch", "flax"])
def test_a_nan_is_named_and_never_passes(
    pool: Pool, folder: Path, tmp_path: Path, victim: str
) -> None:
    report = damaged(pool, folder, Case("basic", "layer2.0.conv1", "NaN"), victim)
    assert report.first == report.errs == ["layer2.0.conv1"]
    row = next(row for row in report.to_dict()["rows"] if row["name"] == "layer2.0.conv1")
    assert row["forced"] == row["propagated"] == "NaN"
    json.loads(json.dumps(report.to_dict(), allow_nan=False))
    # NaN has no height, and is drawn all the same.
    plots.trace(report, tmp_path / "depth.svg")
    assert b"NaN" in (tmp_path / "depth.svg").read_bytes()


def test_a_nan_in_the_reference_is_told(pool: Pool) -> None:
    images = IMAGES.copy()
    images[0, 0, 0, 0] = np.nan
    report = trace(SPECS["basic"], ENGINES["torch"], ENGINES["flax"], images, start=pool.start)
    assert report.first == ["conv1"]
    assert "the reference itself is not finite there" in report.problems[0]


def test_another_shape_is_told(pool: Pool, folder: Path) -> None:
    report = damaged(pool, folder, plan_case("basic", "maxpool", stride=1), "torch")
    assert report.first == ["maxpool"]
    assert "has shape [2, 12, 10, 8], the reference [2, 6, 5, 8]" in report.problems[0]


@pytest.mark.parametrize("other", ["flax", "keras:tensorflow"])
def test_float32_is_held_to_what_rounding_causes(pool: Pool, other: str) -> None:
    report = trace(
        SPECS["squeeze"],
        ENGINES["torch"],
        ENGINES[other],
        IMAGES,
        dtype="float32",
        start=pool.start,
    )
    assert report.problems == []
    assert all(1e-7 < row.bound < 1e-4 for row in report.rows)
    # What has weights is measured; the least that rounding does is eight roundoffs.
    measured = [row.bound for row in report.rows if row.kind in ("Conv", "BatchNorm", "block")]
    assert min(measured) > 8.1 * 2.0**-24
    assert max(row.teacher_forced or 0 for row in report.rows) > 1e-9


def test_a_fault_in_float32_is_named(pool: Pool) -> None:
    case = plan_case("squeeze", "layer1.0.bn2", eps=1e-3)

    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        worker = pool[engine.name]
        yield Faulty(worker, case.to_dict()) if engine.name == "flax" else worker

    report = trace(
        SPECS["squeeze"], ENGINES["torch"], ENGINES["flax"], IMAGES, dtype="float32", start=start
    )
    assert report.first == ["layer1.0.bn2"]


def test_a_gradient_that_parts_is_named(pool: Pool) -> None:
    """The forward pass agrees; one layer of one engine passes back twice its input's gradient."""

    class Backwards:
        def __init__(self, worker: Any) -> None:
            self.worker = worker

        def call(self, operation: str, **arguments: Any) -> Any:
            if operation == "train":
                return self.worker.call("faulty_gradient", layer="layer1.0.conv2", **arguments)
            return self.worker.call(operation, **arguments)

    def start(wrong: bool) -> Any:
        @contextlib.contextmanager
        def begin(engine: Engine, device: Device) -> Iterator[Any]:
            worker = pool[engine.name]
            yield Backwards(worker) if wrong and engine.name == "torch" else worker

        return begin

    spec = SPECS["basic"]
    for wrong in (False, True):
        report = trace(
            spec,
            ENGINES["keras:torch"],
            ENGINES["torch"],
            IMAGES,
            gradients=True,
            start=start(wrong),
        )
        assert [row.name for row in report.gradients][:2] == ["fc.bias", "fc.weight"]
        assert report.first == []
        assert report.first_gradient == ("layer1.0.bn1.bias" if wrong else None)
        assert report.holds is not wrong


def test_gradients_in_float32(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases before norms have none; where rounding hides everything, nothing was compared."""

    def run() -> TraceReport:
        engines = ENGINES["torch"], ENGINES["keras:torch"]
        return trace(
            SPECS["squeeze"],
            *engines,
            random_images((4, 32, 32, 3)),
            dtype="float32",
            gradients=True,
            start=pool.start,
        )

    report = run()
    assert report.problems == []
    rows = {row.name: row for row in report.gradients}
    assert rows["layer1.0.conv1.bias"].note == "is zero except for rounding"
    assert rows["fc.weight"].propagated is not None
    assert all(row.bound < 0.1 for row in report.gradients)
    assert report.gradient_rule == report.rule
    monkeypatch.setattr("resnet_parity.trace.compare._VAGUE", 1e-9)
    report = run()
    assert (report.verdict, report.holds, report.problems) == ("undecided", False, [])
    assert "rounding alone changes the gradients" in report.undecided[0]
    # What parts is told, however much rounding hides besides.
    report.problems.append("something parts")
    assert report.verdict == "parts"


def test_a_net_that_does_not_run_is_taken_apart(pool: Pool) -> None:
    """PyTorch cannot add branch and shortcut any more; the layer to blame is named all the same."""
    fault = {"layer": "layer2.0.downsample.0", "native": {"stride": [1, 1]}}

    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        worker = pool[engine.name]
        yield Faulty(worker, fault) if engine.name == "torch" else worker

    report = trace(SPECS["basic"], ENGINES["flax"], ENGINES["torch"], IMAGES, start=start)
    assert report.first == report.errs == ["layer2.0.downsample.0"]
    block = next(row for row in report.rows if row.name == "layer2.0")
    assert block.propagated is None
    assert "RuntimeError" in block.note


OWN = "tests.trace.own"
NAMES = {
    "conv1": "stem.0",
    "bn1": "stem.1",
    "act1": "stem.2",
    "maxpool": "stem.3",
    "layer1": "stages.0",
    "layer2": "stages.1",
    "fc": "classifier",
}


def of_own(pool: Pool, function: str, engine: str = "torch", **options: Any) -> TraceReport:
    own = UserModel(f"{OWN}:{function}", options.pop("names", {}))
    return trace(SPECS["basic"], ENGINES[engine], own, IMAGES, start=pool.start, **options)


@pytest.mark.parametrize(
    ("function", "engine"),
    [("good", "torch"), ("keras_good", "keras:tensorflow"), ("flax_good", "flax")],
)
def test_an_own_model_without_a_bug_agrees(pool: Pool, function: str, engine: str) -> None:
    report = of_own(pool, function, engine)
    assert report.problems == []
    seen = {row.name for row in report.rows if row.propagated is not None}
    assert {"conv1", "layer2.0.bn1", "layer2.0.downsample.1", "fc"} <= seen
    assert any(row.kind == "result" and row.propagated is not None for row in report.rows)


def test_an_own_model_leaves_keras_as_it_was(pool: Pool) -> None:
    """`own.keras_model` sets a dtype policy for itself."""
    kept = pool["keras:tensorflow"].call("probe", function="keras_habits:settings")
    of_own(pool, "keras_good", "keras:tensorflow")
    assert pool["keras:tensorflow"].call("probe", function="keras_habits:settings") == kept


@pytest.mark.parametrize(
    ("function", "engine", "named"),
    [
        ("eps", "torch", ["layer2.0.bn1"]),
        ("first_activation", "torch", ["layer2.0.act1"]),
        ("last_activation", "torch", ["layer2.0"]),
        ("pool", "torch", ["act1", "maxpool"]),
        ("softmax", "torch", ["(result) logits"]),
        ("keras_eps", "keras:tensorflow", ["layer2.0.bn1"]),
        ("flax_eps", "flax", ["layer2.0.bn1"]),
    ],
)
def test_the_bug_of_an_own_model_is_named(
    pool: Pool, function: str, engine: str, named: list[str]
) -> None:
    report = of_own(pool, function, engine)
    assert report.first == named, report.problems
    assert report.problems[0].startswith(
        f"{OWN}:{function} differs from {engine} at {' or '.join(named)}"
    )


def test_names_map_an_own_model(pool: Pool) -> None:
    report = of_own(pool, "renamed", names=NAMES)
    assert report.first == ["layer2.0.bn1"]
    assert "maxpool" not in report.unseen
    shorter = {k: v for k, v in NAMES.items() if k != "maxpool"}
    assert "maxpool" in of_own(pool, "renamed", names=shorter).unseen


def test_a_module_that_runs_twice_is_not_compared(pool: Pool) -> None:
    """A ReLU that stands for two layers would show the second in the place of the first."""
    report = of_own(pool, "good", names={"layer2.0.act1": "layer2.0.relu"})
    assert report.problems == []
    assert "layer2.0.act1" in report.unseen
    assert "layer2.0.act1" in report.notes[0]


def test_an_own_model_in_float32(pool: Pool) -> None:
    assert of_own(pool, "good", dtype="float32").problems == []
    assert of_own(pool, "eps", dtype="float32").first == ["layer2.0.bn1"]


@pytest.mark.parametrize(
    ("function", "options", "told"),
    [
        ("not_a_model", {}, "returned builtins.int"),
        ("failing", {}, "failed (RuntimeError: no way)"),
        ("goood", {}, "has no function 'goood'; did you mean 'good'"),
        ("other_width", {}, "fc.weight has shape [6, 16], the spec [5, 16]"),
        ("more_weights", {}, "the model has head.weight, head.bias, which the spec does not"),
        ("renamed", {}, "the model has no conv1.weight, bn1.weight"),
        ("good", {"names": {"layr1": "x"}}, "the spec has no 'layr1'; did you mean 'layer1'"),
        ("good", {"engine": "flax"}, "name the engine of the model's framework"),
        ("good", {"gradients": True}, "--gradients"),
        ("good", {"dtype": "float16"}, "dtype: 'float16' is not one of float64, float32"),
    ],
)
def test_bad_input_is_one_sentence(
    pool: Pool, function: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ResNetError) as error:
        of_own(pool, function, **options)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A spec file, and beside it a module of the user's, in the current directory."""
    from shared_spec.spec.files import save_spec

    monkeypatch.chdir(tmp_path)
    save_spec("net.yaml", SPECS["basic"])
    shutil.copy(Path(__file__).with_name("own.py"), "my_net.py")
    return "net.yaml"


def test_the_command_names_the_layer(net: str) -> None:
    arguments = (net, "--against", "my_net:eps", "--image-size", "24", "--plot", "depth.png")
    status, out, _ = command("trace", *arguments)
    assert status == 1
    assert "✗ my_net:eps differs from torch at layer2.0.bn1" in " ".join(out.split())
    assert Path("depth.png").read_bytes().startswith(b"\x89PNG")
    Path("map.yaml").write_text("layer1.0.conv1: layer1.0.conv1\n")
    arguments = (
        net,
        "--against",
        "my_net:good",
        "--names",
        "map.yaml",
        "--input",
        "image",
        "--json",
    )
    status, out, _ = command("trace", *arguments)
    data = json.loads(out)
    assert (status, data["holds"], data["first"]) == (0, True, [])
    assert data["command"] == f"resnet-parity trace {shlex.join(arguments)}"
    assert data["input"] == [2, 64, 64, 3]
    assert len(data["rows"]) == len(nodes(compile_plan(SPECS["basic"]))) + 1


@pytest.mark.parametrize(
    ("problems", "undecided", "status", "told"),
    [
        ([], [], 0, "✓ nothing differs"),
        (["it parts"], ["it is hidden"], 1, "✗ they differ"),
        ([], ["it is hidden"], 3, "? it is hidden ? undecided"),
    ],
)
def test_three_verdicts(
    net: str,
    monkeypatch: pytest.MonkeyPatch,
    problems: list[str],
    undecided: list[str],
    status: int,
    told: str,
) -> None:
    report = TraceReport("net", "torch", "flax", "float64", [1, 8, 8, 3], "a rule")
    report.gradient_rule = "another rule"
    report.problems, report.undecided = problems, undecided
    report.rows = [TraceRow("conv1", "Conv", 0.0, 0.0)]
    monkeypatch.setattr("resnet_parity.trace.compare.trace", lambda *_, **__: report)
    found, out, _ = command("trace", net)
    assert found == status
    assert told in " ".join(out.split())
    assert "rule for gradients: another rule" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["resnet18", "--engines", "torch"], "engines: name two, the reference first"),
        (["resnet18", "--engines", "torch,flax,keras:jax"], "engines: name two"),
        (["resnet18", "--against", "x:y", "--engines", "torch,flax"], "with --against name one"),
        (["resnet18", "--against", "no module"], "is not of the form MODULE:FUNCTION"),
        (["resnet18", "--against", "absent_module:f"], "absent_module cannot be imported"),
        (["resnet18", "--names", "map.yaml"], "--names: only with --against"),
        (["resnet18", "--against", "x:y", "--names", "absent.yaml"], "cannot be read"),
        (["resnet18", "--against", "x:y", "--names", "net.yaml"], "expected a line"),
        (["resnet18", "--input", "noise"], "is not random, image, or the path of an image"),
        (["resnet18", "--input", "absent.png"], "absent.png"),
        (["resnet18", "--plot", "a.gif"], "a picture's name ends in one of"),
        (["resnet18", "--dtype", "float16"], "is not one of float64, float32"),
        (["resnet19"], "did you mean"),
        ([], "Missing argument"),
    ],
)
def test_bad_arguments_exit_with_2(net: str, arguments: list[str], told: str) -> None:
    status, out, err = command("trace", *arguments)
    assert status == 2
    assert told in " ".join(err.split())
    assert "Traceback" not in out + err
