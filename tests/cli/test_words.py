"""Errors about a file name the argument where its user gave it: in Python, and on the command line.

What is in a file decides which argument is missing, so that readers know them by Python's names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import resnet_torch
from shared_spec import ResNetError, WeightsError, resolve
from tests.command import refused

TINY = resolve("resnet18", {"depths": [1, 1], "widths": [4, 8], "stem_width": 4, "num_classes": 3})
PATH = Path("a.pth")
Call = Callable[[], Any]


def _none_of_the_catalogue(seed: int = 0) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = resnet_torch.create_model(TINY, seed=seed).state_dict()
    return state


def _two() -> dict[str, torch.Tensor]:
    nets = {place: _none_of_the_catalogue(len(place)) for place in ("pupil", "teacher")}
    return {f"{place}.{name}": net[name] for place, net in nets.items() for name in net}


def _nobodys() -> dict[str, torch.Tensor]:
    return {
        f"{number}.{name[-6:]}": t
        for number, (name, t) in enumerate(_none_of_the_catalogue().items())
    }


CASES: list[tuple[Callable[[], dict[str, torch.Tensor]], Call, str, list[object], str]] = [
    (
        _none_of_the_catalogue,
        lambda: resnet_torch.read_checkpoint(PATH),
        "name the model or a spec file (`spec`)",
        [],
        "name the model or a spec file (--model)",
    ),
    (
        _none_of_the_catalogue,
        lambda: resnet_torch.create_model(PATH),
        "name the model or a spec file (`model`, and the file by `weights`)",
        [],
        "name the model or a spec file (--model)",
    ),
    (
        _two,
        lambda: resnet_torch.load_weights(resnet_torch.create_model(TINY), PATH),
        "name it (`part`): pupil., teacher.",
        [],
        "name it (--part): pupil., teacher.",
    ),
    (
        _two,
        lambda: resnet_torch.create_model(TINY, weights=PATH),
        "name it (`part` of read_checkpoint): pupil., teacher.",
        [],
        "name it (--part): pupil., teacher.",
    ),
    (
        _two,
        lambda: resnet_torch.read_checkpoint(PATH, part="assistant."),
        "`part`: there is no ResNet at",
        ["--part", "assistant."],
        "--part: there is no ResNet at",
    ),
    (
        _nobodys,
        lambda: resnet_torch.read_checkpoint(PATH, TINY),
        "`names` maps them to canonical ones",
        [],
        "--names maps them to canonical ones",
    ),
    (
        _none_of_the_catalogue,
        lambda: resnet_torch.save_weights(resnet_torch.create_model(TINY), "b", format="onnx"),
        "`format`: 'onnx' is not one of",
        ["--to", "onnx"],
        "--to: 'onnx' is not one of",
    ),
]


@pytest.mark.parametrize(("content", "call", "told", "options", "typed"), CASES)
def test_errors_name_what_their_user_wrote(
    content: Callable[[], dict[str, torch.Tensor]],
    call: Call,
    told: str,
    options: list[object],
    typed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content(), PATH)
    with pytest.raises(ResNetError) as caught:
        call()
    assert told in str(caught.value)
    assert "--" not in str(caught.value)
    message = refused("convert", PATH, "b.safetensors", *options)
    assert typed in message
    assert "`" not in message


def test_a_reworded_error_is_the_same_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = _none_of_the_catalogue()
    state.pop("fc.bias")
    torch.save(state, PATH)
    with pytest.raises(WeightsError) as caught:
        resnet_torch.create_model(TINY, weights=PATH)
    assert caught.value.mismatches == ("fc.bias is missing",)


def test_a_checkpoint_is_read_as_a_model_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(resnet_torch.create_model("resnet20", num_classes=4).state_dict(), path)
    spec = resnet_torch.read_checkpoint(path, "resnet20").spec
    assert spec is not None
    assert spec.depths == resolve("resnet20").depths
