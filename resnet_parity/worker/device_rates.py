"""What the device does at best, measured inside a worker: products, convolutions, copies.

Several kernels, since a BLAS can be slower than the convolutions beside it; every one is repeated,
and the fastest time counts: whatever disturbs a measurement makes it slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from resnet_parity.engines.bench_job import BYTES, Rates
from shared_spec.kernels.xla import jit

SECONDS = 0.25
"""For each kernel."""


@dataclass(frozen=True)
class Arithmetic:
    """A framework's kernels on the session's device."""

    random: Callable[[tuple[int, ...]], Any]
    """Normal numbers in a shape: [N, C, H, W] and [O, I, H, W] where `channels_first` says so,
    [N, H, W, C] and [H, W, I, O] elsewhere.
    """
    product: Callable[[Any, Any], Any]
    convolution: Callable[[Any, Any], Any]
    """Of images and a kernel, stride 1, padded."""
    copying: Callable[[int], Callable[[], Any]]
    """A pass over so many numbers, into memory that it keeps: fresh pages cost more than copies."""
    arrays: int
    """How many of that size a pass reads and writes."""
    wait: Callable[[Any], None]
    channels_first: bool = False


def _torch(device: str, dtype: str) -> Arithmetic:
    import torch

    place: Any = {"device": "cuda" if device == "gpu" else "cpu", "dtype": getattr(torch, dtype)}

    def random(shape: tuple[int, ...]) -> Any:
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        return torch.randn(shape, **place).contiguous(memory_format=layout)

    def copying(count: int) -> Callable[[], Any]:
        x, y = torch.ones(count, **place), torch.empty(count, **place)
        return lambda: y.copy_(x)

    def wait(value: Any) -> None:
        if value.is_cuda:
            torch.cuda.synchronize()

    def convolution(x: Any, w: Any) -> Any:
        return torch.nn.functional.conv2d(x, w, padding=w.shape[-1] // 2)

    return Arithmetic(random, torch.mm, convolution, copying, 2, wait, channels_first=True)


def _jax(device: str, dtype: str) -> Arithmetic:
    import jax
    from jax import numpy as jnp

    kind = getattr(jnp, dtype)

    def convolution(x: Any, w: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)

    def copying(count: int) -> Callable[[], Any]:
        add = jax.jit(lambda x: x + 1, donate_argnums=0)
        kept = [jnp.ones(count, kind)]

        def run() -> Any:
            kept.append(add(kept.pop()))
            return kept[0]

        return run

    return Arithmetic(
        lambda shape: jax.random.normal(jax.random.key(0), shape, kind),
        jax.jit(jnp.matmul),
        jit(convolution, dtype),
        copying,
        2,
        lambda value: value.block_until_ready(),
    )


def _tensorflow(device: str, dtype: str) -> Arithmetic:
    import tensorflow as tf

    kind = getattr(tf, dtype)

    def copying(count: int) -> Callable[[], Any]:
        x, y = tf.ones(count, kind), tf.Variable(tf.ones(count, kind))
        return lambda: y.assign_add(x)

    return Arithmetic(
        lambda shape: tf.cast(tf.random.normal(shape), kind),
        tf.function(tf.matmul),
        tf.function(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME")),
        copying,
        3,
        lambda value: value[(0,) * len(value.shape)].numpy(),
    )


ARITHMETIC = {"torch": _torch, "jax": _jax, "tensorflow": _tensorflow}

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
        taken = fastest(arithmetic.copying(size // BYTES[dtype]), arithmetic.wait, seconds / 2)
        copies.append((size, arithmetic.arrays * size / taken))
    return Rates(dtype, best, kernel, tuple(copies))


def _kernels(arithmetic: Arithmetic, device: str) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    side, maps, _ = SHAPES[device != "cpu"]
    a, b = arithmetic.random((side, side)), arithmetic.random((side, side))
    name = f"product of matrices of {side}"
    yield name, 2 * side**3, partial(arithmetic.product, a, b)
    for batch, pixels, channels in maps:
        for size, after in ((3, channels), (1, 4 * channels)):
            if arithmetic.channels_first:
                shapes = (batch, channels, pixels, pixels), (after, channels, size, size)
            else:
                shapes = (batch, pixels, pixels, channels), (size, size, channels, after)
            flops = 2 * batch * pixels**2 * size**2 * channels * after
            name = f"{size}×{size} convolution of {channels} channels, {pixels}×{pixels}"
            yield name, flops, partial(arithmetic.convolution, *map(arithmetic.random, shapes))


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
