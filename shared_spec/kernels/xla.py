"""What both backends that compute in JAX pass to its compiler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from pathlib import Path
from typing import Any

LIBRARY = "xla_cpu_experimental_ynn_fusion_type"
"""XLA's option that lists what YNNPACK computes on CPUs."""
WITHOUT_CONVOLUTIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
"""Without reductions, batch norms would train five times as slowly."""


_target: ContextVar[str | None] = ContextVar("target", default=None)
"""The platform that is compiled for where no such device is."""


class Planned(Exception):  # noqa: N818 - what was asked for, and no error
    """What a call would have run: a function of `jax.jit`, and its arguments."""

    def __init__(self, function: Any, args: tuple[Any, ...]) -> None:
        super().__init__("not run: it is to be compiled for another device")
        self.function, self.args = function, args


@contextmanager
def ahead_of_time(platform: str) -> Iterator[None]:
    """Inside, layers are traced as `platform` (cpu, gpu, tpu) has them, and a call of a function of
    `jit` that was made inside raises `Planned`. So whoever calls what users call gets the program
    that they run, and may compile it for devices that are not here.
    """
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)


def _platform() -> str:
    import jax

    return _target.get() or jax.default_backend()


def summed(a: Any, b: Any) -> Any:
    """`a + b` of arrays of one shape, computed once.

    On CPUs, XLA fuses a sum into each operation that reads it, which computes it again. Along
    residual blocks each sum brings all earlier ones of its stage with it: compile time and run
    time grow with the square of the depth, forward and backward. XLA does not fuse a call that is
    marked as not to be inlined. Other devices fuse by cost and are left alone.
    """
    return _apart(_sum)(a, b)


def rectified(x: Any) -> Any:
    """ReLU of a block's sum, apart from what reads it.

    On CPUs, XLA would keep the sum itself for the backward pass, beside the result. Of a call that
    is not inlined it keeps where the sum is positive, a byte each.
    """
    return _apart(_relu)(x)


def averaged(x: Any, keepdims: bool) -> Any:
    """The mean of each map of `x`, [N, H, W, C], apart from what made the maps.

    On CPUs, XLA hands a mean to YNNPACK together with the ReLU before it, whose maximum there gives
    zero for NaN: a broken net would look right.
    """
    return _apart(_mean_of_each if keepdims else _mean)(x)


def _sum(a: Any, b: Any) -> Any:
    return a + b


def _relu(x: Any) -> Any:
    import jax

    return jax.nn.relu(x)


def _mean(x: Any) -> Any:
    return x.mean((1, 2))


def _mean_of_each(x: Any) -> Any:
    return x.mean((1, 2), keepdims=True)


def _apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, on CPUs as a call that XLA fuses with nothing around it."""
    return _called(function) if _platform() == "cpu" else function


@cache
def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    import jax

    try:
        from jax.experimental.xla_metadata import set_xla_metadata
    except ImportError:  # which may move, as all that is experimental
        return function
    compiled = jax.jit(function)

    def called(*arrays: Any) -> Any:
        with set_xla_metadata(inlineable="false"):  # type: ignore[no-untyped-call]
            return compiled(*arrays)

    return called


def recomputed(function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """`function`, a pure one, of which a backward pass finds nothing but the arguments and computes
    the rest again. The first of its arguments and the first of its results are single arrays.

    It is `jax.checkpoint`, but on CPUs: XLA removes its barriers there, finds that all has been
    computed already, and keeps it. A call that is not inlined hides that, and has what is computed
    again wait for the gradient that needs it.
    """
    import jax

    if _platform() != "cpu":
        return jax.checkpoint(function)

    def forward(*args: Any) -> Any:
        return function(*args), args

    def backward(args: Any, gradients: Any) -> Any:
        x, gradient = _called(_both)(args[0], gradients[0])
        return jax.vjp(function, x, *args[1:])[1]((gradient, *gradients[1:]))

    run: Any = jax.custom_vjp(function)
    run.defvjp(forward, backward)
    return run  # type: ignore[no-any-return]


def _both(a: Any, b: Any) -> tuple[Any, Any]:
    return a, b


def every(x: Any, rows: int, columns: int) -> Any:
    """`x[:, ::rows, ::columns]`, of a size that JAX knows for a convolution's: sizes that are
    symbols are compared by how they are written.
    """
    if rows == columns == 1:
        return x
    from jax import lax

    return lax.slice(x, (0,) * x.ndim, x.shape, (1, rows, columns, 1))


def convolution(x: Any, kernel: Any, strides: tuple[int, int], padding: Any, **options: Any) -> Any:
    """`lax.conv_general_dilated` of [N, H, W, C] and [H, W, C / groups, out], whose `options` it
    takes, of which each device computes that of its own images.

    On CPUs and GPUs, XLA gathers the whole batch on every device for a convolution in groups
    (unless it is of each channel alone), forward and backward: as much work as if there were one
    device. In a program that `jit` compiles for several, it is told how to divide them. What is a
    part of another function keeps XLA's way, since what is divided so has neither forward-mode
    derivatives nor `vmap`.
    """
    import jax

    lax: Any = jax.lax

    def convolve(x: Any, kernel: Any) -> Any:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    groups = options.get("feature_group_count", 1)
    apart = groups != 1 and not groups == x.shape[-1] == kernel.shape[-1] and _for_several.get()
    # Where types say how arrays are spread, and inside of `shard_map`, there is nothing to divide.
    apart = apart and {*jax.typeof(x).sharding.mesh.axis_types} <= {jax.sharding.AxisType.Auto}
    return (_of_own_images(convolve) if apart else convolve)(x, kernel)


def _of_own_images(convolve: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`convolve(x, kernel)` and its derivatives, where images are spread over devices."""
    import jax

    like: Any = jax.ShapeDtypeStruct

    def backward(kept: tuple[Any, Any], gradient: Any) -> tuple[Any, Any]:
        x, kernel = kept

        def to_images(gradient: Any, kernel: Any) -> Any:
            of_a_device = like((gradient.shape[0], *x.shape[1:]), x.dtype)
            back = jax.linear_transpose(lambda x: convolve(x, kernel), of_a_device)
            return back(gradient)[0]

        def to_kernel(gradient: Any, x: Any) -> Any:
            whole = like(kernel.shape, kernel.dtype)
            return jax.linear_transpose(lambda kernel: convolve(x, kernel), whole)(gradient)[0]

        spread = _partitioned(to_images, "n p q o, i j k l -> n h w c")
        total = _partitioned(to_kernel, "n p q o, n h w c -> i j k l", total=True)
        return spread(gradient, kernel), total(gradient, x)

    forward = _partitioned(convolve, "n h w c, i j k l -> n p q o")
    run: Any = jax.custom_vjp(forward)
    run.defvjp(lambda x, kernel: (forward(x, kernel), (x, kernel)), backward)
    return run  # type: ignore[no-any-return]


def _partitioned(function: Callable[..., Any], axes: str, total: bool = False) -> Any:
    """`function` of two arrays, whose letters `axes` gives, computed by each device of what it has
    along the first axis, n; all else is whole. A `total` is summed over devices.
    """
    import jax
    from jax.experimental.custom_partitioning import custom_partitioning

    lax: Any = jax.lax
    sharding: Any = jax.sharding

    def spread_over(array: Any) -> Any:
        """Axes of the mesh."""
        parts = getattr(array.sharding, "spec", None)
        return parts[0] if parts else None

    def over_axis(mesh: Any, axis: Any) -> Any:
        return sharding.NamedSharding(mesh, sharding.PartitionSpec(axis))

    def partition(mesh: Any, arguments: Any, result: Any) -> Any:
        over = spread_over(arguments[0])
        spread, whole = (over_axis(mesh, axis) for axis in (over, None))

        def of_a_device(*arrays: Any) -> Any:
            found = function(*arrays)
            return lax.psum(found, over) if total and over is not None else found

        given = tuple(spread if part.strip().startswith("n") else whole for part in operands)
        return mesh, of_a_device, whole if total else spread, given

    def inferred(mesh: Any, arguments: Any, result: Any) -> Any:
        over = None if total else spread_over(arguments[0])
        return over_axis(mesh, over)

    operands = axes.partition("->")[0].split(",")
    run: Any = custom_partitioning(function)  # type: ignore[no-untyped-call]
    run.def_partition(
        partition=partition, infer_sharding_from_operands=inferred, sharding_rule=axes
    )
    return run


_for_several: ContextVar[bool] = ContextVar("for_several", default=False)
"""Whether what is traced will be compiled for several devices of one kind, not TPUs."""


def jit(function: Callable[..., Any], dtype: str, **options: Any) -> Any:
    """`jax.jit` of what computes in `dtype`, with what makes ResNets faster on the device at hand.

    On CPUs, XLA hands convolutions, products and reductions to YNNPACK. With AVX2, and with
    AVX-512, float32 convolutions of XLA's own are faster (docs/performance.md has figures), and
    then 1 x 1 ones need be no products either. In other dtypes they are slower, and elsewhere
    nothing was measured: XLA's choice stays. So does yours, in `XLA_FLAGS`.
    """
    run = _jit(function, dtype, options)
    if _target.get() is None:
        return run

    def planned(*args: Any) -> Any:
        raise Planned(run, args)

    return planned


def _jit(function: Callable[..., Any], dtype: str, options: dict[str, Any]) -> Any:
    import jax

    usual = jax.jit(function, **options)
    several = _platform() != "tpu" and (_target.get() is not None or jax.device_count() > 1)
    chosen = compiler_options() if dtype == "float32" else {}
    if not chosen and not several:
        return usual

    traced = _set_inside(_for_several, function) if several else function
    if chosen:
        traced = _set_inside(_own_convolutions, traced)
    compiled = jax.jit(traced, compiler_options=chosen or None, **options)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        # JAX takes options for whole programs alone, and in another one this is a part. There, what
        # is around it may also ask for derivatives or a batch that a divided function has not.
        leaves = jax.tree.leaves((args, kwargs))
        part = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        return (usual if part else compiled)(*args, **kwargs)

    call.lower = compiled.lower  # type: ignore[attr-defined]
    return call


def _set_inside(what: ContextVar[bool], function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, while which runs `what` is true."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        token = what.set(True)
        try:
            return function(*args, **kwargs)
        finally:
            what.reset(token)

    return run


def products() -> bool:
    """Whether a 1 x 1 convolution that is traced now is faster as a product of matrices."""
    own = _own_convolutions.get() or _without_convolutions(os.environ.get("XLA_FLAGS", ""))
    return _platform() == "cpu" and not own


def _without_convolutions(xla_flags: str) -> bool:
    """Whether these flags take convolutions from the library: they list what it gets, or, with
    signs, what is added and taken away; the last one counts.
    """
    _, given, rest = xla_flags.rpartition(f"--{LIBRARY}=")
    items = f"{rest} ".split(" ")[0].split(",")
    signed = [item for item in items if item.startswith(("+", "-"))]
    if signed:
        return any(item.startswith("-") and "CONVOLUTION" in item for item in signed)
    return bool(given) and not any("CONVOLUTION" in item for item in items)


_own_convolutions: ContextVar[bool] = ContextVar("own_convolutions", default=False)
"""Whether what is traced will be compiled with convolutions of XLA's own."""


def compiler_options() -> dict[str, str]:
    """Options of `jax.jit(..., compiler_options=...)` for float32 on the device at hand; none for
    most.
    """
    if _platform() != "cpu" or LIBRARY in os.environ.get("XLA_FLAGS", ""):
        return {}
    return dict(_of_this_processor())


@cache
def _of_this_processor() -> dict[str, str]:
    if "avx2" not in processor_flags():  # which those with AVX-512 have, too
        return {}
    import jax

    options = {LIBRARY: WITHOUT_CONVOLUTIONS}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except Exception:  # an older or newer XLA has no such option, and says so in many ways
        return {}
    return options


def processor_flags() -> frozenset[str]:
    """What the processor says that it can do; nothing if Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((x for x in lines if x.startswith("flags")), "").split())
