"""How long a user waits: for `list`, for a model, and for the first prediction of a new process.

    python benchmarks/startup.py [--repeat 7] [--only torch] [--margin 1.5]

Each figure is the median over fresh processes, ours and the native peer's alternated: an import
that is already warm would flatter whoever comes second. Ratios travel between machines, times do
not. Ends with 1 where a first prediction takes longer than its budget, which is for the machine of
docs/results/startup.md, times the margin.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

# A CUDA build of torchvision beside a CPU build of torch lacks two operators; see tests/peers.py.
TORCHVISION = """
import torch
try:
    import torchvision.models as models
except RuntimeError:
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision.models as models
"""
# Flax has no ResNet of its own to import: the module is ours, initialised by Flax under jit.
FLAX = """
import jax
import jax.numpy as jnp
from flax import nnx
from resnet_flax.model import ResNet
from shared_spec import compile_plan, resolve
import resnet_flax.layers as layers
layers.zeros = nnx.initializers.he_normal()
spec = resolve("resnet50")
options = lambda: layers.Options(jnp.float32, None, None, nnx.Rngs(0))
make = nnx.jit(lambda: ResNet(compile_plan(spec), spec, options()))
"""
OURS = "import {package} as resnet"
BUILD = 'resnet.create_model("resnet50")'

# Name, environment, then set-up and timed statement: ours, the peer's.
PAIRS = [
    (
        "torch / torchvision.models.resnet50()",
        {},
        (OURS.format(package="resnet_torch"), BUILD),
        (TORCHVISION, "models.resnet50()"),
    ),
    *(
        (
            f"keras:{engine} / keras.applications.ResNet50(weights=None)",
            {"KERAS_BACKEND": engine},
            (OURS.format(package="resnet_keras"), BUILD),
            ("import keras", "keras.applications.ResNet50(weights=None)"),
        )
        for engine in ("tensorflow", "jax", "torch")
    ),
    (
        "flax / nnx.jit of the module's own initialisation",
        {},
        (OURS.format(package="resnet_flax"), BUILD),
        (FLAX, "jax.block_until_ready(nnx.state(make()))"),
    ),
]


# As installed: ours is not compiled anew from its source in each process.
USUAL = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
PHASES = ("python", "import", "build", "load", "first call")


@dataclass(frozen=True)
class Way:
    """How one side gets to its first prediction: a statement for each phase, and one that writes
    its `{file}` of weights beforehand.
    """

    imports: str
    build: str
    load: str
    call: str
    save: str

    def prepare(self, file: Path, environment: dict[str, str]) -> None:
        """Write the file."""
        _run([self.imports, self.build, self.save], file, environment)

    def seconds(self, file: Path, environment: dict[str, str]) -> list[float]:
        """Of each of `PHASES`, in a fresh process."""
        began = time.time()
        phases = ["import json, time; at = []", self.imports, self.build, self.load, self.call]
        timed = [f"{phase}\nat.append(time.time())" for phase in phases]
        moments = [began, *json.loads(_run([*timed, "print(json.dumps(at))"], file, environment))]
        return [b - a for a, b in pairwise(moments)]


def _run(statements: list[str], file: Path, environment: dict[str, str]) -> str:
    """The last line that a process prints."""
    script = "\n".join(statements).replace("{file}", str(file))
    env = {**USUAL, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script}\n{done.stderr}")
    return (done.stdout.splitlines() or [""])[-1]


def _own(package: str) -> Way:
    return Way(
        f"import numpy as np, {package} as resnet",
        f"model = {BUILD}",
        'resnet.load_weights(model, "{file}.safetensors")',
        "resnet.predict(model, np.zeros((1, 224, 224, 3), np.float32))",
        'resnet.save_weights(model, "{file}.safetensors")',
    )


VISION = Way(
    TORCHVISION,
    "model = models.resnet50().eval()",
    'model.load_state_dict(torch.load("{file}.pth", weights_only=True))',
    "with torch.inference_mode(): model(torch.zeros(1, 3, 224, 224))",
    'torch.save(model.state_dict(), "{file}.pth")',
)
APPLICATIONS = Way(
    "import numpy as np, keras",
    "model = keras.applications.ResNet50(weights=None)",
    'model.load_weights("{file}.weights.h5")',
    "model.predict(np.zeros((1, 224, 224, 3), np.float32), verbose=0)",
    'model.save_weights("{file}.weights.h5")',
)
# Its module has no variables before they are read, so that nothing is drawn.
EXAMPLE = Way(
    "import sys; sys.path.append(sys.prefix + '/share/peers')\n"
    "import jax, jax.numpy as jnp, numpy as np\nfrom flax import serialization\n"
    "from flax_imagenet import models",
    "model = models.ResNet50(num_classes=1000)\n"
    "forward = jax.jit(lambda v, x: model.apply(v, x, train=False))",
    'variables = serialization.msgpack_restore(open("{file}.msgpack", "rb").read())',
    "np.asarray(forward(variables, jnp.zeros((1, 224, 224, 3))))",
    "made = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=False)\n"
    'open("{file}.msgpack", "wb").write(serialization.to_bytes(made))',
)
_X = "torch.zeros(1, 3, 224, 224)"
COMPILED = (
    Way(
        "import torch, resnet_torch as resnet",
        f"model = {BUILD}",
        'resnet.load_weights(model, "{file}.safetensors")',
        f"resnet.compiled(model)({_X})",
        'resnet.save_weights(model, "{file}.safetensors")',
    ),
    Way(
        VISION.imports,
        VISION.build,
        VISION.load,
        f"with torch.inference_mode(): torch.compile(model)({_X})",
        VISION.save,
    ),
)
JAX_CACHE = {
    "JAX_COMPILATION_CACHE_DIR": "{cache}",
    "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
KERAS = _own("resnet_keras"), APPLICATIONS

FIRST: dict[str, tuple[dict[str, str], tuple[Way, Way], float]] = {
    "torch": ({}, (_own("resnet_torch"), VISION), 4.0),
    "torch, compiled": ({"TORCHINDUCTOR_CACHE_DIR": "{new}"}, COMPILED, 45.0),
    "torch, compiled, cached": ({"TORCHINDUCTOR_CACHE_DIR": "{cache}"}, COMPILED, 28.0),
    "keras:tensorflow": ({"KERAS_BACKEND": "tensorflow"}, KERAS, 10.0),
    "keras:jax": ({"KERAS_BACKEND": "jax"}, KERAS, 8.0),
    "keras:jax, cached": ({"KERAS_BACKEND": "jax"} | JAX_CACHE, KERAS, 8.0),
    "keras:torch": ({"KERAS_BACKEND": "torch"}, KERAS, 8.0),
    "flax": ({}, (_own("resnet_flax"), EXAMPLE), 5.0),
    "flax, cached": (JAX_CACHE, (_own("resnet_flax"), EXAMPLE), 7.0),
}
"""To the first prediction: the environment, ours and the peer, and the budget of ours in seconds.
`cached` programs were compiled by an earlier process."""


def first_predictions(console: Console, repeat: int, names: list[str], margin: float) -> list[str]:
    """Shows what each phase takes; returns what is over its budget."""
    over = []
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("first prediction of ResNet-50", no_wrap=True, min_width=24)
    for heading in (*PHASES, "total", "budget", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in names:
        environment, ways, budget = FIRST[name]
        found = measured(environment, ways, repeat)
        mine, theirs = (statistics.median(map(sum, side)) for side in found)
        for side, label in zip(found, (name, "  peer"), strict=True):
            cells = [f"{statistics.median(phase):.2f}" for phase in zip(*side, strict=True)]
            cells.append(f"{statistics.median(map(sum, side)):.2f}")
            cells += [f"{budget:.1f}", f"{mine / theirs:.2f}"] if label == name else []
            table.add_row(label, *cells)
        if mine > budget * margin:
            over.append(f"{name}: {mine:.2f} s, over {margin:g} times the {budget:.1f} s allowed")
    console.print(table)
    return over


def measured(
    environment: dict[str, str], ways: tuple[Way, Way], repeat: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds of each phase, of ours and of the peer, by turns."""
    found: tuple[list[list[float]], list[list[float]]] = [], []
    with tempfile.TemporaryDirectory() as folder:
        sides = []
        for way, side in zip(ways, found, strict=True):
            file = Path(folder, str(len(sides)))
            given = {k: v.replace("{cache}", f"{file}-cache") for k, v in environment.items()}
            sides.append((way, file, given, side))
            way.prepare(file, given)
            if given != environment:
                way.seconds(file, given)  # what it compiles is kept
        for _ in range(repeat):
            for way, file, given, side in sides:
                new = tempfile.mkdtemp(dir=folder)
                fresh = {k: v.replace("{new}", new) for k, v in given.items()}
                side.append(way.seconds(file, fresh))
    return found


def seconds(setup: str, statement: str, environment: dict[str, str]) -> tuple[float, float]:
    """First and second run of `statement` in a fresh process, after `setup`."""
    script = (
        f"{setup}\nimport time, json\nout = []\n"
        f"for _ in range(2):\n    t = time.perf_counter(); {statement}\n"
        f"    out.append(time.perf_counter() - t)\nprint(json.dumps(out))"
    )
    env = {**USUAL, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    first, second = json.loads(done.stdout.splitlines()[-1])
    return first, second


def command_seconds(*arguments: str) -> float:
    """Wall time of a command line."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "resnet_parity", *arguments]
    subprocess.run(command, env=USUAL, capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=7, help="fresh processes a side (7)")
    parser.add_argument("--only", action="append", choices=FIRST, help="only this first prediction")
    parser.add_argument("--margin", type=float, default=1.5, help="of the budgets (1.5)")
    asked = parser.parse_args()
    repeat = asked.repeat
    console = Console(width=130)
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    over = first_predictions(console, repeat, asked.only or [*FIRST], asked.margin)
    if not asked.only:
        commands_and_models(console, repeat)
    if over:
        sys.exit("\n".join(over))


def commands_and_models(console: Console, repeat: int) -> None:
    """Shows how long commands and building a model take."""
    for arguments in (["list"], ["show", "resnet50"], ["--help"]):
        times = [command_seconds(*arguments) for _ in range(repeat)]
        console.print(f"resnet-parity {' '.join(arguments)}: {statistics.median(times):.2f} s")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("create_model('resnet50') / its peer", no_wrap=True)
    for name in ("ours, first", "peer, first", "ratio", "ours, second", "peer, second", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, environment, ours, peers in PAIRS:
        mine, theirs = [], []
        for _ in range(repeat):
            mine.append(seconds(*ours, environment))
            theirs.append(seconds(*peers, environment))
        cells = []
        for i in (0, 1):
            a, b = (statistics.median(t[i] for t in side) for side in (mine, theirs))
            cells += [f"{a:.2f} s", f"{b:.2f} s", f"{a / b:.2f}"]
        table.add_row(name, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
