"""Weights of keras.applications' ResNets: the `.h5` files that Keras calls legacy, which are those
that keras.applications publishes. Read and written with h5py alone, by name.

No link in a file is followed, and no array is read before its shape is known to fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shared_spec.catalogue import CATALOGUE
from shared_spec.compiler import compile_plan
from shared_spec.equivalence import parting
from shared_spec.errors import FrameworkError, SpecError, WeightsError
from shared_spec.plan import Parameter
from shared_spec.preprocessing import Preprocessing
from shared_spec.renaming import Rules, rename
from shared_spec.spec import ResNetSpec
from shared_spec.weights import Checkpoint, State

LEAVES = {
    "conv_kernel": "kernel",
    "dense_kernel": "kernel",
    "bias": "bias",
    "norm_scale": "gamma",
    "norm_bias": "beta",
    "norm_mean": "moving_mean",
    "norm_var": "moving_variance",
}
"""Role of a parameter to Keras's name of the array in its layer."""

V1: Rules = [
    (r"^conv1$", "conv1_conv"),
    (r"^bn1$", "conv1_bn"),
    (r"^fc$", "predictions"),
    (r"^layer(\d)\.(\d+)\.", lambda m: f"conv{int(m[1]) + 1}_block{int(m[2]) + 1}_"),
    (r"downsample\.0$", "0_conv"),
    (r"downsample\.1$", "0_bn"),
    (r"_(conv|bn)(\d)$", r"_\2_\1"),
]
V2: Rules = [
    (r"^stem\.conv$", "conv1_conv"),
    (r"^norm$", "post_bn"),
    (r"^head\.fc$", "predictions"),
    (
        r"^stages\.(\d)\.blocks\.(\d+)\.",
        lambda m: f"conv{int(m[1]) + 2}_block{int(m[2]) + 1}_",
    ),
    (r"downsample\.conv$", "0_conv"),
    (r"_norm1$", "_preact_bn"),
    (r"_norm(\d)$", lambda m: f"_{int(m[1]) - 1}_bn"),
    (r"_conv(\d)$", r"_\1_conv"),
]
"""From a layer's canonical name to Keras's, applied in this order."""

_ORDER = ["preact_bn", "1_conv", "1_bn", "2_conv", "2_bn", "0_conv", "3_conv", "0_bn", "3_bn"]
"""Keras writes and reads a block's layers in this order, by their depth in its graph."""

_LIST_LIMIT = 2 * 10**6
"""Bytes of a list of names; ResNet152's takes 20,000."""


def layer_name(module: str, spec: ResNetSpec) -> str:
    """What keras.applications calls a layer: `conv2_block1_0_conv` for `layer1.0.downsample.0`."""
    return rename(module, V2 if spec.pre_activation else V1)


def read_applications(path: Path, given: ResNetSpec | None = None) -> Checkpoint:
    """A file of `save_weights` or `save` of a ResNet of keras.applications, with or without its
    classifier. The net follows from the file: V1 or V2, depths, channels and classes.

    Raises:
        WeightsError: if the file is damaged, or holds something else.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            root = _child(file, "model_weights", path) if "model_weights" in file else file
            arrays = dict(_arrays(root, path))
            spec = given or _spec_of(arrays, path)
            state = _state(arrays, spec, path)
    # h5py raises errors of many kinds for files that are damaged.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: not a readable Keras weights file ({reason})") from None
    return Checkpoint(state, spec, _preprocessing(spec))


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise FrameworkError(
            ".h5 files need h5py, which is not installed; run: pip install h5py"
        ) from None
    return h5py


def _child(group: Any, name: str, path: Path) -> Any:
    """A member of a group that is really in the file; `name` may be a path of such."""
    h5py = _h5py()
    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or part in ("", ".", ".."):
            raise WeightsError(f"{path}: {name[:200]!r} names nothing in the file")
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise WeightsError(
                f"{path}: {name[:200]!r} is missing, or a link, and none is followed"
            )
        group = group[part]
    return group


def _names(group: Any, attribute: str, path: Path) -> list[str]:
    """A list of names in an attribute, which Keras splits if it is long."""
    chunks = [attribute] if attribute in group.attrs else []
    while not chunks or f"{attribute}{len(chunks)}" in group.attrs:
        key = f"{attribute}{len(chunks)}"
        if key not in group.attrs:
            break
        chunks.append(key)
    if not chunks and attribute == "layer_names":
        raise WeightsError(f"{path}: has no list of layers, so Keras did not write it")
    found = []
    for key in chunks:
        stored = group.attrs.get_id(key)
        if math.prod(stored.shape) * stored.dtype.itemsize > _LIST_LIMIT:
            raise WeightsError(f"{path}: its list {key} is longer than any model's")
        found += [x.decode() if isinstance(x, bytes) else str(x) for x in group.attrs[key]]
    return found


def _arrays(root: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """`<layer>/<leaf>` to data set, none of them read yet."""
    h5py = _h5py()
    for layer in _names(root, "layer_names", path):
        group = _child(root, layer, path)
        for name in _names(group, "weight_names", path):
            found = _child(group, name, path)
            if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
                raise WeightsError(f"{path}: {name[:200]!r} is no array in the file itself")
            leaf = name.rpartition("/")[2].partition(":")[0]
            yield f"{layer}/{leaf}", found


def _spec_of(arrays: dict[str, Any], path: Path) -> ResNetSpec:
    v2 = "post_bn/gamma" in arrays
    blocks = {match[0] for name in arrays if (match := re.match(r"conv\d_block\d+", name))}
    depths = [sum(b.startswith(f"conv{stage}_") for b in blocks) for stage in (2, 3, 4, 5)]
    first, last = arrays.get("conv1_conv/kernel"), arrays.get("predictions/kernel")
    if first is None or first.ndim != 4 or 0 in depths or (last is not None and last.ndim != 2):
        raise WeightsError(
            f"{path}: not a ResNet of keras.applications; name the model (--model) if it is a "
            f"variant of one"
        )
    return CATALOGUE["keras_resnet50v2" if v2 else "keras_resnet50"].spec.override(
        depths=depths,
        in_channels=int(first.shape[2]),
        num_classes=0 if last is None else int(last.shape[1]),
    )


def _state(arrays: dict[str, Any], spec: ResNetSpec, path: Path) -> State:
    """Canonical arrays; whatever is left over stays under its own name, to be refused later."""
    state: State = {}
    for q in compile_plan(spec).parameters():
        name = f"{layer_name(q.module, spec)}/{LEAVES.get(q.role, q.role)}"
        found = arrays.pop(name, None)
        if found is None:
            continue
        expected = _keras_shape(q)
        if tuple(found.shape) != expected:
            raise WeightsError(f"{path}: {name} has shape {found.shape}, expected {expected}")
        state[q.name] = _to_canonical(np.asarray(found), q)
    if arrays:
        extra = ", ".join(sorted(arrays)[:5])
        raise WeightsError(f"{path}: has {len(arrays)} arrays that the model lacks: {extra}")
    return state


def _keras_shape(q: Parameter) -> tuple[int, ...]:
    if q.module == "head.fc" and len(q.shape) == 4:
        return q.shape[1], q.shape[0]
    if len(q.shape) == 4:
        out, channels, height, width = q.shape
        return height, width, channels, out
    return q.shape[::-1]


def _to_canonical(array: np.ndarray, q: Parameter) -> np.ndarray:
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    return np.ascontiguousarray(array.T).reshape(q.shape)


def to_keras(array: np.ndarray, q: Parameter) -> np.ndarray:
    """A canonical array in the layout of keras.applications."""
    if q.module == "head.fc" and array.ndim == 4:
        array = array[:, :, 0, 0]
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T)


def _preprocessing(spec: ResNetSpec) -> Preprocessing | None:
    """What `preprocess_input` does; size and crop are those of most evaluations."""
    if spec.in_channels != 3:
        return None
    if spec.pre_activation:
        half = (0.5, 0.5, 0.5)
        return Preprocessing(image_size=spec.image_size, mean=half, std=half)
    mean = tuple(x / 255 for x in (103.939, 116.779, 123.68))
    std = (1 / 255, 1 / 255, 1 / 255)
    return Preprocessing(image_size=spec.image_size, mean=mean, std=std, channel_order="bgr")


def write_applications(path: Path, checkpoint: Checkpoint) -> None:
    """Write what `keras.applications.ResNet50(weights=path)` and its siblings load.

    Raises:
        SpecError: if keras.applications has no such net.
    """
    spec = checkpoint.spec
    assert spec is not None
    twin = CATALOGUE["keras_resnet50v2" if spec.pre_activation else "keras_resnet50"].spec.override(
        depths=spec.depths, in_channels=spec.in_channels, num_classes=spec.num_classes
    )
    found = parting(compile_plan(spec), compile_plan(twin))
    if found is not None:
        raise SpecError(f"keras.applications has no such net: {found}")
    layers: dict[str, dict[str, np.ndarray]] = {}
    for q in compile_plan(spec).parameters():
        name = layer_name(q.module, spec)
        layers.setdefault(name, {})[LEAVES[q.role]] = to_keras(checkpoint.state[q.name], q)
    names = sorted(layers, key=_position)
    with _h5py().File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in names]
        file.attrs["backend"] = "tensorflow"
        file.attrs["keras_version"] = "2.15.0"
        for name in names:
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{leaf}:0".encode() for leaf in layers[name]]
            for leaf, array in layers[name].items():
                group.create_dataset(f"{name}/{leaf}:0", data=array)


def _position(name: str) -> tuple[int, int, int]:
    """Where a layer stands in Keras's order."""
    match = re.match(r"conv(\d)_block(\d+)_(.+)", name)
    if match:
        return int(match[1]), int(match[2]), _ORDER.index(match[3])
    return {"conv1_conv": (1, 0, 0), "conv1_bn": (1, 0, 1), "post_bn": (9, 0, 0)}.get(
        name, (9, 0, 1)
    )


__all__ = ["LEAVES", "layer_name", "read_applications", "to_keras", "write_applications"]
