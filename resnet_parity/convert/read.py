"""Weights from any file or directory that is understood."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.registry import first_available
from shared_spec.atomic_write import workspace
from shared_spec.errors import WeightsError
from shared_spec.formats.containers.source import require_file
from shared_spec.formats.detect import is_orbax
from shared_spec.formats.read import WHOLE, Asked, read_checkpoint
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weight_verbs import warn_of_notes
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.state import check_weights


def read_any(
    path: Path,
    spec: ResNetSpec | None,
    folder: Path,
    resize: bool = False,
    asked: Asked = WHOLE,
) -> Checkpoint:
    """Canonical weights of a checkpoint of any kind, through a worker where a framework is needed.

    A `spec` given wins over the file's own; the weights are then checked against it.

    Raises:
        ResNetError: if the file cannot be read.
    """
    if is_orbax(path):
        if asked.names is not None:
            raise WeightsError(
                f"{path}: --names: only for files of PyTorch's modules, and this one is of the "
                f"kind orbax"
            )
        output = folder / "read.safetensors"
        given = None if spec is None else spec.to_dict()
        with EngineJob(folder).worker(first_available(("flax",))) as worker:
            known = worker.call(
                "read", source=str(path.resolve()), spec=given, part=asked.part, output=str(output)
            )
        notes = tuple(known.pop("notes"))
        origin = "Flax orbax directory"
        checkpoint = replace(read_checkpoint(output), origin=origin, notes=notes, **known)
    else:
        checkpoint = read_checkpoint(path, spec, resize=resize, asked=asked)
    found, any_ends = checkpoint.spec, {"in_channels": 3, "num_classes": 1}
    # A graph may be a net's form for inference, whose weights are those of another eps.
    if spec is None or checkpoint.kind == "onnx":
        return checkpoint
    if resize and found is not None and spec.override(**any_ends) == found.override(**any_ends):
        return checkpoint
    return replace(checkpoint, spec=spec)


def read_classifier(
    path: Path,
    spec: ResNetSpec | None,
    folder: Path,
    resize: bool = False,
    asked: Asked = WHOLE,
) -> tuple[Checkpoint, ResNetSpec]:
    """As `read_any`; also the net, which must be known, fit the weights and have classes.

    Raises:
        ResNetError: if the file cannot be read, or is not that of such a net.
    """
    checkpoint = read_any(path, spec, folder, resize, asked)
    net = checkpoint.spec
    warn_of_notes(checkpoint, path)
    if net is None:
        raise WeightsError(f"{path}: the file does not say which model it is; name it (--model)")
    check_weights(compile_plan(net), checkpoint.state, "float64", path)
    if net.gives_maps or not net.num_classes:
        raise WeightsError(f"{path}: the model gives features and no classes")
    return checkpoint, net


def read_for(spec: ResNetSpec, path: Path, asked: Asked = WHOLE) -> Checkpoint:
    """Weights of a checkpoint of any kind, which must fit `spec`."""
    require_file(path)
    with workspace() as folder:
        checkpoint = read_any(path, spec, folder, asked=asked)
        warn_of_notes(checkpoint, path)
        return replace(checkpoint, state=dict(checkpoint.state))
