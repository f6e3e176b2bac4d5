"""Keras models of all kinds, read from their files: Keras says what each computes."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shared_spec.errors import ResNetError
from shared_spec.formats.graphs.keras_layers import TRAINING_ONLY
from shared_spec.formats.graphs.keras_model import graph_of
from shared_spec.formats.keras_config import is_keras_model
from shared_spec.formats.read import read_checkpoint
from tests.conftest import Pool
from tests.formats.keras_reading import SOURCES, verdict
from tests.tiers import amount

FORMATS = (".keras", ".h5")
RIGHT = (
    "a maximum pool",
    "a new classifier",
    "a softmax",
    "rescaled inside",
    "augmented",
    "maps",
    "both pools",
    "learnt normalization",
    "twice nested",
    "frozen",
    "old names",
)
REFUSED = {
    "two dense layers": "'hidden'",
    "an upsampling": "'twice'",
    "another size": "'big'",
    "negative": "'less'",
    "a dropout that always acts": "'always'",
    "two outputs": "2 outputs",
    "flattened maps": "'flat'",
}


ATTACKS: dict[str, bool] = {
    **dict.fromkeys(
        (
            "as it is",
            "layers used twice",
            "an inner output",
            "regularised",
            "constrained",
            "activity",
            "frozen norms",
            "linear end",
            "pools side by side",
        ),
        True,
    ),
    **dict.fromkeys(
        (
            "pools above one another",
            "a net used twice",
            "a sum of three",
            "a product",
            "a mean",
            "a maximum",
            "a difference",
            "another class of one name",
            "a function of one name",
            "a layer as activation",
            "norms over rows",
            "norms without scale",
            "dilated",
            "grouped",
            "by depth",
            "activated convolutions",
            "a spectral norm",
            "over time",
            "recurrent",
            "reshaped",
            "permuted",
            "a grouped classifier",
            "a dense layer on maps",
            "a norm behind the pool",
            "a norm in training",
            "an inverted normalization",
            "scaled inside",
            "quantised",
        ),
        False,
    ),
}
"""Whether a spec says it."""
MADE: dict[str, str | None] = {
    "a backbone": None,
    "a backbone with pre-activation": None,
    "a classifier": None,
    "a backbone in a row": None,
    "a classifier in a row": None,
    "ours": None,
    "ours in a row": None,
    "ours with softmax, in a row": None,
    "ours without its top": None,
    "layers of ours": None,
    "the last map of ours": None,
    "two classifiers": "activation of layer 'first' (keras_hub>ResNetImageClassifier) computes",
    "ours after another": "refused: layer 'first' (Conv2D) computes",
    "ours in training": "refused: layer 'resnet' (resnet_keras>ResNet) is called with",
    "several maps": "refused: output 2 of layer 'resnet' is used",
}
"""How it is refused, if it is."""


def save(pool: Pool, kind: str, path: Path, module: str = "keras_models") -> str:
    answers: str = pool["keras:tensorflow"].call(
        "probe", function=f"{module}:saved", kind=kind, path=str(path)
    )
    return answers


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *((kind, suffix) for kind in RIGHT for suffix in FORMATS),
        # Keras cannot load operations from its older format.
        ("caffe", ".keras"),
        ("divided", ".keras"),
    ],
)
def test_what_people_save_is_read(pool: Pool, tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    assert verdict(path, save(pool, kind, path)) == "right"


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_spec_says_is_refused_by_its_name(
    pool: Pool, tmp_path: Path, kind: str, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    save(pool, kind, path)
    with pytest.raises(ResNetError) as caught:
        read_checkpoint(path)
    assert REFUSED[kind] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [(kind, FORMATS[i % 2]) for i, kind in enumerate(ATTACKS)],
)
def test_what_names_and_shapes_do_not_show_is_seen(
    pool: Pool, tmp_path: Path, kind: str, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    said = verdict(path, save(pool, kind, path, "keras_attacks"))
    assert said == "right" if ATTACKS[kind] else said.startswith("refused: layer '"), said


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", MADE)
def test_models_of_keras_hub_and_ours_are_read(
    pool: Pool, tmp_path: Path, kind: str, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    said = verdict(path, save(pool, kind, path, "keras_sources"))
    expected = MADE[kind]
    assert said == "right" if expected is None else expected in said, said


def test_what_is_told_of_a_classifier_of_keras_hub(pool: Pool, tmp_path: Path) -> None:
    whole, inner = tmp_path / "whole.keras", tmp_path / "inner.keras"
    save(pool, "a classifier", whole, "keras_sources")
    save(pool, "a classifier in a row", inner, "keras_sources")
    found, nested = read_checkpoint(whole), read_checkpoint(inner)
    assert found.preprocessing is not None
    assert found.preprocessing.std == pytest.approx((64 / 255,) * 3)
    assert nested.preprocessing is None
    assert "left out: the softmax" in found.notes[0]
    assert "the preprocessor of layer" in nested.notes[1]
    for one in (found, nested):
        assert one.own_graph is not None
        assert one.own_graph.library == "keras_hub"
        assert one.own_graph.probabilities


def test_drawn_models_are_read_right_or_refused(pool: Pool, tmp_path: Path) -> None:
    found: Counter[str] = Counter()
    for number in range(amount("drawn Keras models")):
        source = SOURCES[number % len(SOURCES)]
        drawn = pool["keras:tensorflow"].call(
            "probe",
            function="keras_mutants:drawn",
            source=source,
            number=number,
            folder=str(tmp_path),
        )
        if drawn is None:
            continue
        said = verdict(Path(drawn["path"]), drawn["answers"])
        assert not said.startswith("wrong"), (number, drawn, said)
        found[said.partition(":")[0]] += 1
    assert found["right"] > 0.1 * found.total()
    assert found["refused"] > 0.2 * found.total()


@pytest.mark.parametrize("style", ["Keras 2", "b1", "Keras 1"])
def test_weights_with_old_names_are_read(pool: Pool, tmp_path: Path, style: str) -> None:
    path = tmp_path / "weights.h5"
    answers = pool["keras:tensorflow"].call(
        "probe", function="keras_models:old_weights", style=style, path=str(path)
    )
    assert verdict(path, answers) == "right"
    assert "before Keras 2.3" in read_checkpoint(path).notes[0]


def test_what_is_told(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    save(pool, "augmented", path)
    notes = "\n".join(read_checkpoint(path).notes)
    assert "became preprocessing, of pixels from 0 to 255: layer 'scale' (Rescaling)" in notes
    assert "act in training alone: layer 'flip' (RandomFlip)" in notes
    assert "the softmax of layer 'end' (Dense)" in notes


def test_a_model_that_is_named_has_to_be_the_one(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    save(pool, "a maximum pool", path)
    spec = read_checkpoint(path).spec
    assert spec is not None
    assert read_checkpoint(path, spec).spec == spec
    with pytest.raises(ResNetError, match="GlobalPool max, and the model that was named"):
        read_checkpoint(path, spec.override(head_pool="avg"))


def test_layers_of_training_give_what_they_take(pool: Pool) -> None:
    found = pool["keras:tensorflow"].call(
        "probe", function="keras_models:changes_in_inference", kinds=sorted(TRAINING_ONLY)
    )
    assert found == {}


def test_a_damaged_model_of_ours_has_no_spec(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    save(pool, "ours", path, "keras_sources")
    with zipfile.ZipFile(path) as file:
        whole = json.loads(file.read("config.json"))
    assert is_keras_model(whole)
    for value in (None, 3, [], {}, "x", [3], [{"config": 3}], [[]] * 9):
        assert not is_keras_model({**whole, "config": value})
        for key in ("layers", "spec", "structure", "maps", "input_layers"):
            assert not is_keras_model({**whole, "config": {**whole["config"], key: value}}) or (
                key == "maps" and not value
            )


@pytest.mark.parametrize("damage", ["layers", "config", "input_layers", "inbound_nodes", "name"])
def test_a_damaged_configuration_is_refused(pool: Pool, damage: str) -> None:
    worker = pool["keras:tensorflow"]
    config = json.loads(worker.call("probe", function="keras_models:small_configuration"))

    def damaged(data: Any) -> Any:
        if isinstance(data, dict):
            return {k: 3 if k == damage else damaged(v) for k, v in data.items()}
        return [damaged(x) for x in data] if isinstance(data, list) else data

    with pytest.raises(ResNetError, match=r"^file: "):
        graph_of(damaged(config), "file")
