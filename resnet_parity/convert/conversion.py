"""Weights from one kind of file to another, read back before they take their place."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from resnet_parity.convert.certificate import (
    RECONSTRUCTED,
    Certificate,
    Check,
    remove_stale,
    write_certificate,
)
from resnet_parity.convert.read import read_any
from resnet_parity.convert.verify import Proof, Target, certify
from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.registry import first_available
from shared_spec.atomic_write import durable, workspace
from shared_spec.errors import ParityError, WeightsError
from shared_spec.formats.canonical_file import save_canonical
from shared_spec.formats.certified import certificate_path
from shared_spec.formats.containers import hdf5_sandbox
from shared_spec.formats.containers.source import require_file
from shared_spec.formats.read import WHOLE, Asked
from shared_spec.formats.write import (
    Format,
    checkpoint_for_library,
    is_checkpoint_folder,
    target_format,
)
from shared_spec.origin import completed, fetched
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.lazy_array import entries_of
from shared_spec.weights.state import check_weights, digest


@dataclass(frozen=True)
class Converted:
    """What a conversion did."""

    source: str
    source_format: str
    target: str
    target_format: str
    tensors: int
    dtype: str
    sha256: str
    """Of the canonical weights that were written."""
    unchanged: bool
    """Whether they are bit for bit those of the source: false where the target's library needs
    others for the same function, as when biases go into norms.
    """
    bytes: int
    lost: tuple[str, ...]
    """What the source says and the target's format has no place for."""
    notes: tuple[str, ...]
    """What of the source was left out, assumed, or expressed in another way, a sentence each."""
    seconds: dict[str, float]
    """`convert` and, apart from it, `start_up` of h5py, `read_back` and `verify`."""
    certificate: str | None = None
    judged_by: str | None = None
    """Who ran the source for the certificate: see `Certificate.judged_by`."""
    assumed: str = ""
    """What says which net it is where the file itself does not; empty if it does."""
    checks: tuple[Check, ...] = ()
    removed: str | None = None
    """A certificate of an earlier conversion, which was of another file."""


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    spec: ResNetSpec | None = None,
    to: str | None = None,
    labels: tuple[str, ...] | None = None,
    proof: Proof | None = None,
    *,
    resize: bool = False,
    asked: Asked = WHOLE,
) -> Converted:
    """Write the weights of `source` to `target`.

    The new file is read back and compared bit for bit before it takes its place; if anything
    fails, what was at `target` is left as it was. Source and target may be the same path.

    Args:
        source: a checkpoint of any kind, recognised by its content; or a reference to the hub, or a
            URL.
        target: where to write; a path without a suffix becomes a directory.
        spec: the network, for files that do not identify it.
        to: the format, where the suffix leaves it open: see `shared_spec.formats.write.FORMATS`.
        labels: names of the classes, instead of those that the source has.
        proof: in which engines to compare the new file with the source before moving it into place;
            the certificate is then written next to it. With None, only bits are compared.
        resize: whether `spec` stands for a net of any number of channels and classes: the file's.
        asked: which of several nets in `source`, and what its arrays are called.

    Raises:
        ResNetError: if either file is not possible, or the weights do not fit the network.
    """
    path, target = fetched(source), Path(target)
    require_file(path)
    wanted = target_format(target, to)
    start, seconds = time.perf_counter(), {"convert": 0.0}
    with _apart(seconds, "start_up"):
        if any(str(x).endswith((".h5", ".keras")) for x in (path, target)):
            hdf5_sandbox.start()
            if str(target).endswith(".h5"):
                hdf5_sandbox.h5py_module()
            hdf5_sandbox.wait()
    with workspace() as folder:
        checkpoint = completed(read_any(path, spec, folder, resize, asked), source)
        if labels is not None:
            checkpoint = replace(checkpoint, labels=labels)
        found = checkpoint.spec
        assert found is not None
        dtype = _dtype(checkpoint, path)
        check_weights(compile_plan(found), checkpoint.state, dtype, source)
        names, classes = checkpoint.labels, found.num_classes
        if names is not None and len(names) != classes:
            raise WeightsError(f"{path}: has {len(names)} labels for {classes} classes")
        whole = checkpoint_for_library(checkpoint, wanted)
        with durable(target, is_checkpoint_folder) as draft:
            _write(whole, draft, wanted, folder)
            with _apart(seconds, "read_back"):
                before = digest(whole.state)
                after = digest(read_any(draft, whole.spec, folder).state)  # few formats say the net
            if after != before:
                raise WeightsError(
                    f"{target}: reading it back gave other weights (SHA-256 {after[:16]}, "
                    f"expected {before[:16]}); nothing was written"
                )
            made = None
            if proof is not None:
                with _apart(seconds, "verify"):
                    engines = proof.engines_for(wanted)
                    written = Target(draft, target, whole)
                    made = certify(path, written, checkpoint, engines, proof)
                if proof.judge_required:
                    _require_judge(made, path)
        if made is not None:
            write_certificate(made, target)
        removed = remove_stale(target) if made is None else None
    seconds["convert"] += time.perf_counter() - start
    return Converted(
        str(source),
        checkpoint.origin,
        str(target),
        wanted.description,
        len(whole.state),
        dtype,
        before,
        whole.state is checkpoint.state,
        _size(target),
        tuple(key for key in checkpoint.metadata() if key not in wanted.keeps | {"version"}),
        checkpoint.notes,
        {name: round(value, 3) for name, value in seconds.items()},
        None if made is None else str(certificate_path(target)),
        None if made is None else made.judged_by,
        checkpoint.assumed,
        () if made is None else tuple(made.checks),
        removed,
    )


def _require_judge(made: Certificate | None, source: Path) -> None:
    """Raise a `ParityError` unless another library has judged a conversion."""
    if made is None or made.judged_by.startswith(RECONSTRUCTED):
        why = "no framework is installed" if made is None else made.judged_by
        raise ParityError(f"{source}: no other library can judge it ({why}); nothing was written")


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, up to 512 MB, for the next array: pages fresh from the
    system cost as much as what is copied into them. For a process that only converts; without
    glibc it does nothing.
    """
    trim_threshold, mmap_threshold, arenas = -1, -3, -8
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 2**28)
        library.mallopt(trim_threshold, 2**29)
        library.mallopt(arenas, 1)  # or each thread would keep its own


@contextmanager
def _apart(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Count what is done inside as `name` and not as `convert`."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
    seconds["convert"] -= seconds[name]


def _write(checkpoint: Checkpoint, draft: Path, wanted: Format, folder: Path) -> None:
    if wanted.save is not None:
        wanted.save(draft, checkpoint)
        return
    assert checkpoint.spec is not None
    canonical = folder / "write.safetensors"
    save_canonical(canonical, checkpoint)
    with EngineJob(folder).worker(first_available(wanted.engines)) as worker:
        worker.call(
            "write",
            source=str(canonical),
            spec=checkpoint.spec.to_dict(),
            output=str(draft),
            format=wanted.name,
        )


def _dtype(checkpoint: Checkpoint, path: Path) -> str:
    dtypes = sorted({entry.dtype.name for entry in entries_of(checkpoint.state).values()})
    if len(dtypes) != 1:
        raise WeightsError(f"{path}: expected arrays of one dtype, found {', '.join(dtypes)}")
    return dtypes[0]


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return path.stat().st_size
