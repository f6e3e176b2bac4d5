"""Backbones of detectors and wrapped nets, and which net a file of canonical names is.

MMPretrain's nets are torchvision's under other prefixes, so torchvision judges them; detectron2's
are written from its published structure.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import resnet_torch
from resnet_parity.convert.conversion import convert
from shared_spec import (
    ResNetError,
    ResNetSpec,
    compile_plan,
    digest,
    random_images,
    read_safetensors,
    resolve,
)
from shared_spec.formats.containers.source import Source
from shared_spec.formats.detect import open_source
from shared_spec.formats.dialects.canonical import CANONICAL
from shared_spec.formats.dialects.dialect import Dialect, foreign_arrays
from shared_spec.formats.read import dialect_of, read_checkpoint
from shared_spec.formats.search import chosen
from shared_spec.plan.equivalence import parting
from shared_spec.weights.lazy_array import LazyArrays, entries_of
from tests.judges import assert_near
from tests.peers import torchvision_models
from tests.probes.libraries.ports import DetectronNet, randomize

SMALL: dict[str, Any] = {"depths": [1, 2, 1], "widths": [8, 16, 32], "stem_width": 8}
NET = (SMALL["depths"], SMALL["widths"])


BACKBONES = ("", "bottom_up.", "backbone.", "backbone.bottom_up.")
"""Where detectron2 has a net: alone, under a feature pyramid, and in a detector."""
ATTRIBUTES = ("backbone.", "model.", "net.encoder.", "model.backbone.", "image_encoder.")
"""Where a module may hold a net: MMPretrain's, then common ones."""


def logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(images.astype(np.float64)).permute(0, 3, 1, 2)).numpy()


def dialect_in(path: Path) -> Dialect:
    """Whose names the net in a file has."""
    found = chosen(open_source(path), None)
    assert found is not None
    return dialect_of(found.source)


def prefixed(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def assert_read(path: Path, model: nn.Module, spec: ResNetSpec, given: ResNetSpec | None) -> None:
    """The file is read as `spec`, with the logits of `model`."""
    target = path.with_name("canonical.safetensors")
    convert(path, target, given)
    found = read_safetensors(target)
    assert found.spec is not None
    assert parting(compile_plan(found.spec), compile_plan(spec)) is None
    ours = resnet_torch.create_model(found.spec, weights=found.state, dtype="float64")
    for size in ((64, 64), (65, 97)):
        images = random_images((1, *size, 3))
        assert_near(logits(model, images), resnet_torch.predict(ours, images), f"{size}")


@pytest.mark.parametrize("prefix", BACKBONES)
@pytest.mark.parametrize("classes", [None, 6])
def test_detectron_with_basic_blocks(tmp_path: Path, prefix: str, classes: int | None) -> None:
    model = randomize(DetectronNet("basic", *NET, classes=classes))
    torch.save({"model": prefixed(model.state_dict(), prefix)}, tmp_path / "a.pth")
    spec = resolve("resnet18", SMALL | {"num_classes": classes or 0})
    assert_read(tmp_path / "a.pth", model, spec, None)
    # Strictly back into the module.
    found = read_safetensors(tmp_path / "canonical.safetensors")
    dialect = dialect_in(tmp_path / "a.pth")
    back = {
        name.removeprefix(prefix): torch.from_numpy(np.array(entry.read()))
        for name, entry in foreign_arrays(dialect, found.state, spec).items()
    }
    twin = DetectronNet("basic", *NET, classes=classes)
    twin.load_state_dict(back, strict=True)
    assert all(torch.equal(a, model.state_dict()[n]) for n, a in back.items())


@pytest.mark.parametrize("in_1x1", [False, True])
def test_where_detectron_s_bottlenecks_have_their_stride_is_asked(
    tmp_path: Path, in_1x1: bool
) -> None:
    model = randomize(DetectronNet("bottleneck", *NET, in_1x1, norm=nn.BatchNorm2d))
    torch.save(model.state_dict(), tmp_path / "a.pth")
    message = refused(tmp_path / "a.pth")
    assert "a.pth: a net of detectron2 with bottlenecks" in message
    assert "name the model (`spec`), for the 1x1 a spec file with stride_on: 1x1" in message
    stride_on = {False: "3x3", True: "1x1"}
    fields = SMALL | {"num_classes": 0}
    spec = resolve("resnet50", fields | {"stride_on": stride_on[in_1x1]})
    assert_read(tmp_path / "a.pth", model, spec, spec)
    other = resolve("resnet50", fields | {"stride_on": stride_on[not in_1x1]})
    with pytest.raises(AssertionError):
        assert_read(tmp_path / "a.pth", model, other, other)


@pytest.mark.parametrize(
    ("net", "extra", "shape", "refusal"),
    [
        ("backbone.bottom_up.", "backbone.fpn_lateral2.weight", (3, 3, 1, 1), ""),
        ("backbone.", "roi_heads.res5.0.conv1.weight", (3, 3, 1, 1), ""),
        ("", "roi_heads.box_predictor.cls_score.weight", (3,), ""),
        ("", "pixel_mean", (3,), "'pixel_mean' stands beside stem, res2, res3, and what"),
        ("", "stem.conv2.weight", (3, 3, 1, 1), "stem.conv2.weight is not in the model"),
    ],
)
def test_what_is_beside_a_net_of_detectron(
    tmp_path: Path, net: str, extra: str, shape: tuple[int, ...], refusal: str
) -> None:
    """What is outside of it is left out and told; what may be part of it refuses the file."""
    model = randomize(DetectronNet("bottleneck", *NET, norm=nn.BatchNorm2d))
    path, spec = tmp_path / "a.pth", resolve("resnet50", SMALL | {"num_classes": 0})
    torch.save(
        prefixed(model.state_dict(), net) | {extra: torch.ones(shape, dtype=torch.float64)}, path
    )
    if refusal:
        assert refusal in refused(path, spec)
        return
    assert_read(path, model, spec, spec)
    assert f"left out, beside the net: {extra.rpartition('.')[0]}" in notes_of(path, spec)
    if len(shape) == 4:
        assert "whose net may be dilated, and the arrays do not say" in refused(path)


def notes_of(path: Path, spec: ResNetSpec) -> str:
    return "; ".join(read_checkpoint(path, spec).notes)


def test_what_detectron_does_not_tell(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    grouped = DetectronNet("basic", *NET, norm=lambda n: nn.GroupNorm(4, n))
    torch.save(grouped.state_dict(), path)
    assert "a.pth: a net of detectron2 without batch norm" in refused(path)
    whole = DetectronNet("basic", *NET).state_dict()
    torch.save(whole | {"res3.0.conv2_offset.weight": torch.ones(3)}, path)
    assert "res3.0.conv2_offset.weight is not in the model" in refused(path)
    path = tmp_path / "a.pkl"
    arrays = {name: tensor.numpy() for name, tensor in whole.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "nobody"}))
    assert "a.pkl: not a readable PyTorch file" in refused(path)


def refused(path: Path, spec: ResNetSpec | None = None) -> str:
    with pytest.raises(ResNetError) as caught:
        convert(path, path.parent / "out.safetensors", spec)
    assert not (path.parent / "out.safetensors").exists()
    return str(caught.value)


@pytest.mark.parametrize("prefix", ATTRIBUTES)
@pytest.mark.parametrize("head", ["head.fc.", "in the net", "classifier.", None])
def test_nets_in_other_modules(tmp_path: Path, prefix: str, head: str | None) -> None:
    """What is read is what the same net alone would be."""
    spec = resolve("resnet18", SMALL | {"num_classes": 0 if head is None else 6})
    alone = {q.name: array for q, array in arrays_of(spec).items()}
    inside = head in (None, "in the net")
    named = {
        (
            name.replace("fc.", str(head))
            if name.startswith("fc.") and not inside
            else prefix + name
        ): a
        for name, a in alone.items()
    }
    torch.save({n: torch.from_numpy(a) for n, a in named.items()}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth", spec)
    assert digest(found.state) == digest(alone)
    assert found.part == prefix
    torch.save(
        {"neck.x": torch.ones(2)} | {n: torch.from_numpy(a) for n, a in named.items()},
        tmp_path / "a.pth",
    )
    found = read_checkpoint(tmp_path / "a.pth", spec)
    assert digest(found.state) == digest(alone)
    assert "left out, beside the net: neck" in found.notes


def arrays_of(spec: ResNetSpec) -> dict[Any, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        q: rng.standard_normal(q.shape).astype(np.float32) for q in compile_plan(spec).parameters()
    }


def test_mmpretrain_s_resnet18(tmp_path: Path) -> None:
    """Its names with the logits of torchvision's, whose net it is."""
    model = randomize(torchvision_models().resnet18(num_classes=7))
    state = {
        ("head." if name.startswith("fc.") else "backbone.") + name: tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, tmp_path / "a.pth")
    assert dialect_in(tmp_path / "a.pth") is CANONICAL
    assert "fit resnet18, resnetblur18, flax_resnet18" in refused(tmp_path / "a.pth")
    spec = resolve("resnet18", {"num_classes": 7})
    assert_read(tmp_path / "a.pth", model, spec, spec)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["resnet18", "resnetblur18", "flax_resnet18"]),
        ("resnet50", ["resnet50", "resnetblur50", "resnetaa50", "flax_resnet50"]),
    ],
)
def test_torchvision_s_files_fit_several(tmp_path: Path, name: str, expected: list[str]) -> None:
    """The file does not say how it pads or filters; all that it could be are named."""
    path = tmp_path / "a.pth"
    torch.save(getattr(torchvision_models(), name)(num_classes=1000).state_dict(), path)
    message = refused(path)
    assert f"a.pth: its arrays fit {', '.join(expected)}, which compute different" in message
    assert "name the one that it is (`spec`)" in message
    convert(path, tmp_path / "b.safetensors", resolve(name))
    assert read_safetensors(tmp_path / "b.safetensors").spec == resolve(name)


@pytest.mark.parametrize(
    ("name", "fields", "fits"),
    [
        ("resnext50_32x4d", {}, ["resnext50_32x4d"]),
        ("resnext50_32x4d", {"num_classes": 0, "in_channels": 1}, ["resnext50_32x4d"]),
        ("resnext50_32x4d", {"num_classes": 21}, ["resnext50_32x4d"]),
        ("resnet110_b", {}, ["resnet110_b"]),
        ("resnetv2_50x1_bit", {"num_classes": 5}, ["resnetv2_50x1_bit"]),
        ("wide_resnet50_2", {}, ["wide_resnet50_2"]),
        ("ecaresnet50t", {}, ["ecaresnet50t"]),
        ("test_resnet", {}, ["test_resnet"]),
        ("resnet20", {}, ["resnet20", "plain20"]),
        (
            "resnet50",
            {"num_classes": 0},
            ["resnet50", "resnetblur50", "resnetaa50", "flax_resnet50"],
        ),
        (
            "resnet50",
            {"in_channels": 1},
            ["resnet50", "resnetblur50", "resnetaa50", "flax_resnet50"],
        ),
        ("d2l_resnet18", {"num_classes": 3}, ["d2l_resnet18", "d2l_resnet18_same"]),
        ("resnet18", {"stem_width": 32}, []),
    ],
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_which_net_a_file_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prefix: str,
    name: str,
    fields: dict[str, Any],
    fits: list[str],
) -> None:
    """By names and shapes, for any number of channels and classes."""
    spec = resolve(name, fields)
    zeros = {
        prefix + q.name: np.broadcast_to(np.float32(0), q.shape)
        for q in compile_plan(spec).parameters()
    }
    source = Source(tmp_path / "a.pth", "pytorch", LazyArrays(entries_of(zeros)))
    monkeypatch.setattr("shared_spec.formats.read.open_source", lambda path, openers: source)
    if len(fits) == 1:
        found = read_checkpoint(source.path).spec
        assert found is not None
        assert parting(compile_plan(found), compile_plan(spec)) is None
    else:
        expected = "fit " + ", ".join(fits) + ", which" if fits else "fit none of the catalogue"
        with pytest.raises(ResNetError, match=expected):
            read_checkpoint(source.path)
