"""Conversions between files need no framework, and little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared_spec import (
    Checkpoint,
    ResNetSpec,
    compile_plan,
    digest,
    random_weights,
    read_checkpoint,
    resolve,
    save_spec,
    write_safetensors,
)
from tests.specs import SMALL

SCRIPT = """
import json, sys
from pathlib import Path
from resnet_parity.convert.conversion import convert
from shared_spec import load_spec
spec = load_spec(sys.argv[1])
last = sys.argv[2]
for target, to in json.loads(sys.argv[3]):
    convert(last, target, spec, to)
    last = target
print(json.dumps([m for m in ("torch", "tensorflow", "keras", "jax", "flax") if m in sys.modules]))
"""
V1 = resolve("keras_resnet50", {"depths": [1, 1, 1, 1], "num_classes": 3})
FLAX = resolve("flax_resnet18", {"num_classes": 3})
HUB = resolve("resnet_vd_18", {"num_classes": 3})
ROUTES: dict[str, tuple[ResNetSpec, list[tuple[str, str | None]]]] = {
    "ours": (
        SMALL,
        [
            ("a.pth", None),
            ("a.msgpack", None),
            ("hf", "huggingface"),
            ("b.pth", None),
            ("b.safetensors", None),
        ],
    ),
    "keras.applications": (
        V1,
        [("a.h5", None), ("a.weights.h5", "keras-applications"), ("b.safetensors", None)],
    ),
    "Flax's example": (FLAX, [("a.msgpack", "linen"), ("b.safetensors", None)]),
    "KerasHub": (HUB, [("preset", "keras-hub"), ("b.safetensors", None)]),
}


@pytest.mark.parametrize("route", ROUTES)
def test_no_framework_is_imported(tmp_path: Path, route: str) -> None:
    spec, targets = ROUTES[route]
    state = random_weights(compile_plan(spec), 7)
    source = tmp_path / "source.safetensors"
    write_safetensors(source, Checkpoint(state, spec))
    save_spec(tmp_path / "spec.yaml", spec)
    steps = json.dumps([[str(tmp_path / name), to] for name, to in targets])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "spec.yaml"), str(source), steps],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert digest(read_checkpoint(tmp_path / "b.safetensors").state) == digest(state)


def test_memory_stays_near_the_largest_array(tmp_path: Path) -> None:
    """A net of 100 MB; its largest array has 9 MB: one is written, the next is turned round, and
    12 MB are for modules and the like. What glibc keeps of freed memory depends on which of two
    threads was first, and is no part of what a conversion needs: large blocks go back at once here.
    """
    spec = resolve("resnet50")
    source = tmp_path / "a.safetensors"
    write_safetensors(source, Checkpoint(random_weights(compile_plan(spec)), spec))
    script = (
        "import sys\n"
        "from resnet_parity.convert.conversion import convert\n"
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(x for x in lines if x.startswith('VmHWM')).split()[1]) * 1024\n"
        "idle = peak()\n"
        "convert(sys.argv[1], sys.argv[2])\n"
        "print(peak() - idle)"
    )
    for name in ("a.pth", "a.msgpack", "b.safetensors"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(source), str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"},
        )
        assert int(done.stdout) < 3 * 9.5e6 + 12e6
