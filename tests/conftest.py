"""One worker process an engine for the whole session, and parametrisation over engines."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import (
    ALL_ENGINES,
    DEVICES,
    ENGINES,
    Device,
    Engine,
    parse_engines,
)
from shared_spec import ResNetError
from tests import tiers
from tests.in_process import InProcessWorker

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

# Most tests of JAX wait for XLA, which is given the same nets again and again: all processes of the
# tests share one cache. Its size has no limit: with one, JAX reads the time of every entry whenever
# it adds one, which takes longer than compiling. An entry that is read while another process writes
# it fails to decompress, and JAX compiles instead. Python 3.14 compresses entries in another way:
# each version has its own.
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / f"jax-{sys.version_info.minor}"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=DEVICES, help="where the engines compute")
    parser.addoption(
        "--tier",
        default="test",
        choices=("quick", "test", "all"),
        help="how much: what needs no framework, every fault on small samples, or the full counts",
    )
    parser.addoption(
        "--engines",
        help=f"which run, of {', '.join(ENGINES)}; one that is not installed is an error",
    )
    parser.addoption(
        "--in-process",
        action="store_true",
        help="run torch, flax and one Keras engine in this process, for breakpoint(); with -n 0",
    )
    parser.addoption("--seed", type=int, help="of what is drawn anew each day")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "frameworks: needs one, which the tier `quick` has not")
    config.addinivalue_line("markers", "optimised: JAX compiles as it does for users")
    choice = tiers.choice
    choice.tier = config.getoption("tier")
    if config.getoption("seed") is not None:
        choice.seed = config.getoption("seed")
    try:
        chosen = parse_engines(config.getoption("engines"))
    except ResNetError as error:
        raise pytest.UsageError(str(error)) from None
    choice.engines = tuple(engine.name for engine in chosen)
    if choice.tier == "quick":
        tiers.hide_frameworks()
    else:
        missing = [f"{e.name}: {e.missing()}" for e in chosen if e.missing()]
        if missing:
            raise pytest.UsageError("; ".join(missing))


def pytest_report_header() -> str:
    choice = tiers.choice
    return f"tier: {choice.tier}, engines: {','.join(choice.engines)}, --seed {choice.seed}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if tiers.choice.tier != "quick" or not collection_path.is_file():
        return None
    path = collection_path.relative_to(ROOT / "tests").as_posix()
    return path not in tiers.WITHOUT_FRAMEWORKS or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def pytest_collection_finish() -> None:
    gc.freeze()  # or each collection of garbage would go through all that was imported


def _is_left_out(item: pytest.Item) -> bool:
    """Whether it needs a framework in `quick`, or is of an engine that `--engines` leaves out."""
    if tiers.choice.tier == "quick":
        needs_pool = "pool" in getattr(item, "fixturenames", ())
        return needs_pool or item.get_closest_marker("frameworks") is not None
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    absent = ENGINES.keys() - {*tiers.choice.engines}
    return any(isinstance(value, str) and value in absent for value in values)


RESIDENT_LIMIT = 7 * 2**28
"""Bytes. JAX keeps all that it compiled; ten such workers have to fit beside one another."""

UNOPTIMISED = "JAX_DISABLE_MOST_OPTIMIZATIONS"
FAST = " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
"""With both, XLA compiles in about half the time; what it computes is held to the same bounds. Only
JAX is told, as TensorFlow's XLA ends the process at a flag that it does not know.
"""


class Remembering:
    """A worker that knows what it answered to the same request, files being the same if their
    contents are.
    """

    def __init__(self, worker: Any, answers: dict[str, tuple[Any, bytes]]) -> None:
        self.worker, self._answers = worker, answers

    def call(self, operation: str, **arguments: Any) -> Any:
        if "outputs" not in arguments:
            return self.worker.call(operation, **arguments)
        output = Path(arguments["outputs"])
        asked = {k: v for k, v in arguments.items() if k != "outputs"}
        engine = self.worker.engine.name
        key = json.dumps([engine, operation, asked], default=str, sort_keys=True)
        for path in re.findall(r'"(/[^"]+)"', key):
            if Path(path).is_file():
                key = key.replace(path, hashlib.sha256(Path(path).read_bytes()).hexdigest())
        if key not in self._answers:
            answer = self.worker.call(operation, **arguments)
            self._answers[key] = answer, output.read_bytes()
        answer, outputs = self._answers[key]
        output.write_bytes(outputs)
        return answer


class Pool:
    """Workers that stay alive between tests: starting TensorFlow takes longer than most tests."""

    def __init__(self, device: Device, in_process: bool = False) -> None:
        self.device: Device = device
        self._in_process = in_process
        self._workers: dict[str, Any] = {}
        self._answers: dict[str, tuple[Any, bytes]] = {}

    def __getitem__(self, name: str) -> Any:
        if name in ENGINES and name not in tiers.choice.engines:
            pytest.skip(f"--engines leaves out {name}")
        if name not in self._workers and self._in_process:
            self._workers[name] = InProcessWorker(ALL_ENGINES[name], self.device)
        elif name not in self._workers:
            # A test's own folder is gone when the next one uses the worker.
            with contextlib.chdir(ROOT), self._flags(name):
                self._workers[name] = Worker(ALL_ENGINES[name], self.device, module="tests.worker")
        return self._workers[name]

    @contextlib.contextmanager
    def _flags(self, name: str) -> Iterator[None]:
        before = os.environ["XLA_FLAGS"]
        if UNOPTIMISED in os.environ and name in ("flax", "keras:jax"):
            os.environ["XLA_FLAGS"] += FAST
        yield
        os.environ["XLA_FLAGS"] = before

    @contextlib.contextmanager
    def start(self, engine: Engine, device: Device = "cpu") -> Iterator[Any]:
        """In the place of `Worker` where a function starts its own."""
        yield self[engine.name]

    @contextlib.contextmanager
    def remembered(self, engine: Engine, device: Device = "cpu") -> Iterator[Any]:
        """As `start`, of a worker that computes the same thing once: for tests that compare one
        faulty net after another with the same sound one.
        """
        yield Remembering(self[engine.name], self._answers)

    def optimise(self, wanted: bool) -> None:
        """Have JAX compile as for users, or quickly: workers that do otherwise end."""
        if wanted != (UNOPTIMISED in os.environ):
            return
        for name in ("flax", "keras:jax"):
            if name in self._workers:
                self._workers.pop(name).close()
        if wanted:
            del os.environ[UNOPTIMISED]
        else:
            os.environ[UNOPTIMISED] = "1"

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
    option = request.config.getoption
    pool = Pool(option("--device"), option("--in-process"))
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def _pooled(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the pool does before and after each test that uses it."""
    if "pool" not in request.fixturenames:
        yield
        return
    pool: Pool = request.getfixturevalue("pool")
    marked = request.node.get_closest_marker("optimised") is not None
    pool.optimise(marked or tiers.choice.tier == "all")
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
