"""Holding the five engines against a net of somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import resnet_torch
from resnet_parity.engines.process import Worker
from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, difference
from shared_spec import (
    Checkpoint,
    ResNetSpec,
    cast_weights,
    compile_plan,
    random_images,
    random_weights,
    read_safetensors,
    write_safetensors,
)
from shared_spec.weights.state import State
from tests.conftest import Pool
from tests.tiers import choice

SIZES = [(64, 64), (65, 65), (97, 64)]
"""Even, odd and not square: `same` padding and floor divisions part at odd sizes."""


def weights_of(spec: ResNetSpec) -> State:
    """Random float64 weights, norm statistics too."""
    return cast_weights(random_weights(compile_plan(spec), 4), "float64")


def images_of(spec: ResNetSpec) -> list[np.ndarray]:
    """The images of `assert_engines_give`, one array a size."""
    return [random_images((2, *size, spec.in_channels)) for size in SIZES]


def logits_in(
    worker: Worker, function: str, folder: Path, spec: ResNetSpec, state: State, **arguments: Any
) -> list[np.ndarray]:
    """The judge's logits from a probe in a framework's process. The probe returns the names of the
    weights that it used; they have to be all.
    """
    paths = {k: str(folder / f"{k}.safetensors") for k in ("weights", "images", "output")}
    write_safetensors(paths["weights"], Checkpoint(state))
    images = {str(i): array for i, array in enumerate(images_of(spec))}
    write_safetensors(paths["images"], Checkpoint(images))
    used = worker.call("probe", function=function, **paths, **arguments)
    assert sorted(used) == sorted(state)
    found = read_safetensors(paths["output"]).state
    assert found.keys() == images.keys()
    return [found[key] for key in images]


def assert_engines_give(
    pool: Pool, folder: Path, spec: ResNetSpec, state: State, references: Sequence[np.ndarray]
) -> None:
    """Each of the engines gives the judge's logits; in tier `test`, PyTorch does."""
    weights, outputs = folder / "state.safetensors", folder / "outputs.safetensors"
    write_safetensors(weights, Checkpoint(state))
    images = [folder / f"images{i}.safetensors" for i in range(len(SIZES))]
    for path, array in zip(images, images_of(spec), strict=True):
        write_safetensors(path, Checkpoint({"images": array}))
    # The engines are held to PyTorch by tests of their own.
    for engine in choice.engines if choice.tier == "all" else ("torch",):
        answer = pool[engine].call(
            "run",
            spec=spec.to_dict(),
            weights=str(weights),
            dtype="float64",
            images=[str(path) for path in images],
            outputs=str(outputs),
            blocks=False,
        )
        assert answer["parameters"] == compile_plan(spec).parameter_count()
        found = read_safetensors(outputs).state
        assert len(found) == len(references) == len(SIZES)
        for index, reference in enumerate(references):
            assert_near(reference, found[f"{index}/logits"], f"{engine}, {SIZES[index]}")


def assert_torch_gives(spec: ResNetSpec, state: State, references: Sequence[np.ndarray]) -> None:
    """PyTorch alone gives the judge's logits: for a net whose engines are compared elsewhere."""
    model = resnet_torch.create_model(spec, weights=state, dtype="float64")
    for images, reference in zip(images_of(spec), references, strict=True):
        assert_near(reference, resnet_torch.predict(model, images), f"torch, {images.shape}")


def assert_near(reference: np.ndarray, logits: np.ndarray, where: str) -> None:
    """The rule of `resnet_parity.numerics.difference`, with the judge as the reference."""
    assert reference.dtype == np.float64, "the judge computed in float32"
    assert difference(reference, logits).maximum <= FLOAT64_TOLERANCE, where
