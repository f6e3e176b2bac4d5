"""The worker of the tests: the product's operations, and probes that need a framework."""

from __future__ import annotations

import importlib
import threading
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from resnet_parity.worker.aot import aot_compile
from resnet_parity.worker.bench import bench_time
from resnet_parity.worker.operations import OPERATIONS
from resnet_parity.worker.server import serve
from resnet_parity.worker.session import Session
from shared_spec.kernels import xla
from tests.trace.faults import faulty_gradient, faulty_trace
from tests.training.faults import faulty_train


def probe(session: Session, function: str, **arguments: Any) -> Any:
    """Call `tests.probes.<module>:<name>` with the backend package as first argument."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(f"tests.probes.{module}"), name)(
        session.resnet, **arguments
    )


def unwaited_bench_time(session: Session, key: str, passes: int) -> Any:
    """As `bench_time`, of a side that returns before it has computed."""
    side, tf32 = session.sides[key]

    def run(count: int) -> np.ndarray:
        threading.Timer(0.05, side.run, (1,)).start()
        return np.zeros(1)

    session.sides[key] = replace(side, run=run), tf32
    try:
        return bench_time(session, key, passes)
    finally:
        session.sides[key] = side, tf32


def straying(session: Session, asked: str, layer: str, **arguments: Any) -> Any:
    """The operation `asked`, of PyTorch's models with a layer that gives other bits for one image
    alone.
    """
    placed = session.placed

    def strayed(*given: Any) -> Any:
        model = placed(*given)
        model.get_submodule(layer).register_forward_hook(
            lambda module, x, y: y * (1 + 2**-20) if len(y) == 1 else None
        )
        return model

    with patch.object(session, "placed", strayed):
        return OPERATIONS[asked](session, **arguments)


def gathering_aot_compile(session: Session, job: dict[str, Any]) -> Any:
    """As `aot_compile`, of a step that brings all images to each device."""
    import jax

    sharding: Any = jax.sharding
    mesh = sharding.Mesh(np.array(jax.devices()), ("batch",))
    everywhere = sharding.NamedSharding(mesh, sharding.PartitionSpec())
    usual = xla.jit

    def jit(function: Any, dtype: str, **options: Any) -> Any:
        def gathering(*args: Any) -> Any:
            return function(
                *jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, everywhere), args)
            )

        return usual(gathering, dtype, **options)

    with patch.object(xla, "jit", jit):
        return aot_compile(session, job)


ALL_OPERATIONS = OPERATIONS | {
    function.__name__: function
    for function in (
        *(probe, straying, unwaited_bench_time, gathering_aot_compile),
        *(faulty_train, faulty_trace, faulty_gradient),
    )
}

if __name__ == "__main__":
    serve(ALL_OPERATIONS)
