"""A model as a SavedModel, and what LiteRT's converter makes of that."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from resnet_keras.model import ResNet
from resnet_keras.weights import WEIGHTS
from shared_spec.atomic_write import workspace
from shared_spec.errors import FrameworkError, SpecError
from shared_spec.export_formats import TOLD, Form, converting, outer_dtype
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.preprocessing import Preprocessing


def write_saved_model(model: ResNet, path: Path, form: Form, known: Checkpoint) -> None:
    """Write a folder that `tf.saved_model.load` reads, with what is known of it in the place that
    SavedModels have for files of others. Its signature takes `images` or `pixels`, and gives
    `logits`, `probabilities` or `features0`, ..., of float32 where the model computes in less.

    Raises:
        FrameworkError: on Keras's other engines.
        SpecError: if TensorFlow cannot write the net so.
    """
    require_tensorflow("a SavedModel")
    import tensorflow as tf

    prepare = form.normalisation(known.preprocessing)
    dtype = WEIGHTS.dtype_name(model)
    outer = outer_dtype(dtype)
    names = ["probabilities"] if form.head == "softmax" else [*model.plan.results()]

    def program(x: Any) -> Any:
        y = model(tf.cast(_normalised(x, prepare, outer), dtype), training=False)
        levels = y if isinstance(y, list) else [y]
        if form.head == "softmax":
            levels = [tf.nn.softmax(level) for level in levels]
        return {name: tf.cast(y, outer) for name, y in zip(names, levels, strict=True)}

    shape = form.batch, *(form.size or (None, None)), model.spec.in_channels
    given = tf.TensorSpec(shape, "uint8" if form.preprocessing else outer, name=form.entry)
    with converting("SavedModel", form):
        save_program(path, model, program, [given])
    beside = path / "assets.extra"
    beside.mkdir()
    (beside / TOLD).write_text(form.told(known, dtype), encoding="utf-8")


def write_litert(model: ResNet, path: Path, form: Form, known: Checkpoint) -> None:
    """Write a file for LiteRT's interpreter. What is known of it is appended in a ZIP archive, as
    LiteRT has associated files.

    Raises:
        SpecError: if LiteRT lacks an operator that the net needs.
    """
    with workspace() as folder:
        write_saved_model(model, folder / "net", form, known)
        path.write_bytes(_converted(folder / "net"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(TOLD), form.told(known, WEIGHTS.dtype_name(model)))
        if known.labels is not None:
            archive.writestr(zipfile.ZipInfo("labels.txt"), "\n".join(known.labels))


def litert_program(model: ResNet, program: Callable[..., Any], given: Sequence[Any]) -> bytes:
    """A function of a model's layers, for `given` tf.TensorSpecs, as LiteRT's interpreter takes it.

    Raises:
        SpecError: if LiteRT lacks an operator.
    """
    with workspace() as folder:
        save_program(folder / "net", model, program, given)
        return _converted(folder / "net")


def save_program(
    path: Path, model: ResNet, program: Callable[..., Any], given: Sequence[Any]
) -> None:
    """Write a function of a model's layers as a SavedModel."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", program, list(given))
    archive.write_out(str(path), verbose=False)


def _converted(folder: Path) -> bytes:
    import tensorflow as tf

    try:
        model: bytes = tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert()
    except Exception as error:  # of several libraries, with the operators in its text
        lines = [line for line in str(error).splitlines() if "Ops:" in line]
        reason = lines[0].strip() if lines else " ".join(str(error).split())[:200]
        raise SpecError(
            f"LiteRT lacks what the net needs ({reason}); ONNX has it (.onnx)"
        ) from None
    return model


def require_tensorflow(what: str) -> None:
    """Raise a `FrameworkError` on Keras's other engines."""
    engine = keras.backend.backend()
    if engine != "tensorflow":
        raise FrameworkError(
            f"{what} is written on Keras's TensorFlow engine, and this is {engine}; set "
            f"KERAS_BACKEND=tensorflow"
        )


def _normalised(x: Any, prepare: Preprocessing | None, dtype: str) -> Any:
    import tensorflow as tf

    if prepare is None:
        return x
    x = x[..., ::-1] if prepare.channel_order == "bgr" else x
    mean, std = tf.constant(prepare.mean, dtype), tf.constant(prepare.std, dtype)
    return (tf.cast(x, dtype) / 255 - mean) / std
