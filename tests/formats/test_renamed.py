"""Files of nets that have names of their own: whose they are is recognised, and torchvision's are
written again so that it loads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.convert.conversion import convert
from resnet_parity.engines.reference_libraries import REFERENCES, names_there
from shared_spec import (
    Checkpoint,
    ResNetSpec,
    SpecError,
    WeightsError,
    compile_plan,
    random_weights,
    resolve,
    write_safetensors,
)
from shared_spec.catalogue import CATALOGUE
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import UndecidedNetError
from shared_spec.formats.in_memory import open_in_memory
from shared_spec.formats.inspection import inspect
from shared_spec.formats.read import checkpoint_of, read_source
from shared_spec.formats.variables import net_in
from shared_spec.weights.layouts import FLAX
from shared_spec.weights.lazy_array import LazyArray, LazyArrays
from shared_spec.weights.state import State
from tests.parity.test_families import CASES
from tests.peers import timm_model, torchvision_models
from tests.tiers import selected


def written(net: torch.nn.Module, path: Path) -> dict[str, torch.Tensor]:
    state = net.state_dict()
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    return state


def same(state: State, theirs: dict[str, torch.Tensor], names: dict[str, str]) -> None:
    assert state.keys() == names.keys()
    for name, there in names.items():
        np.testing.assert_array_equal(state[name], theirs[there].numpy())


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("torchvision", "regnet_x_400mf"),
        ("torchvision", "regnet_y_400mf"),
        ("timm", "regnetx_002"),
        ("timm", "regnetz_005"),
    ],
)
def test_a_net_of_the_catalogue_is_recognised(tmp_path: Path, library: str, name: str) -> None:
    net = torchvision_models().get_model(name) if library == "torchvision" else timm_model(name)
    theirs = written(net, tmp_path / "a.pth")
    names = names_there(library, resolve(name), compile_names(name))
    found = resnet_torch.read_checkpoint(tmp_path / "a.pth")
    assert found.assumed == f"names and shapes of {library}'s {name}; the file has no graph"
    same(found.state, theirs, names)
    same(resnet_torch.read_checkpoint(theirs).state, theirs, names)
    (seen,) = inspect(tmp_path / "a.pth").nets
    assert (seen.model, seen.classes, seen.problem) == (name, 1000, "")


# A name for each way to call the first block, and for each head.
FEW = ["skresnet18", "skresnet50", "nf_resnet26", "gcresnext26ts", "regnetz_b16", "resnet50_clip"]
FEW += [
    "resnet50_clip_gap",
    "resnet50_mlp",
    "res2net50d",
    "resnest14d",
    "legacy_seresnet18",
    "resnetv2_50",
]
ALL = [name for name, entry in CATALOGUE.items() if entry.family in REFERENCES["timm"].families]


@pytest.mark.parametrize("name", selected(FEW, ALL))
@pytest.mark.parametrize("place", ["", "state_dict/module.encoder."])
def test_timms_files_are_recognised(name: str, place: str) -> None:
    """Wherever a net is, and without its name: by its arrays' names and shapes alone."""
    with torch.device("meta"):
        theirs = timm_model(name).state_dict()
    zero = {n: np.broadcast_to(np.float32(0), x.shape) for n, x in theirs.items()}
    arrays = {place + n: LazyArray(x.shape, x.dtype, x.copy) for n, x in zero.items()}
    if place:
        arrays["state_dict/module.projector.0.weight"] = LazyArray.of(np.zeros((4, 4), np.float32))
    source = Source(Path("x.pth"), "pytorch", LazyArrays(arrays))
    spec = resolve(name)
    assert spec in nets_of(source)
    found = checkpoint_of(source, spec)
    assert found.state.keys() == set(compile_names(name))
    left = ["left out, beside the net: projector.0", "left out, elsewhere in the file: "]
    assert all(note.startswith(tuple(left)) for note in found.notes)
    assert len(found.notes) == bool(place)


@pytest.mark.parametrize("name", ["nfnet_f0", "gernet_s", "botnet26t_256", "haloregnetz_b"])
def test_kin_that_no_spec_describes_are_refused(name: str) -> None:
    """Their blocks begin as those of nets of the catalogue do."""
    with torch.device("meta"):
        theirs = timm_model(name).state_dict()
    zero = {n: np.broadcast_to(np.float32(0), x.shape) for n, x in theirs.items()}
    arrays = {n: LazyArray(x.shape, x.dtype, x.copy) for n, x in zero.items()}
    source = Source(Path("x.pth"), "pytorch", LazyArrays(arrays))
    with pytest.raises(UndecidedNetError, match="fit none of the catalogue"):
        checkpoint_of(source)


@pytest.mark.parametrize("name", selected(FEW, list(CATALOGUE)))
def test_a_net_inside_of_another_is_found_in_flaxs_files(name: str) -> None:
    one = LazyArray.of(np.zeros(1, np.float32))
    parameters = compile_plan(resolve(name)).parameters()
    own = [f"{q.module.replace('.', '/')}/{FLAX[q.role].leaf}" for q in parameters]
    around = {f"model/backbone/{n}": one for n in own} | {"model/neck/kernel": one}
    found, notes = net_in(Source(Path("x"), "flax", LazyArrays(around)), None)
    assert found.tensors.keys() == set(own)
    assert notes == ("left out, beside the net: model/neck",)


def nets_of(source: Source) -> list[ResNetSpec | None]:
    try:
        return [checkpoint_of(source).spec]
    except UndecidedNetError as error:
        return [resolve(name) for name in error.models]


def compile_names(name: str) -> list[str]:
    return [q.name for q in compile_plan(resolve(name)).parameters()]


@pytest.mark.parametrize("case", ["torchvision x wide groups", "torchvision y"])
def test_torchvision_loads_what_is_written_in_its_names(tmp_path: Path, case: str) -> None:
    spec = CASES[case].spec
    state = random_weights(compile_plan(spec), 1)
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, spec))
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth", to="torchvision")
    theirs = torch.load(tmp_path / "b.pth", weights_only=True)
    net = CASES[case].theirs()
    net.load_state_dict(theirs, strict=True)
    same(state, net.state_dict(), names_there("torchvision", spec, state))
    back = resnet_torch.read_checkpoint(tmp_path / "b.pth", spec)
    assert back.origin == "pytorch, names of torchvision"
    np.testing.assert_equal(dict(back.state), state)


def test_resnets_have_torchvisions_names_already(tmp_path: Path) -> None:
    model = resnet_torch.create_model("resnet18", num_classes=3)
    resnet_torch.save_weights(model, tmp_path / "a.pth", format="torchvision")
    theirs = torch.load(tmp_path / "a.pth", weights_only=True)
    torchvision_models().resnet18(num_classes=3).load_state_dict(theirs, strict=True)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("regnetz_005", {}, "torchvision has no such net: "),
        ("regnetv_064", {}, "torchvision has no such net: "),
        ("resnet50d", {}, "torchvision has no such net: "),
        ("seresnet50", {}, "torchvision has no such net: "),
        ("regnetx_002", {"in_channels": 1}, "in_channels is 3 there"),
        ("regnetx_002", {"num_classes": 0}, "num_classes at least 1"),
        ("regnety_002", {"features_only": True}, "torchvision has no such net: "),
    ],
)
def test_nets_that_torchvision_lacks_are_refused(
    tmp_path: Path, name: str, fields: dict[str, Any], message: str
) -> None:
    spec = resolve(name, fields)
    model = resnet_torch.create_model(spec)
    with pytest.raises(SpecError, match=message):
        resnet_torch.save_weights(model, tmp_path / "a.pth", format="torchvision")


def test_a_missing_array_is_named() -> None:
    theirs: dict[str, Any] = torchvision_models().regnet_x_400mf().state_dict()
    del theirs["trunk_output.block2.block2-0.proj.1.bias"]
    source = open_in_memory(theirs)
    with pytest.raises(WeightsError, match="fit none of the catalogue"):
        read_source(source)
    with pytest.raises(WeightsError, match=r"s2\.b1\.downsample\.bn\.bias is missing"):
        resnet_torch.create_model("regnet_x_400mf", weights=theirs)
