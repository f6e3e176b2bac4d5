"""Classes for each pixel; torchvision's FCN and DeepLabV3 are the judge."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.check.forward import check
from resnet_parity.engines.registry import ALL_ENGINES
from resnet_parity.train.recipes import find_recipe, random_labels
from shared_spec import (
    Checkpoint,
    ResNetError,
    SpecError,
    WeightsError,
    cast_weights,
    compile_plan,
    optimization,
    random_images,
    random_weights,
    read_checkpoint,
    read_safetensors,
    resolve,
    write_checkpoint,
    write_safetensors,
)
from shared_spec.formats.dialects.renamed import torchvision_name
from shared_spec.formats.graphs.keras_layers import records_of
from shared_spec.formats.graphs.keras_model import Node
from shared_spec.plan.resampling import linear
from tests.conftest import Pool
from tests.peers import torchvision_models
from tests.tiers import engines, selected

NARROW: dict[str, Any] = {"depths": [1, 1, 1], "widths": [8, 16, 16], "stem_width": 8}
FIELDS: dict[str, Any] = {"auxiliary": True, "num_classes": 5, "output_stride": 8}
# Torchvision's names of its functions, too; the deeper ones are alike.
NAMES = [f"{kind}_resnet{depth}" for kind in ("fcn", "deeplabv3") for depth in (50, 101)]


@pytest.mark.parametrize("name", selected(["fcn_resnet50", "deeplabv3_resnet50"], NAMES))
def test_torchvision_agrees(name: str, tmp_path: Path) -> None:
    torchvision_models()
    from torchvision.models import segmentation

    kind, _, body = name.partition("_")
    fields = FIELDS | {"segmentation": kind.removesuffix("v3"), "num_classes": 21}
    spec = resolve(body, fields)
    p = compile_plan(spec)
    state = cast_weights(random_weights(p, 1), "float64")
    ours = resnet_torch.create_model(spec, weights=state, dtype="float64").eval()
    options = {"weights": None, "weights_backbone": None, "aux_loss": True, "num_classes": 21}
    theirs = getattr(segmentation, name)(**options).double().eval()
    assert sum(q.numel() for q in theirs.parameters()) == p.parameter_count()
    renamed = {
        k if "classifier." in k else f"backbone.{k}": v for k, v in ours.state_dict().items()
    }
    assert list(renamed) == list(theirs.state_dict())
    theirs.load_state_dict(renamed, strict=True)
    for size in ((64, 64), (65, 65), (97, 64)):
        images = random_images((1, *size, 3))
        with torch.inference_mode():
            reference = theirs(torch.from_numpy(images).double().permute(0, 3, 1, 2))
        for a, key in zip(resnet_torch.predict(ours, images), ("out", "aux"), strict=True):
            b = reference[key].permute(0, 2, 3, 1).numpy()
            assert np.abs(a - b).max() / np.abs(b).max() <= 1e-12
    file = tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), file)
    read = resnet_torch.create_model(spec, weights=file, dtype="float64")
    found = resnet_torch.export_weights(read)
    assert all(np.array_equal(array, state[k]) for k, array in found.items())
    write_checkpoint(tmp_path / "ours.pth", Checkpoint(found, spec), to="torchvision")
    theirs.load_state_dict(torch.load(tmp_path / "ours.pth"), strict=True)


@pytest.mark.parametrize("kind", ["fcn", "deeplab"])
def test_a_classifiers_weights_get_new_heads(kind: str, tmp_path: Path) -> None:
    body = resolve("resnet50", NARROW | {"num_classes": 3})
    state = random_weights(compile_plan(body), 2)
    file = tmp_path / "classifier.msgpack"
    write_checkpoint(file, Checkpoint(state, body))
    asked = FIELDS | {"segmentation": kind}
    for weights in (state, file):  # names of a file of Flax's are known only by the net
        net = resnet_torch.create_model(body, weights=weights, seed=5, **asked)
        found = resnet_torch.export_weights(net)
        fresh = resnet_torch.export_weights(resnet_torch.create_model(net.spec, seed=5))
        assert state.keys() - found.keys() == {"fc.weight", "fc.bias"}
        for name, array in found.items():
            np.testing.assert_array_equal(array, state.get(name, fresh[name]))


def test_a_segmenters_weights_are_adapted(tmp_path: Path) -> None:
    """To other classes, without its auxiliary head, and with one that it never had."""
    spec = resolve("resnet50", NARROW | FIELDS | {"segmentation": "deeplab"})
    state = random_weights(compile_plan(spec), 2)
    file = tmp_path / "segmenter.pth"
    torch.save(
        {n if "classifier." in n else f"backbone.{n}": torch.tensor(x) for n, x in state.items()},
        file,
    )
    heads = tuple(f"{head}classifier.4." for head in ("", "aux_"))
    net = resnet_torch.create_model(spec, weights=file, seed=5, num_classes=2)
    found = resnet_torch.export_weights(net)
    fresh = resnet_torch.export_weights(resnet_torch.create_model(net.spec, seed=5))
    for name, array in found.items():
        np.testing.assert_array_equal(array, (fresh if name.startswith(heads) else state)[name])
    bare = resnet_torch.create_model(spec, weights=file, auxiliary=False)
    kept = resnet_torch.export_weights(bare)
    assert {name for name in state if not name.startswith("aux")} == kept.keys()
    again = resnet_torch.create_model(bare.spec, weights=kept, seed=5, auxiliary=True)
    found = resnet_torch.export_weights(again)
    fresh = resnet_torch.export_weights(resnet_torch.create_model(spec, seed=5))
    for name, array in found.items():
        np.testing.assert_array_equal(array, kept.get(name, fresh[name]))
    torn = {k: v for k, v in state.items() if k != "classifier.2.bias"}
    with pytest.raises(WeightsError, match=r"classifier\.2\.bias is missing"):
        resnet_torch.create_model(spec, weights=torn, segmentation="deeplab")


@pytest.mark.parametrize("kind", ["fcn", "deeplab"])
def test_engines_agree(pool: Pool, kind: str) -> None:
    spec = resolve("resnet50", NARROW | FIELDS | {"segmentation": kind})
    chosen = [*engines(), ALL_ENGINES["onnx:reference"]]
    report = check(spec, chosen, sizes=((67, 45),), compiled=False, start=pool.start)
    assert report.problems == []
    assert len(report.pairs) == len(chosen) * (len(chosen) - 1) // 2


@pytest.mark.parametrize("engine", selected(["flax"], ["keras:torch", "keras:tensorflow", "flax"]))
def test_steps_leave_the_same_weights(pool: Pool, engine: str, tmp_path: Path) -> None:
    # In evaluation mode, as no two engines drop the same.
    fields = {"segmentation": "deeplab", "norm": "frozen_batch", "output_stride": 8}
    spec = resolve("resnet18", NARROW | fields | {"num_classes": 3})
    state = cast_weights(random_weights(compile_plan(spec), 4), "float64")
    weights = tmp_path / "weights.safetensors"
    write_safetensors(weights, Checkpoint(state))
    found = []
    for name in ("torch", engine):
        outputs = tmp_path / f"{name.replace(':', '-')}.safetensors"
        arguments = {"spec": spec.to_dict(), "weights": str(weights), "outputs": str(outputs)}
        pool[name].call("probe", function="pyramids:descend", training=False, **arguments)
        found.append(read_safetensors(outputs).state)
    for q in compile_plan(spec).parameters():
        before, a, b = state[q.name], found[0][q.name], found[1][q.name]
        if q.trainable:
            moved = np.abs(a - before).max()
            assert moved > 0, q.name
            assert np.abs(a - b).max() / moved <= 1e-9, q.name


def test_places_are_those_that_torch_takes() -> None:
    for side, length in ((1, 9), (9, 67), (6, 45), (8, 64), (13, 97), (5, 5)):
        row = torch.arange(side, dtype=torch.float64) ** 2
        taken = torch.nn.functional.interpolate(
            row[None, None, None], size=(1, length), mode="bilinear"
        )
        low, high, part, whole = linear(np, side, length)
        x = row.numpy()
        between = x[low] + (x[high] - x[low]) * (part / whole)
        np.testing.assert_allclose(between, taken[0, 0, 0].numpy(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auxiliary": True}, "auxiliary: needs segmentation"),
        ({"segmentation": "fcn", "num_classes": 0}, "num_classes: segmentation needs at least 1"),
        (
            {"segmentation": "fcn", "features_only": True},
            "features_only: True cannot be combined with segmentation",
        ),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        resolve("resnet18", fields)


def trained(net: Any, images: torch.Tensor, labels: torch.Tensor) -> Iterator[float]:
    """Losses of torchvision's reference training, before each of three steps of SGD."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for _ in range(3):
        found = net(images)
        out, aux = (
            torch.nn.functional.cross_entropy(found[key], labels, ignore_index=255)
            for key in ("out", "aux")
        )
        loss = out + 0.5 * aux
        optimizer.zero_grad()
        loss.backward()
        yield loss.item()
        optimizer.step()


def test_gradients_and_steps_are_those_of_torchvisions_net() -> None:
    torchvision_models()
    from torchvision.models.resnet import Bottleneck, ResNet
    from torchvision.models.segmentation.fcn import _fcn_resnet

    spec = resolve("fcn_resnet50", {"depths": [1, 1, 1, 1], "num_classes": 5, "head_drop": False})
    state = cast_weights(random_weights(compile_plan(spec), 1), "float64")
    dilated = {"replace_stride_with_dilation": [False, True, True]}
    theirs = _fcn_resnet(ResNet(Bottleneck, [1, 1, 1, 1], **dilated), 5, True).double().train()
    named = {torchvision_name(name, spec): torch.from_numpy(x) for name, x in state.items()}
    theirs.load_state_dict(named)
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    ours = resnet_torch.create_model(spec, weights=state, dtype="float64")
    trainer = resnet_torch.Trainer(
        ours, optimization(learning_rate=0.02, precision="float64"), steps=3
    )
    images = random_images((2, 33, 24, 3)).astype(np.float64)
    labels = random_labels(spec, images.shape, 3, "labels")
    assert {255, *range(5)} == {*labels.ravel().tolist()}
    given = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
    losses = trained(theirs, *given)
    loss = next(losses)
    found = trainer.gradients(images, labels)
    assert abs(found.loss / loss - 1) <= 1e-12
    reference = {name: q.grad.numpy() for name, q in theirs.named_parameters()}
    largest = max(np.abs(g).max() for g in reference.values())
    for name, g in found.parameters.items():
        wanted = reference[torchvision_name(name, spec)]
        assert np.abs(g - wanted).max() <= 1e-10 * max(np.abs(wanted).max(), 1e-2 * largest), name
    for _ in range(3):
        progress = trainer.step(images, labels)
        assert abs(float(progress.loss) / loss - 1) <= 1e-10
        loss = next(losses, 0.0)
    assert 0 < int(progress.correct) < (labels != 255).sum()
    after = theirs.state_dict()
    for name, array in resnet_torch.export_weights(ours).items():
        wanted = after[torchvision_name(name, spec)].numpy()
        assert np.abs(array - wanted).max() <= 1e-10 * np.abs(wanted).max(), name


def test_what_a_trainer_refuses() -> None:
    spec = resolve("resnet18", NARROW | {"segmentation": "fcn", "num_classes": 9})
    net = resnet_torch.create_model(spec)
    trainer = resnet_torch.Trainer(net, optimization(learning_rate=0.1), 5)
    images, labels = random_images((2, 16, 16, 3)), np.zeros((2, 16, 16), np.int64)
    for wrong, message in (
        (labels[:, 0, 0], r"labels of shape [2] and type int64: expected [2, 16, 16] of whole"),
        (labels + 9, "labels go from 9 to 9; the net has 9 classes, numbered from 0"),
        (labels + 255, "labels: all are 255, and such pixels count for nothing"),
    ):
        with pytest.raises(ResNetError, match=re.escape(message)):
            trainer.step(images, wrong)
    many = resnet_torch.create_model(spec, num_classes=256)
    with pytest.raises(ResNetError, match="num_classes: 256; no more than 255 classes of pixels"):
        resnet_torch.Trainer(many, optimization(learning_rate=0.1), 5)
    # A recipe's data have labels of whole images.
    with pytest.raises(ResNetError, match="no classes to learn for whole images"):
        find_recipe("digits").check_parts(spec)


def test_a_graph_that_enlarges_maps_is_told(tmp_path: Path) -> None:
    net = resnet_torch.create_model(resolve("resnet18", NARROW | {"segmentation": "fcn"}))
    file = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated
        torch.onnx.export(net.eval(), (torch.zeros(1, 3, 32, 32),), file, dynamo=False)
    with pytest.raises(
        ResNetError, match=r"\(Resize\) enlarges maps, as a feature pyramid or a net"
    ):
        read_checkpoint(file)
    for kind in ("UpSampling2D", "resnet_keras>Enlarge"):
        node = Node(("net", "up"), kind, {"dtype": "float32"}, (0,), (None,))
        with pytest.raises(ResNetError, match=r"layer 'net/up' \(.*\) enlarges maps"):
            records_of(node)
