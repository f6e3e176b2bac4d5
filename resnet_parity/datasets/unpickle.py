"""The pickles of CIFAR's Python version, read without running what they ask for.

The unpickler is Python's own, written in Python (the one in C reserves memory for any number that a
file gives to one of its parts). What a file names has to be one of five functions and types, and
none of them is looked up: stand-ins note what they were called with, and allocate nothing.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np

from resnet_parity.datasets.bounded_read import why
from shared_spec.errors import DataError

_AXES = 8


class PickledArray:
    """What a pickle says of an array."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def uint8(self, where: str) -> np.ndarray:
        """The array.

        Raises:
            DataError: if it is not one of bytes, or has more or fewer of them than it says.
        """
        match self.state:
            case (int(), tuple(shape), PickledType(code="u1" | "uint8"), bool(columns), raw):
                if isinstance(raw, str):  # bytes of Python 2, or of Python 3 as protocol 2 has them
                    raw = raw.encode("latin-1")
                natural = len(shape) <= _AXES and all(type(n) is int and n >= 0 for n in shape)
                if natural and isinstance(raw, bytes) and math.prod(shape) == len(raw):
                    order = "F" if columns else "C"
                    return np.frombuffer(raw, np.uint8).reshape(shape, order=order)  # type: ignore[call-overload,no-any-return]
        raise DataError(f"{where}: its array is not one of bytes, or not as long as it says")


class PickledType:
    """What a pickle says of the type of an array's numbers."""

    __slots__ = ("code",)

    def __init__(self, code: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which bytes have none of."""


class _StandIn:
    """In the place of a function or type. It is no class, so that no opcode can make one of it."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: object) -> object:
        if self._name == "encode":
            match arguments:
                case (str(text), "latin1" | "latin-1"):
                    return text.encode("latin-1")
        elif self._name == "dtype" and arguments:
            code = arguments[0]
            return PickledType(code.decode("latin-1") if isinstance(code, bytes) else code)
        elif self._name == "_reconstruct":
            return PickledArray()
        raise pickle.UnpicklingError(f"{self._name} is called in a way that no array needs")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it sets attributes")


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(
                f"it asks for {module[:100]}.{name[:100]}, and nothing is executed"
            )
        return _StandIn(name)


def unpickled(data: bytes, where: str) -> dict[str, Any]:
    """The dict in a pickle: numbers, text, lists and `PickledArray`s by name.

    Raises:
        DataError: if it is damaged or asks for anything else, by name.
    """
    try:
        found = _Unpickler(io.BytesIO(data), encoding="latin-1").load()
    # The unpickler raises errors of many kinds on bytes that are damaged.
    except Exception as error:
        raise DataError(f"{where}: not a readable batch ({why(error)})") from None
    if not isinstance(found, dict):
        raise DataError(f"{where}: holds a {type(found).__name__}; a batch is a dict")
    return {
        key.decode("latin-1") if isinstance(key, bytes) else key: value
        for key, value in found.items()
        if isinstance(key, str | bytes)
    }
