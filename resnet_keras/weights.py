"""Canonical weights to and from a Keras model and its checkpoint files."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.layers import PACKAGE, layer_name
from resnet_keras.model import ResNet
from shared_spec.api import WeightsLike, name_suffix, read_weights
from shared_spec.durable import durable
from shared_spec.errors import ResNetError, WeightsError
from shared_spec.plan import Parameter
from shared_spec.spec import ResNetSpec
from shared_spec.weights import (
    Checkpoint,
    Slot,
    State,
    check_native,
    check_weights,
    numpy_dtype,
    replaced,
    write_safetensors,
)

SLOTS: dict[str, Slot] = {
    "conv_kernel": Slot("kernel", (2, 3, 1, 0)),
    "conv1d_kernel": Slot("kernel", (2, 1, 0)),
    "dense_kernel": Slot("kernel", (1, 0)),
    "bias": Slot("bias"),
    "norm_scale": Slot("gamma"),
    "norm_bias": Slot("beta"),
    "norm_mean": Slot("moving_mean"),
    "norm_var": Slot("moving_variance"),
    "norm_gate": Slot("v"),
    "norm_threshold": Slot("tau"),
    "branch_scale": Slot("gamma"),
}
FORMATS = (".safetensors", ".keras", ".weights.h5")


def export_weights(model: ResNet) -> State:
    """The model's weights as numpy arrays under canonical names: a copy."""
    layers = _layers(model)
    return {
        q.name: SLOTS[q.role].to_canonical(
            np.array(keras.ops.convert_to_numpy(_native(layers, q).value))
        )
        for q in model.plan.parameters()
    }


def load_weights(model: ResNet, weights: WeightsLike) -> ResNet:
    """Load canonical weights, or a `.safetensors`, `.keras` or `.weights.h5` file, strictly and in
    place.

    Raises:
        WeightsError: listing every mismatch; the model is then unchanged.
    """
    state = read_checkpoint(weights, model.spec).state
    check_weights(model.plan, state, dtype_name(model))
    layers = _layers(model)
    natives = {q.name: _native(layers, q) for q in model.plan.parameters()}
    check_native({name: tuple(v.shape) for name, v in natives.items()}, model.plan, SLOTS)
    for q in model.plan.parameters():
        natives[q.name].assign(SLOTS[q.role].to_native(state[q.name], own=True))
    return model


def save_weights(
    model: ResNet, path: str | os.PathLike[str], checkpoint: Checkpoint | None = None
) -> None:
    """Write the model's weights durably, in the format of the suffix.

    `.safetensors` is the canonical file; `.keras` and `.weights.h5` are written by Keras.
    `checkpoint` may carry preprocessing and labels for the canonical file.

    Raises:
        WeightsError: if the suffix is none of these.
    """
    suffix = name_suffix(Path(path))
    if suffix not in FORMATS:
        raise WeightsError(f"{path}: resnet_keras writes {', '.join(FORMATS)}")
    if suffix == ".safetensors":
        extra = checkpoint or Checkpoint({})
        write_safetensors(
            path,
            Checkpoint(export_weights(model), model.spec, extra.preprocessing, extra.labels),
        )
        return
    with durable(path) as draft:
        if suffix == ".keras":
            model.save(draft)
        else:
            model.save_weights(draft)


def read_checkpoint(weights: WeightsLike, spec: ResNetSpec | None = None) -> Checkpoint:
    """Canonical weights from a dict or a file that this backend reads.

    A `.weights.h5` file does not tell its model: it needs the `spec`.
    """
    native = {".keras": _read_keras, ".weights.h5": _read_h5}
    return read_weights(weights, native, "resnet_keras", spec)


def dtype_name(model: ResNet) -> str:
    """The dtype of the model's parameters, such as `"float32"`."""
    return str(model.kind)


def _layers(model: ResNet) -> dict[str, Any]:
    return {layer.name: layer for layer in model.layers}


def _native(layers: dict[str, Any], q: Parameter) -> Any:
    try:
        return getattr(layers[layer_name(q.module)], SLOTS[q.role].leaf)
    except (KeyError, AttributeError):
        raise replaced(q.module) from None


def _read_keras(path: Path, spec: ResNetSpec | None) -> Checkpoint:
    """Read a `.keras` file of ours: the spec from its config, the weights into a model of it.

    Nothing that the file describes is built.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            layout = _layout(io.BytesIO(archive.read("model.weights.h5")), path)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RuntimeError) as error:
        if isinstance(error, ResNetError):
            raise
        raise WeightsError(f"{path}: not a readable .keras file ({error})") from None
    if not isinstance(config, dict) or config.get("registered_name") != f"{PACKAGE}>ResNet":
        raise WeightsError(f"{path}: not a model of resnet_keras, so its layers are unknown here")
    inner = config.get("config")
    found = ResNetSpec.parse(inner.get("spec") if isinstance(inner, dict) else None, str(path))
    return Checkpoint(_load(path, found, layout), found)


def _read_h5(path: Path, spec: ResNetSpec | None) -> Checkpoint:
    if spec is None:
        raise WeightsError(f"{path}: the file does not tell its model; name it (--model)")
    return Checkpoint(_load(path, spec, _layout(path, path)), spec)


def _layout(file: Path | io.BytesIO, path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Dtype and shape of every array of the model's layers."""
    import h5py

    found: list[tuple[str, tuple[int, ...]]] = []

    def visit(name: str, item: Any) -> None:
        if name.startswith("layers/") and isinstance(item, h5py.Dataset):
            found.append((item.dtype.name, tuple(item.shape)))

    try:
        with h5py.File(file) as group:
            group.visititems(visit)
    except (OSError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{path}: not a readable HDF5 file ({error})") from None
    return found


def _load(path: Path, spec: ResNetSpec, layout: list[tuple[str, tuple[int, ...]]]) -> State:
    """The weights of a Keras file through Keras itself, into a model of `spec` made for it."""
    dtypes = sorted({dtype for dtype, _ in layout})
    if len(dtypes) != 1:
        raise WeightsError(f"{path}: expected arrays of one dtype, found {', '.join(dtypes)}")
    numpy_dtype(dtypes[0])
    scratch = ResNet(spec, dtypes[0])
    # Keras numbers the groups by layer class and ignores those that a smaller model leaves over.
    expected = sorted(tuple(v.shape) for v in scratch.weights)
    if sorted(shape for _, shape in layout) != expected:
        raise WeightsError(
            f"{path}: does not fit the model: it holds {len(layout)} arrays where the model has "
            f"{len(expected)}, or some of other shapes"
        )
    try:
        scratch.load_weights(path)
    # Keras and h5py raise errors of many kinds for files that do not fit.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path}: does not fit the model ({reason})") from None
    return export_weights(scratch)
