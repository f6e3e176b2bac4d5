"""The nets that no installed library has, against functions written out by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from shared_spec import cast_weights, compile_plan, random_images, random_weights, resolve
from tests import references

CASES: dict[str, Callable[..., Any]] = {
    "resnet20": functools.partial(references.cifar, depth=20, option="A"),
    "resnet32_b": functools.partial(references.cifar, depth=32, option="B"),
    "resnet20_c": functools.partial(references.cifar, depth=20, option="C"),
    "plain20": functools.partial(references.cifar, depth=20, option="plain"),
    "d2l_resnet18": functools.partial(references.d2l, pad_same=False),
    "d2l_resnet18_same": functools.partial(references.d2l, pad_same=True),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_written_net_agrees(name: str) -> None:
    spec = resolve(name)
    state = cast_weights(random_weights(compile_plan(spec), 2), "float64")
    model = resnet_torch.create_model(name, weights=state, dtype="float64")
    tensors = {key: torch.from_numpy(array) for key, array in state.items()}
    for size in ((32, 32), (33, 33), (49, 32), (96, 96)):
        images = random_images((2, *size, spec.in_channels))
        x = torch.from_numpy(images).double().permute(0, 3, 1, 2)
        reference = CASES[name](x, tensors).numpy()
        logits = resnet_torch.predict(model, images)
        assert np.abs(logits - reference).max() / np.abs(reference).max() <= 1e-12
