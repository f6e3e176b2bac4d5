"""Do the engines train alike? Gradients, statistics, and what some steps leave, in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from resnet_parity.check.result import TrainingReport
from resnet_parity.check.training import check_training
from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import Device, Engine, parse_engines
from resnet_parity.train.recipes import comparison_optimization
from shared_spec import Optimization, ResNetError, ResNetSpec, optimization, resolve
from tests.conftest import Pool
from tests.tiers import choice, engines, only, selected, without_jax, without_keras_jax
from tests.training.faults import MODEL_FAULTS

# Two blocks are enough for a rule to be wrong; docs/results/training.md has the whole nets.
NARROW = {"depths": [1, 1], "widths": [8, 16], "num_classes": 7}
SPECS: dict[str, ResNetSpec] = {
    "resnet20 (A)": resolve("resnet20", {"depths": [1, 1, 1]}),
    "resnet20 (B)": resolve("resnet20_b", {"depths": [1, 1, 1]}),
    "resnet18": resolve("resnet18", NARROW),
    "resnet50": resolve("resnet50", NARROW),
    "SE-D": resolve("seresnet152d", NARROW | {"stem_width": 16}),
    "pre-activation": resolve("resnetv2_50", NARROW | {"stem_width": 16}),
    "group norm": resolve("resnet50_gn", NARROW | {"widths": [32, 32]}),
    "ResNeXt": resolve("resnext50_32x4d", NARROW | {"groups": 2, "base_width": 32}),
    "ECA, blur": resolve("ecaresnet50d", NARROW | {"stem_width": 16, "anti_alias": "blur"}),
    "biased variance, same": resolve("flax_resnet50", NARROW),
    "BiT": resolve("resnetv2_50x1_bit", NARROW | {"widths": [32, 32]}),
    "selective kernels": resolve("skresnet18", NARROW),
    "Res2Net": resolve("res2net50_26w_4s", NARROW | {"base_width": 64, "depths": [1, 2]}),
    "ResNeSt": resolve("resnest50d_4s2x40d", NARROW | {"stem_width": 16, "base_width": 64}),
    "no norms": resolve("nf_seresnet26", NARROW | {"skip_gain": True}),
    "RegNet-V": resolve("regnetv_064", NARROW | {"strides": [2, 2]}),
    "RegNet-Z": resolve("regnetz_005", NARROW | {"strides": [2, 2], "head_width": 24}),
    "global context": resolve(
        "gcresnext26ts", NARROW | {"widths": [64, 64], "stem_width": 16, "group_width": 8}
    ),
    "attention pool": resolve(
        "resnet50_clip", NARROW | {"widths": [64, 64], "stem_width": 16, "image_size": 32}
    ),
    "frozen norms": resolve("resnet50", NARROW | {"norm": "frozen_batch"}),
    "biases": resolve("d2l_resnet18", {"depths": [1, 1], "widths": [16, 16]}),
}
# What differs in a backward pass, for JAX's engines in tier `test`: gates, standardised kernels,
# statistics. Shortcuts of option A train in all five engines for twenty steps below.
IN_FLAX = ("SE-D", "BiT", "ResNeSt", "biased variance, same")
IN_KERAS_JAX = ("SE-D",)
COVERED = {"resnet20 (A)", "resnet20 (B)", "resnet50"}
"""In tier `test`, by twenty steps below, the blocks of resnet18 and the bottlenecks of SE-D."""

RECIPES: dict[str, Optimization] = {
    "SGD": optimization(learning_rate=0.05, optimizer={"name": "sgd", "momentum": 0.0}),
    "decoupled": optimization(learning_rate=0.02, weight_decay=0.1, decay="decoupled"),
    "AdamW": optimization(
        learning_rate=1e-3, optimizer="adamw", weight_decay=0.05, schedule="cosine"
    ),
    "Adam with coupled decay": optimization(
        learning_rate=1e-3, optimizer="adamw", weight_decay=0.05, decay="coupled", clip_norm=0.5
    ),
    "fine-tuning": optimization(
        learning_rate=0.02,
        freeze=["conv1", "bn1", "layer1", "layer2.0.conv*"],
        rates={"layer3": 0.1, "layer3.0.bn2": 0.5},
        weight_decay=1e-2,
    ),
}


def run(
    pool: Pool,
    spec: ResNetSpec,
    how: Optimization | None = None,
    named: str | None = None,
    **options: Any,
) -> TrainingReport:
    options = {"steps": 4, "batch": 4, "size": (16, 16), "start": pool.start} | options
    return check_training(
        spec, parse_engines(named or ",".join(choice.engines)), optimization=how, **options
    )


@pytest.mark.parametrize("name", selected(sorted(SPECS.keys() - COVERED), SPECS))
def test_every_net_trains_alike(pool: Pool, name: str) -> None:
    ran = [
        *without_jax(),
        *only("flax", name in IN_FLAX),
        *only("keras:jax", name in IN_KERAS_JAX),
    ]
    report = run(pool, SPECS[name], named=",".join(e.name for e in ran))
    assert report.holds, report.problems
    assert len(report.ran) == len(ran)
    assert len(report.pairs) == len(ran) * (len(ran) - 1) // 2
    for found in report.pairs.values():
        # Far below the bounds, which a long training needs.
        assert found["statistics"][1] < 1e-11 or "norm" in name
        assert found["weights"][1] < 1e-11


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_means_the_same(pool: Pool, name: str) -> None:
    few = [engine for engine in without_keras_jax() if engine.name != "keras:tensorflow"]
    ran = engines() if name == "fine-tuning" or choice.tier == "all" else few
    report = run(pool, SPECS["resnet20 (B)"], RECIPES[name], ",".join(e.name for e in ran))
    assert report.holds, report.problems
    assert len(report.ran) == len(ran)


def test_twenty_steps(pool: Pool) -> None:
    report = run(pool, SPECS["resnet20 (A)"], steps=20)
    assert report.holds, report.problems
    losses = report.losses()["torch"]
    assert len(losses) == 20
    assert losses[0] != losses[-1]


def test_what_is_frozen_stays(pool: Pool) -> None:
    """A check of five engines would not see a rule that none of them follows."""
    from shared_spec import random_weights
    from shared_spec.plan.compiler import compile_plan

    spec = SPECS["resnet20 (B)"]
    report = run(pool, spec, RECIPES["fine-tuning"], named="torch,flax")
    before = random_weights(compile_plan(spec), 0)
    for ran in report.ran:
        after = {k.removeprefix("weights/"): a for k, a in ran.outputs.items() if "weights/" in k}
        moved = {name for name, array in before.items() if (after[name] != array).any()}
        frozen = {n for n in before if n.startswith(("conv1.", "bn1.", "layer1."))}
        frozen |= {"layer2.0.conv1.weight", "layer2.0.conv2.weight"}
        assert moved == before.keys() - frozen


@contextlib.contextmanager
def faulty(pool: Pool, victim: str, fault: str) -> Iterator[Any]:
    """A start of workers, one of which trains with a fault."""

    class Broken:
        def __init__(self, worker: Worker) -> None:
            self.worker = worker

        def call(self, operation: str, **arguments: Any) -> Any:
            if operation == "train":
                return self.worker.call("faulty_train", fault=fault, **arguments)
            return self.worker.call(operation, **arguments)

    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        with pool.remembered(engine) as worker:
            yield Broken(worker) if engine.name == victim else worker

    yield start


@pytest.mark.parametrize("fault", MODEL_FAULTS)
@pytest.mark.parametrize(
    "victim",
    selected(["torch", "keras:torch", "flax"], ["torch", "keras:jax", "keras:torch", "flax"]),
)
def test_a_fault_of_a_norm_is_caught_and_named(pool: Pool, victim: str, fault: str) -> None:
    other = "keras:tensorflow"
    with faulty(pool, victim, fault) as start:
        report = run(pool, SPECS["resnet20 (B)"], named=f"{other},{victim}", steps=2, start=start)
    assert len(report.problems) == 1, report.problems
    (problem,) = report.problems
    assert f"{other} and {victim} differ in" in problem
    if fault in ("inverted_momentum", "other_variance"):
        # The first pass of gradients uses the batch's statistics: only those that run are wrong.
        leaf = "running_mean" if fault == "inverted_momentum" else "running_var"
        assert f"layer1.0.bn1.{leaf} after step 1" in problem
    else:
        assert "the first loss" in problem


RECIPE_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "decay on norms": ({"decay_norms": True}, "bn1.weight"),
    "no decay": ({"weight_decay": 0.0}, "conv1.weight"),
    "decoupled decay": ({"decay": "decoupled"}, "conv1.weight"),
    "wrong label smoothing": ({"label_smoothing": 0.09}, "the first loss"),
    "no nesterov": ({"optimizer": {"name": "sgd", "momentum": 0.9}}, "conv1.weight"),
    "another momentum": (
        {"optimizer": {"name": "sgd", "momentum": 0.89, "nesterov": True}},
        "conv1.weight",
    ),
    "no clipping": ({"clip_norm": None}, "conv1.weight"),
    "a warm-up of one step less": ({"warmup": {"steps": 1, "start": 0.5}}, "after step 3"),
    "a layer frozen": ({"freeze": ("layer1.0.conv1",)}, "the gradient of layer1.0.conv1.weight"),
    "another average": ({"ema_decay": 0.89}, "the average of conv1.weight"),
}


@pytest.mark.parametrize("fault", RECIPE_FAULTS)
def test_a_fault_of_a_rule_is_caught_and_named(pool: Pool, fault: str) -> None:
    fields, named = RECIPE_FAULTS[fault]
    right = comparison_optimization().model_dump(mode="json")

    class Broken:
        def __init__(self, worker: Worker) -> None:
            self.worker = worker

        def call(self, operation: str, **arguments: Any) -> Any:
            if operation == "train":
                arguments["recipe"] = {**arguments["recipe"], **fields}
            return self.worker.call(operation, **arguments)

    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        with pool.remembered(engine) as worker:
            yield Broken(worker) if engine.name == "keras:torch" else worker

    assert all(right[key] != value for key, value in fields.items())
    # The recipe is what is wrong, whichever engine follows it.
    report = run(pool, SPECS["resnet20 (B)"], named="torch,keras:torch", steps=3, start=start)
    (problem,) = report.problems
    assert "torch and keras:torch differ in" in problem
    assert named in problem


def test_float32_is_held_against_float64(pool: Pool) -> None:
    report = run(pool, SPECS["resnet20 (B)"], dtype="float32", named="torch,flax,keras:tensorflow")
    assert report.holds, report.problems
    assert set(report.tolerances) == {"loss", "gradients"}
    for curves in report.curves.values():
        assert len(curves["loss"]) == len(curves["statistics"]) == 4
        assert 0 < max(curves["loss"]) < 1e-3


def test_bfloat16_is_held_against_float64(pool: Pool) -> None:
    named = [engine.name for engine in without_keras_jax()]
    report = run(pool, SPECS["resnet20 (B)"], named=",".join(named), dtype="bfloat16", steps=2)
    assert report.holds, report.problems
    assert len(report.ran) == len(named)
    for found in report.against_float64.values():
        # Too far for float32: the layers did compute in bfloat16.
        assert 1e-5 < found["statistics"][1] < 0.1


def test_standardised_kernels_train_in_bfloat16(pool: Pool) -> None:
    report = run(pool, SPECS["BiT"], dtype="bfloat16", steps=2, named="torch,flax")
    assert report.holds, report.problems
    assert len(report.ran) == 2


def test_dropout_is_left_out_and_told(pool: Pool) -> None:
    spec = SPECS["resnet20 (B)"].override(drop_path_rate=0.2, drop_rate=0.1)
    report = run(pool, spec, named="torch,flax", steps=1)
    assert report.holds, report.problems
    assert "drop_rate, drop_path_rate set to 0" in report.notes[0]


def test_a_net_without_classes_cannot_be_trained(pool: Pool) -> None:
    with pytest.raises(ResNetError, match="no classes to learn"):
        run(pool, resolve("resnet18", {"num_classes": 0}))


def test_a_part_that_is_not_there(pool: Pool) -> None:
    report = run(
        pool,
        SPECS["resnet20 (B)"],
        optimization(learning_rate=0.1, freeze=["layer9"]),
        named="torch,flax",
    )
    assert "the net has no part 'layer9'; it has conv1, bn1, layer1" in report.problems[0]
