"""The names of detectron2's ResNets, whose files do not say where a bottleneck has its stride."""

from __future__ import annotations

from shared_spec.errors import WeightsError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import Dialect, Place, Rules, in_torch, rename
from shared_spec.formats.dialects.spec_from_shapes import numbered_stages, spec_from
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.layouts import TORCH

NAMES: Rules = [
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^fc\.", "linear."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
]
"""From canonical names to detectron2's, applied in this order."""


def _foreign_name(q: Parameter, spec: ResNetSpec) -> Place:
    return Place(rename(f"{q.module}.", NAMES) + q.leaf, TORCH[q.role])


def _spec_of(source: Source) -> ResNetSpec:
    """The net, where it has basic blocks.

    Raises:
        WeightsError: if it has bottlenecks, whose file does not say where their stride is.
    """
    shapes = {name: entry.shape for name, entry in source.tensors.entries.items()}
    if "stem.conv1.norm.running_mean" not in shapes:
        raise WeightsError(
            f"{source.path}: a net of detectron2 without batch norm, and the file says no "
            f"more; name a spec file (`spec`)"
        )
    stem = shapes.get("stem.conv1.weight", ())
    stages = numbered_stages(shapes, lambda s, b: f"res{s + 2}.{b}.", "shortcut.weight")
    head = shapes.get("linear.weight")
    spec = spec_from([stem], stages, head, {}, source.path, "detectron2")
    if "bottleneck" in spec.blocks:
        raise WeightsError(
            f"{source.path}: a net of detectron2 with bottlenecks, whose stride is on the 3x3 "
            f"convolution or, in MSRA's models, on the first 1x1 one, which the file does not "
            f"say; name the model (`spec`), for the 1x1 a spec file with stride_on: 1x1"
        )
    return spec


def _recognises(source: Source) -> bool:
    names = ("stem.conv1.weight", "res2.0.conv1.weight")
    return in_torch(source) and all(name in source.tensors for name in names)


DETECTRON2 = Dialect("detectron2", "detectron2", _recognises, _foreign_name, _spec_of)
