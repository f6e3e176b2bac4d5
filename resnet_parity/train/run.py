"""Training by a recipe, in one engine: the loop, its records, and resuming after an interruption.

A run is a folder:

    recipe.yaml             what is trained, as it was given
    metrics.jsonl           a line for every step, and for every evaluation on the held-out data
    checkpoint.safetensors  where the training is: any engine can continue from it
    weights.safetensors     what it has learnt, with spec, preprocessing and labels
    curves.png              loss and accuracy

A training depends on its recipe alone: batches and dropout follow from the seed and the number of
the step. So a run that was killed continues as if nothing had happened.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import numpy as np
import yaml
from pydantic import Field

from resnet_parity.datasets import Dataset, Loader, mean_std, open_dataset, pixel_mean
from resnet_parity.engines.registry import Device, Engine
from resnet_parity.numerics.record import JsonRecord
from resnet_parity.numerics.top_k import Scores, score
from resnet_parity.worker.distributed import devices
from shared_spec.atomic_write import durable
from shared_spec.errors import RecipeError, ResNetError
from shared_spec.formats.canonical_file import read_safetensors, write_safetensors
from shared_spec.formats.detect import RUN_WEIGHTS
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.training.recipe import Recipe, load_recipe
from shared_spec.training.state import Progress
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.preprocessing import Preprocessing

if TYPE_CHECKING:
    from resnet_parity.worker.session import Session

RECIPE, METRICS = "recipe.yaml", "metrics.jsonl"
STATE, CURVES = "checkpoint.safetensors", "curves.png"
_FLUSH = 20
"""Steps between records: reading a loss waits for the device."""


@dataclass
class TrainingObserver:
    """Receives the progress of a training run."""

    step: Callable[[int, int, float, float], None] = lambda step, steps, loss, accuracy: None
    held_out: Callable[[int, Scores], None] = lambda step, scores: None
    say: Callable[[str], None] = lambda text: None


@dataclass
class Trained(JsonRecord):
    """What a training led to."""

    folder: Path
    steps: int
    loss: float
    scores: Annotated[Scores, Field(alias="held_out")]
    seconds: float
    images_per_second: float


@dataclass
class PreparedTraining:
    """All that a training needs and that needs no framework, opened and checked."""

    recipe: Recipe
    training: Loader
    held_out: Loader
    spec: ResNetSpec
    preprocessing: Preprocessing
    names: tuple[str, ...]
    steps: int
    shard: tuple[int, int] = (0, 1)
    evaluate_every: int = field(init=False)
    save_every: int = field(init=False)

    def __post_init__(self) -> None:
        per_epoch = self.training.steps_per_epoch
        self.evaluate_every = self.recipe.evaluate_every or per_epoch
        self.save_every = self.recipe.save_every or self.evaluate_every


def prepare(
    recipe: Recipe, threads: int | None = None, shard: tuple[int, int] = (0, 1)
) -> PreparedTraining:
    """Open the data of a recipe and check that all fits together, before any work starts. `shard`
    is the rank of this process and the number of those that train together.

    Raises:
        ResNetError: if data are missing or damaged, or the recipe does not fit them.
    """
    data = {split: open_dataset(recipe.data, split) for split in ("train", "held_out")}
    train, held_out = data["train"], data["held_out"]
    if train.names != held_out.names or train.channels != held_out.channels:
        raise RecipeError("data: its training and held-out data have different classes or channels")
    mean_image = pixel_mean(train) if recipe.data.per_pixel_mean else None
    preprocessing = _preprocessing(recipe, train, mean_image)
    rest: dict[str, Any] = {"batch_size": recipe.batch_size, "seed": recipe.seed}
    rest |= {"preprocessing": preprocessing, "threads": threads, "mean_image": mean_image}
    loader = Loader(train, recipe.augmentation, shard=shard, **rest)
    eyes = Loader(held_out, (), **rest)
    height, width, channels = loader.image_shape
    if height != width:
        raise RecipeError(f"augmentation: images come out as {height}x{width}; end it in a crop")
    _ = eyes.held_out_shape
    spec = recipe.spec(len(train.names), channels, height)
    steps = recipe.length(loader.steps_per_epoch)
    recipe.check_parts(spec)
    return PreparedTraining(recipe, loader, eyes, spec, preprocessing, train.names, steps, shard)


def _preprocessing(recipe: Recipe, train: Dataset, mean_image: np.ndarray | None) -> Preprocessing:
    given = recipe.preprocessing or {}
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    if "mean" not in given or "std" not in given:
        mean, std = mean_std(train)
    if mean_image is not None:
        # The weights carry one mean a channel: what is left of the image is a matter of training.
        mean = tuple(map(float, mean_image.mean((0, 1))))
    sizes = [getattr(a, "size", None) for a in recipe.augmentation]
    side = next((size for size in reversed(sizes) if size), min(train.image(0).shape[:2]))
    return recipe.measured(mean, std, side)


def train(
    prepared: PreparedTraining,
    engine: Engine,
    folder: Path,
    *,
    device: Device = "cpu",
    resume: bool = False,
    observer: TrainingObserver | None = None,
) -> Trained:
    """Train in this process, which must not have used another engine of Keras before.

    Args:
        prepared: see `prepare`.
        engine: which engine.
        folder: of the run.
        device: cpu, gpu or tpu.
        resume: go on with what is in the folder.
        observer: receives its progress.

    Raises:
        ResNetError: if the folder holds another run, the engine is missing, or the loss is no
            longer a number.
    """
    from resnet_parity.worker.session import Session

    observer = observer or TrainingObserver()
    recipe = prepared.recipe
    first = prepared.shard[0] == 0
    state = _claim(folder, recipe, resume, first)
    session = Session(engine.package, device)
    with devices(engine):
        model = _model(session, prepared)
        trainer = session.resnet.Trainer(model, recipe.optimization, prepared.steps)
        if state is not None:
            trainer.load_state(read_safetensors(state).state, str(state))
            observer.say(f"continuing after step {trainer.step_number} of {prepared.steps}")
        run = _TrainingRun(prepared, session, trainer, folder, observer)
        with _records(folder if first else None, trainer.step_number) as records:
            return run.go(records)


def _claim(folder: Path, recipe: Recipe, resume: bool, first: bool) -> Path | None:
    """Make the run's folder, in the first process; the state to go on from, if any."""
    state, kept = folder / STATE, folder / RECIPE
    if resume and kept.exists():
        before = load_recipe(kept)
        if before != recipe:
            now, then = recipe.to_dict(), before.to_dict()
            names = sorted(k for k in now.keys() | then.keys() if now.get(k) != then.get(k))
            raise RecipeError(
                f"{folder}: was trained with another recipe; {', '.join(names)} differ"
            )
        return state if state.exists() else None
    if not first:
        return None
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(f"{folder}: is not empty; continue with --resume, or name another folder")
    if resume:
        raise RecipeError(f"{folder}: there is no run to resume")
    folder.mkdir(parents=True, exist_ok=True)
    with durable(kept) as draft:
        draft.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True))
    return None


def _model(session: Session, prepared: PreparedTraining) -> Any:
    recipe, spec = prepared.recipe, prepared.spec
    asked: dict[str, Any] = {"seed": recipe.seed, "dtype": recipe.dtype}
    if recipe.weights is not None:
        asked["weights"] = recipe.weights
        # As overrides, so that another number of classes or channels is taken as asked for.
        asked |= {"num_classes": spec.num_classes, "in_channels": spec.in_channels}
    return session.moved(session.resnet.create_model(spec, **asked))


def _records(folder: Path | None, step: int) -> IO[str]:
    """The file of metrics, without the lines of steps after `step`; without a
    folder, one that is thrown away.
    """
    if folder is None:
        return io.StringIO()
    path = folder / METRICS
    lines = path.read_text().splitlines() if path.exists() else []
    kept = []
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the machine stopped within a line
        if line.get("step", 0) <= step:
            kept.append(text)
    with durable(path) as draft:
        draft.write_text("".join(f"{line}\n" for line in kept))
    return path.open("a", encoding="utf-8")


@dataclass
class _TrainingRun:
    """A training on its way."""

    prepared: PreparedTraining
    session: Session
    trainer: Any
    folder: Path
    observer: TrainingObserver
    loss: float = math.nan
    scores: Scores | None = None
    _pending: list[tuple[int, Progress]] = field(default_factory=list)
    _average: Any = None

    def go(self, records: IO[str]) -> Trained:
        """All steps that are left."""
        p, trainer = self.prepared, self.trainer
        begun, first = time.perf_counter(), trainer.step_number
        batches = p.training.batches(first, p.steps - first)
        try:
            for images, labels in batches:
                self._pending.append((trainer.step_number, trainer.step(images, labels)))
                step = trainer.step_number
                if step % _FLUSH == 0 or step == p.steps:
                    self._flush(records)
                if step % p.evaluate_every == 0 or step == p.steps:
                    self._look(records)
                if step % p.save_every == 0 or step == p.steps:
                    self._flush(records)
                    self._save()
        except KeyboardInterrupt:
            self._flush(records)
            self._save()
            raise
        finally:
            batches.close()
        seconds = time.perf_counter() - begun
        if self.scores is None:  # there was nothing left to do
            self._look(records)
        scores = self.scores or Scores(math.nan, math.nan, math.nan, 0)
        if self._first:
            learnt = Checkpoint(trainer.averaged(), p.spec, p.preprocessing, p.names)
            write_safetensors(self.folder / RUN_WEIGHTS, learnt)
        speed = (p.steps - first) * p.recipe.batch_size / max(seconds, 1e-9)
        return Trained(self.folder, p.steps, self.loss, scores, seconds, speed)

    def _flush(self, records: IO[str]) -> None:
        """Write down what the device has reported in the meantime."""
        size = self.prepared.recipe.batch_size
        for number, progress in self._pending:
            loss, correct = float(progress.loss), int(progress.correct)
            rate = self.prepared.recipe.rate(number, self.prepared.steps)
            if not math.isfinite(loss):
                raise ResNetError(
                    f"the loss of step {number + 1} is {loss}; lower learning_rate or set clip_norm"
                )
            line = {"step": number + 1, "loss": loss, "accuracy": correct / size, "rate": rate}
            records.write(json.dumps(line) + "\n")
            self.loss = loss
            self.observer.step(number + 1, self.prepared.steps, loss, correct / size)
        self._pending.clear()
        records.flush()

    def _look(self, records: IO[str]) -> None:
        """Score the held-out data, in the first process: the others wait at the next step."""
        self._flush(records)
        if not self._first:
            return
        model = self._evaluated()
        self.scores = score(
            lambda images: self.session.resnet.predict(model, images),
            self.prepared.held_out.held_out_batches(),
        )
        line = {"step": self.trainer.step_number, "held_out": self.scores.to_dict()}
        records.write(json.dumps(line) + "\n")
        records.flush()
        self.observer.held_out(self.trainer.step_number, self.scores)

    def _evaluated(self) -> Any:
        """The model to score: of averaged weights, if the recipe keeps them, and of this process
        alone.
        """
        if self.prepared.recipe.ema_decay is None and self.prepared.shard[1] == 1:
            return self.trainer.model
        if self._average is None:
            dtype = self.prepared.recipe.dtype
            model = self.session.resnet.create_model(self.prepared.spec, dtype=dtype)
            self._average = self.session.moved(model)
        return self.session.resnet.load_weights(self._average, self.trainer.averaged())

    @property
    def _first(self) -> bool:
        return self.prepared.shard[0] == 0

    def _save(self) -> None:
        if self._first:
            write_safetensors(self.folder / STATE, Checkpoint(self.trainer.state()))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.

    Raises:
        ResNetError: if there are none.
    """
    path = folder / METRICS
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ResNetError(f"{path}: cannot be read as metrics ({error})") from None
