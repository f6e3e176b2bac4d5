"""Running a converted file against its source, once and again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.convert.certificate import (
    FULL,
    RECONSTRUCTED,
    Certificate,
    Check,
    Inputs,
    OnProgress,
    file_digest,
    installed_versions,
    read_certificate,
    write_certificate,
)
from resnet_parity.convert.judges import Facts, Judge, judge_of
from resnet_parity.convert.read import read_any
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import ALL_ENGINES, ENGINES, Device, Engine
from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, difference
from resnet_parity.numerics.rounding import TRIALS, rounding_errors
from resnet_parity.numerics.top_k import log_softmax
from shared_spec.atomic_write import workspace
from shared_spec.errors import FrameworkError, ParityError, ResNetError, WeightsError
from shared_spec.formats.canonical_file import save_canonical
from shared_spec.formats.certified import certificate_path
from shared_spec.formats.containers.source import require_file
from shared_spec.formats.hub_folder import WEIGHTS
from shared_spec.formats.read import WHOLE, Asked
from shared_spec.formats.write import Format
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.folding import weight_entries
from shared_spec.weights.lazy_array import LazyArrays, entries_of
from shared_spec.weights.state import check_weights


@dataclass(frozen=True)
class Proof:
    """How a conversion is to be verified."""

    engines: tuple[Engine, ...] | None = None
    """None takes the first installed engine of the target's framework."""
    device: Device = "cpu"
    on_progress: OnProgress = lambda text: None
    judge_required: bool = False
    """Refuse what no other library has loaded and run."""
    against: str | None = None
    """The user's own model in PyTorch as the judge: `module:function`."""

    def engines_for(self, wanted: Format) -> list[Engine]:
        """Those that verify a format.

        Raises:
            FrameworkError: if one that was named is not installed.
        """
        if self.engines is not None:
            for engine in self.engines:
                if (absent := engine.missing()) is not None:
                    raise FrameworkError(f"{engine.name}: {absent}")
            return list(self.engines)
        names = wanted.engines or tuple(ENGINES)
        return [ENGINES[n] for n in names if ENGINES[n].missing() is None][:1]


@dataclass(frozen=True)
class Target:
    """What was written, and is to be run."""

    path: Path
    """Where it lies now."""
    named: Path
    """The path that it will have."""
    whole: Checkpoint
    """What it should hold: what the source does, or other weights for the same function."""
    exported: RuntimeFile | None = None
    """If it is no file of weights, but one that a runtime runs."""
    inputs: Inputs | None = None
    """Those of the certificate, if it is for no others."""

    def file(self) -> File:
        """As engines read it."""
        assert self.whole.spec is not None
        return File(self.path, self.whole.spec, exported=self.exported)


def certify(
    source: Path,
    target: Target,
    checkpoint: Checkpoint,
    engines: Sequence[Engine],
    proof: Proof,
) -> Certificate | None:
    """Compare a converted file with its source, both read again by the engines that compute them.

    Args:
        source: the file that was converted.
        target: what was written.
        checkpoint: what the source holds.
        engines: in which the target is run: weights in float64 and float32, an exported file in
            its own dtype. The first framework installed, if possible the source's own, gives the
            reference.
        proof: on which device, and who judges.

    Returns:
        The certificate, or None if no framework is installed.

    Raises:
        ParityError: if the target computes something else.
        ResNetError: if an engine fails, or the caller's model cannot judge.
    """
    whole, exported = target.whole, target.exported
    assert checkpoint.spec is not None
    assert whole.spec is not None
    chosen = judge_of(checkpoint, proof.against)
    engine = _reference_engine(checkpoint, engines)
    if engine is None:
        return None
    own, on_progress = checkpoint.own_graph, proof.on_progress
    size = exported.size if exported is not None else None if own is None else own.size
    inputs = target.inputs or Inputs.of(whole.spec, checkpoint.preprocessing, size)
    with workspace() as folder, _Workers(EngineJob(folder)) as workers:
        job = workers.job
        run = _CertificateRun(workers, _saved(job, inputs, exported), proof.device)
        theirs = None
        if isinstance(chosen, str):
            judged_by = f"{RECONSTRUCTED}{chosen}"
        else:
            on_progress(f"the source by {chosen[0].library}, float64")
            judged_by, theirs = run.judged(chosen, source, inputs, checkpoint)
        if proof.against is not None:
            workers.end()  # whatever the caller's code has changed in it
            if theirs is None:
                why = judged_by.removeprefix(RECONSTRUCTED)
                raise ResNetError(f"{why}; nothing was written")
        on_progress(f"reference: {engine.name}, float64")
        read = File(source, checkpoint.spec, Asked(checkpoint.part, checkpoint.names))
        narrow = "float32"
        if exported is not None and exported.dtype != "float64":
            narrow = exported.dtype
        found, _ = run.outputs(engine, read, ("float64",), Trials(narrow), "cpu")
        if not all(np.isfinite(array).all() for arrays in found.values() for array in arrays):
            raise ParityError(f"{source}: its logits are not finite numbers")
        if exported is not None:
            found = {name: exported.ending(arrays) for name, arrays in found.items()}
            theirs = theirs and exported.ending(theirs)
        ours = found.pop("float64")
        trials = (_numbered(arrays) for arrays in found.values())
        rounding = max(rounding_errors(_numbered(ours), trials).values())
        if isinstance(chosen, str) or theirs is None:
            by, reference = engine, ours
        else:
            by, reference = chosen[0].engine, theirs
        permutation = whole.state is checkpoint.state and (exported is None or exported.permutation)
        dtypes = {entry.dtype.name for entry in entries_of(whole.state).values()}
        if exported is not None:
            dtypes = {exported.dtype}
        certificate = Certificate(
            {"name": source.name, "format": checkpoint.origin, "sha256": file_digest(source)},
            {"name": target.named.name, "sha256": file_digest(target.path), **_told(exported)},
            whole.spec,
            permutation,
            # Files have the constants of arithmetic on pixels in float32.
            (permutation or dtypes == {"float64"})
            and not (own is not None and (own.pixels or own.rounded)),
            inputs,
            reference,
            by.name,
            judged_by,
            checkpoint.assumed,
            checkpoint.notes,
            rounding,
            [],
            installed_versions(),
        )
        off = _error(reference, ours, f"{engine.name} with what was read")
        if off is None or off > certificate.bound("float64"):
            raise ParityError(
                f"{source}: {judged_by}, computes something else than what was read of it: "
                f"{'not a number' if off is None else f'{off:.1e}'} apart, over "
                f"{certificate.bound('float64'):.1e}; nothing was written"
            )
        if exported is not None and exported.rounded:
            on_progress(f"reference: {engine.name}, float64, with the weights in {narrow}")
            certificate = _with_rounded(certificate, run, engine, whole, exported)
        checks = run.checks(engines, target.file(), certificate, on_progress)
        wrong = next((check for check in checks if not check.holds), None)
        if wrong is not None:
            there = ""
            if exported is None:
                on_progress("looking for the layer")
                written = ENGINES[wrong.engine], target.file()
                there = run.first_that_differs((engine, read), written)
            error = "not a number" if wrong.error is None else f"{wrong.error:.1e}"
            raise ParityError(
                f"{target.named}: {wrong.engine} in {wrong.dtype} computes something else than the "
                f"source: {error} apart, over {wrong.bound:.1e}{there}; nothing was written"
            )
    return replace(certificate, checks=checks)


def _with_rounded(
    certificate: Certificate,
    run: _CertificateRun,
    engine: Engine,
    whole: Checkpoint,
    exported: RuntimeFile,
) -> Certificate:
    """A certificate whose reference has the weights as the target has them, rounded, so that its
    function is told apart from others closer than rounding is.
    """
    path = run.workers.job.folder / "rounded.safetensors"
    assert whole.spec is not None
    p = compile_plan(whole.spec)
    entries = LazyArrays(weight_entries(p, whole.state, exported.dtype))
    save_canonical(path, replace(whole, state=entries))
    found, _ = run.outputs(engine, File(path, whole.spec), ("float64",), None, "cpu")
    reference = exported.ending(found["float64"])
    moved = _error(certificate.reference, reference, "the net with rounded weights")
    note = (
        f"the weights are rounded to {exported.dtype}, which moves the outputs by "
        f"{'more than numbers go' if moved is None else f'{moved:.1e}'}; the reference has them so"
    )
    notes = (*certificate.notes, note)
    return replace(certificate, reference=reference, exact=True, notes=notes)


def certify_file(path: Path, proof: Proof) -> Certificate:
    """Certify weights as they are, with nothing to convert: their reference logits come from the
    library whose files these are, or else from an engine here, and engines are held to them.

    Args:
        path: a file; or a folder for the Hugging Face Hub, whose weights are certified.
        proof: without engines, one of each installed framework is taken.

    Returns:
        The certificate, which lies beside the weights.

    Raises:
        ParityError: if an engine computes something else.
        ResNetError: if the file cannot be read or is not clear, or no framework is installed.
    """
    file = path / WEIGHTS if path.is_dir() and (path / WEIGHTS).is_file() else path
    require_file(file)
    engines = proof.engines
    if engines is None:
        here = [engine for engine in ENGINES.values() if engine.missing() is None]
        engines = tuple({e.name.partition(":")[0]: e for e in here[::-1]}.values())[::-1]
    if not engines:
        raise FrameworkError(f"{path}: no framework is installed, so that nothing can be compared")
    with workspace() as folder:
        checkpoint = read_any(path, None, folder)
        if checkpoint.spec is None:
            raise WeightsError(f"{path}: does not say which net it is")
        check_weights(compile_plan(checkpoint.spec), checkpoint.state, "float64", path)
        made = certify(path, Target(file, file, checkpoint), checkpoint, engines, proof)
    assert made is not None
    # Beside the weights in a folder lies what may still change.
    certificate = replace(made, source={"format": checkpoint.origin, **made.target})
    write_certificate(certificate, file)
    return certificate


def verify(
    target: Path,
    engines: Sequence[Engine] | None = None,
    device: Device = "cpu",
    dtypes: Sequence[str] = FULL,
    on_progress: OnProgress = lambda text: None,
) -> tuple[Certificate, list[Check]]:
    """Hold a converted file against its certificate, here and now.

    Args:
        target: the file or directory; its certificate is next to it.
        engines: which engines; None takes those that the certificate names, as far as they are
            installed, or else any one that is.
        device: cpu, gpu or tpu.
        dtypes: float64, float32 or both. A TPU has no float64. What was exported runs in the dtype
            that it was exported in.
        on_progress: called with a short description as each stage of the work begins.

    Returns:
        The certificate and what was found now.

    Raises:
        ParityError: if the file is another one than was certified.
        ResNetError: if the certificate cannot be read, or no engine can run.
    """
    require_file(target)
    certificate = read_certificate(certificate_path(target))
    found = file_digest(target)
    if found != certificate.target.get("sha256"):
        raise ParityError(
            f"{target}: is not the file of its certificate: its SHA-256 is {found[:16]}…, the "
            f"certificate's {str(certificate.target.get('sha256'))[:16]}…"
        )
    exported = _exported(certificate.target)
    if engines is None:
        named = [ALL_ENGINES[c.engine] for c in certificate.checks if c.engine in ALL_ENGINES]
        here = [e for e in dict.fromkeys(named) if e.missing() is None]
        engines = here
        if exported is None and not here:
            engines = [e for e in ENGINES.values() if e.missing() is None][:1]
    if not engines:
        wanted = "torch, keras or flax"
        if exported is not None:
            wanted = " or ".join(dict.fromkeys(check.engine for check in certificate.checks))
        raise ResNetError(f"verify: nothing is installed that runs the file; install {wanted}")
    with workspace() as folder, _Workers(EngineJob(folder)) as workers:
        images = _saved(workers.job, certificate.inputs, exported)
        run = _CertificateRun(workers, images, device, tuple(dtypes))
        file = File(target, certificate.spec, exported=exported)
        checks = run.checks(engines, file, certificate, on_progress)
    return certificate, checks


Outputs = dict[str, list[np.ndarray]]
"""By dtype, `float64`, or by trial, `trial0`: what a net returns, or the outputs of its layers."""


@dataclass(frozen=True)
class RuntimeFile:
    """What is known of a file that a runtime runs."""

    dtype: str
    """In which it computes."""
    head: str = "logits"
    """`softmax` if it gives probabilities."""
    size: tuple[int, int] | None = None
    """Height and width of images, if it takes no others."""
    permutation: bool = True
    """Whether it holds the source's numbers, bit for bit."""
    rounded: bool = False
    """Whether it holds them rounded, and no others."""
    bgr: bool = False
    """Whether it takes pixels, RGB, where the weights want the order BGR."""

    def ending(self, logits: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What it gives, for the outputs of its net."""
        if self.head == "logits":
            return list(logits)
        return [np.exp(log_softmax(x)) for x in logits]


@dataclass(frozen=True)
class File:
    """A file and its net."""

    path: Path
    spec: ResNetSpec
    asked: Asked = WHOLE
    exported: RuntimeFile | None = None

    def dtypes(self, engine: Engine, wanted: Sequence[str]) -> Sequence[str]:
        """Those in which an engine runs it: what was exported, in its own, or in that of float64 by
        the one that can.
        """
        if self.exported is None:
            return wanted
        wide = engine.name == "onnx:reference" and self.exported.dtype != "int8"
        return ("float64",) if wide else (self.exported.dtype,)


def _told(exported: RuntimeFile | None) -> dict[str, str]:
    """What a certificate says of a file that a runtime runs."""
    if exported is None:
        return {}
    order = {"channel_order": "bgr"} if exported.bgr else {}
    return {"dtype": exported.dtype, "head": exported.head, **order}


def _exported(target: Mapping[str, str]) -> RuntimeFile | None:
    """The inverse of `_told`."""
    if "dtype" not in target:
        return None
    bgr = target.get("channel_order") == "bgr"
    return RuntimeFile(target["dtype"], target.get("head", "logits"), bgr=bgr)


def _saved(job: EngineJob, inputs: Inputs, exported: RuntimeFile | None) -> str:
    """A file with the inputs, as `images` and, before anything was done with them, `pixels`."""
    arrays = {"images": inputs.array()}
    if exported is not None:
        arrays["pixels"] = inputs.pixels[..., ::-1] if exported.bgr else inputs.pixels
    return job.save("images", arrays)


@dataclass(frozen=True)
class Trials:
    """How often weights are changed, as rounding in a dtype would."""

    dtype: str = "float32"
    count: int = TRIALS


class _Workers(AbstractContextManager["_Workers"]):
    """One worker at a time: who asks for the engine that was asked for last finds it running."""

    def __init__(self, job: EngineJob) -> None:
        self.job = job
        self._stack = ExitStack()
        self._running: tuple[tuple[str, Device], Worker] | None = None

    def at(self, engine: Engine, device: Device) -> Worker:
        """An engine's worker, in the place of the last one."""
        wanted = engine.name, device
        if self._running is None or self._running[0] != wanted:
            self.end()
            self._running = wanted, self._stack.enter_context(self.job.worker(engine, device))
        return self._running[1]

    def end(self) -> None:
        """End the process that is running."""
        self._running = None
        self._stack.close()

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)


@dataclass(frozen=True)
class _CertificateRun:
    """Runs of engines on the same images."""

    workers: _Workers
    images: str
    device: Device
    dtypes: tuple[str, ...] = FULL

    def outputs(
        self,
        engine: Engine,
        file: File,
        dtypes: Sequence[str],
        trials: Trials | None,
        device: Device,
        layers: bool = False,
    ) -> tuple[Outputs, dict[str, str]]:
        """What a file makes of the images, or all its layers, and the engine's versions."""
        asked: dict[str, Any] = {"source": str(file.path.resolve()), "dtypes": list(dtypes)}
        operation = "run_exported"
        if file.exported is None:
            operation, place = "evaluate", file.asked
            asked |= {
                "spec": file.spec.to_dict(),
                "place": {"part": place.part, "names": place.names},
                "trials": None if trials is None else [trials.dtype, trials.count],
                "layers": layers,
            }
        worker = self.workers.at(engine, device)
        facts = worker.call("info")
        _, arrays = self.workers.job.run(worker.call, operation, images=self.images, **asked)
        found: Outputs = {}
        for name in sorted(arrays):
            found.setdefault(name.partition("/")[0], []).append(arrays[name])
        return found, dict(facts["versions"])

    def judged(
        self, chosen: tuple[Judge, Facts], source: Path, inputs: Inputs, checkpoint: Checkpoint
    ) -> tuple[str, list[np.ndarray] | None]:
        """Who judges, and what becomes of the images there; None if the library refuses the
        source, and then `reconstructed: ` with its reason.
        """
        judge, facts = chosen
        own, spec = checkpoint.own_graph, checkpoint.spec
        assert spec is not None
        images = self.images
        if own is not None and own.pixels:
            pixels = inputs.pixels.astype(np.float64)
            prepare = checkpoint.preprocessing
            if prepare is not None and prepare.channel_order == "bgr":
                pixels = np.ascontiguousarray(pixels[..., ::-1])
            images = self.workers.job.save("own", {"images": pixels})
        worker = self.workers.at(judge.engine, "cpu")
        library = facts.get("library", judge.library)
        asked: dict[str, Any] = {"by": judge.function, "library": library, "facts": facts}
        answer, arrays = self.workers.job.run(
            worker.call, "judge", images=images, source=str(source.resolve()), **asked
        )
        if "refused" in answer:
            return f"{RECONSTRUCTED}{answer['refused']}", None
        outputs = [arrays[f"float64/{i}"] for i in range(len(arrays))]
        if own is not None and own.averaged:
            outputs = [found.mean((1, 2)) for found in outputs]
        # A pool may keep the axes of rows and columns.
        if outputs[0].shape[1:3] == (1, 1) and not spec.gives_maps:
            outputs = [found.reshape(len(found), -1) for found in outputs]
        return str(answer["judged_by"]), outputs

    def checks(
        self, engines: Sequence[Engine], file: File, held: Certificate, on_progress: OnProgress
    ) -> list[Check]:
        """Every engine in every dtype against the reference of a certificate."""
        checks = []
        for engine in engines:
            dtypes = file.dtypes(engine, self.dtypes)
            on_progress(f"{engine.name}: {', '.join(dtypes)}")
            found, versions = self.outputs(engine, file, dtypes, None, self.device)
            for dtype in dtypes:
                bound = held.bound(dtype)
                error = _error(held.reference, found[dtype], f"{engine.name} in {dtype}")
                holds = error is not None and error <= bound
                checks.append(Check(engine.name, dtype, self.device, error, bound, holds, versions))
        return checks

    def first_that_differs(self, source: tuple[Engine, File], target: tuple[Engine, File]) -> str:
        """The first layer whose output differs in float64, in words; nothing if none is found."""
        names, theirs = (
            [layer.name for layer in compile_plan(file.spec).layers()]
            for _, file in (source, target)
        )
        if names != theirs:
            return ""
        a, b = (
            self.outputs(engine, file, ("float64",), None, "cpu", layers=True)[0]["float64"]
            for engine, file in (source, target)
        )
        for name, x, y in zip(names, a, b, strict=True):
            if x.shape != y.shape or not _close(x, y):
                return f", first at {name}"
        return ""


def _numbered(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {str(i): array for i, array in enumerate(arrays)}


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    scale = np.abs(a).max(initial=0)
    return bool(np.abs(a - b).max(initial=0) <= FLOAT64_TOLERANCE * scale)


def _error(reference: list[np.ndarray], found: list[np.ndarray], who: str) -> float | None:
    """The largest relative difference; None if it is not a number."""
    if len(reference) != len(found):
        raise ResNetError(f"{who} gives {len(found)} outputs, the reference {len(reference)}")
    error = max(difference(a, b).size for a, b in zip(reference, found, strict=True))
    return error if math.isfinite(error) else None


def _reference_engine(checkpoint: Checkpoint, engines: Sequence[Engine]) -> Engine | None:
    """One that is installed: of the source's own framework if possible."""
    own = {"keras2": "keras", "keras3": "keras", "flax": "flax"}
    first = [e for e in ENGINES.values() if e.name.startswith(own.get(checkpoint.kind, "torch"))]
    candidates = (*first, *(e for e in engines if e.trains), *ENGINES.values())
    return next((engine for engine in candidates if engine.missing() is None), None)
