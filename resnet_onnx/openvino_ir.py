"""OpenVINO's files of a graph: an XML file, and its weights beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from resnet_onnx.file import write
from shared_spec.atomic_write import durable, move_beside, workspace
from shared_spec.errors import framework_missing
from shared_spec.export_formats import EXPORT_FORMATS, Form, converting
from shared_spec.plan.network import Plan
from shared_spec.weights.checkpoint import METADATA_KEY, Checkpoint
from shared_spec.weights.lazy_array import LazyArray


def write_ir(
    path: str | os.PathLike[str],
    p: Plan,
    entries: Mapping[str, LazyArray],
    dtype: str,
    form: Form,
    known: Checkpoint,
) -> None:
    """As `resnet_onnx.file.write`: what it writes, converted by OpenVINO, which folds norms by
    itself.

    Raises:
        FrameworkError: if OpenVINO is not installed.
        ResNetError: if the net has no such form, or the files cannot be written.
    """
    try:
        import openvino
    except ImportError:
        raise framework_missing("OpenVINO IR", "OpenVINO (openvino)", "openvino") from None
    EXPORT_FORMATS["openvino"].check_place(Path(path))
    with workspace() as folder:
        graph = folder / "net.onnx"
        write(graph, p, entries, dtype, form, known)
        with converting("OpenVINO IR", form):
            model = openvino.convert_model(graph)
        model.set_rt_info(form.told(known, dtype), [METADATA_KEY])
        with durable(path) as draft:
            openvino.save_model(model, draft, compress_to_fp16=False)
            move_beside(draft, Path(path).resolve())
