"""Checkpoints of Flax's imagenet example, with the example itself as the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_parity.convert.conversion import convert
from resnet_parity.engines import job
from shared_spec import (
    Checkpoint,
    ResNetError,
    ResNetSpec,
    cast_weights,
    compile_plan,
    digest,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from shared_spec.formats.containers.msgpack import save_msgpack
from shared_spec.formats.containers.source import Source
from shared_spec.formats.detect import open_source
from shared_spec.formats.dialects.canonical import FLAX_MODEL
from shared_spec.formats.dialects.dialect import foreign_arrays
from shared_spec.formats.dialects.linen import BLOCKS, LINEN
from shared_spec.formats.read import Asked, dialect_of, read_checkpoint
from shared_spec.weights.lazy_array import LazyArrays
from tests.conftest import Pool
from tests.judges import assert_torch_gives, images_of

SMALL: dict[str, Any] = {
    "depths": [1, 2, 1],
    "widths": [8, 16, 32],
    "stem_width": 8,
    "num_classes": 6,
}
BASIC = resolve("flax_resnet18", SMALL)
BOTTLENECK = resolve("flax_resnet50", SMALL | {"in_channels": 1})


@pytest.fixture(autouse=True)
def reuse_workers(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "Worker", pool.start)


def options_of(spec: ResNetSpec) -> dict[str, Any]:
    """What the example's class takes for the net of `spec`."""
    return {
        "stage_sizes": list(spec.depths),
        "block_cls": BLOCKS[spec.blocks[0]],
        "num_classes": spec.num_classes,
        "num_filters": spec.stem_width,
    }


def in_example(pool: Pool, function: str, spec: ResNetSpec, **more: Any) -> list[np.ndarray]:
    """The example's logits for the images of `images_of`, from a probe."""
    folder = Path(more["folder"] if "folder" in more else more["source"]).parent
    paths = {"images": str(folder / "images.safetensors"), "output": str(folder / "out")}
    images = {str(i): array for i, array in enumerate(images_of(spec))}
    write_safetensors(paths["images"], Checkpoint(images))
    pool["flax"].call(
        "probe",
        function=f"libraries.linen:{function}",
        options=options_of(spec),
        channels=spec.in_channels,
        **paths,
        **more,
    )
    found = read_safetensors(paths["output"]).state
    return [found[key] for key in images]


@pytest.mark.parametrize("spec", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
def test_what_the_example_writes_and_restores(pool: Pool, tmp_path: Path, spec: ResNetSpec) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    references = in_example(pool, "save", spec, folder=str(theirs))
    found = []
    for name in ("variables.msgpack", "state.msgpack", "variables", "workdir/checkpoint_7"):
        convert(theirs / name, tmp_path / "a.safetensors")
        read = read_safetensors(tmp_path / "a.safetensors")
        assert read.spec == spec
        found.append(digest(read.state))
    assert len(set(found)) == 1
    assert_torch_gives(spec, dict(read.state), references)
    for target in ("b.msgpack", "b"):
        done = convert(tmp_path / "a.safetensors", tmp_path / target, to="linen")
        assert (done.unchanged, done.sha256) == (True, found[0])
        again = in_example(pool, "restore", spec, source=str(tmp_path / target))
        for reference, logits in zip(references, again, strict=True):
            np.testing.assert_array_equal(reference, logits)


def test_it_evaluates_as_the_example_does(tmp_path: Path) -> None:
    write(tmp_path / "a.msgpack", BASIC)
    prepare = read_checkpoint(tmp_path / "a.msgpack").preprocessing
    assert prepare is not None
    assert (prepare.image_size, prepare.crop, prepare.interpolation) == (224, 224 / 256, "bicubic")
    write(tmp_path / "a.msgpack", BOTTLENECK)
    assert read_checkpoint(tmp_path / "a.msgpack").preprocessing is None


def write(path: Path, spec: ResNetSpec, **extra: np.ndarray) -> None:
    arrays = foreign_arrays(LINEN, random_weights(compile_plan(spec)), spec)
    save_msgpack(path, {**LazyArrays(arrays), **extra})


@pytest.mark.parametrize(("depth", "name"), [(d, f"flax_resnet{d}") for d in (18, 50, 200)])
def test_the_net_follows_from_names_and_shapes(tmp_path: Path, depth: int, name: str) -> None:
    spec = resolve(name, {"num_classes": 5})
    p = compile_plan(spec)
    zeros = {q.name: np.broadcast_to(np.float32(0), q.shape) for q in p.parameters()}
    source = Source(tmp_path, "flax", LazyArrays(foreign_arrays(LINEN, zeros, spec)))
    assert LINEN.spec_of(source) == spec


def test_our_own_trees_stay_ours(tmp_path: Path) -> None:
    state = random_weights(compile_plan(BASIC))
    save_msgpack(tmp_path / "a.msgpack", LazyArrays(foreign_arrays(FLAX_MODEL, state, BASIC)))
    assert dialect_of(open_source(tmp_path / "a.msgpack")) is FLAX_MODEL
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, BASIC))
    for target in ("b.msgpack", "b"):
        convert(tmp_path / "a.safetensors", tmp_path / target)
        convert(tmp_path / target, tmp_path / "c.safetensors", BASIC)
        assert digest(read_safetensors(tmp_path / "c.safetensors").state) == digest(state)
    assert dialect_of(open_source(tmp_path / "b.msgpack")) is FLAX_MODEL


def test_biases_and_eps_go_into_norms(pool: Pool, tmp_path: Path) -> None:
    """A net that is not the example's, but has the function of one."""
    spec = BASIC.override(conv_bias=True, norm_eps=1e-3)
    state = cast_weights(random_weights(compile_plan(spec), 3), "float64")
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, spec))
    done = convert(tmp_path / "a.safetensors", tmp_path / "b.msgpack", to="linen")
    assert not done.unchanged
    again = in_example(pool, "restore", BASIC, source=str(tmp_path / "b.msgpack"))
    assert_torch_gives(spec, state, again)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("resnet18", {}, "the example has no such net|example has no such net: MaxPool"),
        ("flax_resnet18", {"num_classes": 0}, "it always ends in a classifier"),
        ("flax_resnet18", {"widths": [8, 8, 8, 8], "stem_width": 8}, r"layer2\.0\.conv1"),
        ("flax_resnet50", {"base_width": 32}, r"layer1\.0\.conv1"),
        ("flax_resnet18", {"attention": "se"}, "SqueezeExcite"),
        ("flax_resnet18", {"features_only": True}, "other layers or outputs"),
        ("resnetv2_50", {}, "stem"),
    ],
)
def test_nets_that_the_example_cannot_build_are_refused(
    tmp_path: Path, model: str, fields: dict[str, Any], message: str
) -> None:
    small = {"depths": [1, 1, 1, 1], "widths": [8, 16, 32, 64], "stem_width": 8}
    spec = resolve(model, small | fields)
    state = random_weights(compile_plan(spec))
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(state, spec))
    for target in ("b.msgpack", "b"):
        with pytest.raises(ResNetError, match=message) as caught:
            convert(tmp_path / "a.safetensors", tmp_path / target, to="linen")
        assert "Flax's imagenet example has no such net" in str(caught.value)
        assert not (tmp_path / target).exists()


def refused(path: Path) -> str:
    with pytest.raises(ResNetError) as caught:
        convert(path, path.parent / "out.safetensors")
    assert not (path.parent / "out.safetensors").exists()
    return str(caught.value)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.msgpack"
    one = np.ones(3, np.float32)
    write(path, BASIC, **{"params/extra": one})
    assert "params/extra is not in the model" in refused(path)
    write(path, BASIC, **{"batch_stats/bn_init/mean": one})
    assert "bn1.running_mean has shape (3,), expected (8,)" in refused(path)
    write(path, BASIC, **{"params/Dense_0/kernel": one})
    assert "a.msgpack: not a ResNet of Flax's imagenet example" in refused(path)
    save_msgpack(path, {"params/conv_init/kernel": np.ones((7, 7, 3, 8), np.float32)})
    assert "not a ResNet of Flax's imagenet example (it has no blocks" in refused(path)
    save_msgpack(path, {"params/bn_init/scale": one})
    assert "not a ResNet of Flax's imagenet example" in refused(path)


TREES: dict[str, tuple[list[tuple[str, str]], str | None]] = {
    "a training state": ([("", "")], None),
    "a module of another": ([("", "backbone/encoder/")], None),
    "a tree of trees": ([("model/", "")], None),
    "one of two": ([("teacher/", "net/"), ("student/", "net/")], "teacher"),
}
"""Where nets are: what is above the collections, and the modules around; and the part asked for."""


@pytest.mark.parametrize("tree", TREES)
def test_the_net_in_a_tree(tmp_path: Path, tree: str) -> None:
    """It is read as it would be alone, and what else there is is told."""
    places, part = TREES[tree]
    path, weights = tmp_path / "a.msgpack", random_weights(compile_plan(BASIC), 1)
    alone = foreign_arrays(LINEN, weights, BASIC)
    kept = {"opt_state/0/trace/conv_init/kernel": alone["params/conv_init/kernel"]}
    above, prefix = places[0]
    kept |= {f"{above}params/head/kernel": alone["params/Dense_0/kernel"]} if prefix else {}
    for i, (over, module) in enumerate(places):
        other = (
            alone if i == 0 else foreign_arrays(LINEN, random_weights(compile_plan(BASIC)), BASIC)
        )
        for name, array in other.items():
            kind, _, rest = name.partition("/")
            kept[f"{over}{kind}/{module}{rest}"] = array
    save_msgpack(path, LazyArrays(kept))
    if part is not None:
        with pytest.raises(ResNetError, match=r"2 ResNets.*teacher/params/net/, student/params"):
            read_checkpoint(path)
        with pytest.raises(ResNetError, match="there is no ResNet at 'teach'"):
            read_checkpoint(path, asked=Asked("teach"))
    found = read_checkpoint(path, asked=Asked(part))
    assert found.spec == BASIC
    assert digest(found.state) == digest(weights)
    assert any("params/head" in note for note in found.notes) == bool(prefix)
    if not prefix:  # what is beside a net at the root may be part of it
        kept[f"{above}params/head/kernel"] = alone["params/Dense_0/kernel"]
        save_msgpack(path, LazyArrays(kept))
        with pytest.raises(ResNetError, match="params/head/kernel is not in the model"):
            convert(path, tmp_path / "b.safetensors")
