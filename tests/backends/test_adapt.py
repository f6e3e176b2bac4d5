"""Weights for another number of channels or classes, with timm's own rule as the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.engines.process import Worker
from shared_spec import (
    Checkpoint,
    ResNetSpec,
    WeightsError,
    cast_weights,
    compile_plan,
    digest,
    initial_weights,
    random_weights,
    read_safetensors,
    resolve,
    write_checkpoint,
    write_safetensors,
)
from tests.conftest import Pool
from tests.peers import timm_model

FIELDS: dict[str, Any] = {"depths": [1, 1], "widths": [8, 8], "stem_width": 8, "num_classes": 6}
SPECS = {
    "resnet18": resolve("resnet18", FIELDS),
    "deep stem": resolve("resnet50d", FIELDS | {"stem_width": 16, "zero_init_last": False}),
    "pre-activation": resolve("resnetv2_50", FIELDS),
}


def first(spec: ResNetSpec) -> str:
    return next(q.name for q in compile_plan(spec).parameters())


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "resnetv2_50"])
def test_channels_as_timm_does(tmp_path: Path, name: str, channels: int) -> None:
    source = timm_model(name)
    state = {k: v.numpy() for k, v in source.state_dict().items() if "num_batches" not in k}
    torch.save(source.state_dict(), tmp_path / "source.pth")
    import timm

    theirs = timm.create_model(
        name,
        in_chans=channels,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "source.pth")},
    )
    ours = resnet_torch.create_model(name, weights=state, in_channels=channels)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_backend_adapts(worker: Worker, tmp_path: Path, spec: ResNetSpec) -> None:
    state = random_weights(compile_plan(spec), 1)
    paths = {k: str(tmp_path / f"{k}.safetensors") for k in ("weights", "output")}
    write_safetensors(paths["weights"], Checkpoint(state))

    def load(**overrides: Any) -> dict[str, np.ndarray]:
        worker.call(
            "probe", function="native:adapted", spec=spec.to_dict(), overrides=overrides, **paths
        )
        return read_safetensors(paths["output"]).state

    stem = first(spec)
    found = load(in_channels=1, num_classes=3)
    np.testing.assert_array_equal(found[stem], state[stem].sum(1, keepdims=True))
    fresh = initial_weights(compile_plan(spec.override(num_classes=3)), 5)
    classifier = {name for name in state if name.startswith(("fc.", "head.fc."))}
    assert len(classifier) == 2
    for name, array in found.items():
        if name != stem:
            expected = (fresh if name in classifier else state)[name]
            np.testing.assert_array_equal(array, expected)

    assert load(num_classes=0).keys() == state.keys() - classifier
    features = load(features_only=True, out_indices=[0, 1])
    assert features.keys() < state.keys() - classifier
    assert all(np.array_equal(array, state[name]) for name, array in features.items())
    # A net that has as many classes keeps them.
    assert np.array_equal(load(num_classes=6)[min(classifier)], state[min(classifier)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_missing_classifier_is_drawn_where_classes_are_asked_for(
    worker: Worker, tmp_path: Path, spec: ResNetSpec, dtype: str
) -> None:
    body = cast_weights(random_weights(compile_plan(spec.override(num_classes=0)), 1), dtype)
    fresh = cast_weights(initial_weights(compile_plan(spec.override(num_classes=7)), 5), dtype)
    drawn = {name for name in fresh if name not in body}
    assert len(drawn) == 2
    output = str(tmp_path / "b.safetensors")
    write_safetensors(tmp_path / "names.safetensors", Checkpoint(body))
    whole = Checkpoint(body, spec.override(num_classes=0))
    for file in ("names.safetensors", "whole.safetensors", "a.pth", "a.msgpack"):
        if file != "names.safetensors":
            write_checkpoint(tmp_path / file, whole)
        worker.call(
            "probe",
            function="native:adapted",
            spec=spec.to_dict(),
            overrides={"num_classes": 7, "dtype": dtype},
            weights=str(tmp_path / file),
            output=output,
        )
        found = read_safetensors(output).state
        assert digest(found) == digest(body | {name: fresh[name] for name in drawn})


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_without_classes_asked_for_a_missing_classifier_is_an_error(
    tmp_path: Path, spec: ResNetSpec
) -> None:
    body = random_weights(compile_plan(spec.override(num_classes=0)), 1)
    tensors = {name: torch.from_numpy(array) for name, array in body.items()}
    write_checkpoint(tmp_path / "a.pth", Checkpoint(body, spec.override(num_classes=0)))
    for given in (body, tensors, tmp_path / "a.pth"):
        with pytest.raises(WeightsError) as caught:
            resnet_torch.create_model(spec, weights=given)
        assert "hold no classifier (" in str(caught.value)
        assert "num_classes=N draws a new one, num_classes=0 gives features" in str(caught.value)
        made = resnet_torch.create_model(spec, weights=given, num_classes=0)
        assert digest(resnet_torch.export_weights(made)) == digest(body)
        drawn = resnet_torch.create_model(spec, weights=given, num_classes=7, seed=5)
        fresh = initial_weights(compile_plan(spec.override(num_classes=7)), 5)
        assert digest(resnet_torch.export_weights(drawn)) == digest(fresh | body)
    # Half a classifier is none that is missing, and a body lacks nothing else.
    bias = next(q.name for q in compile_plan(spec).parameters() if q.name.endswith("fc.bias"))
    half = body | {bias: np.zeros(7, np.float32)}
    lacking = {name: array for name, array in body.items() if name != first(spec)}
    for wrong, asked in ((half, {"num_classes": 7}), (lacking, {}), (lacking, {"num_classes": 7})):
        with pytest.raises(WeightsError, match="is missing"):
            resnet_torch.create_model(spec, weights=wrong, **asked)


def test_nothing_is_adapted_unasked() -> None:
    spec = SPECS["resnet18"]
    state = random_weights(compile_plan(spec))
    with pytest.raises(WeightsError, match=r"fc\.weight"):
        resnet_torch.create_model(spec.override(num_classes=3), weights=state)
    with pytest.raises(WeightsError, match=r"layer2\.0\.conv1\.weight has shape"):
        resnet_torch.create_model(spec.override(widths=[8, 16]), weights=state, num_classes=3)
    # Each field asks for its own part alone.
    for asked in ({"in_channels": 3}, {"features_only": False}):
        with pytest.raises(WeightsError, match=r"fc\.weight"):
            resnet_torch.create_model(spec.override(num_classes=3), weights=state, **asked)
    one = spec.override(in_channels=1)
    with pytest.raises(WeightsError, match=r"conv1\.weight has shape"):
        resnet_torch.create_model(one, weights=state, num_classes=6)
    with pytest.raises(WeightsError, match="expected an array or a tensor"):
        resnet_torch.create_model(spec, weights=state | {"conv1.weight": [1, 2]}, in_channels=1)
    grey = random_weights(compile_plan(spec.override(in_channels=1)))
    with pytest.raises(
        WeightsError, match=r"conv1\.weight: takes 1 channels, and only weights for 3"
    ):
        resnet_torch.create_model(spec, weights=grey, in_channels=3)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_the_dtype_stays(dtype: str) -> None:
    spec = SPECS["resnet18"]
    state = cast_weights(random_weights(compile_plan(spec)), dtype)
    model = resnet_torch.create_model(
        spec, weights=state, dtype=dtype, in_channels=5, num_classes=2
    )
    assert {a.dtype.name for a in resnet_torch.export_weights(model).values()} == {dtype}


@pytest.mark.parametrize("overrides", [{"num_classes": 3}, {"num_classes": 0}, {"in_channels": 1}])
@pytest.mark.parametrize(
    ("engine", "suffix"),
    [("flax", "msgpack"), ("keras:tensorflow", "weights.h5"), ("torch", "pth")],
)
def test_files_that_do_not_tell_their_model(
    pool: Pool, tmp_path: Path, engine: str, suffix: str, overrides: dict[str, Any]
) -> None:
    """Read as the net without the overrides, or with them."""
    worker = pool[engine]
    spec = SPECS["resnet18"]
    for saved, asked in ((spec, overrides), (spec.override(**overrides), overrides)):
        source, file = tmp_path / "a.safetensors", str(tmp_path / f"a.{suffix}")
        write_safetensors(source, Checkpoint(random_weights(compile_plan(saved)), saved))
        worker.call("write", source=str(source), spec=saved.to_dict(), output=file)
        output = str(tmp_path / "b.safetensors")
        worker.call(
            "probe",
            function="native:adapted",
            spec=spec.to_dict(),
            overrides=asked,
            weights=file,
            output=output,
        )
        expected = [q.name for q in compile_plan(spec.override(**overrides)).parameters()]
        assert sorted(read_safetensors(output).state) == sorted(expected)
