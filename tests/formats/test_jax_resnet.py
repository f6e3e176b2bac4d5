"""Checkpoints of the package jax-resnet, with the package itself as the judge.

It numbers the layers of a sequence since version 0.0.3; the names before that, by Linen's classes,
are made from these here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_torch
from resnet_parity.convert.conversion import convert
from resnet_parity.engines import job
from shared_spec import (
    Checkpoint,
    ResNetError,
    compile_plan,
    digest,
    random_images,
    read_safetensors,
    resolve,
    write_safetensors,
)
from shared_spec.formats.containers.msgpack import save_msgpack
from shared_spec.formats.containers.source import Source
from shared_spec.formats.detect import open_source
from shared_spec.formats.dialects.jax_resnet import CLASSES, SEQUENCE
from shared_spec.formats.read import dialect_of, read_checkpoint
from shared_spec.plan.equivalence import parting
from shared_spec.weights.lazy_array import LazyArrays, entries_of
from tests.conftest import Pool
from tests.judges import SIZES, assert_near

DEPTHS = [1, 2, 1, 1]
WIDTHS = [8, 16, 32, 64]
EVEN = [(64, 64), (96, 64)]
"""The package's ResNet-D takes no odd sizes."""

PUBLISHED = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "ResNet200": "resnet200",
    "WideResNet50": "wide_resnet50_2",
    "WideResNet101": "wide_resnet101_2",
    "ResNeXt50": "resnext50_32x4d",
    "ResNeXt101": "resnext101_32x8d",
    "ResNetD18": "resnet18d",
    "ResNetD34": "resnet34d",
    "ResNetD50": "resnet50d",
    "ResNetD101": "resnet101d",
    "ResNetD152": "resnet152d",
    "ResNetD200": "resnet200d",
}


@pytest.fixture(autouse=True)
def reuse_workers(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "Worker", pool.start)


@pytest.mark.parametrize(
    ("theirs", "block", "ours", "fields"),
    [
        ("ResNet18", {}, "resnet18", {"in_channels": 1}),
        ("ResNet50", {}, "resnet50", {}),
        ("WideResNet50", {}, "wide_resnet50_2", {}),
        (
            "ResNeXt50",
            {"groups": 4, "base_width": 16},
            "resnext50_32x4d",
            {"groups": 4, "base_width": 16},
        ),
        ("ResNetD18", {}, "resnet18d", {}),
        ("ResNetD50", {}, "resnet50d", {}),
    ],
)
def test_what_the_package_writes(
    pool: Pool,
    tmp_path: Path,
    theirs: str,
    block: dict[str, Any],
    ours: str,
    fields: dict[str, Any],
) -> None:
    small = {"depths": DEPTHS, "widths": WIDTHS, "num_classes": 6}
    spec = resolve(ours, small | fields)
    images = [
        random_images((2, *size, spec.in_channels)) for size in (EVEN if "D" in theirs else SIZES)
    ]
    paths = {k: str(tmp_path / f"{k}.safetensors") for k in ("images", "output")}
    write_safetensors(paths["images"], Checkpoint({str(i): x for i, x in enumerate(images)}))
    pool["flax"].call(
        "probe",
        function="libraries.jax_resnet:save",
        name=theirs,
        options={
            "stage_sizes": DEPTHS,
            # Its wide net has half the expansion.
            "hidden_sizes": [n * (2 if "Wide" in theirs else 1) for n in WIDTHS],
            "n_classes": 6,
        },
        block=block,
        channels=spec.in_channels,
        folder=str(tmp_path),
        **paths,
    )
    references = read_safetensors(paths["output"]).state
    convert(tmp_path / "a.msgpack", tmp_path / "b.safetensors")
    found = read_safetensors(tmp_path / "b.safetensors")
    assert found.spec is not None
    assert parting(compile_plan(found.spec), compile_plan(spec)) is None
    assert (found.spec.norm_variance, found.spec.zero_init_last) == ("biased", True)
    model = resnet_torch.create_model(found.spec, weights=found.state, dtype="float64")
    for index, batch in enumerate(images):
        logits = resnet_torch.predict(model, batch)
        assert_near(references[str(index)], logits, f"{theirs}, {batch.shape}")
    convert(tmp_path / "a", tmp_path / "c.safetensors")
    assert digest(read_safetensors(tmp_path / "c.safetensors").state) == digest(found.state)
    older = tmp_path / "older.msgpack"
    save_msgpack(older, older_names(open_source(tmp_path / "a.msgpack"), theirs))
    assert dialect_of(open_source(older)) is CLASSES
    again = read_checkpoint(older)
    assert again.spec == found.spec
    assert digest(again.state) == digest(found.state)


def older_names(source: Source, theirs: str) -> LazyArrays:
    """The arrays by the names that the package gave before version 0.0.3."""
    d = "D" if "D" in theirs else ""
    kind = "Block" if theirs.endswith("18") else "BottleneckBlock"
    last = max(int(n) for name in source.tensors for n in re.findall(r"layers_(\d+)", name))

    def outer(match: re.Match[str]) -> str:
        number = int(match[1])
        if number in (0, last):
            return "Dense_0" if number else f"ResNet{d}Stem_0"
        return f"ResNet{d}{kind}_{number - 2}"

    entries = source.tensors.entries.items()
    return LazyArrays({re.sub(r"layers_(\d+)", outer, name): entry for name, entry in entries})


def source_of(pool: Pool, name: str) -> Source:
    """The package's net of its full size, with arrays of zeros that take no memory."""
    shapes = pool["flax"].call("probe", function="libraries.jax_resnet:shapes", name=name)
    zeros = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    return Source(Path(name), "flax", LazyArrays(entries_of(zeros)))


@pytest.mark.parametrize(("theirs", "ours"), PUBLISHED.items())
def test_its_nets_are_ours(pool: Pool, theirs: str, ours: str) -> None:
    found = SEQUENCE.spec_of(source_of(pool, theirs))
    assert found is not None
    assert parting(compile_plan(found), compile_plan(resolve(ours))) is None


def test_every_other_net_of_the_package_is_refused(pool: Pool) -> None:
    others = {*pool["flax"].call("probe", function="libraries.jax_resnet:names")} - {*PUBLISHED}
    assert others == {"ResNeSt50Fast", *(f"ResNeSt{depth}" for depth in (50, 101, 152, 200, 269))}
    source = source_of(pool, "ResNeSt50")
    assert dialect_of(source) is SEQUENCE
    with pytest.raises(ResNetError, match="ResNeSt50: a ResNeSt, whose split attention no spec"):
        SEQUENCE.spec_of(source)


def refused(tensors: LazyArrays) -> str:
    with pytest.raises(ResNetError) as caught:
        SEQUENCE.spec_of(Source(Path("a.msgpack"), "flax", tensors))
    return str(caught.value)


def test_what_does_not_tell_its_net_is_refused(pool: Pool) -> None:
    whole = source_of(pool, "ResNet18").tensors
    normless = {k: v for k, v in whole.entries.items() if "BatchNorm" not in k}
    assert "a.msgpack: a net of jax-resnet without batch norm" in refused(LazyArrays(normless))
    short = {k: v for k, v in whole.entries.items() if "/layers_8/" not in k}
    message = refused(LazyArrays(short))
    assert "with 3 projections instead of 4, so it is unknown where its stages begin" in message
    stemless = {k: v for k, v in whole.entries.items() if "/layers_0/ConvBlock_0/Conv_0" not in k}
    assert "a.msgpack: not a ResNet of jax-resnet (a kernel does not have" in refused(
        LazyArrays(stemless)
    )
