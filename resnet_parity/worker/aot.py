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

from resnet_parity.engines.aot_job import PIECES, AotJob, Program
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
    return {"versions": _versions("jax", "jaxlib", *_COMPILERS, own), "settings": _settings()}


def aot_compile(session: Session, job: dict[str, Any]) -> dict[str, Any]:
    """Compile for the devices of a job; a program that was compiled before, for the same devices by
    the same compiler, is read from the cache.
    """
    asked = AotJob.from_dict(job)
    with _as_on_a_host(session):
        devices = _devices(asked)
        with xla.ahead_of_time(_PLATFORMS[asked.topology.get("platform", "cpu")]):
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

_PLATFORMS = {"cpu": "cpu", "tpu": "tpu", "cuda": "gpu"}
"""What layers call JAX's."""


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

    if not job.topology:
        return jax.devices()
    return list(topologies.get_topology_desc(**job.topology).devices)


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
    asked = [job.topology, _versions("jaxlib", *_COMPILERS), _settings(), figures]
    # How convolutions in groups are divided stands in our code, and in the text an address.
    text = re.sub(r'(@CustomSPMDPartitioning.*?backend_config = )"\d+"', r"\1", lowered.as_text())
    ours = hashlib.sha256(Path(xla.__file__).read_bytes()).hexdigest()
    told = json.dumps([text, ours, asked])
    return cache_folder() / "aot" / f"{hashlib.sha256(told.encode()).hexdigest()}.json"


def _versions(*names: str) -> dict[str, str]:
    """Of those that are installed; devices of the worker's own need no libtpu."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


_COMPILERS = ("libtpu", "jax-cuda12-pjrt", "jax-cuda13-pjrt")
"""What compiles for devices that are not here."""


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
        text=tuple(collective_lines(text)),
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


def collective_lines(program: str) -> Iterator[str]:
    """The lines of a program in HLO's text that have a collective, with the pieces of what it takes
    (`Program.text`).
    """
    definitions, roots = _definitions(program)
    for line in map(str.strip, program.splitlines()):
        if " = " not in line or not any(kind in line for kind in _COLLECTIVES):
            continue
        taken = re.search(r" [a-z-]+\(%?([\w.-]+)\)", line)
        pieces = _pieces(taken[1], definitions, roots) if taken else []
        types = [definitions[name].partition(" ")[0] for name in pieces]
        yield f"{line}{PIECES}{' '.join(types)} */" if types else line


_COLLECTIVES = (" all-", " reduce-scatter", " collective-", " ragged-all-")


def _definitions(program: str) -> tuple[dict[str, str], dict[str, str]]:
    """What each instruction's name stands for, type first, and the root of each computation."""
    definitions: dict[str, str] = {}
    roots: dict[str, str] = {}
    computation = ""
    for line in map(str.strip, program.splitlines()):
        begins = re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line)
        defines = re.match(r"(?:ROOT )?%?([\w.-]+) = (.*)", line)
        if begins:
            computation = begins[1]
        elif defines:
            definitions[defines[1]] = re.sub(r"/\*.*?\*/", "", defines[2])
            if line.startswith("ROOT"):
                roots[computation] = defines[1]
    return definitions, roots


def _pieces(name: str, definitions: dict[str, str], roots: dict[str, str]) -> list[str]:
    """The arrays that an array was put together of, looked for behind fusions and views of it."""
    index = 0
    while (told := definitions.get(name)) is not None:
        operation = re.search(r" ([a-z-]+)\(([^)]*)\)", told)
        if operation is None:
            break
        operands = [one.strip().lstrip("%") for one in operation[2].split(",")]
        inside = re.search(r"calls=%?([\w.-]+)", told)
        if operation[1] == "concatenate":
            return operands
        if operation[1] == "fusion" and inside is not None:
            name = roots[inside[1]]
        elif operation[1] == "get-tuple-element":
            index = int(re.findall(r"index=(\d+)", told)[0])
            name = operands[0]
        elif operation[1] == "tuple":
            name = operands[index]
        elif operation[1] == "bitcast":
            name = operands[0]
        else:
            break
    return []


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _exceeds(text: str) -> float | None:
    """The bytes of `Used 179.73G of 15.75G hbm`, or of `(19.68G) exceeds available HBM`."""
    found = re.search(r"\b([\d.]+)([KMGT]?)\)? (?:exceeds|of [\d.]+[KMGT]? hbm)", text)
    return float(found[1]) * _UNITS[found[2]] if found else None
