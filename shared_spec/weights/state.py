"""Canonical weights: a dict of numpy arrays under PyTorch names and layouts, and its file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import ml_dtypes
import numpy as np

from shared_spec.errors import WeightsError, nearest
from shared_spec.plan.network import Plan
from shared_spec.weights.layouts import ParameterLayout
from shared_spec.weights.lazy_array import LazyArray, LazyArrays, entries_of, read_ahead

State = dict[str, np.ndarray]
"""Canonical name to array: kernels OIHW, dense OI, as in a PyTorch state dict."""

WeightsLike = str | os.PathLike[str] | Mapping[Any, Any] | Sequence[Any]
"""The path of a checkpoint, or weights that are in memory: a mapping of canonical names to numpy
arrays, or to tensors and variables of any framework; a tree of them such as `nnx.State` of our Flax
model; or the variables of our Keras model.
"""

DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""The dtypes a model can have."""

_MANY = 50
_SHOWN = 10


def numpy_dtype(name: str, argument: str = "dtype") -> np.dtype[Any]:
    """The numpy dtype called `name`, which was given as `argument`.

    Raises:
        WeightsError: if a model cannot have it.
    """
    try:
        return DTYPES[name]
    except (KeyError, TypeError):
        raise WeightsError(f"{argument}: {name!r} is not one of {', '.join(DTYPES)}") from None


def cast_weights(state: Mapping[str, np.ndarray], dtype: str) -> State:
    """`state` in another dtype, rounded to nearest: the one place where precision is given up.

    Arrays that have the dtype already are passed on, not copied.
    """
    target = numpy_dtype(dtype)
    return {name: np.asarray(array).astype(target, copy=False) for name, array in state.items()}


def check_weights(p: Plan, state: Mapping[str, Any], dtype: str, where: object = None) -> None:
    """Hold `state` against the plan for a model of `dtype`; return only if everything fits.

    Names and shapes must be equal, and each array's dtype a float that `dtype` represents exactly.
    `where` may be the path that they come from, for the message.

    Raises:
        WeightsError: with the first mismatches in its message and all of them in `mismatches`, each
            with the nearest name.
    """
    problems = list(_mismatches(p, state, numpy_dtype(dtype), dtype))
    if not problems:
        return
    file = f"{where}: " if isinstance(where, str | os.PathLike) else ""
    classifier = "" if p.classifier is None else p.classifier.name
    head = [q.name for q in p.parameters() if q.module == classifier]
    if len(head) == len(problems) and not any(name in state for name in head):
        raise WeightsError(
            f"{file}the weights hold no classifier ({_joined(head, ', ')}); num_classes=N draws a "
            f"new one, num_classes=0 gives features",
            problems,
        )
    count = f"{len(problems)} mismatch" + ("es" if len(problems) > 1 else "")
    raise WeightsError(
        f"{file}the weights do not fit the model ({count}): {_joined(problems, '; ')}", problems
    )


def _joined(items: Sequence[str], mark: str) -> str:
    """A list for a message, cut where nobody reads on."""
    more = [f"and {len(items) - _SHOWN:,} more"] if len(items) > _SHOWN else []
    return mark.join([*items[:_SHOWN], *more])


def _mismatches(
    p: Plan, state: Mapping[str, Any], target: np.dtype[Any], dtype: str
) -> Iterator[str]:
    wanted = {q.name: q for q in p.parameters()}
    missing = [name for name in wanted if name not in state]
    extra = [name for name in state if name not in wanted]
    few = len(missing) + len(extra) <= _MANY
    for lost, left in zip_longest(missing, extra):  # so that a few of each are told
        if lost is not None:
            near = nearest(lost, extra, 1) if few else []
            yield f"{lost} is missing" + (f" (nearest given: {near[0]})" if near else "")
        if left is not None:
            near = nearest(str(left), wanted, 1) if few else []
            yield f"{left} is not in the model" + (f" (nearest: {near[0]})" if near else "")
    rounded: dict[str, list[str]] = {}
    arrays = state.entries if isinstance(state, LazyArrays) else state
    for name, q in wanted.items():
        if name not in state:
            continue
        array = arrays[name]
        if isinstance(array, LazyArray) and array.problem:
            yield f"{name} {array.problem}"
        elif not isinstance(array, np.ndarray | LazyArray):
            yield f"{name} is a {type(array).__name__}, expected a numpy array"
        elif array.shape != q.shape:
            yield f"{name} has shape {array.shape}, expected {q.shape}"
        elif array.dtype not in DTYPES.values():
            yield f"{name} has dtype {array.dtype}, expected one of {', '.join(DTYPES)}"
        elif np.promote_types(array.dtype, target) != target:
            rounded.setdefault(array.dtype.name, []).append(name)
    for given, names in rounded.items():
        which = "all arrays" if len(names) == len(wanted) > 1 else _joined(names, ", ")
        yield (
            f"{which}: dtype {given}, which {dtype} cannot hold exactly "
            f"(cast_weights(state, {dtype!r}) rounds)"
        )


def check_native(
    shapes: Mapping[str, tuple[int, ...]], p: Plan, slots: Mapping[str, ParameterLayout]
) -> None:
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
    return WeightsError(
        f"{module} was replaced in this model by a layer that its plan lacks; save such a model as "
        f"its framework does"
    )


_PLAIN = (bool, int, float, str, tuple, type(None))


def check_settings(name: str, layer: object, fresh: object, apart: Collection[str]) -> None:
    """Hold the settings of a native layer against those of a fresh one.

    Args:
        name: of the layer.
        layer: whose attributes count: numbers, texts and tuples.
        fresh: what a backend builds for the layer's record.
        apart: names of attributes that change nothing in inference.

    Raises:
        WeightsError: naming the first that is another: no weights would tell of it.
    """
    now = vars(layer)
    for key, value in vars(fresh).items():
        if isinstance(value, _PLAIN) and not key.startswith("_") and key not in apart:
            found = now.get(key, value)
            if not isinstance(found, _PLAIN) or found != value:
                raise WeightsError(
                    f"{name}: its {key} is {found!r:.40} in this model and {value!r} in its spec, "
                    f"which the weights would be saved with; make a model of a spec that says so"
                )


def digest(state: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and values, independent of order and container."""
    sha = hashlib.sha256()
    entries = entries_of(state)
    names = sorted(entries)
    arrays = read_ahead(entries[name] for name in names)
    for name in names:
        array = next(arrays)
        shape = array.shape or (1,)
        sha.update(f"{name}\0{array.dtype.name}\0{shape}\0".encode())
        sha.update(array.reshape(-1).view(np.uint8).data)
        del array  # before the next one is read
    return sha.hexdigest()
