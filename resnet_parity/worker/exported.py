"""Files that were exported, run by what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.worker.session import Session, Written, writing
from shared_spec.errors import ResNetError
from shared_spec.formats.canonical_file import read_safetensors


@writing
def run_exported(session: Session, source: str, dtypes: list[str], images: str) -> Written:
    """What a file makes of images, `<dtype>/<output>`. In the file `images` are also the `pixels`
    that they were, for one that normalises by itself.
    """
    run = _RUN.get(Path(source).suffix)
    if run is None:
        raise ResNetError(f"{source}: not a file that was exported")
    given = read_safetensors(images).state
    found: dict[str, np.ndarray] = {}
    for dtype in dtypes:
        outputs = run(Path(source), dtype, dict(given))
        found |= {f"{dtype}/{i:05}": np.ascontiguousarray(x) for i, x in enumerate(outputs)}
    return {}, found


def calibrate(session: Session, source: str, images: str) -> dict[str, float]:
    """The largest magnitude of each output of an ONNX file on a file of `images`."""
    import onnx

    from resnet_onnx.calibration import largest

    return largest(onnx.load(source), read_safetensors(images).state["images"])


def _onnx(path: Path, dtype: str, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    from resnet_onnx.runtimes import run_file

    return run_file(path, dtype, given)


_RUN: dict[str, Any] = {".onnx": _onnx}
