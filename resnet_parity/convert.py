"""Weights from one framework's file to another's, read back before they take their place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_parity.engines import Engine, EngineError, Worker, first_available
from shared_spec.api import file_suffix, name_suffix
from shared_spec.bit import read_bit
from shared_spec.compiler import compile_plan
from shared_spec.durable import durable
from shared_spec.errors import ResNetError, WeightsError
from shared_spec.huggingface import is_huggingface, read_huggingface, write_huggingface
from shared_spec.keras_applications import read_applications, write_applications
from shared_spec.spec import ResNetSpec
from shared_spec.weights import (
    Checkpoint,
    check_weights,
    digest,
    read_safetensors,
    require_file,
    write_safetensors,
)

HUGGINGFACE = "huggingface"
_KERAS = ("keras:tensorflow", "keras:jax", "keras:torch")
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    ".safetensors": ("canonical safetensors", ()),
    ".pth": ("PyTorch state dict", ("torch",)),
    ".pt": ("PyTorch state dict", ("torch",)),
    ".h5": ("keras.applications weights", ()),
    ".keras": ("Keras model", _KERAS),
    ".weights.h5": ("Keras weights", _KERAS),
    ".msgpack": ("Flax msgpack", ("flax",)),
    "": ("Flax orbax directory", ("flax",)),
    HUGGINGFACE: ("Hugging Face directory", ()),
    ".npz": ("BiT weights", ()),
}
"""Suffix (or a name, for a directory of another kind) to a description and to the engines that can
read and write it (none: no framework).
"""

_READERS: dict[str, Callable[[Path, ResNetSpec | None], Checkpoint]] = {
    ".safetensors": lambda path, spec: read_safetensors(path),
    ".h5": read_applications,
    ".npz": read_bit,
    HUGGINGFACE: lambda path, spec: read_huggingface(path),
}
_WRITERS: dict[str, Callable[[Path, Checkpoint], None]] = {
    ".safetensors": write_safetensors,
    ".h5": write_applications,
    HUGGINGFACE: write_huggingface,
}
"""For the formats that need no framework."""


@dataclass(frozen=True)
class Converted:
    """What a conversion did: `sha256` is that of the canonical weights, equal on both sides."""

    source: str
    source_format: str
    target: str
    target_format: str
    tensors: int
    dtype: str
    sha256: str
    bytes: int
    lost: tuple[str, ...]
    """What the source told and the target's format has no place for."""


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    spec: ResNetSpec | None = None,
    to: str | None = None,
) -> Converted:
    """Write the weights of `source` to `target`, each in the format of its suffix.

    The new file is read back and compared bit for bit before it takes its place; if anything
    fails, what was at `target` is left as it was. Source and target may be the same path.

    Args:
        source: a weights file (see `FORMATS`).
        target: where to write; a path without a suffix becomes an orbax directory.
        spec: the network, for formats that do not tell it themselves.
        to: `"huggingface"` for a directory as transformers writes it.

    Raises:
        ResNetError: if either file is not possible, or the weights do not fit the network.
    """
    source, target = Path(source), Path(target)
    require_file(source)
    source_format = _format(source)
    target_format = HUGGINGFACE if to == HUGGINGFACE else _known(target, name_suffix(target))
    if target_format == ".npz":
        raise ResNetError(f"{target}: .npz files of BiT are read, not written")
    if to not in (None, target_format):
        raise ResNetError(
            f"to: {to!r} is not the format of {target}; only {HUGGINGFACE!r} needs to be named, "
            f"other formats follow from the suffix"
        )
    with tempfile.TemporaryDirectory(prefix="resnet-parity-") as folder:
        checkpoint = read_any(source, spec, Path(folder))
        found = checkpoint.spec
        if found is None:
            raise WeightsError(f"{source}: the file does not tell its model; name it (--model)")
        check_weights(compile_plan(found), checkpoint.state, _dtype(checkpoint, source))
        before = digest(checkpoint.state)
        with durable(target) as draft:
            _write(checkpoint, draft, target_format, Path(folder))
            after = digest(read_any(draft, found, Path(folder)).state)
            if after != before:
                raise WeightsError(
                    f"{target}: reading it back gave other weights (SHA-256 {after[:16]}, "
                    f"expected {before[:16]}); nothing was written"
                )
    return Converted(
        str(source),
        FORMATS[source_format][0],
        str(target),
        FORMATS[target_format][0],
        len(checkpoint.state),
        _dtype(checkpoint, source),
        before,
        _size(target),
        _lost(checkpoint, target_format),
    )


def read_any(path: Path, spec: ResNetSpec | None, folder: Path) -> Checkpoint:
    """Canonical weights of a file in any format, through a worker where a framework is needed.

    A `spec` given wins over the file's own; the weights are then held against it.

    Raises:
        ResNetError: if the file cannot be read.
    """
    suffix = _format(path)
    engines = FORMATS[suffix][1]
    if not engines:
        checkpoint = _READERS[suffix](path, spec)
    else:
        output = folder / "read.safetensors"
        given = None if spec is None else spec.to_dict()
        _call(
            first_available(engines),
            "read",
            source=str(path.resolve()),
            spec=given,
            output=str(output),
        )
        checkpoint = read_safetensors(output)
    return Checkpoint(
        checkpoint.state, spec or checkpoint.spec, checkpoint.preprocessing, checkpoint.labels
    )


def _write(checkpoint: Checkpoint, draft: Path, target_format: str, folder: Path) -> None:
    engines = FORMATS[target_format][1]
    if not engines:
        _WRITERS[target_format](draft, checkpoint)
        return
    assert checkpoint.spec is not None
    canonical = folder / "write.safetensors"
    write_safetensors(canonical, checkpoint)
    _call(
        first_available(engines),
        "write",
        source=str(canonical),
        spec=checkpoint.spec.to_dict(),
        output=str(draft),
    )


def _call(engine: Engine, operation: str, **arguments: Any) -> None:
    try:
        with Worker(engine) as worker:
            worker.call(operation, **arguments)
    except EngineError as error:
        raise ResNetError(f"{engine.name} failed: {error}") from None


def _format(path: Path) -> str:
    return HUGGINGFACE if is_huggingface(path) else _known(path, file_suffix(path))


def _known(path: Path, suffix: str) -> str:
    if suffix not in FORMATS:
        known = ", ".join(x or "no suffix (an orbax directory)" for x in FORMATS)
        raise WeightsError(f"{path}: unknown suffix {suffix!r}; known are {known}")
    return suffix


def _dtype(checkpoint: Checkpoint, path: Path) -> str:
    dtypes = sorted({array.dtype.name for array in checkpoint.state.values()})
    if len(dtypes) != 1:
        raise WeightsError(f"{path}: expected arrays of one dtype, found {', '.join(dtypes)}")
    return dtypes[0]


def _lost(checkpoint: Checkpoint, target_format: str) -> tuple[str, ...]:
    if target_format in (".safetensors", "", HUGGINGFACE):
        return ()
    # A .h5's spec and preprocessing follow from what it holds.
    kept = {".keras": {"spec"}, ".h5": {"spec", "preprocessing"}}.get(target_format, set())
    return tuple(key for key in checkpoint.metadata() if key not in kept | {"version"})


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return path.stat().st_size


def read_for(spec: ResNetSpec, path: Path) -> Checkpoint:
    """Weights of a file in any format, which must fit `spec`."""
    require_file(path)
    with tempfile.TemporaryDirectory(prefix="resnet-parity-") as folder:
        return read_any(path, spec, Path(folder))
