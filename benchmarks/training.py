"""Training throughput beside each framework's usual route on the same net, as ratios.

    python benchmarks/training.py [--batch 16] [--size 96] [--rounds 5] [--output FILE]

Each engine runs in a process of its own, and in it the two sides take turns: some steps of ours, as
many of the peer's, again and again; the medians are compared. Peers: timm's ResNet-50 in PyTorch's
usual loop (channels first, as it comes, and channels last); keras.applications with `fit`; the step
of Flax's imagenet example (Linen, jit, donated state) with optax. SGD with Nesterov momentum,
float32, batches that are in memory: neither side waits for data. Needs the test dependencies, and
for Flax's example `python -m tests.fetch_peers`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.engines import ENGINES
from shared_spec import optimization, resolve
from shared_spec.durable import durable

Side = Callable[[int], float]
"""Takes a number of steps, and returns the seconds that they took."""

NETS = {"torch": "resnet50", "flax": "flax_resnet50"}
RATE, MOMENTUM = 1e-3, 0.9


def data(batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, size, size, 3), np.float32)
    return images, rng.integers(0, 1000, batch)


def ours(package: str, name: str, images: np.ndarray, labels: np.ndarray) -> Side:
    import importlib

    resnet: Any = importlib.import_module(package)
    how = optimization(
        learning_rate=RATE, optimizer={"name": "sgd", "momentum": MOMENTUM, "nesterov": True}
    )
    trainer = resnet.Trainer(resnet.create_model(resolve(name)), how, 10**6)

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            progress = trainer.step(images, labels)
        float(progress.loss)
        return time.perf_counter() - start

    return run


def timm_loop(images: np.ndarray, labels: np.ndarray, channels_last: bool) -> Side:
    import torch

    from resnet_parity.references import timm_model

    model = timm_model("resnet50").train()
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
    x = x.contiguous()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, nesterov=True)

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()
        return time.perf_counter() - start

    return run


def keras_fit(images: np.ndarray, labels: np.ndarray) -> Side:
    import keras

    model = keras.applications.ResNet50(
        weights=None, input_shape=images.shape[1:], classifier_activation=None
    )
    model.compile(
        keras.optimizers.SGD(RATE, MOMENTUM, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    def batches() -> Iterator[Any]:
        while True:
            yield images, labels

    def run(steps: int) -> float:
        start = time.perf_counter()
        model.fit(batches(), steps_per_epoch=steps, epochs=1, verbose=0)
        return time.perf_counter() - start

    return run


def linen_step(images: np.ndarray, labels: np.ndarray) -> Side:
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import PartitionSpec

    from tests.peers import fetched

    model = fetched("flax_imagenet.models").ResNet50(num_classes=1000, dtype=jnp.float32)
    variables = model.init(jax.random.key(0), images[:1], train=False)
    transform = optax.sgd(RATE, MOMENTUM, nesterov=True)
    weights, statistics_ = variables["params"], variables["batch_stats"]
    state = weights, statistics_, transform.init(weights)

    def step(state: Any, x: Any, y: Any) -> Any:
        weights, statistics_, slots = state

        def loss(weights: Any) -> Any:
            given = {"params": weights, "batch_stats": statistics_}
            logits, changed = model.apply(given, x, train=True, mutable=["batch_stats"])
            one_hot = jax.nn.one_hot(y, 1000)
            return optax.softmax_cross_entropy(logits, one_hot).mean(), changed

        (value, changed), gradients = jax.value_and_grad(loss, has_aux=True)(weights)
        updates, slots = transform.update(gradients, slots, weights)
        return (optax.apply_updates(weights, updates), changed["batch_stats"], slots), value

    # The example's norms name the axis of a data-parallel batch, here of one device.
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, part = PartitionSpec(), PartitionSpec("batch")
    spread = jax.shard_map(
        step, mesh=mesh, in_specs=(whole, part, part), out_specs=whole, check_vma=False
    )
    compiled = jax.jit(spread, donate_argnums=0)

    def run(steps: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(steps):
            state, value = compiled(state, images, labels)
        float(value)
        return time.perf_counter() - start

    return run


def sides(engine: str, batch: int, size: int) -> dict[str, Side]:
    """Ours first, then the peers."""
    images, labels = data(batch, size)
    package = ENGINES[engine].package
    mine = ours(package, NETS.get(engine, "keras_resnet50"), images, labels)
    if engine == "torch":
        return {
            "ours": mine,
            "timm": timm_loop(images, labels, channels_last=False),
            "timm, channels last": timm_loop(images, labels, channels_last=True),
        }
    if engine == "flax":
        return {"ours": mine, "Flax's example": linen_step(images, labels)}
    return {"ours": mine, "keras.applications": keras_fit(images, labels)}


def measure(engine: str, batch: int, size: int, rounds: int, steps: int) -> dict[str, list[float]]:
    """Images a second of every side, a figure a round."""
    found = sides(engine, batch, size)
    for run in found.values():  # compiled, and warm
        run(2)
    speeds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, run in found.items():
            speeds[name].append(steps * batch / run(steps))
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", choices=ENGINES, help="only this one")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="in a round, for each side")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    numbers = [arguments.batch, arguments.size, arguments.rounds, arguments.steps]
    if arguments.worker:
        print(json.dumps(measure(arguments.engine, *numbers)))
        return
    lines = [
        "| engine | net | ours, images/s | peer | its images/s | ours / peer |",
        "|---|---|---|---|---|---|",
    ]
    for engine in [arguments.engine] if arguments.engine else ENGINES:
        command = [sys.executable, __file__, "--worker", "--engine", engine]
        for name, number in zip(("batch", "size", "rounds", "steps"), numbers, strict=True):
            command += [f"--{name}", str(number)]
        environment = ENGINES[engine].environment("cpu") | {"JAX_ENABLE_X64": "0"}
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
        answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        speeds = json.loads(answer.stdout.splitlines()[-1])
        mine = speeds.pop("ours")
        for name, theirs in speeds.items():
            ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
            net = NETS.get(engine, "keras_resnet50")
            cells = [engine, net, spread(mine), name, spread(theirs), f"{ratio:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    if arguments.output is not None:
        with durable(arguments.output) as draft:
            draft.write_text(page(arguments, lines))


def spread(speeds: list[float]) -> str:
    return f"{statistics.median(speeds):.1f} ({min(speeds):.1f}–{max(speeds):.1f})"


def page(arguments: argparse.Namespace, lines: list[str]) -> str:
    head = [
        "# Training throughput",
        "",
        f"`python benchmarks/training.py`: batches of {arguments.batch} images of "
        f"{arguments.size} pixels, float32, {os.cpu_count()} CPU cores "
        f"({platform.machine()}), median of {arguments.rounds} rounds of {arguments.steps} steps "
        "(smallest and largest), the two sides by turns. The ratio is the median of the rounds' "
        "ratios, and the one figure that travels between machines.",
        "",
    ]
    return "\n".join([*head, *lines, ""])


if __name__ == "__main__":
    main()
