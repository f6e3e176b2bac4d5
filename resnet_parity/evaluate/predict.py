"""Image files to classes, on any engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.convert.read import read_classifier
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.registry import Device, Engine
from resnet_parity.numerics.top_k import log_softmax
from shared_spec.atomic_write import workspace
from shared_spec.errors import WeightsError
from shared_spec.formats.read import WHOLE, Asked
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.preprocessing import Preprocessing, open_images


def classify(
    images: Sequence[Path],
    weights: Path,
    spec: ResNetSpec | None,
    engine: Engine,
    device: Device = "cpu",
    top: int = 5,
    labels: tuple[str, ...] | None = None,
    asked: Asked = WHOLE,
) -> list[dict[str, Any]]:
    """The `top` most probable classes of each image file.

    Preprocessing and labels come with the weights; weights without them get
    `Preprocessing.default` and class numbers. `labels` given win over those.

    Returns:
        One record an image: `image`, and `classes` with `label`, `index` and `probability`.

    Raises:
        ResNetError: if an image or the weights cannot be read, or the engine is missing.
    """
    pictures = open_images(images)
    with workspace() as folder:
        checkpoint, found = read_classifier(weights, spec, folder, True, asked)
        labels = labels or checkpoint.labels or tuple(map(str, range(found.num_classes)))
        if len(labels) != found.num_classes:
            raise WeightsError(
                f"{weights}: has {len(labels)} labels for {found.num_classes} classes"
            )
        prepare = checkpoint.preprocessing or Preprocessing.default(found)
        job = EngineJob(folder)
        task: dict[str, Any] = {
            "spec": found.to_dict(),
            "weights": job.save("weights", checkpoint.state),
            "dtype": "float32",
            "images": job.save("images", {"images": prepare(pictures)}),
        }
        with job.worker(engine, device) as worker:
            logits = job.run(worker.call, "predict", **task)[1]["logits"]
    if not np.isfinite(logits).all():
        raise WeightsError(f"{weights}: the logits are not finite numbers")
    return [
        {"image": str(path), "classes": _ranked(row, labels, top)}
        for path, row in zip(images, logits, strict=True)
    ]


def _ranked(logits: np.ndarray, labels: Sequence[str], top: int) -> list[dict[str, Any]]:
    probabilities = np.exp(log_softmax(logits))
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [
        {"label": labels[i], "index": int(i), "probability": float(probabilities[i])} for i in order
    ]
