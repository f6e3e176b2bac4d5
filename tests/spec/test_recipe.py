"""Recipes: what they accept, say, and mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from resnet_parity.train.recipes import changed, find_recipe, shipped
from shared_spec import RecipeError, optimization, resolve
from shared_spec.plan.compiler import compile_plan
from shared_spec.training.recipe import Recipe, load_recipe

PLAN = compile_plan(resolve("resnet20_b"))
MINIMAL: dict[str, Any] = {
    "model": "resnet20",
    "data": {"format": "digits"},
    "steps": 10,
    "learning_rate": 0.1,
}


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_valid_and_round_trip(name: str, tmp_path: Path) -> None:
    recipe = find_recipe(name)
    assert recipe.description
    path = tmp_path / "copy.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict()))
    assert load_recipe(path) == recipe
    assert Recipe.parse(json.loads(json.dumps(recipe.to_dict()))) == recipe
    channels = 1 if recipe.data.format in ("digits", "idx") else 3
    recipe.check_parts(recipe.spec(10, channels, 32))


def test_the_paper_s_recipes() -> None:
    cifar = find_recipe("cifar10")
    rates = [cifar.rate(step, 64_000) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert (cifar.batch_size, cifar.steps, cifar.weight_decay) == (128, 64_000, 1e-4)
    assert [a.name for a in cifar.augmentation] == ["pad_crop", "flip"]
    assert resolve(str(cifar.model)).shortcut == "zero_pad"
    deep = find_recipe("cifar10_110")
    assert [deep.rate(s, 64_000) for s in (0, 399, 400)] == pytest.approx([0.01, 0.01, 0.1])
    imagenet = find_recipe("imagenet")
    assert (imagenet.batch_size, imagenet.learning_rate, imagenet.weight_decay) == (256, 0.1, 1e-4)
    assert imagenet.augmentation[0].shorter_side == (256, 480)  # type: ignore[union-attr]


@pytest.mark.frameworks
def test_schedules_are_those_of_the_libraries() -> None:
    import optax
    import torch

    def rates(build: Any, steps: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
        schedule, found = build(optimizer), []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    lr = torch.optim.lr_scheduler
    cosine = optimization(learning_rate=0.4, schedule="cosine")
    mine = [cosine.rate(i, 50) for i in range(50)]
    assert mine == pytest.approx(rates(lambda o: lr.CosineAnnealingLR(o, 50), 50), abs=1e-12)
    theirs = optax.cosine_decay_schedule(0.4, 50)
    assert mine == pytest.approx([float(theirs(i)) for i in range(50)], abs=1e-6)
    step = optimization(learning_rate=0.4, schedule={"name": "step", "at": [10, 30], "by": 0.2})
    mine = [step.rate(i, 50) for i in range(50)]
    assert mine == pytest.approx(rates(lambda o: lr.MultiStepLR(o, [10, 30], 0.2), 50))
    warm = optimization(learning_rate=0.4, warmup={"steps": 8, "start": 0.25})
    mine = [warm.rate(i, 50) for i in range(50)]
    assert mine == pytest.approx(rates(lambda o: lr.LinearLR(o, 0.25, 1.0, 8), 50))
    both = optimization(learning_rate=0.4, warmup={"steps": 10}, schedule="cosine")
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.4, 10, 60)
    expected = [float(theirs(i)) for i in range(60)]
    assert [both.rate(i, 60) for i in range(60)] == pytest.approx(expected, abs=1e-6)


def test_which_parameters_decay_and_train() -> None:
    every = optimization(learning_rate=1, weight_decay=0.1).updates(PLAN)
    trainable = {q.name for q in PLAN.parameters() if q.role not in ("norm_mean", "norm_var")}
    assert every.keys() == trainable
    assert {u.decay for u in every.values()} == {0.1}
    kernels = optimization(learning_rate=1, weight_decay=0.1, decay_norms=False).updates(PLAN)
    assert {n for n, u in kernels.items() if u.decay} == {
        q.name for q in PLAN.parameters() if q.role in ("conv_kernel", "dense_kernel")
    }
    tuned = optimization(
        learning_rate=1, freeze=["conv1", "bn1", "layer1", "*.conv2.weight"], rates={"layer3": 0.1}
    )
    found = tuned.updates(PLAN)
    assert "layer2.0.conv2.weight" not in found
    assert "layer2.0.conv1.weight" in found
    assert {u.rate for n, u in found.items() if n.startswith("layer3")} == {0.1}
    assert {u.rate for n, u in found.items() if not n.startswith("layer3")} == {1.0}
    norms = {q.module for q in PLAN.parameters() if q.role == "norm_mean"}
    expected = {n for n in norms if n.startswith(("bn1", "layer1."))}
    assert tuned.frozen_norms(PLAN) == expected
    with pytest.raises(RecipeError, match="nothing is left to train"):
        optimization(learning_rate=1, freeze=["*"]).updates(PLAN)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": {"name": "sgd", "momentun": 0.9}}, "did you mean 'momentum'"),
        ({"optimizer": "adagrad"}, "'sgd', 'adamw'"),
        ({"optimizer": {"name": "sgd", "momentum": 1}}, "optimizer.momentum: .* less than 1"),
        (
            {"optimizer": {"name": "sgd", "momentum": 0.0, "nesterov": True}},
            "nesterov: needs a momentum",
        ),
        ({"schedule": {"name": "step", "at": [5, 3]}}, "has to ascend"),
        ({"schedule": {"name": "step", "at": [5], "by": [0.1, 0.1]}}, "2 factors for 1 steps"),
        ({"learning_rate": "fast"}, "learning_rate: .* valid number"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"precision": "float16"}, "precision"),
        ({"epochs": 3}, "steps or epochs: give one of them"),
        ({"steps": True}, "steps: .* valid integer"),
        ({"data": {"format": "cifar10"}}, "path: the format 'cifar10' needs one"),
        ({"augmentation": ["rotate"]}, "one of pad_crop, shift"),
        ({"model": {"depths": [1]}, "momentum": 1}, "momentum: there is no such field"),
    ],
)
def test_what_is_not_valid_is_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        Recipe.parse(MINIMAL | fields, "mine.yaml")
    assert str(error.value).startswith("mine.yaml: ")
    assert "\n" not in str(error.value)


def test_changes_reach_into_a_recipe() -> None:
    recipe = Recipe.parse(MINIMAL)
    found = changed(
        recipe, None, ["seed=3", "optimizer.momentum=0.5", "epochs=2", "options.depths=[1,1,1]"]
    )
    assert (found.seed, found.epochs, found.steps) == (3, 2, None)
    assert found.optimizer.momentum == 0.5  # type: ignore[union-attr]
    assert found.spec(10, 1, 8).depths == (1, 1, 1)
    with pytest.raises(RecipeError, match="'seed' of 'seed\\.of' has no fields"):
        changed(recipe, None, ["seed=3", "seed.of=4"])
    with pytest.raises(RecipeError, match="there is no such field"):
        changed(recipe, None, ["sede=3"])


def test_the_schema_knows_the_fields() -> None:
    schema = Recipe.json_schema()
    assert {"model", "data", "optimizer", "learning_rate", "freeze"} <= schema["properties"].keys()
    assert schema["additionalProperties"] is False
