"""What both backends that compute in JAX have to tell its compiler."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


def summed(a: Any, b: Any) -> Any:
    """`a + b` of arrays of one shape, computed once.

    On CPUs, XLA fuses a sum into each operation that reads it, which computes it again. Along
    residual blocks each sum brings all earlier ones of its stage with it: compiling and computing
    take time by the square of the depth, forward and backward. XLA leaves alone what it is told not
    to inline. Other devices fuse by cost, and are left to it.
    """
    import jax

    return (_kept() if jax.default_backend() == "cpu" else jax.numpy.add)(a, b)


@cache
def _kept() -> Callable[[Any, Any], Any]:
    import jax

    try:
        from jax.experimental.xla_metadata import set_xla_metadata
    except ImportError:  # which may move, as all that is experimental
        return jax.numpy.add
    add = jax.jit(lambda a, b: a + b)

    def kept(a: Any, b: Any) -> Any:
        with set_xla_metadata(inlineable="false"):  # type: ignore[no-untyped-call]
            return add(a, b)

    return kept


__all__ = ["summed"]
