"""One worker process an engine for the whole session, and parametrisation over engines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import DEVICES, ENGINES, Device, Engine

ROOT = Path(__file__).parent.parent

# One thread a process: the nets here are small, several engines are alive at once, and pools of
# threads that wait for one another by spinning make two of them many times as slow as one.
for _name in (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

# Most tests of JAX wait for XLA, which is given the same nets again and again. Each process of the
# tests has a cache of its own: an entry is not written at once.
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": str(
        ROOT / ".pytest_cache" / f"jax-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    ),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=DEVICES, help="where the engines compute")


RESIDENT_LIMIT = 7 * 2**28
"""Bytes. JAX keeps all that it compiled; ten such workers have to fit beside one another."""


class Pool:
    """Workers that stay alive between tests: starting TensorFlow takes longer than most tests."""

    def __init__(self, device: Device) -> None:
        self.device: Device = device
        self._workers: dict[str, Worker] = {}

    def __getitem__(self, name: str) -> Worker:
        if name not in self._workers:
            # A test's own folder is gone when the next one uses the worker.
            with contextlib.chdir(ROOT):
                self._workers[name] = Worker(ENGINES[name], self.device, module="tests.worker")
        return self._workers[name]

    @contextlib.contextmanager
    def start(self, engine: Engine, device: Device = "cpu") -> Iterator[Worker]:
        """In the place of `Worker` where a function starts its own."""
        yield self[engine.name]

    def trim(self) -> None:
        """End the workers that have grown; the next test that needs one starts it anew."""
        for name, worker in list(self._workers.items()):
            if worker.resident() > RESIDENT_LIMIT:
                self._workers.pop(name).close()

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()


@pytest.fixture(scope="session")
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    # Workers run with -P, so that the tests' own operations have to be on the path.
    os.environ["PYTHONPATH"] = str(ROOT)
    pool = Pool(request.config.getoption("--device"))
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def _trimmed(pool: Pool) -> Iterator[None]:
    yield
    pool.trim()


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    """Every engine in turn, by name."""
    return str(request.param)


@pytest.fixture
def worker(pool: Pool, engine: str) -> Worker:
    """The worker of every engine in turn."""
    return pool[engine]
