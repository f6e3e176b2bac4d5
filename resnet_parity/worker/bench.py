"""The operations of a worker that `bench` asks for, and the settings in which it times."""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.engines.bench_job import BenchJob, distinct_images, distinct_labels
from resnet_parity.engines.machine import cores
from resnet_parity.numerics.rounding import perturbed
from resnet_parity.worker import device_rates
from resnet_parity.worker.contenders import (
    bench_optimization,
    counted,
    import_peer,
    make_side,
    watched,
)
from resnet_parity.worker.session import Session, Written, arrays_of, writing
from shared_spec.formats.canonical_file import read_safetensors
from shared_spec.plan.compiler import compile_plan
from shared_spec.weights.state import State, cast_weights


@writing
def bench_build(session: Session, key: str, job: dict[str, Any]) -> Written:
    """Build a side and run its first pass, which compiles: what the net gives, by the names of
    `Plan.results`, or `update/<parameter>` of those that are watched. A library that is not there
    is told in `missing`.
    """
    asked, times = BenchJob.from_dict(job), {"imported": session.import_seconds}
    with as_users_run(session, asked.tf32):
        try:
            with counted(times, "imported"):
                extra = import_peer(asked.peer)
        except ImportError as error:
            return {"missing": f"{asked.peer} cannot be imported here: {error}"}, {}
        side = make_side(session, asked, times)
        names = watched(compile_plan(asked.net)) if asked.mode == "train" else []
        before = side.parameters(names)
        with counted(times, "first_call"):
            result = side.run(1)
        after = side.parameters(names)
        found: State = {f"update/{n}": after[n].astype(np.float64) - before[n] for n in names}
        if asked.mode == "infer":
            first = session.package in ("resnet_torch", "resnet_onnx")
            maps = [
                np.moveaxis(x, 1, -1) if first and x.ndim == 4 else x for x in arrays_of(result)
            ]
            found = dict(zip(compile_plan(asked.net).results(), maps, strict=True))
        session.sides[key] = side, asked.tf32
        _reset_peaks(session)
    versions = {name: str(importlib.import_module(name).__version__) for name in extra}
    return times | {"versions": versions, "settings": settings(session)}, found


def bench_time(session: Session, key: str, passes: int) -> dict[str, Any]:
    """Some passes, after one that brings caches and clocks back; and the peak memory so far."""
    side, tf32 = session.sides[key]
    with as_users_run(session, tf32):
        side.run(1)
        start = time.perf_counter()
        result = side.run(passes)
        seconds = time.perf_counter() - start
    finite = all(np.isfinite(x.astype(np.float64)).all() for x in arrays_of(result))
    peaks = {"peak_host_bytes": _host_peak(), "peak_device_bytes": _device_peak(session)}
    if "torch" in session.uses and session.device == "gpu":
        import torch

        torch.cuda.empty_cache()  # to the sides whose turn comes
    return {"seconds": seconds, "finite": finite, "peaks": peaks}


def bench_latency(session: Session, key: str, calls: int) -> list[float]:
    """Seconds of single calls, each waited for, after one that brings caches and clocks back."""
    side, tf32 = session.sides[key]
    found = []
    with as_users_run(session, tf32):
        side.run(1)
        for _ in range(calls):
            start = time.perf_counter()
            side.run(1)
            found.append(time.perf_counter() - start)
    return found


def bench_close(session: Session, key: str) -> None:
    """Forget a side."""
    session.sides.pop(key, None)
    gc.collect()


def bench_rates(
    session: Session, dtype: str, tf32: bool = False, seconds: float = device_rates.SECONDS
) -> dict[str, Any]:
    """What the session's framework reaches on its device."""
    (framework,) = session.uses
    with as_users_run(session, tf32):
        return device_rates.measure(framework, session.device, dtype, seconds).to_dict()


@writing
def bench_reference(session: Session, job: dict[str, Any], roundoff: str, trials: int) -> Written:
    """In float64: `exact/...` for what the images that a batch repeats give, or the first
    update of what is watched; `trial<i>/...` with weights changed as rounding does; and in
    `storage/...` what rounding the updated weights themselves to float32 does to an update.
    """
    asked = BenchJob.from_dict(job)
    net = asked.net
    p = compile_plan(net)
    state = cast_weights(read_safetensors(asked.weights).state, "float64")
    images = distinct_images(net, asked.size, asked.batch, asked.seed).astype(np.float64)
    found: State = {}
    for trial in range(-1, trials):
        shaken = state if trial < 0 else perturbed(p, state, roundoff, asked.seed + trial)
        name = "exact" if trial < 0 else f"trial{trial}"
        model = session.placed(net, shaken, "float64")
        if asked.mode == "infer":
            results = arrays_of(session.resnet.predict(model, images))
            found |= {f"{name}/{key}": x for key, x in zip(p.results(), results, strict=True)}
            continue
        trainer = session.resnet.Trainer(model, bench_optimization("float64"), 10**6)
        trainer.step(images, distinct_labels(net, asked.batch, asked.seed))
        after = session.resnet.export_weights(trainer.model)
        for parameter in watched(p):
            update = after[parameter] - shaken[parameter]
            found[f"{name}/update/{parameter}"] = update
            if trial < 0:
                spacing = 2.0**-23 * np.abs(state[parameter]).max() / np.abs(update).max()
                found[f"storage/update/{parameter}"] = np.array([spacing])
        del model, trainer
        gc.collect()
    return {}, found


OPERATIONS = (bench_build, bench_time, bench_latency, bench_close, bench_rates, bench_reference)


# The settings in which a user of the framework would run, and what they are.


@contextmanager
def as_users_run(session: Session, tf32: bool) -> Iterator[None]:
    """Without JAX's 64 bits, which a worker has for its references; with TF32 if requested, and
    with device memory taken as it is needed, since several processes share it.
    """
    with ExitStack() as stack:
        stack.enter_context(session.at_precision("tf32" if tf32 else "highest"))
        if "jax" in session.uses:
            import jax

            stack.enter_context(jax.enable_x64(False))
        if "torch" in session.uses:
            import torch

            torch.backends.cudnn.benchmark = True  # shapes stay: the fastest kernel is looked for
        if "tensorflow" in session.uses:
            import tensorflow as tf

            with suppress(RuntimeError):  # it has begun; then it is set already
                for gpu in tf.config.list_physical_devices("GPU"):
                    tf.config.experimental.set_memory_growth(gpu, True)
        yield


def settings(session: Session) -> dict[str, Any]:
    """What was in force, and how many threads compute."""
    (framework,) = session.uses
    threads = cores()
    precision = "highest"
    if framework == "torch":
        import torch

        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if framework == "tensorflow":
        import tensorflow as tf

        threads = tf.config.threading.get_intra_op_parallelism_threads() or threads
    if framework == "jax":
        import jax

        precision = str(jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
    return {
        "framework": framework,
        "threads": threads,
        "matmul_precision": precision,
        "variables": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }


_ENVIRONMENT = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "XLA_FLAGS", "TF_NUM_INTRAOP_THREADS"),
    # How the C library keeps memory between passes: up to a quarter of the speed on CPUs.
    *("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"),
)


def _reset_peaks(session: Session) -> None:
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if "torch" in session.uses and session.device == "gpu":
        import torch

        torch.cuda.reset_peak_memory_stats()


def _host_peak() -> int | None:
    """The most memory that the process has held since the first call."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else None
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most * (1 if sys.platform == "darwin" else 1024)


def _device_peak(session: Session) -> int | None:
    """The same of the device; JAX reports that of the whole process."""
    if session.device == "cpu":
        return None
    (framework,) = session.uses
    if framework == "torch":
        import torch

        return int(torch.cuda.max_memory_allocated())
    if framework == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    import tensorflow as tf

    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
