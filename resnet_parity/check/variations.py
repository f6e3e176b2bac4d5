"""The ways to run a net again that should not change what it computes, and by which switches."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from resnet_parity.engines.registry import Engine

Pick = tuple[int, ...]
"""A batch, by the indices of its images."""
Variables = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Variation:
    """Batches of the same images, in a process with these environment variables."""

    name: str
    picks: tuple[Pick, ...]
    variables: Variables = ()

    def of(self, engine: Engine) -> Engine:
        """The engine in such a process."""
        return replace(engine, variables=self.variables)


FORMS = {
    "resnet_torch": ("layers", "predict", "channels_first", "compiled"),
    "resnet_keras": ("layers", "predict", "compiled"),
}
"""Of a package. In Flax `predict` runs what `compiled` makes; on JAX and TensorFlow Keras compiles
it as well, to another program. Keras and Flax have one layout."""


def forms_of(engine: Engine, compiled: bool) -> tuple[str, ...]:
    """How an engine runs a net; what PyTorch compiles takes minutes."""
    found = FORMS.get(engine.package, ("layers", "predict"))
    return tuple(form for form in found if compiled or form != "compiled")


def threads(engine: Engine, count: int) -> Variables:
    """Environment variables for so many threads; none for runtimes, which read no such thing."""
    names = {
        "torch": ("OMP_NUM_THREADS", "MKL_NUM_THREADS"),
        "tensorflow": ("TF_NUM_INTRAOP_THREADS",),
        "jax": ("NPROC",),
    }
    return tuple((name, str(count)) for name in names.get(engine.framework, ()))


def _switches(onednn: str, aten: str, mkl: str, xla: str) -> dict[str, Variables]:
    """Each framework's: oneDNN has a switch, so have ATen and MKL beside it in PyTorch, and XLA,
    but not Eigen in TensorFlow, nor YNNPACK, which XLA calls.
    """
    own = (("ONEDNN_MAX_CPU_ISA", onednn),)
    more = (("ATEN_CPU_CAPABILITY", aten), ("MKL_ENABLE_INSTRUCTIONS", mkl))
    return {
        "torch": own + more,
        "tensorflow": own,
        "jax": (("XLA_FLAGS", f"--xla_cpu_max_isa={xla}"),),
    }


SIMD = (
    ("AVX-512 alone", "avx512f", _switches("AVX512_CORE", "avx512", "AVX512", "AVX512")),
    ("AVX2", "avx2", _switches("AVX2", "avx2", "AVX2", "AVX2")),
    ("SSE4", "sse4_1", _switches("SSE41", "default", "SSE4_2", "SSE4_2")),
)
"""The most that kernels may use: its name, the processor's flag, the switches. AVX-512 alone is
without its products of bfloat16 and without AMX."""
KNOWN = (
    *("sse4_1", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_bf16", "amx_int8"),
)
"""Flags of processors that choose kernels."""


def within(batch: int) -> list[Variation]:
    """What is varied in one process: positions of images, sizes of batches, nothing.

    Last come the same images as first: `torch.compile` makes another program for other batches, and
    that one then runs the first batch as well.
    """
    whole = tuple(range(batch))
    found = [Variation("once more", (whole,))]
    if batch > 1:
        found.append(Variation("another position", ((whole[-1], *whole[:-1]),)))
    for size in (1, 2, 3):
        if size < batch:
            chunks = tuple(whole[i : i + size] for i in range(0, batch, size))
            found.append(Variation(f"batch {size}", chunks))
    found.append(Variation(f"batch {2 * batch}", ((*whole, *whole),)))
    found.append(Variation("after other batches", (whole,)))
    return found


def processes(engine: Engine, batch: int, cores: int, flags: Collection[str]) -> list[Variation]:
    """What is varied by starting another process. Where nothing else is said, an engine has as many
    threads as there are cores.
    """
    picks = (tuple(range(batch)),)
    usual = threads(engine, cores)
    found = [Variation("another process", picks, usual)]
    for count in (1, 2 * cores):
        if usual and count != cores:
            title = "1 thread" if count == 1 else f"{count} threads"
            found.append(Variation(title, picks, threads(engine, count)))
    for title, flag, switches in SIMD:
        if flag in flags and engine.framework in switches:
            found.append(Variation(title, picks, usual + switches[engine.framework]))
    return found
