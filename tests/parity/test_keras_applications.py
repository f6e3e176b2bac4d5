"""keras.applications as the judge of its names: v1 (stride on the first 1x1, biases) and V2."""

from __future__ import annotations

from pathlib import Path

import pytest

import resnet_torch
from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, difference
from shared_spec import (
    CATALOGUE,
    Checkpoint,
    ResNetError,
    compile_plan,
    list_models,
    random_images,
    random_weights,
    read_safetensors,
    write_safetensors,
)
from shared_spec.weights.state import State
from tests.conftest import Pool

SIZES = [(64, 64), (65, 65), (97, 64)]
PARAMETERS = {  # count_params() of keras.applications, running statistics included
    "keras_resnet50": 25_636_712,
    "keras_resnet101": 44_707_176,
    "keras_resnet152": 60_419_944,
    "keras_resnet50v2": 25_613_800,
    "keras_resnet101v2": 44_675_560,
    "keras_resnet152v2": 60_380_648,
}


def applications(pool: Pool, name: str, state: State, folder: Path) -> tuple[int, State]:
    """Parameters and logits (by the index of the size) of the library's own net."""
    weights, outputs = (str(folder / f"{k}.safetensors") for k in ("weights", "outputs"))
    images = [str(folder / f"images{i}.safetensors") for i in range(len(SIZES))]
    write_safetensors(weights, Checkpoint(state))
    for size, path in zip(SIZES, images, strict=True):
        write_safetensors(path, Checkpoint({"images": random_images((2, *size, 3))}))
    answer = pool["keras:tensorflow"].call(
        "reference",
        library="keras.applications",
        name=name,
        weights=weights,
        dtype="float64",
        images=images,
        outputs=outputs,
    )
    return answer["parameters"], read_safetensors(outputs).state


@pytest.mark.parametrize("name", ["keras_resnet50", "keras_resnet50v2"])
def test_keras_applications_agrees(pool: Pool, tmp_path: Path, name: str) -> None:
    p = compile_plan(CATALOGUE[name].spec)
    state = random_weights(p, 4)
    count, references = applications(pool, name, state, tmp_path)
    model = resnet_torch.create_model(name, weights=state, dtype="float64")
    assert count == resnet_torch.parameter_count(model)
    for index, size in enumerate(SIZES):
        reference = references[f"{index}/logits"]
        # Float32 somewhere in the judge would be about 1e-7 away.
        assert reference.dtype == "float64"
        logits = resnet_torch.predict(model, random_images((2, *size, 3)))
        assert difference(reference, logits).within(FLOAT64_TOLERANCE), size


def test_parameter_counts_are_the_librarys() -> None:
    assert list_models("keras_*") == list(PARAMETERS)
    for name, count in PARAMETERS.items():
        assert sum(q.size for q in compile_plan(CATALOGUE[name].spec).parameters()) == count


def test_loading_is_strict(pool: Pool, tmp_path: Path) -> None:
    state = random_weights(compile_plan(CATALOGUE["keras_resnet50"].spec), 4)
    with pytest.raises(ResNetError, match=r"keras\.applications has no conv9\.weight"):
        applications(pool, "keras_resnet50", state | {"conv9.weight": state["fc.bias"]}, tmp_path)
    del state["fc.bias"]
    with pytest.raises(ResNetError, match=r"predictions needs fc\.bias, which the weights lack"):
        applications(pool, "keras_resnet50", state, tmp_path)
