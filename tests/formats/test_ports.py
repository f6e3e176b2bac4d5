"""Ports of He et al. 2015 to PyTorch, written from their published structure, as the judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.convert.conversion import convert
from shared_spec import (
    ResNetError,
    ResNetSpec,
    compile_plan,
    random_images,
    random_weights,
    read_safetensors,
    resolve,
)
from shared_spec.formats.containers.safetensors import save_safetensors
from shared_spec.formats.containers.source import Source
from shared_spec.formats.detect import open_source
from shared_spec.formats.dialects.canonical import CANONICAL
from shared_spec.formats.dialects.cifar_ports import PORTS
from shared_spec.formats.dialects.dialect import foreign_arrays, with_counters
from shared_spec.formats.read import dialect_of, read_checkpoint
from shared_spec.formats.search import chosen
from shared_spec.plan.equivalence import parting
from shared_spec.weights.lazy_array import LazyArrays, entries_of
from tests.judges import assert_near
from tests.probes.libraries.ports import Nine, PortNet, PreActivated, randomize

UNDERSTANDING = ("rl", "subsample", "fc")
AKAMASTER = ("layer", "shortcut", "linear")
CIFAR = {"stem": "conv3x3", "stem_stride": 1, "stem_pool": "none", "image_size": 32}


def wrapped(model: torch.nn.Module, path: Path) -> None:
    """As akamaster's training writes it."""
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.5}, path)


def plain(model: torch.nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path)


def logits(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(images.astype(np.float64)).permute(0, 3, 1, 2)).numpy()


def assert_same(
    model: torch.nn.Module, twin: torch.nn.Module, path: Path, spec: ResNetSpec
) -> None:
    """The file of `model` is read as `spec` with its logits, and what is read goes back strictly
    into `twin`.
    """
    target = path.with_name("canonical.safetensors")
    convert(path, target)
    found = read_safetensors(target)
    assert found.spec is not None
    assert parting(compile_plan(found.spec), compile_plan(spec)) is None
    assert found.spec.image_size == spec.image_size
    ours = resnet_torch.create_model(found.spec, weights=found.state, dtype="float64")
    inside = chosen(open_source(path), None)
    assert inside is not None
    dialect = dialect_of(inside.source)
    back = with_counters(foreign_arrays(dialect, found.state, found.spec))
    arrays = {name: torch.from_numpy(np.array(entry.read())) for name, entry in back.items()}
    twin.load_state_dict(arrays, strict=True)
    for size in ((32, 32), (33, 40)):
        images = random_images((2, *size, 3))
        reference = logits(model, images)
        assert_near(reference, resnet_torch.predict(ours, images), f"{size}")
        np.testing.assert_array_equal(reference, logits(twin, images))


@pytest.mark.parametrize(
    ("words", "net", "save", "ours", "fields"),
    [
        # ResNet-20 of the first two, with both options.
        (UNDERSTANDING, ("basic", [3] * 3, [16, 32, 64], "B"), plain, "resnet20_b", {}),
        (UNDERSTANDING, ("basic", [3] * 3, [16, 32, 64], "A"), plain, "resnet20", {}),
        (AKAMASTER, ("basic", [3] * 3, [16, 32, 64], "A"), wrapped, "resnet20", {}),
        (AKAMASTER, ("basic", [3] * 3, [16, 32, 64], "B"), wrapped, "resnet20_b", {}),
        # kuangliu's four stages, here of fewer channels.
        (AKAMASTER, ("basic", [2, 1, 1, 2], [8, 16, 32, 64], "B"), plain, "resnet18", CIFAR),
        (AKAMASTER, ("bottleneck", [2, 1, 1, 1], [8, 16, 32, 64], "B"), plain, "resnet50", CIFAR),
        # A mixture, as ports have it.
        (
            ("layer", "shortcut", "fc"),
            ("basic", [1] * 3, [8, 16, 32], "B"),
            plain,
            "resnet18",
            CIFAR,
        ),
        (
            ("layer", "downsample", "linear"),
            ("basic", [1] * 3, [8, 16, 32], "B"),
            plain,
            "resnet18",
            CIFAR,
        ),
    ],
)
def test_a_port_is_read(
    tmp_path: Path, words: Any, net: Any, save: Any, ours: str, fields: dict[str, Any]
) -> None:
    kind, depths, widths, option = net
    model = randomize(PortNet(words, kind, depths, widths, option, classes=6))
    save(model, tmp_path / "a.pth")
    small = {"depths": depths, "widths": widths, "stem_width": widths[0], "num_classes": 6}
    twin = PortNet(words, kind, depths, widths, option, classes=6).double().eval()
    assert_same(model, twin, tmp_path / "a.pth", resolve(ours, small | fields))


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_understanding_resnet_for_imagenet(tmp_path: Path, kind: str) -> None:
    args = (UNDERSTANDING, kind, [1, 2, 1, 1], [8, 16, 32, 64], "B", False)
    model = randomize(PortNet(*args))
    plain(model, tmp_path / "a.pth")
    name = {"basic": "resnet18", "bottleneck": "resnet50"}[kind]
    small = {"depths": args[2], "widths": args[3], "stem_width": 8, "num_classes": 10}
    assert_same(model, PortNet(*args).double().eval(), tmp_path / "a.pth", resolve(name, small))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("resnet20", {}),
        ("resnet32_b", {}),
        ("resnet32_b", {"shortcut": "projection_stage"}),
        ("resnet110_c", {}),
        ("resnet1202", {}),
    ],
)
def test_the_paper_s_nets_have_their_specs(
    tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    """In the ports' names; the deepest too."""
    spec = resolve(name, fields)
    dialect = next(d for d in PORTS if d.name == "port-layer-shortcut-linear")
    p = compile_plan(spec)
    zeros = {q.name: np.broadcast_to(np.float32(0), q.shape) for q in p.parameters()}
    source = Source(tmp_path, "pytorch", LazyArrays(foreign_arrays(dialect, zeros, spec)))
    assert dialect_of(source) is dialect
    assert dialect.spec_of(source) == spec


def test_features_of_a_port(tmp_path: Path) -> None:
    model = randomize(PortNet(AKAMASTER, "basic", [1, 1, 1], [8, 16, 32]))
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("linear")}
    torch.save(state, tmp_path / "a.pth")
    spec = read_checkpoint(tmp_path / "a.pth").spec
    assert spec is not None
    assert (spec.num_classes, spec.depths) == (0, (1, 1, 1))


def test_canonical_files_stay_canonical(tmp_path: Path) -> None:
    for name in ("resnet20", "resnet20_b", "resnet18", "resnetv2_50"):
        spec = resolve(name, {"num_classes": 0} if name == "resnet20_b" else {})
        q = {
            x.name: np.broadcast_to(np.float32(0), x.shape) for x in compile_plan(spec).parameters()
        }
        source = Source(tmp_path, "pytorch", LazyArrays(entries_of(q)))
        assert dialect_of(source) is CANONICAL


def refused(path: Path) -> str:
    with pytest.raises(ResNetError) as caught:
        convert(path, path.parent / "out.safetensors")
    assert not (path.parent / "out.safetensors").exists()
    return str(caught.value)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_a_pre_activation_net_is_read(tmp_path: Path, kind: str) -> None:
    net = (kind, [1, 2], [8, 16], 8)
    model, twin = randomize(PreActivated(*net)), PreActivated(*net).double().eval()
    plain(model, tmp_path / "a.pth")
    small = {"depths": [1, 2], "widths": [8, 16], "stem_width": 8}
    name = {"basic": "preact_resnet18", "bottleneck": "preact_resnet50"}[kind]
    assert_same(model, twin, tmp_path / "a.pth", resolve(name, small))


@pytest.mark.parametrize("drops", [True, False])
def test_the_net_of_nine_layers_is_read(tmp_path: Path, drops: bool) -> None:
    widths = [8, 16, 24, 32]
    model, twin = randomize(Nine(widths, drops)), Nine(widths, drops).double().eval()
    plain(model, tmp_path / "a.pth")
    small = {"widths": widths[1:], "stem_width": 8, "drop_rate": 0.2 * drops}
    assert_same(model, twin, tmp_path / "a.pth", resolve("resnet9", small))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    whole = PortNet(AKAMASTER, "basic", [2, 1], [8, 16]).state_dict()
    torch.save(whole | {"extra": torch.ones(2)}, path)
    assert "'extra' stands beside conv1, bn1, layer1, and what the net does" in refused(path)
    torch.save(whole | {"layer1.0.bn2.weight": torch.ones(8), "linear.bias": torch.ones(2)}, path)
    assert "fc.bias has shape (2,), expected (10,)" in refused(path)
    torch.save({k: v for k, v in whole.items() if k != "conv1.weight"}, path)
    assert "not a ResNet of ports for CIFAR (a kernel does not have four axes)" in refused(path)
    half = {k: v for k, v in whole.items() if "layer1.1.conv2" not in k}
    torch.save(half, path)
    assert "have neither two nor three convolutions each" in refused(path)
    other = {"layer1.1.shortcut.0.weight": torch.ones(8, 8, 1, 1)}
    torch.save(whole | other, path)
    assert "no kind of shortcut projects in the blocks in which it does" in refused(path)
    wide = {"conv1.weight": torch.ones(8, 70_000, 3, 3)}
    torch.save(whole | wide, path)
    assert "in_channels: input should be less than or equal to 65536" in refused(path)


def test_safetensors_too(tmp_path: Path) -> None:
    spec = resolve("resnet20", {"num_classes": 3})
    dialect = next(d for d in PORTS if d.name == "port-rl-subsample-fc")
    arrays = foreign_arrays(dialect, random_weights(compile_plan(spec)), spec)
    save_safetensors(tmp_path / "a.safetensors", LazyArrays(arrays), {})
    assert read_checkpoint(tmp_path / "a.safetensors").spec == spec
