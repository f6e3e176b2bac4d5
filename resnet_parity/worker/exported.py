"""Files that were exported, run by what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.numerics.alignment import SAME_VALUES, aligned, forms
from resnet_parity.worker.session import Session, Written, writing
from resnet_parity.worker.user_model import not_seen
from shared_spec.errors import ResNetError
from shared_spec.formats.canonical_file import read_safetensors
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.dataflow import nodes
from shared_spec.spec.resnet_spec import ResNetSpec


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


@writing
def trace_file(
    session: Session,
    source: str,
    spec: dict[str, Any],
    weights: str,
    dtype: str,
    images: str,
    reference: str,
) -> Written:
    """As the operation `trace_model`, of a file that was exported: `output/<name>` of layers and
    blocks that one of its tensors stands for, and `result/<name>`.
    """
    from resnet_onnx.runtimes import tensors_of

    p = compile_plan(ResNetSpec.parse(spec))
    batch = read_safetensors(images).state["images"]
    known = read_safetensors(reference).state
    found = nodes(p)
    wanted = {part.name: known[f"output/{part.name}"] for part in found}
    tensors, ends = tensors_of(Path(source), dtype, batch)
    layers = aligned(found, wanted, tensors, SAME_VALUES[dtype])
    arrays = {f"output/{name}": np.ascontiguousarray(x) for name, x in layers.items()}
    if len(ends) == len(p.results()):
        for (key, name), end in zip(p.results().items(), ends, strict=True):
            given = next(forms(end, wanted[name].shape), end)
            arrays[f"result/{key}"] = np.ascontiguousarray(given)
    unseen = [part.name for part in found if part.name not in layers]
    notes = not_seen(unseen, len(found), "tensor of their own in the file")
    return {"broken": {}, "notes": notes}, arrays


def _onnx(path: Path, dtype: str, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    from resnet_onnx.runtimes import run_file

    return run_file(path, dtype, given)


_RUN: dict[str, Any] = {".onnx": _onnx}
