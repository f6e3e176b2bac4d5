"""Scores on labelled images: by hand with numpy, Pillow, torchvision and scikit-learn, and whether
the engines agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from sklearn.metrics import log_loss, top_k_accuracy_score

import resnet_torch
from resnet_parity.cli import app
from resnet_parity.cli.evaluate import FORMATS
from resnet_parity.engines.process import EngineError
from resnet_parity.engines.registry import ENGINES, Device, Engine
from resnet_parity.evaluate.crops import PAPER_SCALES, averaged
from resnet_parity.evaluate.crops import ten_crops as our_ten_crops
from resnet_parity.evaluate.inputs import EvaluationRequest, PreparedEvaluation, prepare
from resnet_parity.evaluate.result import EngineScores, EvaluationReport
from resnet_parity.evaluate.scoring import evaluate
from resnet_parity.render import tables
from shared_spec import (
    Checkpoint,
    Preprocessing,
    ResNetError,
    compile_plan,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from shared_spec.training.data_spec import DataSpec
from tests.command import command
from tests.conftest import Pool
from tests.peers import torchvision_models

NAMES = tuple(f"class_{letter}" for letter in "abcdefgh")
SPEC = resolve("resnet20", {"depths": [1, 1, 1], "num_classes": len(NAMES), "image_size": 16})
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PREPARE = Preprocessing(image_size=16, crop=16 / 21, mean=MEAN, std=STD)
PER_CLASS = 3


def write_images(folder: Path) -> None:
    """Pictures of many sizes, wide and high ones, in a folder for each class."""
    rng = np.random.default_rng(5)
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        for i, size in enumerate([(40, 28), (25, 36), (24, 24)]):
            coarse = rng.integers(0, 256, (6, 5, 3), np.uint8)
            Image.fromarray(coarse).resize(size).save(folder / name / f"{i}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_images(root)
    return root


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    found = random_weights(compile_plan(SPEC), 3)
    # Larger weights, so that the classes are far from equally likely.
    found["fc.weight"] = found["fc.weight"] * 4
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, state: dict[str, np.ndarray]) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_safetensors(path, Checkpoint(state, SPEC, PREPARE, NAMES))
    return path


def pictures(folder: Path) -> tuple[list[Image.Image], np.ndarray]:
    files = [folder / name / f"{i}.png" for name in NAMES for i in range(PER_CLASS)]
    return [Image.open(file) for file in files], np.repeat(np.arange(len(NAMES)), PER_CLASS)


def normalised(image: Image.Image) -> np.ndarray:
    return ((np.asarray(image) / 255.0 - MEAN) / STD).astype(np.float32)


def shorter_to(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    width, height = (int(n * scale + 1e-9) for n in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def logits_of(state: dict[str, np.ndarray], images: list[np.ndarray]) -> np.ndarray:
    model = resnet_torch.create_model(SPEC, weights=state, dtype="float64")
    return np.concatenate([resnet_torch.predict(model, image[None]) for image in images])


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.from_numpy(logits), -1).numpy()


def same_scores(report: EvaluationReport, probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Hold the report's scores against scikit-learn's."""
    assert report.holds, report.problems
    classes = np.arange(probabilities.shape[1])
    for ran in report.ran:
        scores = ran
        assert scores.images == len(labels)
        for k, found in ((1, scores.top1), (5, scores.top5)):
            judged = top_k_accuracy_score(labels, probabilities, k=k, labels=classes)
            assert found == pytest.approx(judged, abs=1e-12)
        judged = log_loss(labels, probabilities, labels=classes)
        assert scores.loss == pytest.approx(judged, rel=1e-9)
    # Or nothing would have been told apart.
    assert 0 < report.ran[0].top1 < report.ran[0].top5 < 1


def scores_of(ran: EngineScores) -> tuple[float, ...]:
    """What does not depend on the time."""
    return ran.top1, ran.top5, ran.loss, ran.images


def opened(weights: Path, **options: Any) -> PreparedEvaluation:
    return prepare(EvaluationRequest(str(weights), **options))


def run(
    pool: Pool,
    weights: Path,
    engines: str = "torch",
    *,
    dtype: str = "float64",
    start: Any = None,
    **options: Any,
) -> EvaluationReport:
    prepared = opened(weights, **options)
    chosen = [ENGINES[name] for name in engines.split(",")]
    return evaluate(prepared, chosen, dtype=dtype, start=start or pool.start)


def test_the_middle_by_hand(
    pool: Pool, folder: Path, weights: Path, state: dict[str, np.ndarray]
) -> None:
    report = run(pool, weights, path=str(folder), format="folder", batch_size=7)
    images, labels = pictures(folder)
    logits = logits_of(state, [PREPARE([image])[0] for image in images])
    same_scores(report, softmax(logits), labels)
    scores = report.ran[0]
    order = torch.topk(torch.from_numpy(logits), 5).indices.numpy()
    assert scores.top1 == np.mean(order[:, 0] == labels)
    assert scores.top5 == np.mean((order == labels[:, None]).any(1))


@pytest.mark.parametrize("size", [(21, 21), (30, 21), (21, 40), (16, 16), (19, 18)])
def test_ten_crops_are_torchvisions(size: tuple[int, int]) -> None:
    torchvision_models()
    from torchvision.transforms import TenCrop

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    wanted = np.stack([np.asarray(crop) for crop in TenCrop(16)(Image.fromarray(pixels))])
    np.testing.assert_array_equal(our_ten_crops(pixels, 16), wanted)


def test_ten_crops_by_hand(
    pool: Pool, folder: Path, weights: Path, state: dict[str, np.ndarray]
) -> None:
    torchvision_models()
    from torchvision.transforms import TenCrop

    report = run(pool, weights, path=str(folder), format="folder", crops="10", batch_size=40)
    images, labels = pictures(folder)
    crops = [c for image in images for c in TenCrop(16)(shorter_to(image, 21))]
    logits = logits_of(state, [normalised(crop) for crop in crops])
    probabilities = softmax(logits).reshape(len(images), 10, -1)
    same_scores(report, probabilities.mean(1), labels)
    # The mean of logits is something else.
    other = softmax(logits.reshape(len(images), 10, -1).mean(1))
    assert report.ran[0].loss != pytest.approx(log_loss(labels, other), rel=1e-3)


def test_scales_by_hand(
    pool: Pool, folder: Path, weights: Path, state: dict[str, np.ndarray]
) -> None:
    options: dict[str, Any] = {"path": str(folder), "format": "folder", "crops": "multi_scale"}
    report = run(pool, weights, **options, scales=(13, 16, 30), batch_size=8)
    images, labels = pictures(folder)
    found = []
    for image in images:
        views = []
        for side in (13, 16, 30):
            whole = shorter_to(image, side)
            mirror = whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            views += [softmax(logits_of(state, [normalised(v)])) for v in (whole, mirror)]
        found.append(np.mean(np.concatenate(views), 0))
    same_scores(report, np.stack(found), labels)


def test_dense_evaluation_averages_logits_of_places(state: dict[str, np.ndarray]) -> None:
    """What the docstring says of the average pool: the last layer at every place, then the mean."""
    image = np.random.default_rng(0).normal(size=(1, 40, 24, 3))
    model = resnet_torch.create_model(SPEC, weights=state, dtype="float64")
    last = list(resnet_torch.activations(model, image))[-1]
    features = resnet_torch.activations(model, image, [last])[last]
    assert features.shape[1:3] == (10, 6)
    places = features @ state["fc.weight"].T.astype(np.float64) + state["fc.bias"]
    np.testing.assert_allclose(resnet_torch.predict(model, image), places.mean((1, 2)), rtol=1e-12)


def test_the_papers_scales_fit_the_net(folder: Path, weights: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"path": str(folder), "format": "folder", "crops": "multi_scale"}
    assert opened(weights, **options).views.scales == (16, 18, 27, 34, 46)
    whole = tmp_path / "whole.safetensors"
    large = PREPARE.model_copy(update={"image_size": 224})
    write_safetensors(whole, Checkpoint(random_weights(compile_plan(SPEC), 0), SPEC, large))
    assert opened(whole, **options).views.scales == PAPER_SCALES == (224, 256, 384, 480, 640)


def test_averages_of_probabilities_that_vanish() -> None:
    logits = np.array([[[0.0, -2000.0, -1000.0], [0.0, -1500.0, -1400.0]]])
    np.testing.assert_allclose(averaged(logits), [[0, -1500 - np.log(2), -1000 - np.log(2)]])
    shifted = averaged(np.random.default_rng(0).normal(size=(4, 6, 9)))
    np.testing.assert_allclose(np.exp(shifted).sum(1), 1)


@pytest.mark.parametrize("crops", ["center", "10", "multi_scale"])
def test_engines_see_the_same_and_agree(
    pool: Pool, folder: Path, weights: Path, crops: str
) -> None:
    seen: dict[str, list[tuple[tuple[int, ...], str]]] = {}

    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        class Watched:
            def call(self, operation: str, **arguments: Any) -> Any:
                if operation == "classify" and "images" in arguments:
                    batch = read_safetensors(arguments["images"]).state["images"]
                    digest = hashlib.sha256(np.ascontiguousarray(batch)).hexdigest()
                    seen.setdefault(engine.name, []).append((batch.shape, digest))
                return pool[engine.name].call(operation, **arguments)

        yield Watched()

    options: dict[str, Any] = {"path": str(folder), "format": "folder", "crops": crops}
    if crops == "multi_scale":
        options |= {"scales": (16, 18), "limit": 8}
    report = run(pool, weights, "torch,flax", start=start, batch_size=10, **options)
    assert report.holds, report.problems
    assert seen["torch"] == seen["flax"]
    for shape, _ in seen["torch"]:
        views = 2 if crops == "multi_scale" else 10
        # Ten views of 16 pixels at most, or what an image has.
        assert np.prod(shape[:3]) <= max(10 * 16 * 16, views * shape[1] * shape[2])
    (found,) = report.pairs
    assert found.same_top1 == 1
    assert 0 < found.logits < 1e-13
    assert report.ran[0].top1 == report.ran[1].top1
    assert report.tolerance == 1e-12


@contextlib.contextmanager
def changed(pool: Pool, by: float, name: str = "fc.weight") -> Iterator[Callable[..., Any]]:
    """A start of workers, of which flax gets weights of which one value is another."""

    class Changed:
        def call(self, operation: str, **arguments: Any) -> Any:
            if "net" in arguments:
                file = Path(arguments["net"]["weights"])
                found = dict(read_safetensors(file).state)
                found[name] = found[name].astype(np.float64)
                found[name].reshape(-1)[5] += by
                other = file.with_name("other.safetensors")
                write_safetensors(other, Checkpoint(found))
                arguments["net"] = {**arguments["net"], "weights": str(other)}
            return pool["flax"].call(operation, **arguments)

    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        yield Changed() if engine.name == "flax" else pool[engine.name]

    yield start


@pytest.mark.parametrize(
    ("dtype", "by", "caught"),
    [
        ("float64", 1e-9, True),
        ("float32", 0.0, False),
        ("float32", 1e-8, False),
        ("float32", 1e-2, True),
        ("bfloat16", 0.0, False),
    ],
)
def test_an_engine_with_another_weight_is_caught(
    pool: Pool,
    folder: Path,
    weights: Path,
    state: dict[str, np.ndarray],
    dtype: str,
    by: float,
    caught: bool,
) -> None:
    with changed(pool, by) as start:
        options: dict[str, Any] = {"path": str(folder), "format": "folder", "start": start}
        report = run(pool, weights, "torch,flax", dtype=dtype, batch_size=5, **options)
    assert report.holds is not caught, report.problems
    if dtype == "float32":
        assert report.tolerance is not None
        assert 1e-7 < report.tolerance < 1e-4
        assert "float32 rounding is measured to cause" in report.rule
    if caught:
        (problem,) = report.problems
        assert "torch and flax differ by " in problem
        other = {"fc.weight": state["fc.weight"].astype(np.float64)}
        other["fc.weight"].reshape(-1)[5] += 0.1
        inputs = [PREPARE([image])[0] for image in pictures(folder)[0]]
        apart = np.abs(logits_of(state, inputs) - logits_of(state | other, inputs)).max(1)
        i = int(apart.argmax())
        assert i > 5
        assert problem.endswith(str(folder / NAMES[i // PER_CLASS] / f"{i % PER_CLASS}.png"))


def test_images_on_which_engines_disagree(
    pool: Pool, folder: Path, weights: Path, state: dict[str, np.ndarray]
) -> None:
    images, labels = pictures(folder)
    inputs = [PREPARE([image])[0] for image in images]
    with changed(pool, 5.0, "fc.bias") as start:
        options: dict[str, Any] = {"path": str(folder), "format": "folder", "start": start}
        report = run(pool, weights, "torch,flax", batch_size=2, **options)
    right = logits_of(state, inputs)
    wrong = right + 5.0 * (np.arange(len(NAMES)) == 5)
    different = np.flatnonzero(right.argmax(1) != wrong.argmax(1))
    assert len(different) > 5
    (found,) = report.pairs
    assert found.same_top1 == pytest.approx(1 - len(different) / len(images))
    assert found.logits == pytest.approx(5 / np.abs(right).max())
    files = [str(folder / NAMES[i // PER_CLASS] / f"{i % PER_CLASS}.png") for i in different[:5]]
    assert [x["image"] for x in found.disagreements] == files
    assert [x["label"] for x in found.disagreements] == [NAMES[labels[i]] for i in different[:5]]
    assert [x["torch"] for x in found.disagreements] == [
        NAMES[right[i].argmax()] for i in different[:5]
    ]
    assert {x["flax"] for x in found.disagreements} == {"class_f"}


def test_an_engine_that_breaks_off_is_told(pool: Pool, folder: Path, weights: Path) -> None:
    class Broken:
        calls = 0

        def call(self, operation: str, **arguments: Any) -> Any:
            self.calls += 1
            if self.calls > 3:
                raise EngineError("the worker process was killed by SIGKILL")
            return pool["flax"].call(operation, **arguments)

    @contextlib.contextmanager
    def start(engine: Engine, device: Device) -> Iterator[Any]:
        yield Broken() if engine.name == "flax" else pool[engine.name]

    options: dict[str, Any] = {"path": str(folder), "format": "folder", "start": start}
    report = run(pool, weights, "torch,flax", batch_size=5, **options)
    assert [ran.engine for ran in report.ran] == ["torch"]
    assert report.ran[0].images == len(NAMES) * PER_CLASS
    assert report.problems == ["flax failed: the worker process was killed by SIGKILL"]


@pytest.mark.parametrize("crops", ["center", "10"])
def test_an_image_that_is_damaged(pool: Pool, weights: Path, tmp_path: Path, crops: str) -> None:
    write_images(tmp_path)
    damaged = tmp_path / "class_g" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ResNetError, match=r"class_g/1\.png: "):
        run(pool, weights, path=str(tmp_path), format="folder", crops=crops, batch_size=20)


def test_weights_that_are_not_finite(
    pool: Pool, folder: Path, tmp_path: Path, state: dict[str, np.ndarray]
) -> None:
    file = tmp_path / "w.safetensors"
    spoilt = state | {"fc.bias": np.full_like(state["fc.bias"], np.nan)}
    write_safetensors(file, Checkpoint(spoilt, SPEC, PREPARE, NAMES))
    for crops in ("center", "10"):
        report = run(pool, file, "torch,flax", path=str(folder), format="folder", crops=crops)
        first = f"are not finite numbers, first for {folder / 'class_a' / '0.png'}"
        assert report.problems == [
            f"{name} gives logits that {first}" for name in ("torch", "flax")
        ]
        data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        assert data["engines"][0]["loss"] is None
        assert data["engines"][0]["top5"] == 0
        assert data["pairs"][0]["logits"] is None


def test_classes_in_another_order(
    pool: Pool, folder: Path, tmp_path: Path, weights: Path, state: dict[str, np.ndarray]
) -> None:
    order = np.random.default_rng(1).permutation(len(NAMES))
    moved = state | {name: state[name][order] for name in ("fc.weight", "fc.bias")}
    file = tmp_path / "moved.safetensors"
    labels = tuple(NAMES[i] for i in order)
    write_safetensors(file, Checkpoint(moved, SPEC, PREPARE, labels))
    options: dict[str, Any] = {"path": str(folder), "format": "folder"}
    here, there = run(pool, weights, **options), run(pool, file, **options)
    assert here.notes == ()
    assert "in another order than the weights' labels" in there.notes[0]
    assert scores_of(here.ran[0]) == scores_of(there.ran[0])
    # Labels that are given count for more: now most classes are wrong.
    wrong = run(pool, file, **options, labels=NAMES)
    assert wrong.notes == ()
    assert abs(wrong.ran[0].loss - here.ran[0].loss) > 0.01


def test_a_few_images_are_spread_over_the_data(folder: Path, weights: Path) -> None:
    options: dict[str, Any] = {"path": str(folder), "format": "folder"}
    assert len(opened(weights, **options, limit=1000).dataset) == 24
    found = opened(weights, **options, limit=8).dataset
    assert found.labels.tolist() == list(range(8))
    assert found.where(3) == str(folder / "class_d" / "0.png")


def test_layouts_of_folders(folder: Path, weights: Path, tmp_path: Path) -> None:
    for name in ("whole/train", "whole/val", "half/val"):
        write_images(tmp_path / name)
    # A part may lack classes; its labels are those of training.
    for file in (tmp_path / "whole/val/class_a").iterdir():
        file.unlink()
    (tmp_path / "whole/val/class_a").rmdir()
    for root, held_out in (
        (folder, folder),
        *((tmp_path / n, tmp_path / n / "val") for n in ("whole", "half")),
    ):
        found = opened(weights, path=str(root), format="folder").dataset
        assert found.where(0).startswith(str(held_out / "class_"))
        assert found.labels[-1] == 7
    assert found.labels[0] == 0
    whole = opened(weights, path=str(tmp_path / "whole"), format="folder")
    assert whole.dataset.labels[0] == 1


DIGITS = {"depths": [1, 1, 1], "num_classes": 10, "in_channels": 1, "image_size": 8}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """What `train` leaves of a run that subtracts the mean image."""
    spec = resolve("resnet20", DIGITS)
    path = tmp_path / "run"
    path.mkdir()
    data = {"format": "digits", "per_pixel_mean": True}
    recipe = {"model": "resnet20", "options": {"depths": [1, 1, 1]}, "data": data, "epochs": 1}
    (path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "learning_rate": 0.1}))
    told = Preprocessing(image_size=8, crop=1, mean=(0.3,), std=(0.4,))
    digits = tuple("0123456789")
    whole = Checkpoint(random_weights(compile_plan(spec), 1), spec, told, digits)
    write_safetensors(path / "weights.safetensors", whole)
    return path


def test_the_mean_image_of_a_run(pool: Pool, trained: Path) -> None:
    from resnet_parity.datasets import open_dataset

    report = run(pool, trained)
    parts = [open_dataset(DataSpec(format="digits"), split) for split in ("train", "held_out")]
    pixels = [np.stack([part.image(i) for i in range(len(part))]) for part in parts]
    inputs = ((pixels[1] - pixels[0].mean(0, dtype=np.float64)) / 0.4).astype(np.float32)
    state = dict(read_safetensors(trained / "weights.safetensors").state)
    model = resnet_torch.create_model(resolve("resnet20", DIGITS), weights=state, dtype="float64")
    probabilities = softmax(resnet_torch.predict(model, inputs))
    assert len(inputs) == 599
    same_scores(report, probabilities, parts[1].labels)
    assert report.to_dict()["data"] == "digits"


def test_a_recipe_for_weights_without_a_record(pool: Pool, tmp_path: Path) -> None:
    from shared_spec.training.recipe import Recipe

    file = tmp_path / "w.safetensors"
    spec = resolve("resnet20", DIGITS)
    write_safetensors(file, Checkpoint(random_weights(compile_plan(spec), 1), spec))
    prepared = opened(file, format="digits")
    assert "have no preprocessing: a mean and standard deviation of 0.5" in prepared.notes[0]
    assert prepared.views.preprocessing == Preprocessing.default(spec)
    recipe = Recipe.parse(
        {"model": "resnet20", "data": {"format": "digits"}, "epochs": 1}
        | {"learning_rate": 0.1, "batch_size": 8}
    )
    prepared = opened(file, recipe=recipe)
    assert "the recipe's is used" in prepared.notes[0]
    assert prepared.views.preprocessing.crop == 1
    assert 0.2 < prepared.views.preprocessing.mean[0] < 0.4


def bad(**changes: Any) -> Callable[[Path, Path, Path], list[Any]]:
    return lambda weights, folder, run: [
        changes.get("weights", weights),
        *(x for k, v in ({"data": folder, "format": "folder"} | changes).items()
          if k != "weights" and v is not None for x in (f"--{k.replace('_', '-')}", v)),
    ]  # fmt: skip


REFUSED: dict[str, tuple[Callable[[Path, Path, Path], list[Any]], str]] = {
    "no weights": (bad(weights="nowhere.pth"), "nowhere.pth: there is no such file of weights"),
    "no data": (bad(data=None, format=None), "data: name what to evaluate on, by --data and"),
    "no folder": (bad(data="nowhere"), "nowhere: there is none"),
    "no format": (bad(format="png"), "format"),
    "two sources": (bad(recipe="digits"), "recipe: it gives the format of the data itself"),
    "no recipe": (bad(data=None, format=None, recipe="digit"), "did you mean 'digits'"),
    "crops": (bad(crops="five"), "crops: 'five' is not one of center, 10, multi_scale"),
    "scales": (bad(scales="9,8"), "scales: only with the crops multi_scale"),
    "no scales": (bad(crops="multi_scale", scales="a"), "scales: 'a' is not a list of pixels"),
    "scale 0": (bad(crops="multi_scale", scales="9,0"), "scales: 0 is none; shorter sides of 1"),
    "twice": (bad(crops="multi_scale", scales="9,9"), "scales: each once, and at least one"),
    "engine": (bad(engines="tensor"), "there is no engine 'tensor'"),
    "dtype": (bad(dtype="int8"), "dtype: 'int8' is not one of float64, float32"),
    "device": (bad(device="npu"), "device: 'npu' is not one of"),
    "classes": (
        bad(format="digits", data=None),
        "the net has 8 classes, and the data 10 ('0', '1', '2' and 7 more)",
    ),
    "names": (bad(labels="LABELS"), "the data's classes 'class_a', 'class_b', 'class_c' and 5 more"
              " are not among the weights' labels ('x0', 'x1', 'x2' and 5 more); --labels"),
    "mean image": (
        lambda weights, folder, run: [run, "--crops", "10"],
        "crops: the recipe subtracts the mean image (per_pixel_mean), which has one size",
    ),
    "not ended": (
        lambda weights, folder, run: [(run / "weights.safetensors").unlink() or run],
        "the training has not come to its end, and has no weights.safetensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_before_any_engine_starts(
    folder: Path, weights: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("resnet_parity.engines.process.subprocess.Popen", None)
    make, sentence = REFUSED[what]
    labels = trained / "labels.txt"
    labels.write_text("\n".join(f"x{i}" for i in range(8)))
    arguments = [str(labels if x == "LABELS" else x) for x in make(weights, folder, trained)]
    with pytest.raises(ResNetError) as caught:
        app.app(["evaluate", *arguments], standalone_mode=False)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_engine_that_is_missing(
    folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_parity.engines.process.subprocess.Popen", None)
    monkeypatch.setattr(Engine, "missing", lambda engine: "jax not installed; run: pip install")
    with pytest.raises(ResNetError, match="flax: jax not installed"):
        app.app(["evaluate", str(weights), "--engines", "flax"], standalone_mode=False)


def test_the_command(folder: Path, weights: Path) -> None:
    options = ["--data", folder, "--format", "folder", "--engines", "torch", "--limit", 6]
    done = command("evaluate", weights, *options, "--json")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    assert data["images"] == 6
    (row,) = data["engines"]
    assert row["top1"] + row["top1_error"] == 1
    done = command("evaluate", weights, "--data", folder, "--format", "idx")
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_the_table_and_the_exit_code(
    pool: Pool, folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with changed(pool, 5.0, "fc.bias") as start:
        report = run(pool, weights, "torch,flax", path=str(folder), format="folder", start=start)
    out = Console(file=io.StringIO(), width=200)
    tables.evaluated(out, report.to_dict())
    text = out.file.getvalue()  # type: ignore[attr-defined]
    for part in ("top-1 error", "images/s", "✗ does not hold", "/0.png (class_", "flax class_f"):
        assert part in text
    monkeypatch.setattr("resnet_parity.evaluate.scoring.evaluate", lambda *_, **__: report)
    options = ["--data", str(folder), "--format", "folder", "--engines", "torch"]
    with pytest.raises(SystemExit) as ended:
        app.app(["evaluate", str(weights), *options])
    assert ended.value.code == 1


def test_formats_are_those_of_recipes() -> None:
    assert get_args(DataSpec.model_fields["format"].annotation) == FORMATS


def test_the_time_to_compile_is_left_out(pool: Pool, folder: Path, weights: Path) -> None:
    options: dict[str, Any] = {"path": str(folder), "format": "folder"}
    first = opened(weights, **options)
    torch_alone = [ENGINES["torch"]]
    scores = [evaluate(first, torch_alone, start=pool.start).ran[0] for _ in range(2)]
    assert scores_of(scores[0]) == scores_of(scores[1])
    # One batch, for which a compiler would have worked: its time tells nothing.
    assert scores[0].images_per_second is None
    fours = opened(weights, **options, batch_size=4)
    many = evaluate(fours, torch_alone, start=pool.start)
    assert many.ran[0].images_per_second is not None
