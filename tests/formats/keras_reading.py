"""What reading a Keras model's file gives, Keras being the judge.

    python -m tests.formats.keras_reading 120 [KerasHub ...]

reads so many drawn models of each source, or of these, and prints what was found, for
docs/results/files.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import resnet_torch
from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import ENGINES
from shared_spec import read_safetensors
from shared_spec.errors import ResNetError
from shared_spec.formats.read import read_checkpoint

TOLERANCE = 1e-9
"""Both sides compute in float64."""


def verdict(path: Path, answers: str) -> str:
    """`right`, `refused: ...` or `wrong: ...`, by what Keras makes of pixels with the file."""
    known = read_safetensors(answers).state
    x, expected = known["x"], known["y"]
    try:
        found = read_checkpoint(path)
    except ResNetError as error:
        text = str(error)
        assert text.startswith(str(path)), text
        assert "\n" not in text
        return f"refused: {text.removeprefix(f'{path}: ')}"
    assert found.spec is not None
    own = found.own_graph
    if (p := found.preprocessing) is not None and own is not None and own.pixels:
        x = (x[..., ::-1] if p.channel_order == "bgr" else x) / 255
        x = (x - np.array(p.mean)) / np.array(p.std)
    model = resnet_torch.create_model(found.spec, weights=dict(found.state), dtype="float64")
    given = resnet_torch.predict(model, x)
    if own is not None and own.averaged:
        expected = expected.mean((1, 2))
    given = given[-1] if isinstance(given, list) else given
    if given.size == expected.size:  # a pool may keep the axes of rows and columns
        given = given.reshape(expected.shape)
    if given.shape != expected.shape:
        return f"wrong: shape {given.shape}, expected {expected.shape}"
    error = np.abs(given - expected).max() / np.abs(expected).max()
    return "right" if error <= TOLERANCE else f"wrong: {error:.1e}"


SOURCES = ("keras", "KerasHub", "resnet_keras")


def main(count: int, sources: Sequence[str]) -> None:
    worker = Worker(ENGINES["keras:tensorflow"], "cpu", module="tests.worker")
    with worker, tempfile.TemporaryDirectory() as folder:
        for source in sources:
            _read(worker, source, count, folder)


def _read(worker: Worker, source: str, count: int, folder: str) -> None:
    found: Counter[str] = Counter()
    number = 0
    while sum(found.values()) < count:
        drawn = worker.call(
            "probe", function="keras_mutants:drawn", source=source, number=number, folder=folder
        )
        number += 1
        if drawn is None:
            continue
        path = Path(drawn["path"])
        said = verdict(path, drawn["answers"])
        found[said.partition(":")[0]] += 1
        print(source, number - 1, drawn["what"], path.suffix, said[:200], sep=" | ", flush=True)
        path.unlink()
    print(source, dict(found), f"seeds 0 to {number - 1}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] or SOURCES)
