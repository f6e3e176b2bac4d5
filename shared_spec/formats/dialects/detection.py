"""ResNets inside other modules: the backbones of detectron2, those of MMPretrain and MMDetection,
and nets that are an attribute of somebody's module, as in Lightning.

A detector's neck and heads are not part of a ResNet, and a file that has them is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from shared_spec.errors import SpecError, WeightsError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import COUNTERS, Dialect, Place, Rules, in_torch, rename
from shared_spec.formats.dialects.spec_from_shapes import numbered_stages, spec_from
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.layouts import TORCH

ATTRIBUTES = ("backbone.", "model.", "net.", "encoder.", "resnet.", "model.backbone.")
"""Where a module may hold a net whose names are canonical: MMPretrain's, then common ones."""

HEADS = ("head.fc.", "fc.", "classifier.", "head.")
"""What its classifier may be called, if it is not in the net: MMPretrain's, then common ones."""

BACKBONES = ("", "bottom_up.", "backbone.", "backbone.bottom_up.")
"""Where detectron2 holds a net: alone, under a feature pyramid, and in a detector."""

DETECTRON: Rules = [
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^fc\.", "linear."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
]
"""From canonical names to detectron2's, applied in this order."""


def _refuse_rest(source: Source, belongs: Callable[[str], bool]) -> None:
    """Raise a `SpecError` that names what is beside the net."""
    rest = [n for n in source.tensors if not belongs(n) and not COUNTERS.search(n)]
    if rest:
        others = f" and {len(rest) - 1} others" if len(rest) > 1 else ""
        raise SpecError(
            f"{source.path}: holds more than a ResNet, of which {rest[0][:200]}{others} are no "
            f"part, as a detector's neck and heads; save the backbone's arrays alone"
        )


def _attribute(prefix: str, head: str) -> Dialect:
    """A net of canonical names under `prefix`, whose classifier is at `head`."""

    def foreign_name(q: Parameter, spec: ResNetSpec) -> Place:
        name = head + q.leaf if q.module == "fc" else prefix + q.name
        return Place(name, TORCH[q.role])

    def spec_of(source: Source) -> None:
        _refuse_rest(source, lambda name: name.startswith((prefix, head)))

    def recognises(source: Source) -> bool:
        blocks = (f"{prefix}layer1.0.conv1.weight", f"{prefix}stages.0.blocks.0.conv1.weight")
        return (
            in_torch(source)
            and any(name in source.tensors for name in blocks)
            and head == _head(source, prefix)
        )

    library = "MMPretrain" if (prefix, head) == ("backbone.", "head.fc.") else "a wrapped ResNet"
    return Dialect("attribute", library, recognises, foreign_name, spec_of)


def _head(source: Source, prefix: str) -> str:
    """Where the classifier is: in the net, or beside it."""
    heads = (f"{prefix}fc.", *HEADS)
    return next((head for head in heads if f"{head}weight" in source.tensors), heads[0])


def _detectron(prefix: str) -> Dialect:
    """A net of detectron2 under `prefix`."""

    def foreign_name(q: Parameter, spec: ResNetSpec) -> Place:
        return Place(prefix + rename(f"{q.module}.", DETECTRON) + q.leaf, TORCH[q.role])

    def spec_of(source: Source) -> ResNetSpec:
        """The net, where it has basic blocks.

        Raises:
            SpecError: if there is more than a net.
            WeightsError: if it has bottlenecks, whose file does not say where their stride is.
        """
        inside = re.compile(rf"{re.escape(prefix)}(stem|res\d|linear)\.")
        _refuse_rest(source, lambda name: inside.match(name) is not None)
        shapes = {name: entry.shape for name, entry in source.tensors.entries.items()}
        if f"{prefix}stem.conv1.norm.running_mean" not in shapes:
            raise WeightsError(
                f"{source.path}: a net of detectron2 without batch norm, and the file says no "
                f"more; name a spec file (--model)"
            )
        stem = shapes.get(f"{prefix}stem.conv1.weight", ())
        stages = numbered_stages(shapes, lambda s, b: f"{prefix}res{s + 2}.{b}.", "shortcut.weight")
        head = shapes.get(f"{prefix}linear.weight")
        spec = spec_from([stem], stages, head, {}, source.path, "detectron2")
        if "bottleneck" in spec.blocks:
            raise WeightsError(
                f"{source.path}: a net of detectron2 with bottlenecks, whose stride is on the 3x3 "
                f"convolution or, in MSRA's models, on the first 1x1 one, which the file does not "
                f"say; name the model (--model), for the 1x1 a spec file with stride_on: 1x1"
            )
        return spec

    def recognises(source: Source) -> bool:
        names = (f"{prefix}stem.conv1.weight", f"{prefix}res2.0.conv1.weight")
        return in_torch(source) and all(name in source.tensors for name in names)

    return Dialect("detectron2", "detectron2", recognises, foreign_name, spec_of)


DETECTION = (
    *(_detectron(prefix) for prefix in BACKBONES),
    *(_attribute(prefix, head) for prefix in ATTRIBUTES for head in (f"{prefix}fc.", *HEADS)),
)
