"""Running a converted file against its source, once and again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_parity.convert.certificate import (
    _TRIALS,
    DTYPES,
    Certificate,
    Check,
    Inputs,
    Step,
    _versions,
    certificate_path,
    file_digest,
    read_certificate,
)
from resnet_parity.engines.process import EngineError, Worker
from resnet_parity.engines.registry import ENGINES, Device, Engine
from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, ROUNDING_FACTOR, difference
from shared_spec.atomic_write import workspace
from shared_spec.errors import ParityError, ResNetError
from shared_spec.formats.canonical_file import read_safetensors, write_safetensors
from shared_spec.formats.containers.source import require_file
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.lazy_array import entries_of


def certify(
    source: Path,
    target: Path,
    checkpoint: Checkpoint,
    whole: Checkpoint,
    engines: Sequence[Engine],
    *,
    named: Path,
    device: Device = "cpu",
    step: Step = lambda text: None,
) -> Certificate | None:
    """Hold a converted file against its source, both read anew by the engines that compute them.

    Args:
        source: the file that was converted.
        target: what was written.
        checkpoint: what the source holds.
        whole: what the target should hold: the same, or other weights for the same function.
        engines: in which the target is run, each in float64 and float32. The first one installed
            of the source's own framework, or of these, gives the reference.
        named: the path that the target will have.
        device: where.
        step: called with a few words as each part of the work begins.

    Returns:
        The certificate, or None if no framework is installed.

    Raises:
        ParityError: if the target computes something else.
        ResNetError: if an engine fails.
    """
    assert checkpoint.spec is not None
    assert whole.spec is not None
    judge = _reference_engine(checkpoint, engines)
    if judge is None:
        return None
    inputs = Inputs.of(whole.spec, checkpoint.preprocessing)
    with workspace() as folder:
        job = _Job(folder, inputs, device)
        step(f"reference: {judge.name}, float64")
        found, _ = job.run(judge, source, checkpoint.spec, ("float64",), _TRIALS, "cpu")
        reference = found["float64"]
        errors = [_error(reference, found[f"trial{i}"], judge.name) for i in range(_TRIALS)]
        if None in errors:
            raise ParityError(f"{source}: its logits are not finite numbers")
        rounding = max(error for error in errors if error is not None)
        permutation = whole.state is checkpoint.state
        dtypes = {entry.dtype.name for entry in entries_of(whole.state).values()}
        exact = permutation or dtypes == {"float64"}
        checks = job.checks(engines, target, whole.spec, reference, rounding, exact, step)
        wrong = next((check for check in checks if not check.holds), None)
        if wrong is not None:
            step("looking for the layer")
            there = job.first_to_part(
                (judge, source, checkpoint.spec), (ENGINES[wrong.engine], target, whole.spec)
            )
            error = "not a number" if wrong.error is None else f"{wrong.error:.1e}"
            raise ParityError(
                f"{named}: {wrong.engine} in {wrong.dtype} computes something else than the "
                f"source: {error} apart, over {wrong.bound:.1e}{there}; nothing was written"
            )
    return Certificate(
        {"name": source.name, "format": checkpoint.origin, "sha256": file_digest(source)},
        {"name": named.name, "sha256": file_digest(target)},
        whole.spec,
        permutation,
        exact,
        inputs,
        reference,
        judge.name,
        rounding,
        checks,
        _versions(),
    )


def verify(
    target: Path,
    engines: Sequence[Engine] | None = None,
    device: Device = "cpu",
    dtypes: Sequence[str] = DTYPES,
    step: Step = lambda text: None,
) -> tuple[Certificate, list[Check]]:
    """Hold a converted file against its certificate, here and now.

    Args:
        target: the file or directory; its certificate lies beside it.
        engines: which engines; None takes those that the certificate names, as far as they are
            installed, or else any one that is.
        device: cpu, gpu or tpu.
        dtypes: float64, float32 or both. A TPU has no float64.
        step: called with a few words as each part of the work begins.

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
    if engines is None:
        named = [ENGINES[c.engine] for c in certificate.checks if c.engine in ENGINES]
        here = [e for e in dict.fromkeys(named) if e.missing() is None]
        engines = here or [e for e in ENGINES.values() if e.missing() is None][:1]
    if not engines:
        raise ResNetError("verify: no framework is installed; install torch, keras or flax")
    with workspace() as folder:
        job = _Job(folder, certificate.inputs, device, tuple(dtypes))
        checks = job.checks(
            engines,
            target,
            certificate.spec,
            certificate.reference,
            certificate.rounding,
            certificate.exact,
            step,
        )
    return certificate, checks


@dataclass
class _Job:
    """Runs of engines on the same inputs."""

    folder: Path
    inputs: Inputs
    device: Device
    dtypes: tuple[str, ...] = DTYPES

    def run(
        self,
        engine: Engine,
        path: Path,
        spec: ResNetSpec,
        dtypes: Sequence[str],
        trials: int,
        device: Device,
        layers: bool = False,
    ) -> tuple[dict[str, list[np.ndarray]], dict[str, str]]:
        """Outputs of a checkpoint, or of all its layers, under each dtype's name, and the engine's
        versions.
        """
        images, outputs = self.folder / "images.safetensors", self.folder / "outputs.safetensors"
        write_safetensors(images, Checkpoint({"images": self.inputs.array()}))
        try:
            with Worker(engine, device) as worker:
                facts = worker.call("info")
                worker.call(
                    "evaluate",
                    source=str(path.resolve()),
                    spec=spec.to_dict(),
                    dtypes=list(dtypes),
                    trials=trials,
                    images=str(images),
                    outputs=str(outputs),
                    layers=layers,
                )
        except EngineError as error:
            raise ResNetError(f"{engine.name} failed: {error}") from None
        arrays = read_safetensors(outputs).state
        found: dict[str, list[np.ndarray]] = {}
        for name in sorted(arrays):
            found.setdefault(name.partition("/")[0], []).append(arrays[name])
        return found, dict(facts["versions"])

    def checks(
        self,
        engines: Sequence[Engine],
        path: Path,
        spec: ResNetSpec,
        reference: list[np.ndarray],
        rounding: float,
        exact: bool,
        step: Step,
    ) -> list[Check]:
        checks = []
        for engine in engines:
            step(f"{engine.name}: {', '.join(self.dtypes)}")
            found, versions = self.run(engine, path, spec, self.dtypes, 0, self.device)
            for dtype in self.dtypes:
                rounded = dtype != "float64" or not exact
                bound = ROUNDING_FACTOR * rounding if rounded else FLOAT64_TOLERANCE
                error = _error(reference, found[dtype], f"{engine.name} in {dtype}")
                holds = error is not None and error <= bound
                checks.append(Check(engine.name, dtype, self.device, error, bound, holds, versions))
        return checks

    def first_to_part(
        self, source: tuple[Engine, Path, ResNetSpec], target: tuple[Engine, Path, ResNetSpec]
    ) -> str:
        """The first layer whose output differs in float64, in words; nothing if none is found."""
        names = [layer.name for layer in compile_plan(source[2]).layers()]
        if names != [layer.name for layer in compile_plan(target[2]).layers()]:
            return ""
        a, b = (
            self.run(engine, path, spec, ("float64",), 0, "cpu", layers=True)[0]["float64"]
            for engine, path, spec in (source, target)
        )
        for name, ours, theirs in zip(names, a, b, strict=True):
            if ours.shape != theirs.shape or not _close(ours, theirs):
                return f", first at {name}"
        return ""


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    scale = np.abs(a).max(initial=0)
    return bool(np.abs(a - b).max(initial=0) <= FLOAT64_TOLERANCE * scale)


def _error(reference: list[np.ndarray], found: list[np.ndarray], who: str) -> float | None:
    """The largest relative difference; None if it is not a number."""
    if len(reference) != len(found):
        raise ResNetError(f"{who} gives {len(found)} outputs, the reference {len(reference)}")
    errors = [difference(a, b).maximum for a, b in zip(reference, found, strict=True)]
    return None if any(math.isnan(error) for error in errors) else max(errors)


def _reference_engine(checkpoint: Checkpoint, engines: Sequence[Engine]) -> Engine | None:
    """One that is installed: of the source's own framework if possible."""
    kind = checkpoint.origin.partition(",")[0]
    own = {"keras2": "keras", "keras3": "keras", "flax": "flax", "Flax orbax directory": "flax"}
    first = [e for e in ENGINES.values() if e.name.startswith(own.get(kind, "torch"))]
    for engine in [*first, *engines, *ENGINES.values()]:
        if engine.missing() is None:
            return engine
    return None
