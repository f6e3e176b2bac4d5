"""LiteRT files of nets of keras.applications."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from keras.src.applications import resnet as applications

from resnet_parity.worker.reference_libraries import keras_dtype
from tests.probes.keras_habits import shaken


def stock(resnet: Any, folder: str, preact: bool) -> None:
    """A narrow ResNet50 or ResNet50V2 of keras.applications, as `net.keras` and `net.tflite`."""
    stack = (
        applications.stack_residual_blocks_v2 if preact else applications.stack_residual_blocks_v1
    )

    def stacks(x: Any) -> Any:
        return stack(stack(x, 8, 2, stride1=1, name="conv2"), 16, 2, name="conv3")

    with keras_dtype("float32"):  # an earlier test may have left another
        model = shaken(
            applications.ResNet(
                stacks,
                preact,
                True,
                weights=None,
                input_shape=(40, 40, 3),
                classes=5,
                name="resnet50",
            )
        )
    model.save(Path(folder) / "net.keras")
    model.export(str(Path(folder) / "saved"), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(Path(folder) / "saved"))
    (Path(folder) / "net.tflite").write_bytes(converter.convert())
