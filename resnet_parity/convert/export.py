"""Nets to files that runtimes run, each proven before it takes its place."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from resnet_parity.convert.certificate import (
    Check,
    Quantized,
    files_of,
    remove_stale,
    write_certificate,
)
from resnet_parity.convert.quantized import (
    Quantization,
    calibrate,
    evaluate,
    require_fit,
)
from resnet_parity.convert.read import read_any
from resnet_parity.convert.verify import Proof, RuntimeFile, Target, certify
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.registry import ALL_ENGINES, Engine, missing_modules
from shared_spec.atomic_write import durable, move_beside, workspace
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import FrameworkError, WeightsError
from shared_spec.export_formats import EXPORT_FORMATS, ExportFormat, Form, require_logits
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


@dataclass(frozen=True)
class Wanted:
    """What is to be written of a net."""

    form: Form
    """What the graph takes and gives."""
    dtype: str = "float32"
    folded: bool = False
    """Whether batch norms go into convolutions, as they always do in int8."""
    format: ExportFormat = EXPORT_FORMATS["onnx"]
    quantization: Quantization | None = None
    """For the dtype int8, and no other."""


@dataclass(frozen=True)
class Exported:
    """What an export did."""

    source: str
    target: str
    dtype: str
    format: str
    opset: int | None
    """Of ONNX's operators."""
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
    """Write a net to a file that runtimes run, and run it in those that are installed.

    Args:
        origin: the net and its weights; fresh ones, of the seed 0, if it names none.
        target: the file, or folder. If anything fails, what was there is left as it was.
        wanted: what is written.
        proof: in which runtimes to compare the file with the source before it takes its place; the
            certificate is then written next to it. With None, nothing is run.

    Raises:
        ResNetError: if the format or the net has no such form, the weights do not fit, or what
            writes the format is not installed.
        ParityError: if a runtime computes something else.
    """
    kind, form = wanted.format, wanted.form
    kind.check(form, wanted.dtype)
    kind.check_place(target)
    if wanted.quantization is not None:
        wanted.quantization.check(form)
    writer = None if kind.from_plan else ALL_ENGINES[kind.engines[0]]
    if (absent := _absent(kind, writer)) is not None:
        raise FrameworkError(f"{kind.title}: {absent}")
    if writer is None:
        from resnet_onnx import write_file
    start = time.perf_counter()
    engines = [] if proof is None else _runtimes(kind, proof, wanted.dtype)
    with workspace() as folder:
        source, path, checkpoint = _source(origin, folder)
        assert checkpoint.spec is not None
        spec = checkpoint.spec
        net, form = compile_plan(spec), form.sized(spec)
        wanted = replace(wanted, form=form)
        kind.check_net(form, net)
        if wanted.quantization is not None:
            require_logits(spec)
        if proof is not None and not path.exists():
            save_canonical(path, checkpoint)
        notes = list(checkpoint.notes)
        if form.preprocessing and checkpoint.preprocessing is None:
            calibrated = wanted.quantization and wanted.quantization.preprocessing
            prepare = calibrated or Preprocessing.default(checkpoint.spec)
            checkpoint = replace(checkpoint, preprocessing=prepare)
            whose = "the calibration's" if calibrated else "ImageNet's"
            notes.append(
                f"the weights have no preprocessing of their own, and the graph has {whose}"
            )
        if proof is not None and not engines:
            notes.append(
                f"nothing was run: no runtime is installed; run: pip install "
                f"'resnet-parity[{ALL_ENGINES[kind.engines[0]].install}]'"
            )
        quantization, on_progress = wanted.quantization, proof.on_progress if proof else _silent
        made, seconds, quantized, job = None, 0.0, None, EngineJob(folder)
        p, limits, inputs = inference_form(net, wanted.folded), None, None
        if quantization is not None:
            p = inference_form(net, True)
            limits, inputs = calibrate(job, p, checkpoint, quantization, form.size, on_progress)
        with durable(target, kind.replaceable) as draft:
            if writer is None:
                entries = weight_entries(p, checkpoint.state, _floats(wanted))
                write_file(draft, p, entries, _floats(wanted), form, checkpoint, limits)
            else:
                _write(draft, checkpoint, wanted, job, writer)
            if quantization is not None:
                require_fit(draft, target, p, entries)
            if engines:
                before = time.perf_counter()
                plain = p.trained is None
                unchanged = plain and kind.keeps_weights
                dtypes, wide = _dtypes(checkpoint), wanted.dtype == "float64"
                exported = RuntimeFile(
                    wanted.dtype,
                    form.head,
                    form.size,
                    # In float64, what an epsilon rounds off goes into the variance.
                    permutation=unchanged and dtypes == {wanted.dtype} and not wide,
                    rounded=plain and dtypes != {wanted.dtype} and not wide,
                    bgr=form.preprocessing and _takes_bgr(checkpoint),
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
            kept = {file.name for file in files_of(draft)}
            move_beside(draft, target.resolve())
        for file in files_of(target) if target.is_file() else ():
            if file.name not in kept:  # of a larger net that was here before
                file.unlink(missing_ok=True)
        if made is not None:
            write_certificate(made, target)
        removed = remove_stale(target) if made is None else None
    return Exported(
        source,
        str(target),
        wanted.dtype,
        kind.title,
        _opset(wanted),
        sum(file.stat().st_size for file in files_of(target)),
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


def _floats(wanted: Wanted) -> str:
    """The dtype of the weights before they are quantised, if they are."""
    return wanted.dtype if wanted.quantization is None else "float32"


def _absent(kind: ExportFormat, writer: Engine | None) -> str | None:
    """None, or a sentence that says what is not installed that writes a format."""
    if writer is not None:
        return writer.missing()
    needed = ("onnx", "openvino") if kind.name == "openvino" else ("onnx",)
    return missing_modules(needed, f"'resnet-parity[{kind.name}]'")


def _opset(wanted: Wanted) -> int | None:
    if wanted.format.name != "onnx":
        return None
    from resnet_onnx.file import version

    return version(wanted.form, wanted.dtype)


def _write(
    draft: Path, checkpoint: Checkpoint, wanted: Wanted, job: EngineJob, writer: Engine
) -> None:
    """Write a file in the process of a framework."""
    weights = Path(job.path("exported"))
    save_canonical(weights, replace(checkpoint, state=dict(checkpoint.state)))
    with job.worker(writer) as worker:
        worker.call(
            "export",
            source=str(weights),
            output=str(draft),
            form=asdict(wanted.form),
            dtype=wanted.dtype,
            folded=wanted.folded,
        )


def _runtimes(kind: ExportFormat, proof: Proof, dtype: str) -> list[Engine]:
    """Those that run a file of `dtype`: the ones asked for, or all that are installed and can.

    Raises:
        FrameworkError: if one that was named is not installed, or runs no such files.
    """
    if proof.engines is None:
        known = (ALL_ENGINES[name] for name in kind.engines)
        return [e for e in known if e.missing() is None and _runs(e, dtype)]
    for engine in proof.engines:
        if engine.name not in kind.engines:
            raise FrameworkError(
                f"engines: {engine.name} runs no files of {kind.title}; {', '.join(kind.engines)} "
                f"{'do' if len(kind.engines) > 1 else 'does'}"
            )
        if (absent := engine.missing()) is not None:
            raise FrameworkError(f"{engine.name}: {absent}")
        if engine.package == "resnet_onnx":
            from resnet_onnx.runtimes import require_dtype

            require_dtype(engine.name, dtype)
    return list(proof.engines)


def _runs(engine: Engine, dtype: str) -> bool:
    """Whether an engine computes in a dtype."""
    if engine.package != "resnet_onnx":
        return True
    from resnet_onnx.runtimes import runs

    return runs(engine.name, dtype)


def _source(origin: Origin, folder: Path) -> tuple[str, Path, Checkpoint]:
    """What is exported, in words; a file of it, which fresh weights have not yet; and what that
    holds.
    """
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
    return name, folder / "fresh.safetensors", checkpoint


def _takes_bgr(checkpoint: Checkpoint) -> bool:
    prepare = checkpoint.preprocessing
    return prepare is not None and prepare.channel_order == "bgr"


def _dtypes(checkpoint: Checkpoint) -> set[str]:
    return {entry.dtype.name for entry in entries_of(checkpoint.state).values()}
