"""Train a small ResNet on handwritten digits in the framework of your choice.

    python examples/train_digits.py --engine torch
    python examples/train_digits.py --engine keras:jax --epochs 10 --output digits.safetensors

The fresh weights, the batches and the recipe are the same in every framework; each of the three
`train_` functions below is what a user of that framework would write. Needs scikit-learn:
`pip install 'resnet-parity[examples]'`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import digits
from digits import Batches
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resnet_parity.engines.registry import ENGINES
from shared_spec import Checkpoint, ResNetError, write_safetensors

MODEL = "resnet20"
SUFFIX = ".safetensors"
BATCH_SIZE = 64

Report = Callable[[float], None]
"""Takes the loss after every step."""


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with Nesterov momentum; the learning rate falls as a cosine from
    `learning_rate` to 0 over all steps.
    """

    epochs: int
    steps_per_epoch: int
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4

    @property
    def steps(self) -> int:
        """Number of batches in all."""
        return self.epochs * self.steps_per_epoch


def train_torch(model: Any, batches: Batches, recipe: Recipe, report: Report) -> None:
    """PyTorch: a loop; gradients are left on the parameters, and images go channels first."""
    import torch
    from torch.nn import functional

    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=recipe.steps)
    model.train()
    for images, labels in batches:
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        loss = functional.cross_entropy(logits, torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        report(loss.item())


def train_keras(model: Any, batches: Batches, recipe: Recipe, report: Report) -> None:
    """Keras: `compile` and `fit`, on whichever engine Keras runs."""
    import keras

    optimizer = keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(recipe.learning_rate, recipe.steps),
        momentum=recipe.momentum,
        nesterov=True,
        # PyTorch and optax add the decay to the gradient, and momentum then multiplies it by
        # 1 / (1 - momentum). Keras takes it off the weights directly, so the factor goes in here.
        # (Keras also has the learning rate inside the momentum, which shows only as it changes.)
        weight_decay=recipe.weight_decay / (1 - recipe.momentum),
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    # The loss that Keras reports is the mean over the epoch so far.
    tell = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: report(logs["loss"]))
    model.fit(
        batches,
        epochs=recipe.epochs,
        steps_per_epoch=recipe.steps_per_epoch,
        shuffle=False,  # the batches are shuffled already
        callbacks=[tell],
        verbose=0,
    )


def train_flax(model: Any, batches: Batches, recipe: Recipe, report: Report) -> None:
    """Flax NNX: a compiled step that differentiates a function of the model."""
    import optax
    from flax import nnx

    schedule = optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps)
    transform = optax.chain(
        optax.add_decayed_weights(recipe.weight_decay),
        optax.sgd(schedule, momentum=recipe.momentum, nesterov=True),
    )
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, images: Any, labels: Any) -> Any:
        def mean_loss(model: Any) -> Any:
            losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
            return losses.mean()

        loss, gradients = nnx.value_and_grad(mean_loss)(model)
        optimizer.update(model, gradients)
        return loss

    model.train()
    for images, labels in batches:
        report(float(step(model, optimizer, images, labels)))


TRAINERS: dict[str, Callable[..., None]] = {
    "resnet_torch": train_torch,
    "resnet_keras": train_keras,
    "resnet_flax": train_flax,
}


def run(engine: str, epochs: int, seed: int, output: Path) -> float:
    """Train, evaluate on the held-out digits, write the checkpoint; returns the accuracy, 0..1.

    Raises:
        ResNetError: if the engine is not installed or the file cannot be written.
    """
    package, keras_backend = ENGINES[engine].package, ENGINES[engine].keras_backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # fewer notes from TensorFlow
    if keras_backend is not None:
        os.environ["KERAS_BACKEND"] = keras_backend  # Keras reads it once, when imported
    resnet = importlib.import_module(package)

    training, held_out = digits.load()
    model = resnet.create_model(
        MODEL, num_classes=len(digits.LABELS), in_channels=1, image_size=8, seed=seed
    )
    recipe = Recipe(epochs, digits.steps_per_epoch(training, BATCH_SIZE))
    batches = digits.batches(training, BATCH_SIZE, epochs, seed)

    console = Console()
    console.print(
        f"{MODEL} on {engine}: {resnet.parameter_count(model):,} parameters, {len(training):,} "
        f"digits, {recipe.steps:,} steps of {BATCH_SIZE}",
        soft_wrap=True,
    )
    start = time.perf_counter()
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=recipe.steps, loss=float("nan"))
        TRAINERS[package](
            model, batches, recipe, lambda loss: progress.update(bar, advance=1, loss=loss)
        )
    seconds = time.perf_counter() - start

    logits = resnet.predict(model, digits.PREPROCESSING.normalise(held_out.pixels))
    correct = int((logits.argmax(axis=1) == held_out.labels).sum())
    console.print(
        f"trained in {seconds:.1f} s; {correct} of {len(held_out)} held-out digits right: "
        f"{correct / len(held_out):.2%}",
        soft_wrap=True,
    )
    checkpoint = Checkpoint(
        state=resnet.export_weights(model),
        spec=model.spec,
        preprocessing=digits.PREPROCESSING,
        labels=digits.LABELS,
    )
    write_safetensors(output, checkpoint)
    console.print(f"wrote {output}", soft_wrap=True)
    return correct / len(held_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", required=True, choices=ENGINES, metavar="|".join(ENGINES))
    parser.add_argument("--epochs", type=positive, default=60, help="passes over the data (60)")
    parser.add_argument("--seed", type=natural, default=0, help="of weights and batches (0)")
    parser.add_argument(
        "--output",
        type=output_file,
        default=f"digits_{MODEL}{SUFFIX}",
        metavar="FILE",
        help="the checkpoint (%(default)s)",
    )
    arguments = parser.parse_args()
    try:
        run(**vars(arguments))
    except ResNetError as error:
        sys.exit(f"train_digits: {error}")


def natural(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def output_file(text: str) -> Path:
    """A path that can be written later: training should not be lost to a typing error."""
    path = Path(text)
    if path.suffix != SUFFIX:
        raise argparse.ArgumentTypeError(f"{text}: the file's name has to end in {SUFFIX}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent}: there is no such folder")
    return path


if __name__ == "__main__":
    main()
