"""What the device does at best, measured inside a worker: products, convolutions, copies.

Several kernels, since a BLAS can be slower than the convolutions beside it; every one is repeated,
and the fastest time counts: whatever disturbs a measurement makes it slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from resnet_parity.engines.bench_job import BYTES, Rates
from shared_spec.kernels.xla import jit

SECONDS = 0.25
"""For each kernel."""


class Arithmetic(Protocol):
    """A framework's arrays on the session's device."""

    arrays: int
    """How many a pass of `copy` reads and writes."""

    def random(self, *shape: int) -> Any:
        """Normal numbers."""

    def ones(self, count: int) -> Any:
        """So many ones."""

    def product(self) -> Any:
        """Of two matrices."""

    def convolution(self) -> Any:
        """Of images as `images` gives them and a kernel as `kernel` does, stride 1, padded."""

    def copy(self) -> Any:
        """A pass over arrays, for one array."""

    def wait(self, value: Any) -> None:
        """Until it is there."""

    def images(self, batch: int, side: int, channels: int) -> Any:
        """Normal numbers in the layout that is fastest."""

    def kernel(self, size: int, before: int, after: int) -> Any:
        """The weights of a convolution."""


class _Torch:
    arrays = 2

    def __init__(self, device: str, dtype: str) -> None:
        import torch

        self._torch = torch
        self._place = {
            "device": "cuda" if device == "gpu" else "cpu",
            "dtype": getattr(torch, dtype),
        }

    def random(self, *shape: int) -> Any:
        return self._torch.randn(*shape, **self._place)

    def ones(self, count: int) -> Any:
        return self._torch.ones(count, **self._place)

    def product(self) -> Any:
        return self._torch.mm

    def convolution(self) -> Any:
        return lambda x, w: self._torch.nn.functional.conv2d(x, w, padding=w.shape[-1] // 2)

    def copy(self) -> Any:
        kept: list[Any] = []

        def run(x: Any) -> Any:
            if not kept:
                kept.append(self._torch.empty_like(x))
            return kept[0].copy_(x)

        return run

    def wait(self, value: Any) -> None:
        if value.is_cuda:
            self._torch.cuda.synchronize()

    def images(self, batch: int, side: int, channels: int) -> Any:
        return self._last(self.random(batch, channels, side, side))

    def kernel(self, size: int, before: int, after: int) -> Any:
        return self._last(self.random(after, before, size, size))

    def _last(self, x: Any) -> Any:
        return x.contiguous(memory_format=self._torch.channels_last)


class _Jax:
    arrays = 2

    def __init__(self, device: str, dtype: str) -> None:
        import jax

        self._jax, self._dtype, self._name = jax, getattr(jax.numpy, dtype), dtype

    def random(self, *shape: int) -> Any:
        return self._jax.random.normal(self._jax.random.key(0), shape, self._dtype)

    def ones(self, count: int) -> Any:
        return self._jax.numpy.ones(count, self._dtype)

    def product(self) -> Any:
        return self._jax.jit(self._jax.numpy.matmul)

    def convolution(self) -> Any:
        def run(x: Any, w: Any) -> Any:
            return self._jax.lax.conv_general_dilated(
                x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        return jit(run, self._name)

    def copy(self) -> Any:
        # Memory is given on from call to call, or each would wait for fresh pages.
        run = self._jax.jit(lambda x: x + 1, donate_argnums=0)
        kept: list[Any] = []

        def again(x: Any) -> Any:
            kept.append(run(kept.pop() if kept else x))
            return kept[0]

        return again

    def wait(self, value: Any) -> None:
        value.block_until_ready()

    def images(self, batch: int, side: int, channels: int) -> Any:
        return self.random(batch, side, side, channels)

    def kernel(self, size: int, before: int, after: int) -> Any:
        return self.random(size, size, before, after)


class _TensorFlow(_Jax):
    arrays = 3

    def __init__(self, device: str, dtype: str) -> None:
        import tensorflow as tf

        self._tf, self._type = tf, getattr(tf, dtype)

    def random(self, *shape: int) -> Any:
        return self._tf.cast(self._tf.random.normal(shape), self._type)

    def ones(self, count: int) -> Any:
        return self._tf.ones(count, self._type)

    def product(self) -> Any:
        return self._tf.function(self._tf.matmul)

    def convolution(self) -> Any:
        return self._tf.function(lambda x, w: self._tf.nn.conv2d(x, w, 1, "SAME"))

    def copy(self) -> Any:
        kept: list[Any] = []

        def again(x: Any) -> Any:
            if not kept:
                kept.append(self._tf.Variable(x))
            return kept[0].assign_add(x)

        return again

    def wait(self, value: Any) -> None:
        value[(0,) * len(value.shape)].numpy()


ARITHMETIC: dict[str, Callable[[str, str], Arithmetic]] = {
    "torch": _Torch,
    "jax": _Jax,
    "tensorflow": _TensorFlow,
}

# Side of a matrix; images, side, channels of a convolution; bytes of copied arrays. On an
# accelerator they have to be large to keep it busy.
SHAPES: dict[bool, tuple[int, list[tuple[int, int, int]], list[int]]] = {
    False: (1536, [(8, 56, 64), (8, 14, 256)], [2**n for n in (16, 18, 20, 22, 24, 26, 28)]),
    True: (8192, [(256, 56, 64), (256, 14, 256)], [2**n for n in (20, 22, 24, 26, 28, 30)]),
}


def measure(framework: str, device: str, dtype: str, seconds: float = SECONDS) -> Rates:
    """The best rates of one framework on the device, with all its threads."""
    arithmetic = ARITHMETIC[framework](device, dtype)
    best, kernel = 0.0, ""
    for name, flops, run in _kernels(arithmetic, device):
        rate = flops / fastest(run, arithmetic.wait, seconds)
        if rate > best:
            best, kernel = rate, f"{framework}'s {name}"
    copies = []
    for size in SHAPES[device != "cpu"][2]:
        x, copy = arithmetic.ones(size // BYTES[dtype]), arithmetic.copy()
        taken = fastest(lambda x=x, copy=copy: copy(x), arithmetic.wait, seconds / 2)  # type: ignore[misc]
        copies.append((size, arithmetic.arrays * size / taken))
    return Rates(dtype, best, kernel, tuple(copies))


def _kernels(arithmetic: Arithmetic, device: str) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    side, maps, _ = SHAPES[device != "cpu"]
    a, b = arithmetic.random(side, side), arithmetic.random(side, side)
    product = arithmetic.product()
    yield f"product of matrices of {side}", 2 * side**3, lambda: product(a, b)
    convolve = arithmetic.convolution()
    for batch, pixels, channels in maps:
        for size, after in ((3, channels), (1, 4 * channels)):
            x = arithmetic.images(batch, pixels, channels)
            w = arithmetic.kernel(size, channels, after)
            flops = 2 * batch * pixels**2 * size**2 * channels * after
            name = f"{size}×{size} convolution of {channels} channels, {pixels}×{pixels}"
            yield name, flops, lambda x=x, w=w: convolve(x, w)  # type: ignore[misc]


def fastest(
    run: Callable[[], Any],
    wait: Callable[[Any], None],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of a call at best, from a number of tries of some calls each, the first apart."""
    wait(run())
    start = clock()
    wait(run())
    once = max(clock() - start, 1e-7)
    # Some calls a try, so that the device has the next one while it computes.
    calls = max(1, min(round(seconds / 8 / once), 1000))
    best, end = once, clock() + seconds
    while clock() < end:
        start = clock()
        for _ in range(calls):
            value = run()
        wait(value)
        best = min(best, (clock() - start) / calls)
    return best
