"""Which kind of file it is, by its content."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from shared_spec.errors import WeightsError
from shared_spec.formats.containers.hdf5 import open_hdf5, open_keras
from shared_spec.formats.containers.msgpack import open_msgpack
from shared_spec.formats.containers.npz import open_npz
from shared_spec.formats.containers.onnx import open_onnx
from shared_spec.formats.containers.pytorch import open_pytorch
from shared_spec.formats.containers.safetensors import open_safetensors
from shared_spec.formats.containers.sharded import open_sharded
from shared_spec.formats.containers.source import (
    Source,
    open_zip,
    parse_json,
    read_json,
    reason,
    require_file,
    system_errors,
)
from shared_spec.formats.dialects.keras_hub import is_preset, open_preset
from shared_spec.weights.checkpoint import METADATA_KEY

ORBAX = "orbax"
CHECKPOINT_MARK = "_CHECKPOINT_METADATA"
"""A file that every orbax checkpoint directory holds."""

Opener = Callable[[Path], Source]


def name_suffix(path: Path) -> str:
    """The suffix that decides the format of a file to be written; `.weights.h5` counts as one."""
    if path.name.lower().endswith(".weights.h5"):
        return ".weights.h5"
    return path.suffix.lower()


def is_orbax(path: Path) -> bool:
    """Whether a directory is an orbax checkpoint, which Flax alone can read, or has one a step."""
    return path.is_dir() and ((path / CHECKPOINT_MARK).exists() or bool(orbax_steps(path)))


def orbax_steps(path: Path) -> list[Path]:
    """The checkpoints in a directory that orbax's `CheckpointManager` keeps, or training with Flax
    without it: each is named by its step, which may follow a prefix. The last one comes last.
    """
    with system_errors(path):
        numbered = ((re.search(r"(?:^|_)([0-9]{1,18})$", p.name), p) for p in path.iterdir())
        found = [(int(m[1]), p) for m, p in numbered if m and (p / CHECKPOINT_MARK).exists()]
    return [p for _, p in sorted(found)]


def open_source(path: Path, openers: Mapping[str, Opener] | None = None) -> Source:
    """Open a checkpoint as what its content says that it is; its suffix is not asked.

    Args:
        path: a file or a directory.
        openers: what opens the kinds that need a framework: `orbax`.

    Raises:
        WeightsError: if the file is missing, damaged or of an unknown kind.
    """
    require_file(path)
    if path.is_dir():
        return _open_directory(path, openers or {})
    if not path.is_file():
        raise WeightsError(f"{path}: is neither a file nor a directory")
    with system_errors(path), path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return open_hdf5(path)
    if head.startswith(b"PK"):
        return _open_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return open_safetensors(path)
    if head[:1] == b"\x80" and len(head) > 2:  # in msgpack that would be a map of nothing
        return open_pytorch(path)
    if head[:1] and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return open_msgpack(path)
    if _ONNX.match(head):
        return open_onnx(path)
    return _open_by_suffix(
        path,
        "not a checkpoint of a known kind; known are safetensors, PyTorch's, HDF5 and .keras of "
        "Keras, .npz of BiT, msgpack and orbax of Flax, ONNX, and directories of Hugging Face and "
        "KerasHub",
    )


_ONNX = re.compile(rb"\x08[\x03-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")
"""The version of the format, and one of the fields that may follow it."""
_BY_SUFFIX: dict[str, Opener] = {
    ".safetensors": open_safetensors,
    ".pth": open_pytorch,
    ".pt": open_pytorch,
    ".bin": open_pytorch,
    ".h5": open_hdf5,
    ".weights.h5": open_hdf5,
    ".keras": open_keras,
    ".npz": open_npz,
    ".msgpack": open_msgpack,
    ".onnx": open_onnx,
}
FOLDER_WEIGHTS: dict[str, Opener] = {
    "model.safetensors": open_safetensors,
    "model.safetensors.index.json": partial(open_sharded, opener=open_safetensors),
    "pytorch_model.bin": open_pytorch,
    "pytorch_model.bin.index.json": partial(open_sharded, opener=open_pytorch),
    "flax_model.msgpack": open_msgpack,
}
"""In a directory of Hugging Face; the first one is read, as transformers does."""
RUN_WEIGHTS = "weights.safetensors"
"""In the folder of a run of `resnet-parity train`."""
_TENSORFLOW = "tf_model.h5"
_ADAPTER = "adapter_config.json"


def _open_by_suffix(path: Path, problem: str) -> Source:
    """Have the reader of its suffix say what is wrong with a file, or else say it."""
    if opener := _BY_SUFFIX.get(name_suffix(path)):
        return opener(path)
    raise WeightsError(f"{path}: {problem}")


def _open_zip(path: Path) -> Source:
    try:
        with open_zip(path) as archive:
            names = archive.namelist()
    # zipfile raises errors of many kinds for files that are damaged.
    except Exception as error:
        problem = f"not a readable zip file ({reason(error)})"
    else:
        return _open_members(path, names)
    return _open_by_suffix(path, problem)


def _open_members(path: Path, names: list[str]) -> Source:
    if any(name.endswith("/data.pkl") for name in names):
        return open_pytorch(path)
    if "config.json" in names or "model.weights.h5" in names:
        return open_keras(path)
    if any(name.endswith(".npy") for name in names):
        return open_npz(path)
    raise WeightsError(f"{path}: a zip file that holds no weights of PyTorch, Keras or numpy")


def _require_one_record(path: Path, config: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Raise a `WeightsError` if the configuration of a folder that was written here says something
    else than its weights.
    """
    if METADATA_KEY not in config:
        return
    text = told.get(METADATA_KEY)
    record = parse_json(text, f"{path}: its weights' metadata") if isinstance(text, str) else None
    if record != config[METADATA_KEY]:
        raise WeightsError(
            f"{path}: what its config.json says as {METADATA_KEY} is not what its weights say; "
            f"expected one spec, preprocessing and labels in both"
        )


def _open_directory(path: Path, openers: Mapping[str, Opener]) -> Source:
    if is_orbax(path):
        if ORBAX not in openers:
            raise WeightsError(
                f"{path}: an orbax checkpoint, which only Flax can read; `resnet-parity convert` "
                f"turns it into another format"
            )
        return openers[ORBAX](path)
    if (path / "config.json").is_file():
        config = read_json(path / "config.json")
        if is_preset(config):
            return open_preset(path, config)
        if (path / _ADAPTER).exists():
            raise WeightsError(
                f"{path}: has an {_ADAPTER} beside the weights, with which peft has the net "
                f"compute something else; merge it (merge_and_unload) and save the model again"
            )
        for name, opener in FOLDER_WEIGHTS.items():
            if (path / name).is_file():
                found = opener(path / name)
                _require_one_record(path, config, found.metadata)
                kind = "huggingface flax" if found.kind == "flax" else "huggingface"
                return replace(found, path=path, kind=kind, metadata=config)
        if (path / _TENSORFLOW).is_file():
            raise WeightsError(
                f"{path / _TENSORFLOW}: weights of transformers' TensorFlow models are not read; "
                f"expected one of {', '.join(FOLDER_WEIGHTS)} beside it"
            )
        raise WeightsError(
            f"{path / 'model.safetensors'}: there is no such file of weights, nor any of "
            f"{', '.join(list(FOLDER_WEIGHTS)[1:])}"
        )
    if (path / RUN_WEIGHTS).is_file():
        return open_safetensors(path / RUN_WEIGHTS)
    raise WeightsError(
        f"{path}: a directory that holds neither an orbax checkpoint nor a config.json of Hugging "
        f"Face or KerasHub, nor the {RUN_WEIGHTS} of a finished training"
    )
