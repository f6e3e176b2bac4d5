"""PyTorch ports of He et al. 2015 that are torchvision's except for a few words in their names.

| port on GitHub | stage | shortcut | classifier |
|---|---|---|---|
| alvarobartt/understanding-resnet | `rl1` | `subsample`, or no array | `fc` |
| akamaster/pytorch_resnet_cifar10 | `layer1` | no array, or `shortcut` | `linear` |
| kuangliu/pytorch-cifar | `layer1` | `shortcut` | `linear` |

Each combination is read. A net whose shortcuts have no arrays is taken as option A of the paper:
none of the ports has plain nets.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from shared_spec.errors import SpecError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import Dialect, Place, in_torch
from shared_spec.formats.dialects.spec_from_shapes import Shape, numbered_stages, spec_from
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.layouts import TORCH

Words = tuple[str, str, str]
"""What a port calls stages, shortcuts and the classifier."""

_CANONICAL = ("layer", "downsample", "fc")
_CIFAR: dict[str, Any] = {
    "stem": "conv3x3",
    "stem_stride": 1,
    "stem_pool": "none",
    "image_size": 32,
}


def _words(source: Source) -> Words | None:
    """The words of a file; where it has none of a kind, those of the port that leaves it out."""
    found: dict[str, set[str]] = {"stage": set(), "shortcut": set(), "head": set()}
    for name in source.tensors:
        if match := re.match(r"(layer|rl)\d\.\d+\.(?:(shortcut|subsample|downsample)\.)?", name):
            found["stage"].add(match[1])
            found["shortcut"] |= {match[2]} if match[2] else set()
        elif match := re.fullmatch(r"(fc|linear)\.weight", name):
            found["head"].add(match[1])
    if len(found["stage"]) != 1 or any(len(words) > 1 for words in found.values()):
        return None
    stage = found["stage"].pop()
    head = found["head"].pop() if found["head"] else "fc"
    port = stage == "rl" or head == "linear"
    usual = {"rl": "subsample", "layer": "shortcut" if port else "downsample"}[stage]
    shortcut = found["shortcut"].pop() if found["shortcut"] else usual
    return stage, shortcut, head


def _dialect(words: Words) -> Dialect:
    stage, shortcut, head = words
    library = "understanding-resnet" if stage == "rl" else "ports for CIFAR"

    def foreign_name(q: Parameter, spec: ResNetSpec) -> Place:
        name = re.sub(r"^layer(?=\d)", stage, q.name)
        name = re.sub(r"\.downsample\.", f".{shortcut}.", re.sub(r"^fc\.", f"{head}.", name))
        return Place(name, TORCH[q.role])

    def spec_of(source: Source) -> ResNetSpec:
        """Blocks, depths, widths, stem, channels, classes and the kind of shortcut.

        Raises:
            SpecError: if it is a pre-activation net.
            WeightsError: if it is no such net.
        """
        shapes = {name: entry.shape for name, entry in source.tensors.entries.items()}
        stages = numbered_stages(
            shapes, lambda s, b: f"{stage}{s + 1}.{b}.", f"{shortcut}.0.weight"
        )
        if _pre_activated(shapes, stage):
            raise SpecError(
                f"{source.path}: a pre-activation net of these ports, which has no norm before its "
                f"pool, and which no spec can express"
            )
        stem, classifier = shapes.get("conv1.weight", ()), shapes.get(f"{head}.weight")
        base = _CIFAR if stem[2:] == (3, 3) else {}
        return spec_from([stem], stages, classifier, base, source.path, library)

    def recognises(source: Source) -> bool:
        return in_torch(source) and _words(source) == words

    return Dialect(f"port-{stage}-{shortcut}-{head}", library, recognises, foreign_name, spec_of)


def _pre_activated(shapes: dict[str, Shape], stage: str) -> bool:
    """Whether some norm has the channels that enter its convolution, and not those that leave."""
    for name, kernel in shapes.items():
        match = re.match(rf"({stage}\d\.\d+)\.conv([123])\.weight$", name)
        norm = shapes.get(f"{match[1]}.bn{match[2]}.weight") if match else None
        if norm is not None and norm[:1] != kernel[:1]:
            return True
    return False


PORTS = tuple(
    _dialect(words)
    for words in itertools.product(
        ("layer", "rl"), ("shortcut", "subsample", "downsample"), ("linear", "fc")
    )
    if words != _CANONICAL
)
