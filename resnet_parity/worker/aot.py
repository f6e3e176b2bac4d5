"""The operation of a worker that `aot` asks for: compiling what users run, for other devices."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.engines.aot_job import AotJob, Program
from resnet_parity.worker.contenders import bench_optimization
from resnet_parity.worker.session import Session, one_line
from shared_spec.atomic_write import durable
from shared_spec.download import cache_folder
from shared_spec.kernels import xla
from shared_spec.plan.folding import Inference
from shared_spec.training.state import Placed


def aot_info(session: Session) -> dict[str, Any]:
    """The versions of what compiles, and what its user told it by variables."""
    own = "flax" if session.package == "resnet_flax" else "keras"
    return {"versions": _versions("jax", "jaxlib", "libtpu", own), "settings": _settings()}


def aot_compile(session: Session, job: dict[str, Any]) -> dict[str, Any]:
    """Compile for the devices of a job; a program that was compiled before, for the same devices by
    the same compiler, is read from the cache.
    """
    asked = AotJob.from_dict(job)
    with _as_on_a_host(session):
        devices = _devices(asked)
        with xla.ahead_of_time("cpu" if asked.topology == "cpu" else "tpu"):
            lowered = _lowered(session, asked, devices)
            kept = _place(lowered, asked)
            with suppress(OSError, ValueError):
                return Program.from_dict(json.loads(kept.read_text())).to_dict()
            found = _compiled(lowered, len(devices)).to_dict()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with durable(kept) as draft:
        draft.write_text(json.dumps(found))
    return found


OPERATIONS = (aot_info, aot_compile)


@contextmanager
def _as_on_a_host(session: Session) -> Iterator[None]:
    """As users have JAX there: without 64 bits, and with its own precision of products."""
    import jax

    # Asks no server what this machine is, and lets several processes have the library at once.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    with session.at_precision("default"), jax.enable_x64(False):
        yield


def _devices(job: AotJob) -> list[Any]:
    import jax
    from jax.experimental import topologies

    if job.topology == "cpu":
        return jax.devices()
    options = {} if job.host is None else {"chips_per_host_bounds": job.host}
    found = topologies.get_topology_desc(platform="tpu", topology_name=job.topology, **options)
    return list(found.devices)


def _lowered(session: Session, job: AotJob, devices: list[Any]) -> Any:
    """What users call, for images that are spread over devices and weights that are everywhere."""
    import jax

    sharding: Any = jax.sharding
    array: Any = jax.ShapeDtypeStruct
    mesh = sharding.Mesh(np.array(devices), ("batch",))
    everywhere = sharding.NamedSharding(mesh, sharding.PartitionSpec())
    spread = sharding.NamedSharding(mesh, sharding.PartitionSpec("batch"))

    def described(x: Any) -> Any:
        where = spread if isinstance(x, array) else everywhere
        return array(np.shape(x), jax.dtypes.result_type(x), sharding=where)

    count = job.batch * len(devices)
    dtype = job.dtype if job.mode == "infer" else "float32"
    model = session.resnet.create_model(job.net, dtype=dtype, inference=_FORMS.get(job.form, False))
    images = array((count, *job.size, job.net.in_channels), dtype)
    try:
        if job.mode == "infer":
            session.resnet.compiled(model)(images)
        else:
            how = bench_optimization(job.dtype, job.form)
            trainer = session.resnet.Trainer(model, how, 10**6)
            trainer.step(Placed(images, array((count,), "int32")))
    except xla.Planned as planned:
        return planned.function.lower(*jax.tree.map(described, planned.args))
    raise AssertionError("a function that users call was not compiled by xla.jit")


_FORMS = {"inference": True, "space_to_depth": Inference(space_to_depth=True)}


def _place(lowered: Any, job: AotJob) -> Path:
    """The file of the cache for a program, on these devices, by this compiler with its options."""
    figures = [field.name for field in fields(Program)]
    asked = [job.topology, job.host, _versions("jaxlib", "libtpu"), _settings(), figures]
    told = json.dumps([lowered.as_text(), asked])
    return cache_folder() / "aot" / f"{hashlib.sha256(told.encode()).hexdigest()}.json"


def _versions(*names: str) -> dict[str, str]:
    """Of those that are installed; devices of the worker's own need no libtpu."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _settings() -> dict[str, str]:
    """What users told the compiler by variables."""
    return {name: os.environ[name] for name in _SETTINGS if name in os.environ}


_SETTINGS = (
    *("XLA_FLAGS", "LIBTPU_INIT_ARGS"),
    *("JAX_EXEC_TIME_OPTIMIZATION_EFFORT", "JAX_MEMORY_FITTING_EFFORT"),
)


def _compiled(lowered: Any, devices: int) -> Program:
    start = time.perf_counter()
    try:
        program = lowered.compile()
    # Whatever a compiler may say of a program that it cannot have.
    except Exception as error:
        seconds = time.perf_counter() - start
        return Program(devices, seconds, refused=one_line(error), exceeds=_exceeds(str(error)))
    seconds = time.perf_counter() - start
    memory, cost, text = program.memory_analysis(), program.cost_analysis() or {}, program.as_text()
    return Program(
        devices,
        seconds,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        unpadded=_unpadded(lowered, program),
        flops=cost.get("flops"),
        traffic=cost.get("bytes accessed"),
        cycles=sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text))) or None,
        text=tuple(line.strip() for line in text.splitlines() if _told(line)),
    )


def _unpadded(lowered: Any, program: Any) -> int:
    """Of arguments and outputs on one device."""
    import jax

    arrays = jax.tree.leaves((lowered.args_info, lowered.out_info))
    # None for an argument that nothing reads, which the program then has not.
    shardings = jax.tree.leaves(
        (program.input_shardings, program.output_shardings), is_leaf=lambda x: x is None
    )
    return sum(
        math.prod(sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array, sharding in zip(arrays, shardings, strict=True)
        if sharding is not None
    )


def _told(line: str) -> bool:
    return " = " in line and any(kind in line for kind in _COLLECTIVES)


_COLLECTIVES = (" all-", " reduce-scatter", " collective-", " ragged-all-")

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _exceeds(text: str) -> float | None:
    """The bytes of `Used 179.73G of 15.75G hbm`, or of `(19.68G) exceeds available HBM`."""
    found = re.search(r"\b([\d.]+)([KMGT]?)\)? (?:exceeds|of [\d.]+[KMGT]? hbm)", text)
    return float(found[1]) * _UNITS[found[2]] if found else None
