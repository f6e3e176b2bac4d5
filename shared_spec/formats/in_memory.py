"""Weights that are in memory already, as arrays and tensors of any framework. None is imported for
it: what is given says by its class where it comes from.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared_spec.errors import WeightsError
from shared_spec.formats.containers.source import Source, reason, shown
from shared_spec.formats.search import plain
from shared_spec.weights.lazy_array import LazyArray, LazyArrays
from shared_spec.weights.state import DTYPES

_WHERE = Path("weights")
"""What messages call it."""
_DEPTH = 32


def open_in_memory(weights: object) -> Source:
    """Arrays and tensors by their names, none of them copied until it is read.

    Examples:
        >>> open_in_memory(nnx.state(model)).tensors["layer1/0/conv1/kernel"].shape
        (3, 3, 64, 64)

    Args:
        weights: a mapping of names to arrays, such as a PyTorch state dict; a tree of mappings,
            such as `nnx.State`; or a list of variables of a Keras model.

    Raises:
        WeightsError: if it is something else, or a training checkpoint that holds such a mapping.
    """
    if isinstance(weights, list | tuple) and all(_is_keras(value) for value in weights):
        weights = {value.path: value for value in weights}
    if not isinstance(weights, Mapping):
        raise WeightsError(
            f"weights: expected a path, a mapping of names to arrays or a list of Keras variables, "
            f"got {type(weights).__name__}"
        )
    if inside := list(_state_dicts(weights, "weights")):
        raise WeightsError(
            f"weights: a training checkpoint, which holds weights inside; give "
            f"{' or '.join(inside[:10])}"
        )
    entries: dict[str, LazyArray] = {}
    keras = nested = False
    for path, value in _leaves(weights, ()):
        name = plain("/".join(path))
        if name in entries:
            raise WeightsError(f"weights: holds {shown(name)} twice, under different prefixes")
        entries[name] = _array(name, value)
        nested = nested or "/" in name
        keras = keras or _is_keras(value)
    # Names with slashes are paths; a Keras variable may have a canonical name too.
    kind = "pytorch" if not nested else "keras" if keras else "flax"
    return Source(_WHERE, kind, LazyArrays(entries))


def _state_dicts(node: Mapping[Any, Any], where: str, depth: int = 0) -> Iterator[str]:
    """Where state dicts are below a mapping, as Python would write it."""
    for key, value in node.items():
        if isinstance(value, Mapping) and depth < 3:
            inside = f"{where}[{shown(key) if isinstance(key, str) else repr(key)}]"
            if any(isinstance(k, str) and "." in k and _shaped(v) for k, v in value.items()):
                yield inside
            else:
                yield from _state_dicts(value, inside, depth + 1)


def _shaped(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _leaves(
    node: Mapping[Any, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    if len(path) > _DEPTH:
        raise WeightsError("weights: nested deeper than any model")
    for key, value in node.items():
        parts = map(str, key if isinstance(key, tuple) else (key,))
        inside = (*path, *parts)
        if isinstance(value, Mapping):
            yield from _leaves(value, inside)
        else:
            yield inside, value


def _packages(value: object) -> set[str]:
    """The packages that the class of an object and its bases come from."""
    return {str(kind.__module__).partition(".")[0] for kind in type(value).__mro__}


def _is_keras(value: object) -> bool:
    """Whether it is a variable of Keras."""
    return "keras" in _packages(value) and isinstance(getattr(value, "path", None), str)


def _array(name: str, value: Any) -> LazyArray:
    """An array of any framework; what is none is told when it is held against the net."""
    if isinstance(value, LazyArray):
        return value
    if isinstance(value, np.ndarray):
        return LazyArray.of(value)
    packages = _packages(value)
    # Variables first: Keras's are tensors of its engine too.
    if packages & {"keras", "flax"} and (hasattr(value, "get_value") or hasattr(value, "value")):
        inner = value.get_value() if hasattr(value, "get_value") else value.value
        return _array(name, inner)
    if "torch" in packages and _shaped(value):
        return _torch(name, value)
    if "tensorflow" in packages and hasattr(value, "numpy") and _shaped(value):
        return _lazy(name, value, value.dtype.name, value.numpy)
    if packages & {"jax", "jaxlib"} and hasattr(value, "__array__"):
        return _lazy(name, value, str(value.dtype), lambda: np.asarray(value))
    return LazyArray.refused(f"is a {type(value).__name__}, expected an array or a tensor")


def _torch(name: str, tensor: Any) -> LazyArray:
    """A tensor or parameter of PyTorch on any device."""
    if tensor.device.type == "meta":
        return LazyArray.refused("is on PyTorch's meta device, where tensors have no numbers")
    if hasattr(tensor, "full_tensor"):
        return LazyArray.refused("is spread over processes; its full_tensor() is expected")
    if str(tensor.layout) != "torch.strided":
        return LazyArray.refused(f"has the layout {tensor.layout}, expected a dense tensor")
    kind = str(tensor.dtype).removeprefix("torch.")

    def read() -> np.ndarray:
        near = tensor.detach().cpu()
        if kind != "bfloat16":
            return np.asarray(near.numpy())
        # numpy has no such dtype, so PyTorch gives it none of these; their bits it does.
        bits = near.view(sys.modules["torch"].int16).numpy()
        return np.asarray(bits.view(DTYPES[kind]))

    return _lazy(name, tensor, kind, read)


def _lazy(name: str, value: Any, dtype: str, read: Callable[[], np.ndarray]) -> LazyArray:
    def checked() -> np.ndarray:
        # Each framework has errors of its own for what was deleted, donated or is being traced.
        try:
            return read()
        except Exception as error:
            raise WeightsError(f"weights: {name} cannot be read ({reason(error)})") from None

    try:
        kind = np.dtype(dtype)
    except TypeError:
        return LazyArray.refused(f"has dtype {dtype}, expected one of {', '.join(DTYPES)}")
    return LazyArray(tuple(value.shape), kind, checked)
