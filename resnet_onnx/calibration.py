"""How large the tensors of a net become on images, which is what its 8 bits are to reach.

The largest magnitude is the limit, so that no number of the calibration is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import ModelProto

from resnet_onnx.file import INLINE, Weight, in_memory, save, skeleton, weights_of
from resnet_onnx.quantization import Limits, points_of, quantized_weights
from resnet_onnx.runtimes import started
from shared_spec.errors import SpecError, WeightsError
from shared_spec.export_formats import IMAGES
from shared_spec.plan.network import Plan
from shared_spec.weights.lazy_array import LazyArray

_AT_ONCE = 4
"""Images, whose tensors are all in memory."""


def observed(p: Plan) -> ModelProto:
    """A float32 model, without its weights, that gives the tensors that `quantize` would round."""
    return skeleton(p, "float32", outputs=tuple(points_of(p)))


def quantized(p: Plan, entries: Mapping[str, LazyArray], images: np.ndarray) -> ModelProto:
    """A model of int8, in memory, whose limits are those of images.

    Args:
        p: the plan, for inference.
        entries: its weights, of float32, by canonical name.
        images: normalised, [N, H, W, C].
    """
    limits = limits_on(p, entries, images)
    weights = [Weight(n, x) for n, x in quantized_weights(p, entries, limits).items()]
    return in_memory(skeleton(p, "float32", limits=limits), weights)


def limits_on(p: Plan, entries: Mapping[str, LazyArray], images: np.ndarray) -> Limits:
    """The limits of a net's tensors on images; the arguments are those of `quantized`."""
    return limits_of(
        largest(in_memory(observed(p), weights_of(p.layers(), entries, "float32")), images)
    )


def write_observed(path: Path, p: Plan, entries: Mapping[str, LazyArray]) -> None:
    """Write an `observed` model with its weights.

    Args:
        path: the file.
        p: the plan, for inference.
        entries: its weights, of float32, by canonical name.

    Raises:
        SpecError: if one file does not hold it.
    """
    weights = weights_of(p.layers(), entries, "float32")
    size = sum(weight.entry.nbytes for weight in weights)
    if size > INLINE:
        raise SpecError(
            f"dtype: int8 is for nets of at most {INLINE:,} bytes in float32; this one has {size:,}"
        )
    with path.open("wb") as file:
        save(file, observed(p), weights)


def largest(model: ModelProto, images: np.ndarray) -> dict[str, float]:
    """The largest magnitude of each output of a model on images, normalised, [N, H, W, C]."""
    names = [output.name.removesuffix("/output") for output in model.graph.output]
    run, found = started(model, "float32"), dict.fromkeys(names, 0.0)
    for i in range(0, len(images), _AT_ONCE):
        part = np.moveaxis(images[i : i + _AT_ONCE], -1, 1)
        tensors = run({IMAGES: np.ascontiguousarray(part, np.float32)})
        for name, tensor in zip(names, tensors, strict=True):
            found[name] = float(np.maximum(found[name], np.abs(tensor).max()))  # keeps NaN
    return found


def limits_of(found: Mapping[str, float]) -> Limits:
    """Limits from the largest magnitudes; 1 for a tensor that is zero everywhere.

    Raises:
        WeightsError: if one is not a finite number.
    """
    for name, value in found.items():
        if not math.isfinite(value):
            raise WeightsError(f"{name}: is not a finite number on an image of the calibration")
    return {name: value or 1.0 for name, value in found.items()}
