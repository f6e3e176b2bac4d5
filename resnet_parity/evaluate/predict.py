"""Image files to classes, on any engine."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resnet_parity.convert.read import read_classifier
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.registry import Device, Engine
from shared_spec.atomic_write import workspace
from shared_spec.errors import WeightsError, WeightsWarning
from shared_spec.formats.read import WHOLE, Asked
from shared_spec.origin import completed, fetched
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.labels import classified
from shared_spec.weights.preprocessing import Preprocessing, open_images


def classify(
    images: Sequence[Path],
    weights: str,
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

    Warns:
        WeightsWarning: if the weights have no preprocessing.

    Raises:
        ResNetError: if an image or the weights cannot be read, or the engine is missing.
    """
    pictures = open_images(images)
    with workspace() as folder:
        read, found = read_classifier(fetched(weights), spec, folder, True, asked)
        checkpoint = completed(read, weights)
        labels = labels or checkpoint.labels
        if labels is not None and len(labels) != found.num_classes:
            raise WeightsError(
                f"{weights}: has {len(labels)} labels for {found.num_classes} classes"
            )
        prepare = checkpoint.preprocessing
        if prepare is None:
            prepare = Preprocessing.default(found)
            told = "ImageNet's" if found.in_channels == 3 else "a mean and deviation of 0.5"
            warnings.warn(
                f"{weights}: has no preprocessing, and {told} is used; a .safetensors file that "
                f"save_weights wrote after model.preprocessing was set keeps another",
                WeightsWarning,
                stacklevel=2,
            )
        job = EngineJob(folder)
        task: dict[str, Any] = {
            "spec": found.to_dict(),
            "weights": job.save("weights", checkpoint.state),
            "dtype": "float32",
            "images": job.save("images", {"images": prepare(pictures)}),
        }
        with job.worker(engine, device) as worker:
            logits = job.run(worker.call, "predict", **task)[1]["logits"]
    try:
        ranked = classified(logits, labels, top)
    except WeightsError as error:
        raise WeightsError(f"{weights}: {error}") from None
    return [
        {"image": str(path), "classes": [asdict(one) for one in found]}
        for path, found in zip(images, ranked, strict=True)
    ]
