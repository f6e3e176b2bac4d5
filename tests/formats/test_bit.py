"""BiT's `.npz` files, with timm's own reader as the judge."""

from __future__ import annotations

import zipfile
from functools import partial
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
    random_weights,
    read_safetensors,
    resolve,
)
from shared_spec.formats.dialects.bit import NAMES, PREFIX
from shared_spec.formats.dialects.dialect import rename
from shared_spec.formats.read import read_checkpoint
from tests.peers import torchvision_models

FIELDS: dict[str, Any] = {
    "depths": [1, 2, 1, 11],
    "widths": [32, 32, 64, 64],
    "stem_width": 32,
    "num_classes": 6,
}
SPEC = resolve("resnetv2_50x1_bit", FIELDS)


def arrays(spec: ResNetSpec) -> dict[str, np.ndarray]:
    """Random weights under the names and in the layouts of Google's files."""
    return {
        PREFIX + rename(name, NAMES): array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        for name, array in random_weights(compile_plan(spec)).items()
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.npz"
    np.savez(path, **{k: np.ascontiguousarray(v) for k, v in arrays(SPEC).items()})
    return path


def test_timm_reads_the_same(file: Path, tmp_path: Path) -> None:
    torchvision_models()
    from timm.layers import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    model = ResNetV2(
        layers=FIELDS["depths"],
        channels=tuple(4 * n for n in FIELDS["widths"]),
        stem_chs=32,
        num_classes=6,
        stem_type="fixed",
        conv_layer=partial(StdConv2d, eps=1e-8),
    )
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(torch.nan)
        model.load_pretrained(str(file))
    convert(file, tmp_path / "b.safetensors")
    found = read_safetensors(tmp_path / "b.safetensors")
    assert found.spec == SPEC
    assert found.preprocessing is not None
    assert found.preprocessing.mean == (0.5, 0.5, 0.5)
    assert found.state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(found.state[name], tensor.numpy(), err_msg=name)


@pytest.mark.parametrize("name", ["resnetv2_50x1_bit", "resnetv2_101x1_bit"])
def test_the_net_follows_from_the_file(tmp_path: Path, name: str) -> None:
    spec = resolve(name, {"num_classes": 21})
    np.savez(tmp_path / "a.npz", **arrays(spec))
    found = read_checkpoint(tmp_path / "a.npz").spec
    assert found is not None
    assert compile_plan(found) == compile_plan(spec)


def test_without_a_head(tmp_path: Path) -> None:
    spec = SPEC.override(num_classes=0)
    np.savez(tmp_path / "a.npz", **arrays(spec))
    assert read_checkpoint(tmp_path / "a.npz").spec == spec


def test_a_backend_reads_it_and_adapts_it(file: Path) -> None:
    model = resnet_torch.create_model(SPEC, weights=file, num_classes=2)
    state = resnet_torch.export_weights(model)
    assert state["head.fc.weight"].shape == (2, 256, 1, 1)
    expected = random_weights(compile_plan(SPEC))
    np.testing.assert_array_equal(state["norm.weight"], expected["norm.weight"])


def test_none_is_written(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ResNetError, match=r"b\.npz: \.npz files of BiT are read, not written"):
        convert(file, tmp_path / "b.npz")


def refused(file: Path) -> str:
    target = file.parent / "out.safetensors"
    with pytest.raises(ResNetError) as caught:
        convert(file, target)
    assert not target.exists()
    return str(caught.value)


def test_what_is_no_such_file_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for cut in (0, 10, 1000, len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert "not a readable .npz file" in refused(file)
    np.savez(file, x=np.ones(3, np.float32))
    assert "not the weights of a BiT ResNet" in refused(file)
    good = arrays(SPEC)
    np.savez(file, **good, extra=np.ones(3, np.float32))
    assert "1 mismatch): extra is not in the model" in refused(file)
    beta = f"{PREFIX}group_norm/beta"
    np.savez(file, **good | {beta: np.ones(3, np.float32)})
    assert "norm.bias has shape (3,), expected (256,)" in refused(file)
    np.savez(file, **good | {beta: np.array([{}] * 256, object)})
    assert "an array is not of floats as numpy writes them" in refused(file)
    np.savez(file, **good | {beta: np.ones(256, np.int64)})
    assert "is not of floats as numpy writes them" in refused(file)
    del good[beta]
    np.savez(file, **good)
    assert "norm.bias is missing" in refused(file)


def test_a_bomb_is_not_read(file: Path) -> None:
    """Its header says 10^15 numbers."""
    member = f"{PREFIX}group_norm/beta.npy"
    with zipfile.ZipFile(file) as archive:
        rest = {n: archive.read(n) for n in archive.namelist() if n != member}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in rest.items():
            archive.writestr(name, data)
        with archive.open(member, "w") as handle:
            header = {"descr": "<f4", "fortran_order": False, "shape": (10**15,)}
            np.lib.format.write_array_header_1_0(handle, header)
    assert "does not have the length of its shape" in refused(file)
