"""Several processes that train together, and the devices that one process uses."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from resnet_parity.engines.registry import Device, Engine
from shared_spec.errors import FrameworkError


def join(engine: Engine, device: Device, several: bool) -> tuple[int, int]:
    """Meet the other processes; this one's rank, and how many there are.

    Args:
        engine: torch, flax or keras:jax; others train in one process.
        device: cpu, gpu or tpu.
        several: whether there are others. `torch` finds them as `torchrun` says in the environment,
            JAX as `jax.distributed.initialize` does: by itself on TPUs and under Slurm, else by
            JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
        FrameworkError: if the engine cannot, or the environment does not name others.
    """
    if not several:
        return 0, 1
    if engine.name == "torch":
        return _torchrun(device)
    if engine.name in ("flax", "keras:jax"):
        return _jax()
    raise FrameworkError(
        f"--distributed: {engine.name} trains in one process; torch, flax and keras:jax in several"
    )


def _torchrun(device: Device) -> tuple[int, int]:
    import torch
    from torch import distributed

    # Some of its defaults are the process group at the time of the import, kept for good: `leave`
    # could not end that group's threads, and one of them can abort the process when Python ends.
    from torch.distributed.nn import functional  # noqa: F401

    if "WORLD_SIZE" not in os.environ:
        raise FrameworkError(
            "--distributed: start torch with torchrun, which tells each process its rank"
        )
    if device == "gpu":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if device == "gpu" else "gloo")
    return distributed.get_rank(), distributed.get_world_size()


def _jax() -> tuple[int, int]:
    import jax

    numbers = {key: os.environ.get(name) for key, name in _JAX.items()}
    given: dict[str, Any] = {k: v if k == _ADDRESS else int(v) for k, v in numbers.items() if v}
    try:
        jax.distributed.initialize(**given)
    except (ValueError, RuntimeError) as error:
        raise FrameworkError(
            f"--distributed: JAX cannot connect to other processes ({error})"
        ) from None
    return jax.process_index(), jax.process_count()


_ADDRESS = "coordinator_address"
_JAX = {
    _ADDRESS: "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


def leave(engine: Engine, count: int) -> None:
    """Part from the other processes."""
    if count > 1 and engine.name == "torch":
        from torch import distributed

        gc.collect()  # models in cycles hold the group too
        distributed.destroy_process_group()


@contextmanager
def devices(engine: Engine) -> Iterator[None]:
    """What Keras needs to use all devices; models and trainers have to be made within."""
    with ExitStack() as stack:
        if engine.keras_backend == "jax":
            import jax
            import keras

            if jax.device_count() > 1:
                place = keras.distribution.set_distribution
                stack.callback(place, keras.distribution.distribution())
                place(keras.distribution.DataParallel())
        if engine.keras_backend == "tensorflow":
            import tensorflow as tf

            found = tf.config.list_logical_devices("GPU")
            if len(found) > 1:
                stack.enter_context(tf.distribute.MirroredStrategy(found).scope())
        yield
