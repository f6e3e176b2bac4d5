"""Nets to files that runtimes run, each proven before it takes its place."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_parity.convert.certificate import Check, Quantized, remove_stale, write_certificate
from resnet_parity.convert.quantized import (
    Quantization,
    calibrate,
    evaluate,
    require_fit,
    require_logits,
)
from resnet_parity.convert.read import read_any
from resnet_parity.convert.verify import Proof, RuntimeFile, Target, certify
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.registry import RUNTIMES, Engine, missing_modules
from shared_spec.atomic_write import durable, workspace
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import FrameworkError, WeightsError
from shared_spec.formats.canonical_file import save_canonical
from shared_spec.formats.certified import certificate_path
from shared_spec.origin import Origin, completed, fetched
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import inference_form
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.folding import weight_entries
from shared_spec.weights.initialize import initial_entries
from shared_spec.weights.lazy_array import entries_of
from shared_spec.weights.preprocessing import Preprocessing

if TYPE_CHECKING:
    from resnet_onnx.file import Form


@dataclass(frozen=True)
class Wanted:
    """What is to be written of a net."""

    form: Form
    """What the graph takes and gives."""
    dtype: str = "float32"
    folded: bool = False
    """Whether batch norms go into convolutions, as they always do in int8."""
    quantization: Quantization | None = None
    """For the dtype int8, and no other."""


@dataclass(frozen=True)
class Exported:
    """What an export did."""

    source: str
    target: str
    dtype: str
    opset: int
    bytes: int
    seconds: dict[str, float]
    """`export`, and apart from it `verify`."""
    notes: tuple[str, ...]
    """What was assumed or left out, a sentence each."""
    certificate: str | None = None
    judged_by: str | None = None
    """Who ran the source for the certificate: see `Certificate.judged_by`."""
    assumed: str = ""
    checks: tuple[Check, ...] = ()
    removed: str | None = None
    """A certificate of an earlier file."""
    quantized: Quantized | None = None
    """Of int8, what became of the accuracy."""


def export(origin: Origin, target: Path, wanted: Wanted, proof: Proof | None = None) -> Exported:
    """Write a net to an ONNX file, and run it in the runtimes that are installed.

    Args:
        origin: the net and its weights; fresh ones, of the seed 0, if it names none.
        target: the file. If anything fails, what was there is left as it was.
        wanted: what is written.
        proof: in which runtimes to compare the file with the source before it takes its place; the
            certificate is then written next to it. With None, nothing is run.

    Raises:
        ResNetError: if the net has no such form, or the weights do not fit.
        ParityError: if a runtime computes something else.
    """
    if (absent := missing_modules(("onnx",), "'resnet-parity[onnx]'")) is not None:
        raise FrameworkError(f"ONNX: {absent}")
    from resnet_onnx.file import write

    start = time.perf_counter()
    engines = [] if proof is None else _runtimes(proof, wanted.dtype)
    opset = wanted.form.version(wanted.dtype)
    with workspace() as folder:
        source, path, checkpoint = _source(origin, folder, proof is not None)
        assert checkpoint.spec is not None
        notes = list(checkpoint.notes)
        if wanted.form.preprocessing and checkpoint.preprocessing is None:
            prepare = Preprocessing.default(checkpoint.spec)
            checkpoint = replace(checkpoint, preprocessing=prepare)
            notes.append(
                "the weights have no preprocessing of their own, and the graph has ImageNet's"
            )
        if proof is not None and not engines:
            notes.append(
                "nothing was run: no runtime is installed; run: pip install 'resnet-parity[onnx]'"
            )
        quantization, on_progress = wanted.quantization, proof.on_progress if proof else _silent
        made, seconds, quantized, job = None, 0.0, None, EngineJob(folder)
        limits = inputs = None
        p, float_dtype = compile_plan(checkpoint.spec), wanted.dtype
        if quantization is not None:
            require_logits(checkpoint.spec)
            p, float_dtype = inference_form(p, True), "float32"
            size = wanted.form.size
            limits, inputs = calibrate(job, p, checkpoint, quantization, size, on_progress)
        p = inference_form(p, wanted.folded and quantization is None)
        entries = weight_entries(p, checkpoint.state, float_dtype)
        with durable(target) as draft:
            write(draft, p, entries, float_dtype, wanted.form, checkpoint, limits)
            if quantization is not None:
                require_fit(draft, target, p, entries)
            if engines:
                before = time.perf_counter()
                plain = p.trained is None
                same = _dtypes(checkpoint) == {wanted.dtype}
                exported = RuntimeFile(
                    wanted.dtype,
                    wanted.form.head,
                    wanted.form.size,
                    permutation=plain and same,
                    rounded=plain and not same,
                    bgr=wanted.form.preprocessing and _takes_bgr(checkpoint),
                )
                written = Target(draft, target, checkpoint, exported, inputs)
                assert proof is not None
                noted = replace(checkpoint, notes=tuple(notes))
                made = certify(path, written, noted, engines, proof)
                notes = list(notes if made is None else made.notes)
                if made is not None and quantization is not None:
                    quantized = evaluate(job, written, engines, quantization, on_progress)
                    made = replace(made, quantized=quantized)
                seconds = time.perf_counter() - before
        if made is not None:
            write_certificate(made, target)
        removed = remove_stale(target) if made is None else None
    return Exported(
        source,
        str(target),
        wanted.dtype,
        opset,
        target.stat().st_size,
        {"export": round(time.perf_counter() - start - seconds, 3), "verify": round(seconds, 3)},
        tuple(notes),
        None if made is None else str(certificate_path(target)),
        None if made is None else made.judged_by,
        checkpoint.assumed,
        () if made is None else tuple(made.checks),
        removed,
        quantized,
    )


def _silent(text: str) -> None:
    """No progress is shown."""


def _runtimes(proof: Proof, dtype: str) -> list[Engine]:
    """Those that run a file of `dtype`: the ones asked for, or all that are installed and can.

    Raises:
        FrameworkError: if one that was named is not installed, or runs no such files.
    """
    from resnet_onnx.runtimes import require_dtype, runs

    if proof.engines is None:
        able = (engine for engine in RUNTIMES.values() if runs(engine.name, dtype))
        return [engine for engine in able if engine.missing() is None]
    for engine in proof.engines:
        if engine.trains:
            raise FrameworkError(
                f"engines: {engine.name} runs no ONNX files; {', '.join(RUNTIMES)} do"
            )
        if (absent := engine.missing()) is not None:
            raise FrameworkError(f"{engine.name}: {absent}")
        require_dtype(engine.name, dtype)
    return list(proof.engines)


def _source(origin: Origin, folder: Path, to_be_run: bool) -> tuple[str, Path, Checkpoint]:
    """What is exported, in words; a file of it; and what that holds."""
    if isinstance(origin.weights, str):
        path = fetched(origin.weights)
        spec = None if origin.model is None else resolve(origin.model)
        checkpoint = completed(read_any(path, spec, folder), origin.weights)
        if checkpoint.spec is None:
            raise WeightsError(f"{origin.weights}: does not say which net it is; name it (--model)")
        return str(origin.weights), path, checkpoint
    assert origin.model is not None
    spec = resolve(origin.model)
    fresh = Checkpoint(initial_entries(compile_plan(spec)), spec)
    name = f"{origin.model}, fresh weights of the seed 0"
    checkpoint = replace(fresh, origin=name, library="resnet-parity")
    path = folder / "fresh.safetensors"
    if to_be_run:
        save_canonical(path, fresh)
    return name, path, checkpoint


def _takes_bgr(checkpoint: Checkpoint) -> bool:
    prepare = checkpoint.preprocessing
    return prepare is not None and prepare.channel_order == "bgr"


def _dtypes(checkpoint: Checkpoint) -> set[str]:
    return {entry.dtype.name for entry in entries_of(checkpoint.state).values()}
