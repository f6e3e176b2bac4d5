"""Canonical weights: a dict of numpy arrays under PyTorch names and layouts, and its file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from shared_spec.compiler import compile_plan
from shared_spec.durable import durable
from shared_spec.errors import SpecError, WeightsError, nearest
from shared_spec.plan import Plan
from shared_spec.preprocessing import Preprocessing
from shared_spec.spec import ResNetSpec

State = dict[str, np.ndarray]
"""Canonical name to array: kernels OIHW, dense OI, as in a PyTorch state dict."""

WeightsLike = str | os.PathLike[str] | Mapping[str, np.ndarray]
"""The path of a checkpoint, or canonical weights."""

DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""The dtypes a model can have."""

METADATA_KEY = "resnet_parity"
_MANY = 50


@dataclass(frozen=True)
class Checkpoint:
    """Weights with what is needed to use them; whatever the file does not tell is None."""

    state: State
    spec: ResNetSpec | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON data."""
        out: dict[str, Any] = {"version": 1}
        if self.spec is not None:
            out["spec"] = self.spec.to_dict()
        if self.preprocessing is not None:
            out["preprocessing"] = self.preprocessing.model_dump(mode="json")
        if self.labels is not None:
            out["labels"] = list(self.labels)
        return out

    @classmethod
    def from_metadata(cls, state: State, data: object, where: str) -> Checkpoint:
        """The inverse of `metadata`; `data` may be None.

        Raises:
            SpecError: if `data` is not of the form that `metadata` writes.
        """
        if data is None:
            return cls(state)
        if not isinstance(data, dict) or data.get("version") != 1:
            raise SpecError(f"{where}: its resnet_parity metadata is not of version 1")
        spec, preprocessing, labels = (data.get(k) for k in ("spec", "preprocessing", "labels"))
        if labels is not None and not (
            isinstance(labels, list) and all(isinstance(x, str) for x in labels)
        ):
            raise SpecError(f"{where}: the labels in its metadata are not a list of strings")
        return cls(
            state,
            None if spec is None else ResNetSpec.parse(spec, f"{where}: spec"),
            None if preprocessing is None else Preprocessing.parse(preprocessing, where),
            None if labels is None else tuple(labels),
        )


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype called `name`.

    Raises:
        WeightsError: if a model cannot have it.
    """
    try:
        return DTYPES[name]
    except (KeyError, TypeError):
        raise WeightsError(f"dtype: {name!r} is not one of {', '.join(DTYPES)}") from None


def cast_weights(state: Mapping[str, np.ndarray], dtype: str) -> State:
    """`state` in another dtype, rounded to nearest: the one place where precision is given up.

    Arrays that have the dtype already are passed on, not copied.
    """
    target = numpy_dtype(dtype)
    return {name: np.asarray(array).astype(target, copy=False) for name, array in state.items()}


def check_weights(p: Plan, state: Mapping[str, Any], dtype: str) -> None:
    """Hold `state` against the plan for a model of `dtype`; return only if everything fits.

    Names and shapes must be equal, and each array's dtype a float that `dtype` represents exactly.

    Raises:
        WeightsError: listing every mismatch, with the nearest names.
    """
    problems = list(_mismatches(p, state, numpy_dtype(dtype), dtype))
    if problems:
        count = f"{len(problems)} mismatch" + ("es" if len(problems) > 1 else "")
        raise WeightsError(f"the weights do not fit the model ({count}): " + "; ".join(problems))


def _mismatches(
    p: Plan, state: Mapping[str, Any], target: np.dtype[Any], dtype: str
) -> Iterator[str]:
    wanted = {q.name: q for q in p.parameters()}
    missing = [name for name in wanted if name not in state]
    extra = [name for name in state if name not in wanted]
    few = len(missing) + len(extra) <= _MANY
    for name in missing:
        near = nearest(name, extra, 1) if few else []
        yield f"{name} is missing" + (f" (nearest given: {near[0]})" if near else "")
    for name in extra:
        near = nearest(str(name), wanted, 1) if few else []
        yield f"{name} is not in the model" + (f" (nearest: {near[0]})" if near else "")
    rounded: dict[str, list[str]] = {}
    for name, q in wanted.items():
        if name not in state:
            continue
        array = state[name]
        if not isinstance(array, np.ndarray):
            yield f"{name} is a {type(array).__name__}, expected a numpy array"
        elif array.shape != q.shape:
            yield f"{name} has shape {array.shape}, expected {q.shape}"
        elif array.dtype not in DTYPES.values():
            yield f"{name} has dtype {array.dtype}, expected one of {', '.join(DTYPES)}"
        elif np.promote_types(array.dtype, target) != target:
            rounded.setdefault(array.dtype.name, []).append(name)
    for given, names in rounded.items():
        which = "all arrays" if len(names) == len(wanted) > 1 else ", ".join(names)
        yield (
            f"{which}: dtype {given}, which {dtype} cannot hold exactly "
            f"(cast_weights(state, {dtype!r}) rounds)"
        )


def check_native(shapes: Mapping[str, tuple[int, ...]], p: Plan, slots: Mapping[str, Slot]) -> None:
    """Hold the shapes of a model's own arrays against its plan, before anything is assigned.

    Raises:
        WeightsError: if a layer was replaced by one of another size.
    """
    for q in p.parameters():
        axes = slots[q.role].axes
        expected = q.shape if axes is None else tuple(q.shape[i] for i in axes)
        if tuple(shapes[q.name]) != expected:
            raise WeightsError(
                f"{q.module} was replaced in this model: its {slots[q.role].leaf} has shape "
                f"{tuple(shapes[q.name])}, the plan says {expected}"
            )


def replaced(module: str) -> WeightsError:
    """The error for a model that no longer has the layer its plan names."""
    return WeightsError(f"{module} was replaced in this model by a layer that its plan lacks")


def digest(state: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and values, independent of order and container."""
    sha = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name])
        sha.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def read_safetensors(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a safetensors file of PyTorch names: ours, torchvision's or timm's.

    `num_batches_tracked` counters are dropped, since nothing depends on them.

    Raises:
        WeightsError: if the file is missing, truncated or something else.
    """
    from safetensors import SafetensorError, safe_open

    require_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 not a dict
    except (SafetensorError, OSError, TypeError, AttributeError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from None
    return Checkpoint.from_metadata(
        without_counters(state), _json(header.get(METADATA_KEY), path), str(path)
    )


def write_safetensors(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write `checkpoint` durably. PyTorch's `load_state_dict` takes the file's tensors as they are.

    Raises:
        WeightsError: if the checkpoint has a spec that its weights do not fit, as after a layer of
            the model was replaced by hand.
        ResNetError: if the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if checkpoint.spec is not None:
        check_weights(compile_plan(checkpoint.spec), checkpoint.state, "float64")
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.state.items()}
    metadata = {"format": "pt", METADATA_KEY: json.dumps(checkpoint.metadata())}
    with durable(path) as draft:
        try:
            save_file(arrays, draft, metadata=metadata)
        except SafetensorError as error:
            raise WeightsError(f"{path}: cannot be written ({error})") from None
        _order_header(draft)


def _order_header(path: Path) -> None:
    """Put the metadata in order: safetensors writes it in a random one, and equal checkpoints
    should be equal files.
    """
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def without_counters(state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` less PyTorch's `num_batches_tracked` entries."""
    return {k: v for k, v in state.items() if not str(k).endswith("num_batches_tracked")}


def require_file(path: str | os.PathLike[str], kind: str = "weights") -> None:
    """Raise a `WeightsError` unless `path` exists."""
    if not Path(path).exists():
        raise WeightsError(f"{path}: there is no such file of {kind}")


def _json(text: str | None, path: object) -> object:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise SpecError(f"{path}: its resnet_parity metadata is not JSON") from None


@dataclass(frozen=True)
class Slot:
    """Where a backend keeps one canonical role: the leaf's name there, and the order of axes that
    turns a PyTorch array into the native one.
    """

    leaf: str
    axes: tuple[int, ...] | None = None
    inverse: tuple[int, ...] | None = field(init=False)

    def __post_init__(self) -> None:
        inverse = None if self.axes is None else tuple(int(i) for i in np.argsort(self.axes))
        object.__setattr__(self, "inverse", inverse)

    def to_native(self, array: np.ndarray, *, own: bool = False) -> np.ndarray:
        """A PyTorch array in the native layout: a view, or with `own` what a framework may keep.

        On a CPU, JAX and TensorFlow may keep a C-contiguous array instead of copying it, and a
        model must not change with its caller's arrays; other strides they copy in any case.
        """
        view = array if self.axes is None else array.transpose(self.axes)
        return view.copy() if own and view.flags.c_contiguous else view

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """A native array in PyTorch's layout, contiguous."""
        return np.ascontiguousarray(
            array if self.inverse is None else array.transpose(self.inverse)
        )
