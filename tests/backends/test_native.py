"""What users of each framework expect of a model, on every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import ENGINES
from shared_spec import compile_plan, digest, initial_weights
from shared_spec.plan.summary import block_rows, layer_rows
from tests.conftest import Pool
from tests.specs import SMALL


def probe(worker: Worker, name: str, **arguments: Any) -> Any:
    return worker.call("probe", function=f"native:{name}", **arguments)


def test_seeded_weights_are_bit_identical_everywhere(worker: Worker) -> None:
    expected = digest(initial_weights(compile_plan(SMALL), 3))
    assert probe(worker, "initial_digest") == expected
    assert probe(worker, "initial_digest", seed=4) != expected


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_weights_come_back_bit_for_bit(worker: Worker, dtype: str) -> None:
    probe(worker, "round_trip", dtype=dtype)


def test_a_failed_load_names_everything_and_changes_nothing(worker: Worker) -> None:
    message = probe(worker, "failed_load_changes_nothing")
    for part in (
        "6 mismatches",
        "layer2.0.conv1.weight is missing (nearest given: layer2.0.conv1.wieght)",
        "layer2.0.conv1.wieght is not in the model (nearest: layer2.0.conv1.weight)",
        "fc.weight has shape (128, 7), expected (7, 128)",
        "bn1.bias: dtype float64, which float32 cannot hold exactly",
        "bn1.weight has dtype int32",
        "fc.bias is a list, expected an array or a tensor",
    ):
        assert part in message


def test_weights_are_not_exported_under_a_spec_that_says_something_else(worker: Worker) -> None:
    message = probe(worker, "changed_setting")
    assert "in its spec" in message
    assert "bn1: its eps" in message or worker.engine.name.startswith("keras:")


def test_the_verbs_are_the_same(worker: Worker) -> None:
    probe(worker, "verbs")


def test_every_catalogue_name_is_a_function(worker: Worker) -> None:
    probe(worker, "named_models")


def test_statistics_keep_their_dtype_in_training_mode(worker: Worker) -> None:
    assert probe(worker, "narrow_training_mode") == {"before": ["bfloat16"], "after": ["bfloat16"]}


def test_shapes_are_those_of_the_plan(worker: Worker) -> None:
    p = compile_plan(SMALL)
    found = probe(worker, "activation_shapes")
    rows = layer_rows(p, (33, 40))
    blocks = [row for row in block_rows(p, (33, 40)) if row.name.count(".") == 1]
    for row in rows + blocks:
        assert found.pop(row.name) == [2, *row.shape]
    assert found == {}


def test_the_last_activation_is_the_prediction(worker: Worker) -> None:
    probe(worker, "last_activation_is_prediction")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("variance", ["unbiased", "biased"])
def test_running_statistics_follow_the_plan(worker: Worker, variance: str, dtype: str) -> None:
    # In float32, some engines have a kernel of their own for it.
    probe(worker, "running_statistics", variance=variance, dtype=dtype)


def test_predict_changes_nothing(worker: Worker) -> None:
    probe(worker, "predict_keeps_state")


@pytest.mark.parametrize("variance", ["unbiased", "biased"])
def test_every_parameter_gets_a_gradient(worker: Worker, variance: str) -> None:
    assert probe(worker, "every_parameter_gets_a_gradient", variance=variance) == []


@pytest.mark.parametrize("engine", ["torch", "flax"])
def test_a_replaced_layer_is_told_and_nothing_is_loaded(pool: Pool, engine: str) -> None:
    size, load, export = probe(pool[engine], "replaced_layers")
    assert "fc.weight has shape (7, 128), expected (3, 128)" in size
    assert load == export
    assert load.startswith("fc was replaced in this model by a layer that its plan lacks; save")


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "torch"])
def test_statistics_stay_finite_on_one_number(pool: Pool, engine: str) -> None:
    # PyTorch itself refuses such a batch.
    assert probe(pool[engine], "one_number_has_no_unbiased_variance") == []


def test_bad_arguments_are_refused_in_one_sentence(worker: Worker) -> None:
    calls: list[list[Any]] = [
        ["resnet51", {}],
        ["resnet18", {"num_clases": 10}],
        ["resnet18", {"depths": [2, 2, 0, 2]}],
        ["resnet18", {"dtype": "float31"}],
        ["nowhere.yaml", {}],
        ["resnet18", {"weights": "nowhere.safetensors"}],
        ["resnet18", {"weights": 3}],
    ]
    messages = probe(worker, "refusals", calls=calls)
    starts = [
        "there is no model named 'resnet51'; did you mean 'resnet50'",
        "spec override: num_clases: there is no such field; did you mean 'num_classes'",
        "spec override: depths.2: input should be greater than or equal to 1 (got 0)",
        "dtype: 'float31' is not one of float64, float32, float16, bfloat16",
        "nowhere.yaml: cannot be read (No such file or directory)",
        "nowhere.safetensors: there is no such file of weights",
        "weights: expected a path, a mapping of names to arrays or a list of Keras variables, got "
        "int",
    ]
    for message, start in zip(messages, starts, strict=True):
        assert message.startswith(start.split("'resnet50'")[0]), message
        assert "\n" not in message


def test_bad_images_are_refused(worker: Worker) -> None:
    messages = probe(worker, "image_refusals")
    assert len(messages) == 6
    for message in messages[:2]:
        assert message.endswith("is not a number of images; give at least 1")
    for message in messages[2:]:
        assert message.startswith("images: expected")


def test_torch_habits(pool: Pool) -> None:
    probe(pool["torch"], "torch_habits")


def test_torch_compilers(pool: Pool) -> None:
    probe(pool["torch"], "torch_compilers")


@pytest.mark.parametrize("engine", [name for name in ENGINES if name.startswith("keras")])
def test_keras_habits(pool: Pool, engine: str, tmp_path: Path) -> None:
    probe(pool[engine], "keras_habits", folder=str(tmp_path))


@pytest.mark.parametrize("engine", [name for name in ENGINES if name.startswith("keras")])
def test_keras_files_of_every_layer(pool: Pool, engine: str, tmp_path: Path) -> None:
    probe(pool[engine], "keras_files_of_every_layer", folder=str(tmp_path))


def test_flax_habits(pool: Pool) -> None:
    probe(pool["flax"], "flax_habits")


ANYWHERE = [["a.safetensors", None], ["a.pth", None], ["a.msgpack", None], ["hf", "huggingface"]]
NATIVE = {
    "resnet_torch": [],
    "resnet_keras": [["a.keras", None], ["a.weights.h5", None]],
    "resnet_flax": [["orbax", None]],
}


def test_models_and_bare_weights_are_saved_in_every_format(
    worker: Worker, engine: str, tmp_path: Path
) -> None:
    files = ANYWHERE + NATIVE[ENGINES[engine].package]
    found = probe(worker, "saves", folder=str(tmp_path), files=files)
    assert found == [digest(initial_weights(compile_plan(SMALL), 5))] * 2 * len(files)
