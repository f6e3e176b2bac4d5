"""The canonical safetensors file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared_spec.atomic_write import durable
from shared_spec.formats.containers.safetensors import open_safetensors, save_safetensors
from shared_spec.formats.containers.source import Source, parse_json, require_file
from shared_spec.plan.compiler import compile_plan
from shared_spec.weights.checkpoint import METADATA_KEY, Checkpoint
from shared_spec.weights.state import check_weights


def read_safetensors(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a safetensors file of PyTorch names: ours, torchvision's or timm's.

    `num_batches_tracked` counters are dropped, since nothing depends on them.

    Raises:
        WeightsError: if the file is missing, truncated or something else.
    """
    require_file(path)
    source = open_safetensors(Path(path))
    state = {k: v for k, v in source.tensors.items() if not k.endswith("num_batches_tracked")}
    return replace(recorded(source), state=state)


def recorded(source: Source) -> Checkpoint:
    """What our metadata in a file say, without its arrays.

    Raises:
        SpecError: if they are not of the form that is written here.
    """
    text = source.metadata.get(METADATA_KEY)
    data: Any = None
    if isinstance(text, dict):  # in a config.json
        data = text
    if isinstance(text, str):  # another library's file may have anything of this name
        data = parse_json(text, f"{source.path}: its metadata")
    return Checkpoint.from_metadata({}, data, str(source.path))


def write_safetensors(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write `checkpoint` durably. PyTorch's `load_state_dict` takes the file's tensors as they are.

    Raises:
        WeightsError: if the checkpoint has a spec that its weights do not fit, as after a layer of
            the model was replaced by hand.
        ResNetError: if the file cannot be written.
    """
    if checkpoint.spec is not None:
        check_weights(compile_plan(checkpoint.spec), checkpoint.state, "float64")
    with durable(path) as draft:
        save_canonical(draft, checkpoint)


def save_canonical(path: Path, checkpoint: Checkpoint) -> None:
    """Write a canonical file, which contains its spec, preprocessing and labels."""
    metadata = {"format": "pt", METADATA_KEY: json.dumps(checkpoint.metadata())}
    save_safetensors(path, checkpoint.state, metadata)
