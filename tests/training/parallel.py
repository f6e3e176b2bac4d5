"""Some steps of training on several devices, as a program of its own; see test_distributed.

    python -m tests.training.parallel KIND FOLDER [RANK COUNT PORT]

FOLDER has `job.json` (spec, recipe, dtype) and `batches.safetensors`; the state after the last step
goes to `KIND.safetensors`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from resnet_parity.engines.registry import ENGINES
from resnet_parity.worker import distributed

DEVICES = {"torch": 2, "flax": 8, "keras:jax": 8, "keras:tensorflow": 2}


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    rank, count, port = (int(x) for x in sys.argv[3:] or (0, 1, 0))
    engine, _, plain = kind.partition("-")
    many = not plain
    prepare(engine, many, count, port, rank)

    import numpy as np

    from shared_spec import Checkpoint, ResNetSpec, optimization, read_safetensors
    from shared_spec.formats.canonical_file import write_safetensors

    job = json.loads((folder / "job.json").read_text())
    batches = read_safetensors(folder / "batches.safetensors").state
    weights = dict(read_safetensors(folder / "weights.safetensors").state)
    steps = len(batches) // 2

    def run() -> dict[str, Any]:
        resnet, trainer_of = backend(engine)
        model = resnet.create_model(ResNetSpec.parse(job["spec"]), weights=weights, dtype="float64")
        trainer = trainer_of(model, optimization(**job["recipe"]), steps)
        told = []
        for i in range(steps):
            images, labels = batches[f"{i}/images"], batches[f"{i}/labels"]
            size = len(labels) // count
            part = slice(rank * size, (rank + 1) * size)
            if i == 1:  # in between, nothing changes
                gradients = trainer.gradients(images[part], labels[part])
            progress = trainer.step(images[part], labels[part])
            told.append([float(progress.loss), float(progress.correct)])
        found = {f"gradient/{k}": np.array(v) for k, v in gradients.parameters.items()}
        found["gradient.images"] = np.array(gradients.images)
        found["loss"] = np.array([gradients.loss])
        return {**trainer.state(), **found, "told": np.array(told)}

    if engine == "keras:tensorflow" and many:
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(tf.config.list_logical_devices("CPU")).scope():
            state = run()
    else:
        state = run()
    if engine == "torch" and count > 1:
        distributed.leave(ENGINES["torch"], count)
        threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
        assert not [name for name in threads if "gloo" in name], threads
    name = kind if count == 1 else f"{kind}-{rank}"
    write_safetensors(folder / f"{name}.safetensors", Checkpoint(state))


def prepare(engine: str, many: bool, count: int, port: int, rank: int) -> None:
    """Devices, before any framework is used."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_ENABLE_X64"] = "1"
    if engine.startswith("keras:"):
        os.environ["KERAS_BACKEND"] = engine.partition(":")[2]
    if many and engine in ("flax", "keras:jax"):
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES[engine]}"
    if engine == "torch" and count > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count)}
        distributed.join(ENGINES["torch"], "cpu", several=True)
    if many and engine == "keras:jax":
        import keras

        keras.distribution.set_distribution(keras.distribution.DataParallel())
    if many and engine == "keras:tensorflow":
        import tensorflow as tf

        (device,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * DEVICES[engine]
        tf.config.set_logical_device_configuration(device, parts)


def backend(engine: str) -> tuple[Any, Any]:
    if engine == "torch":
        import resnet_torch as resnet
    elif engine == "flax":
        import resnet_flax as resnet
    else:
        import resnet_keras as resnet
    return resnet, resnet.Trainer


if __name__ == "__main__":
    main()
