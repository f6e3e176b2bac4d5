"""`create_model(..., inference=True)`: fewer operations, the same function."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import ENGINES
from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, difference
from shared_spec import (
    Checkpoint,
    Inference,
    ResNetSpec,
    compile_plan,
    random_images,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from shared_spec.plan.folding import inference_plan
from shared_spec.plan.layers import BatchNorm, Conv, Dropout
from shared_spec.plan.summary import layer_rows
from tests.conftest import Pool
from tests.judges import weights_of
from tests.parity.test_options import DISTINCT, PAIRS
from tests.tiers import selected

NARROW = {"depths": [1, 1], "widths": [32, 32], "num_classes": 7}
SPECS: dict[str, ResNetSpec] = {
    "resnet20 (A)": resolve("resnet20", {"depths": [1, 1, 1]}),
    "resnet50": resolve("resnet50", NARROW | {"drop_rate": 0.5, "drop_path_rate": 0.5}),
    "SE-D": resolve("seresnet152d", NARROW | {"stem_width": 16}),
    "pre-activation": resolve("resnetv2_50d", NARROW | {"stem_width": 16}),
    "BiT": resolve("resnetv2_50x1_bit", NARROW),
    "ResNeXt": resolve("resnext50_32x4d", NARROW | {"groups": 2, "base_width": 32}),
    "biases": resolve("keras_resnet50", NARROW),
    "same": resolve("flax_resnet50", NARROW),
    "features": resolve("resnet18", NARROW | {"features_only": True}),
}
IN_FIVE = ("resnet50", "SE-D", "pre-activation", "BiT", "features")


def files(folder: Path, spec: ResNetSpec, sizes: list[tuple[int, int]]) -> dict[str, str]:
    paths = {k: str(folder / f"{k}.safetensors") for k in ("weights", "images", "output")}
    write_safetensors(paths["weights"], Checkpoint(weights_of(spec)))
    images = {str(i): random_images((2, *size, spec.in_channels)) for i, size in enumerate(sizes)}
    write_safetensors(paths["images"], Checkpoint(images))
    return paths


@pytest.mark.parametrize("name", selected(["SE-D", "BiT"], IN_FIVE))
def test_all_forms_agree(worker: Worker, tmp_path: Path, name: str) -> None:
    """Even, odd and non-square."""
    spec = SPECS[name]
    paths = files(tmp_path, spec, [(32, 32), (37, 45)])
    worker.call("probe", function="inference:forms", spec=spec.to_dict(), **paths)
    found = read_safetensors(paths["output"]).state
    plain = [key for key in found if "/plain/" in key]
    assert len(plain) >= 2
    for key in plain:
        for form in ("folded", "blocks"):
            error = difference(found[key.replace("plain", form)], found[key]).maximum
            assert 0 < error < FLOAT64_TOLERANCE, form  # 0 would be the same form twice


@pytest.mark.parametrize(
    "engine", selected(["torch", "keras:tensorflow", "keras:torch", "flax"], ENGINES)
)
def test_compiled_it_computes_the_same(worker: Worker, engine: str, tmp_path: Path) -> None:
    # PyTorch takes weights for constants in float32 alone.
    dtype, bound = ("float32", 1e-5) if "torch" in engine else ("float64", FLOAT64_TOLERANCE)
    # A small one: PyTorch's compiler takes seconds for each layer.
    spec = resolve("resnet50", NARROW | {"depths": [1], "widths": [32]})
    paths = files(tmp_path, spec, [(37, 45)])
    worker.call("probe", function="inference:compiled", spec=spec.to_dict(), dtype=dtype, **paths)
    found = read_safetensors(paths["output"]).state
    for seed in (1, 2):
        error = difference(found[f"{seed}/called"], found[f"{seed}/predicted"]).maximum
        assert error < bound
    assert difference(found["1/called"], found["2/called"]).maximum > 1e-3


def test_the_compiler_of_torch_takes_weights_for_constants(pool: Pool) -> None:
    assert pool["torch"].call("probe", function="inference:constants") == [True, True]


@pytest.mark.parametrize("spec", selected(PAIRS, DISTINCT), ids=DISTINCT.__getitem__)
def test_every_option_has_its_form(spec: ResNetSpec) -> None:
    state = weights_of(spec)
    images = random_images((2, 32, 48, spec.in_channels)).astype(np.float64)
    plain = resnet_torch.create_model(spec, weights=state, dtype="float64")
    expected = resnet_torch.predict(plain, images)
    for how in (Inference(), Inference(space_to_depth=True)):
        fast = resnet_torch.create_model(spec, weights=state, dtype="float64", inference=how)
        found = resnet_torch.predict(fast, images)
        assert difference(found, expected).maximum < FLOAT64_TOLERANCE


@pytest.mark.parametrize("name", SPECS)
def test_nothing_is_left_that_folds(name: str) -> None:
    p = compile_plan(SPECS[name])
    form = inference_plan(p)
    kinds = [type(layer) for layer in form.layers()]
    assert Dropout not in kinds
    for block in form.blocks():
        for chain in (block.pre, block.branch, block.shortcut, block.output):
            for before, after in pairwise(chain):
                assert not (isinstance(before, Conv) and isinstance(after, BatchNorm))
    # The same maps at the same places, and no more work.
    before, after = ({r.name: r for r in layer_rows(q, (64, 64))} for q in (p, form))
    assert {after[n].shape == before[n].shape for n in after if n in before} == {True}
    assert sum(r.macs for r in after.values()) == sum(r.macs for r in before.values())


def test_kernels_are_those_that_torch_folds() -> None:
    spec = SPECS["resnet50"]
    state = weights_of(spec)
    plain = resnet_torch.create_model(spec, weights=state, dtype="float64").eval()
    fast = resnet_torch.create_model(spec, weights=state, dtype="float64", inference=True)
    for conv, norm in (("conv1", "bn1"), ("layer2.0.conv2", "layer2.0.bn2")):
        fused = torch.nn.utils.fusion.fuse_conv_bn_eval(
            plain.get_submodule(conv), plain.get_submodule(norm)
        )
        ours = fast.get_submodule(conv)
        torch.testing.assert_close(ours.weight, fused.weight, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(ours.bias, fused.bias, rtol=1e-13, atol=1e-15)


def test_a_narrow_model_is_rounded_once(tmp_path: Path) -> None:
    """Folding in bfloat16 would round the scale, the product and the sum."""
    spec = SPECS["resnet50"]
    state = random_weights(compile_plan(spec), 4)
    fast = resnet_torch.create_model(spec, weights=state, inference=True)
    wide = resnet_torch.create_model(
        spec,
        weights={k: v.astype(np.float64) for k, v in state.items()},
        dtype="float64",
        inference=True,
    )
    kernel = wide.get_submodule("conv1").weight
    assert torch.equal(fast.get_submodule("conv1").weight, kernel.to(torch.float32))


def test_it_takes_other_weights(worker: Worker, tmp_path: Path) -> None:
    spec = SPECS["resnet50"]
    paths = {k: str(tmp_path / f"{k}.safetensors") for k in ("first", "second", "output")}
    for seed, key in enumerate(("first", "second")):
        write_safetensors(paths[key], Checkpoint(random_weights(compile_plan(spec), seed)))
    worker.call("probe", function="inference:reloaded", spec=spec.to_dict(), **paths)
    found = read_safetensors(paths["output"]).state
    assert np.array_equal(found["after"], found["fresh"])
    assert not np.allclose(found["before"], found["after"])


def test_it_neither_trains_nor_saves(worker: Worker, tmp_path: Path) -> None:
    spec = SPECS["resnet20 (A)"].to_dict()
    found = worker.call("probe", function="inference:refusals", spec=spec, folder=str(tmp_path))
    for action, purpose in (("export", "to export"), ("save", "to export"), ("train", "to train")):
        assert purpose in found[action]
        assert "created without inference=True" in found[action]
    assert found["form"] == "inference: expected True, False or an Inference, got str"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keras", ["keras:tensorflow", "keras:jax", "keras:torch"])
def test_keras_keeps_it_in_its_own_file(pool: Pool, tmp_path: Path, keras: str) -> None:
    spec = SPECS["resnet50"].to_dict()
    moved = pool[keras].call(
        "probe", function="inference:keras_file", spec=spec, folder=str(tmp_path)
    )
    assert moved == 0.0
