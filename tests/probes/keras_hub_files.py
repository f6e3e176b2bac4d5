"""KerasHub writing and loading its own presets, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared_spec import Checkpoint, read_safetensors, write_safetensors
from tests.peers import fetched
from tests.probes.keras3_files import answer, randomise


def write(
    resnet: Any,
    config: dict[str, Any],
    head: dict[str, Any] | None,
    folder: str,
    images: str,
    logits: str,
    converter: dict[str, Any] | None = None,
) -> None:
    """A preset of random weights that KerasHub itself writes, and what it computes with them.

    Without a classifier these are feature maps.
    """
    hub = fetched("keras_hub")
    model = hub.models.ResNetBackbone(**config, dtype="float64", name="res_net_backbone")
    if head is not None:
        prepare = None
        if converter is not None:
            prepare = hub.models.ResNetImageClassifierPreprocessor(
                image_converter=hub.layers.ResNetImageConverter(**converter)
            )
        head |= {"preprocessor": prepare, "name": "res_net_image_classifier"}
        model = hub.models.ResNetImageClassifier(model, **head)
    randomise(model)
    answer(model, images, logits)
    model.save_to_preset(folder)
    if folder.endswith(".whole"):
        model.save(folder + ".keras")


def load(
    resnet: Any, folder: str, classifier: bool, images: str, logits: str, dtype: str = "float64"
) -> int:
    """What KerasHub computes with a preset of ours; returns how many arrays it has."""
    models = fetched("keras_hub").models
    kind = models.ImageClassifier if classifier else models.ResNetBackbone
    model = kind.from_preset(folder, dtype=dtype)
    answer(model, images, logits)
    return len(model.weights)


def prepare(resnet: Any, folder: str, pixels: str, output: str) -> None:
    """What a preset's own preprocessing makes of pixels."""
    hub = fetched("keras_hub")
    converter = hub.layers.ImageConverter.from_preset(folder)
    task = hub.models.ImageClassifierPreprocessor.from_preset(folder)
    x = read_safetensors(pixels).state["x"]
    found, again = (np.asarray(f(x), np.float32) for f in (converter, task))
    np.testing.assert_array_equal(found, again)
    write_safetensors(output, Checkpoint({"x": found}))
