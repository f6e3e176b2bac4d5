"""Nets of 8 bits: on which images their ranges are measured, and what becomes of the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_parity.convert.certificate import HeldOut, Inputs, OnProgress, Quantized
from resnet_parity.convert.verify import Target
from resnet_parity.datasets import Dataset, Loader
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import ENGINES, RUNTIMES, Engine
from resnet_parity.numerics.intervals import paired_difference, share
from shared_spec.errors import FrameworkError, ParityError, SpecError
from shared_spec.export_formats import Form
from shared_spec.plan.network import Plan
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.folding import weight_entries
from shared_spec.weights.lazy_array import LazyArray
from shared_spec.weights.preprocessing import Preprocessing

if TYPE_CHECKING:
    from resnet_onnx.quantization import Limits

_BATCH = 64
"""Images that travel to an engine at a time."""
_SHOWN, _PIXELS = 4, 2**17
"""How many images of a calibration a certificate has at most, and how many of their pixels."""


@dataclass(frozen=True, eq=False)
class Quantization:
    """What post-training quantisation to int8 takes besides a net."""

    calibration: Dataset
    """Images whose magnitudes give the ranges of tensors; their labels are not looked at."""
    told: str
    """What these are, for the certificate."""
    preprocessing: Preprocessing | None = None
    """For weights that have none."""
    mean_image: np.ndarray | None = None
    """What is subtracted from each image: see `Loader`."""
    evaluation: Loader | None = None
    """Held-out images, whose labels are numbers of logits."""
    evaluated: str | None = None
    """What these are."""

    def check(self, form: Form) -> None:
        """Refuse pixels, of which a graph subtracts one mean a channel, where images have another.

        Raises:
            SpecError: if a mean image is subtracted from them.
        """
        if form.preprocessing and self.mean_image is not None:
            raise SpecError(
                "preprocessing: the recipe subtracts a mean image (per_pixel_mean), for which a "
                "graph has no place; leave it outside"
            )


def calibrating_engine() -> Engine:
    """The first installed runtime.

    Raises:
        FrameworkError: if there is none.
    """
    for engine in RUNTIMES.values():
        if engine.missing() is None:
            return engine
    raise FrameworkError(f"dtype: int8 needs a runtime; {RUNTIMES['onnxruntime'].missing()}")


def calibrate(
    job: EngineJob,
    p: Plan,
    checkpoint: Checkpoint,
    quantization: Quantization,
    size: tuple[int, int] | None,
    on_progress: OnProgress,
) -> tuple[Limits, Inputs]:
    """The limits of a net's tensors, and some of the images for its certificate: others may be
    beyond these limits, and are not what the net is for.

    Args:
        job: where files go.
        p: the plan, for inference.
        checkpoint: the net's weights, and how it takes images.
        quantization: gives the images.
        size: the one that the graph takes, if it takes no other.
        on_progress: called with a short description as each stage of the work begins.

    Raises:
        ResNetError: if an image cannot be read, a tensor is not finite, or the images have another
            size.
    """
    from resnet_onnx.calibration import limits_of, write_observed

    assert checkpoint.spec is not None
    prepare = checkpoint.preprocessing or quantization.preprocessing
    prepare = prepare or Preprocessing.default(checkpoint.spec)
    mean, dataset = quantization.mean_image, quantization.calibration
    loader = Loader(dataset, (), prepare, _BATCH, mean_image=mean)
    height, width, _ = loader.held_out_shape
    if size not in (None, (height, width)):
        raise SpecError(
            f"size: the weights' preprocessing makes images of {height}x{width}, and a graph of "
            f"int8 is for the size that its ranges were measured at; give that, or leave it out"
        )
    count = max(1, min(_SHOWN, _PIXELS // (height * width), len(dataset)))
    places, shown = np.arange(count) * len(dataset) // count, []
    model, engine = job.folder / "observed.onnx", calibrating_engine()
    write_observed(model, p, weight_entries(p, checkpoint.state, "float32"))
    found: dict[str, float] = {}
    done = 0
    with job.worker(engine) as worker:
        for images, _ in loader.held_out_batches():
            on_progress(f"calibration by {engine.name}: {done} images")
            file = job.save("calibration", {"images": images})
            seen = worker.call("calibrate", source=str(model), images=file)
            found = {name: float(np.maximum(found.get(name, 0), x)) for name, x in seen.items()}
            shown += [images[i - done] for i in places if done <= i < done + len(images)]
            done += len(images)
    model.unlink()
    pixels = _pixels(np.stack(shown), prepare)
    return limits_of(found), Inputs(pixels, prepare.mean, prepare.std)


def require_fit(path: Path, named: Path, p: Plan, entries: Mapping[str, LazyArray]) -> None:
    """Hold the integers of a written file against the weights that they stand for.

    Raises:
        ParityError: naming what does not fit.
    """
    import onnx

    from resnet_onnx.quantization import misfit

    wrong = misfit(onnx.load(path), p, entries)
    if wrong is not None:
        raise ParityError(f"{named}: {wrong}; nothing was written")


def evaluate(
    job: EngineJob,
    written: Target,
    engines: Sequence[Engine],
    quantization: Quantization,
    on_progress: OnProgress,
) -> Quantized:
    """Score a file in each runtime, if there are held-out images, beside the net that it comes from
    in float32.

    Raises:
        ResNetError: if an image cannot be read, or an engine fails.
    """
    told = Quantized(quantization.told, len(quantization.calibration), quantization.evaluated)
    checkpoint, exported, loader = written.whole, written.exported, quantization.evaluation
    if loader is None:
        return told
    assert checkpoint.spec is not None and exported is not None  # noqa: PT018
    first = next((e for e in ENGINES.values() if e.missing() is None), RUNTIMES["onnxruntime"])
    weights = job.save("weights", checkpoint.state)
    net = {"spec": checkpoint.spec.to_dict(), "weights": weights, "dtype": "float32"}
    on_progress(f"the held-out images in float32 by {first.name}")
    with job.worker(first) as worker:
        worker.call("classify", net=net)
        expected, labels = _classes(partial(_asked, job, worker, "classify"), loader)
    found = []
    for engine in engines:
        if engine.name == "onnx:reference":
            continue  # It computes in Python, and has its place in the checks.
        on_progress(f"the held-out images in {exported.dtype} by {engine.name}")
        asked: dict[str, Any] = {"source": str(written.path.resolve()), "dtypes": [exported.dtype]}
        prepare = checkpoint.preprocessing
        with job.worker(engine) as worker:
            run = partial(_asked, job, worker, "run_exported", prepare=prepare, **asked)
            classes, _ = _classes(run, loader)
        found.append(compared((first.name, engine.name), expected, classes, labels))
    return replace(told, held_out=tuple(found))


def _asked(
    job: EngineJob,
    worker: Worker,
    operation: str,
    images: np.ndarray,
    prepare: Preprocessing | None = None,
    **asked: Any,
) -> np.ndarray:
    """Logits or probabilities of normalised images."""
    arrays = {"images": images}
    if prepare is not None:
        pixels = _pixels(images, prepare)
        arrays["pixels"] = pixels[..., ::-1] if prepare.channel_order == "bgr" else pixels
    file = job.save("held_out", arrays)
    (found,) = job.run(worker.call, operation, images=file, **asked)[1].values()
    return found


def compared(
    engines: tuple[str, str], expected: np.ndarray, found: np.ndarray, labels: np.ndarray
) -> HeldOut:
    """How classes that the second engine `found` compare with those `expected`, all [N]."""
    count = len(labels)
    right, still = expected == labels, found == labels
    same = int((expected == found).sum())
    return HeldOut(
        engines[1],
        count,
        engines[0],
        float(right.mean()),
        float(still.mean()),
        float(right.mean() - still.mean()),
        paired_difference(int((right & ~still).sum()), int((still & ~right).sum()), count),
        same / count,
        share(same, count),
    )


def _classes(
    logits: Callable[[np.ndarray], np.ndarray], loader: Loader
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest class of each image, and the right one."""
    pairs = [(logits(images).argmax(-1), labels) for images, labels in loader.held_out_batches()]
    found, labels = zip(*pairs, strict=True)
    return np.concatenate(found), np.concatenate(labels)


def _pixels(images: np.ndarray, prepare: Preprocessing) -> np.ndarray:
    """Bytes that normalised images were, their channels in the net's order."""
    pixels = (images * np.asarray(prepare.std) + np.asarray(prepare.mean)) * 255
    whole: np.ndarray = np.rint(pixels).clip(0, 255).astype(np.uint8)
    return whole
