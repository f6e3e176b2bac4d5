"""What users of Keras expect of a model, as keras.applications' models have taught them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_torch
from resnet_parity.engines.registry import ENGINES
from shared_spec import read_safetensors
from shared_spec.errors import ResNetError
from shared_spec.formats.read import read_checkpoint
from tests.conftest import Pool

KERAS = [name for name in ENGINES if name.startswith("keras")]
"""Where engines differ; the rest is one code for all of them."""
ONE = "keras:torch"


def probe(pool: Pool, engine: str, function: str, **arguments: Any) -> Any:
    return pool[engine].call("probe", function=f"keras_habits:{function}", **arguments)


@pytest.mark.parametrize(
    ("engine", "name", "options"),
    [
        *((engine, "resnet50", {}) for engine in KERAS),
        *(
            (ONE, name, options)
            for name, options in (
                ("keras_resnet50", {"activation": "elu", "drop_rate": 0.2, "drop_path_rate": 0.1}),
                ("resnetblur50d", {"attention": "se", "norm": "group", "norm_groups": 4}),
                (
                    "ecaresnet26t",
                    {"anti_alias": "avg", "standardize": 1e-5, "drop_block_rate": 0.1},
                ),
                ("resnetv2_50", {"norm": "frn", "layer_scale": 0.5, "stem": "deep"}),
                ("resnetv2_50", {"norm": "evonorm_s0", "norm_groups": 4, "shortcut": "zero_pad"}),
            )
        ),
    ],
)
def test_every_setting_of_a_layer_survives_saving(
    pool: Pool, engine: str, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    changed, unknown, same = probe(
        pool, engine, "every_setting_survives", folder=str(tmp_path), name=name, options=options
    )
    assert unknown == []
    assert {"trainable", "dtype", "activation", "kernel_regularizer"} <= {*changed}
    # Whole `.h5` files have no place for the class.
    assert same == {"keras": True, "h5": False}


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_frozen_base_stays_frozen(pool: Pool, tmp_path: Path, suffix: str) -> None:
    counts = probe(pool, ONE, "frozen_base_stays_frozen", folder=str(tmp_path), suffix=suffix)
    assert counts == [2, 2]


@pytest.mark.parametrize("engine", KERAS)
def test_training_goes_on_from_a_file(pool: Pool, engine: str, tmp_path: Path) -> None:
    probe(pool, engine, "training_goes_on", folder=str(tmp_path))


def test_files_load_without_this_package(pool: Pool, tmp_path: Path) -> None:
    names = ["keras_resnet50", "keras_resnet50v2", "resnet_vd_18", "flax_resnet18", "resnet18"]
    found = probe(pool, ONE, "loaded_without_us", folder=str(tmp_path), names=names)
    assert len(found) == 14
    for name, said in found.items():
        # Keras writes the class of a model in another one into `.h5` files, and not its module.
        if name.startswith("nested") and name.endswith(".h5"):
            assert said.startswith("Unknown layer: 'resnet_keras>Functional'")
        elif "resnet18" in name and "flax" not in name:
            assert "resnet_keras" in said
            assert "BatchNormalization" in said
        else:
            assert isinstance(said, float), (name, said)
            assert said < 1e-5, name


@pytest.mark.parametrize("nested", [False, True])
def test_files_of_earlier_versions_load(pool: Pool, tmp_path: Path, nested: bool) -> None:
    path = probe(pool, ONE, "earlier_file", folder=str(tmp_path), nested=nested)
    assert len(read_checkpoint(Path(path)).state) == 97


READ = {
    "nothing": "right",
    "frozen": "right",
    "regularised": "right",
    "softmax": "right",
    "every eps": "right",
    "no activation": "refused",
    "another activation": "refused",
    "another eps": "refused",
    "tanh": "refused",
}


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_changed_model_is_read_as_what_it_computes(
    pool: Pool, tmp_path: Path, suffix: str
) -> None:
    files = probe(pool, "keras:tensorflow", "changed_files", folder=str(tmp_path), suffix=suffix)
    assert [name for name, *_ in files] != []
    found = {}
    for name, path, answers in files:
        try:
            checkpoint = read_checkpoint(Path(path))
        except ResNetError:
            found[name] = "refused"
            continue
        known = read_safetensors(answers).state
        assert checkpoint.spec is not None
        model = resnet_torch.create_model(
            checkpoint.spec, weights=dict(checkpoint.state), dtype="float64"
        )
        np.testing.assert_allclose(
            resnet_torch.predict(model, known["x"]), known["y"], rtol=1e-9, atol=1e-11
        )
        found[name] = "right"
    assert found == READ


def test_labels_and_preprocessing_are_in_files(pool: Pool, tmp_path: Path) -> None:
    files = probe(pool, ONE, "what_is_known", folder=str(tmp_path))
    assert len(files) == 5
    for path in files:
        found = read_checkpoint(Path(path))
        assert found.labels is not None
        assert found.preprocessing is not None
        told = path.endswith("told.keras")
        assert found.labels[:2] == (("a", "b") if told else ("ant", "bee"))
        assert found.preprocessing.image_size == (7 if told else 33)


def test_what_a_file_tells_has_to_be_true_of_its_net(pool: Pool, tmp_path: Path) -> None:
    said = probe(pool, ONE, "changed_knowledge", folder=str(tmp_path))
    parts = [
        "has 4 labels for 5 classes",
        "the labels in its metadata are not a list of strings",
        "the labels in its metadata are not a list of strings",
        "its preprocessing gives 1 channels, and the net takes 3",
        "preprocessing image_size",
        "preprocessing std",
        "preprocessing function",
        "preprocessing ",
    ]
    for number, (message, part) in enumerate(zip(said, parts, strict=True)):
        assert part in message
        with pytest.raises(ResNetError) as caught:
            read_checkpoint(tmp_path / f"{number}.keras")
        assert part in str(caught.value)
        assert "\n" not in message + str(caught.value)


@pytest.mark.parametrize("engine", KERAS)
def test_policies_are_kerass(pool: Pool, engine: str) -> None:
    probe(pool, engine, "policies")


def test_what_is_not_taken_is_refused_in_one_sentence(pool: Pool) -> None:
    messages = probe(pool, ONE, "refusals")
    starts = [
        "dtype: 'mixed_float8' is not one of float64",
        "dtype: int8_from_float32 is a policy of QuantizedDTypePolicy, expected a DTypePolicy",
        "pooling: 'sum' is not one of 'avg', 'max' and None",
        "num_classes: given as 3, and another argument makes it 0",
        "num_classes: given as 3, and another argument makes it 4",
        "input_shape: (32, 32) is not (height, width, channels)",
        "input_shape: (32, 32.0, 3) is not of whole numbers or None",
        "input_tensor: expected a keras.Input, got ndarray",
        "input_tensor: has shape (None, 33, 33, 3), and input_shape is (8, 8, 3)",
        "in_channels: given as 3, and another argument makes it 1",
        "image_data_format: resnet_keras computes on channels_last alone",
    ]
    for message, start in zip(messages, starts, strict=True):
        assert message.startswith(start), message
        assert "\n" not in message


@pytest.mark.parametrize("engine", KERAS)
def test_quantize(pool: Pool, engine: str, tmp_path: Path) -> None:
    message = probe(pool, engine, "quantised", folder=str(tmp_path))
    assert message.startswith("fc was quantised in this model: fc.weight is of int8")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_rescaling_is_that_of_keras(pool: Pool, dtype: str) -> None:
    probe(pool, "keras:torch", "rescaling", dtype=dtype)


@pytest.mark.parametrize("engine", ["keras:tensorflow", "keras:torch"])
def test_lengths_not_known_yet_are_resampled_in_float64(pool: Pool, engine: str) -> None:
    assert probe(pool, engine, "resampling") < 1e-14


def test_arguments_are_those_of_keras_applications(pool: Pool) -> None:
    probe(pool, ONE, "arguments")


@pytest.mark.parametrize("name", ["resnet50", "resnetv2_50", "keras_resnet50v2"])
def test_bodies_and_heads(pool: Pool, tmp_path: Path, name: str) -> None:
    probe(pool, ONE, "bodies_and_heads", folder=str(tmp_path), name=name)


@pytest.mark.parametrize("engine", KERAS)
def test_copies(pool: Pool, engine: str, tmp_path: Path) -> None:
    probe(pool, engine, "copies", folder=str(tmp_path))


@pytest.mark.parametrize("engine", KERAS)
def test_callbacks(pool: Pool, engine: str, tmp_path: Path) -> None:
    probe(pool, engine, "callbacks", folder=str(tmp_path))


RIGHT = {
    "keras:tensorflow": {"tf_saved_model", "onnx", "onnx, any size", "openvino", "litert"},
    "keras:jax": {"tf_saved_model", "onnx", "onnx, any size", "symbols"},
    "keras:torch": {"onnx", "onnx, any size", "openvino", "litert", "torch"},
}
"""Of Keras's formats, those that each engine writes where their packages are installed."""
WITHOUT_PACKAGES = {"tf_saved_model", "symbols", "torch"}


@pytest.mark.parametrize("engine", KERAS)
def test_exports_go_as_far_as_those_of_stock_models(
    pool: Pool, engine: str, tmp_path: Path
) -> None:
    found = probe(pool, engine, "exports", folder=str(tmp_path))
    missing = {"ImportError", "ModuleNotFoundError"}
    for kind, (stock, ours, nested) in found.items():
        assert ours == nested == stock, kind
        if stock not in missing:
            assert (stock == "right") == (kind in RIGHT[engine]), (kind, stock)
    assert {kind for kind in RIGHT[engine] & WITHOUT_PACKAGES if found[kind][0] != "right"} == set()


def test_endings_are_neither_doubled_nor_lost(pool: Pool, tmp_path: Path) -> None:
    probe(pool, ONE, "endings", folder=str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"a", "a.safetensors"}
