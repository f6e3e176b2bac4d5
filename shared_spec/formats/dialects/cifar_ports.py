"""PyTorch ports for CIFAR: of He et al. 2015 under torchvision's names except for a few words, and
two with names of their own.

| port on GitHub | stage | shortcut | classifier |
|---|---|---|---|
| alvarobartt/understanding-resnet | `rl1` | `subsample`, or no array | `fc` |
| akamaster/pytorch_resnet_cifar10 | `layer1` | no array, or `shortcut` | `linear` |
| kuangliu/pytorch-cifar | `layer1` | `shortcut` | `linear` |

Each combination is read. A net whose shortcuts have no arrays is taken as option A of the paper:
none of the ports has plain nets. One whose norms stand before its convolutions has no norm before
its pool, as kuangliu's.

xternalz/WideResNet-pytorch has wide pre-activation nets (`block1.layer.0.convShortcut`), and
weiaicunzai/pytorch-cifar100 torchvision's blocks in `conv2_x.0.residual_function.0`. The net of
nine layers that is taught at jovian.ai has `conv2.0`, `res1.0.0` and `classifier.3`.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from shared_spec.catalogue import find
from shared_spec.errors import ResNetError, WeightsError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import Dialect, Place, Rules, in_torch, rename
from shared_spec.formats.dialects.spec_from_shapes import (
    BlockShapes,
    Shape,
    block_shapes,
    consecutive_blocks,
    numbered_stages,
    spec_from,
)
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
        name = rename(q.name, _PRE_ACTIVATED) if spec.pre_activation else q.name
        name = re.sub(r"^layer(?=\d)", stage, name)
        name = re.sub(r"\.downsample\.", f".{shortcut}.", re.sub(r"^fc\.", f"{head}.", name))
        return Place(name, TORCH[q.role], q.module == "head.fc")

    def spec_of(source: Source) -> ResNetSpec:
        """Blocks, depths, widths, stem, channels, classes and the kind of shortcut.

        Raises:
            WeightsError: if it is no such net.
        """
        shapes = _shapes(source)
        stages = numbered_stages(
            shapes, lambda s, b: f"{stage}{s + 1}.{b}.", f"{shortcut}.0.weight"
        )
        stem, classifier = shapes.get("conv1.weight", ()), shapes.get(f"{head}.weight")
        base = _CIFAR if stem[2:] == (3, 3) else {}
        if _pre_activated(shapes, stage):
            base = base | {"pre_activation": True, "final_norm": False}
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


_PRE_ACTIVATED: Rules = [
    (r"^stem\.conv\.", "conv1."),
    (r"^norm\.", "bn1."),
    (r"^head\.fc\.", "fc."),
    (r"^stages\.(\d)\.blocks\.", lambda m: f"layer{int(m[1]) + 1}."),
    (r"\.norm(\d)\.", r".bn\1."),
    (r"\.downsample\.conv\.", ".downsample.0."),
]
"""From canonical names to torchvision's."""
_WIDE: Rules = [
    (r"^stem\.conv\.", "conv1."),
    (r"^norm\.", "bn1."),
    (r"^head\.fc\.", "fc."),
    (r"^stages\.(\d)\.blocks\.", lambda m: f"block{int(m[1]) + 1}.layer."),
    (r"\.norm(\d)\.", r".bn\1."),
    (r"\.downsample\.conv\.", ".convShortcut."),
]
"""From canonical names to those of wide pre-activation nets."""
_NINE: Rules = [
    (r"^conv1\.", "conv1.0."),
    (r"^bn1\.", "conv1.1."),
    (r"^layer(\d)\.0\.conv1\.", lambda m: f"conv{int(m[1]) + 1}.0."),
    (r"^layer(\d)\.0\.bn1\.", lambda m: f"conv{int(m[1]) + 1}.1."),
    (r"^layer(\d)\.1\.conv(\d)\.", lambda m: f"res{int(m[1]) // 2 + 1}.{int(m[2]) - 1}.0."),
    (r"^layer(\d)\.1\.bn(\d)\.", lambda m: f"res{int(m[1]) // 2 + 1}.{int(m[2]) - 1}.1."),
]
"""From canonical names of the net of nine layers to those that it is published under."""
_RESIDUAL: Rules = [
    (r"^conv1\.", "conv1.0."),
    (r"^bn1\.", "conv1.1."),
    (r"^layer(\d)\.", lambda m: f"conv{int(m[1]) + 1}_x."),
    (r"\.conv(\d)\.", lambda m: f".residual_function.{3 * int(m[1]) - 3}."),
    (r"\.bn(\d)\.", lambda m: f".residual_function.{3 * int(m[1]) - 2}."),
    (r"\.downsample\.", ".shortcut."),
]
"""From canonical names to those of nets whose branches are `residual_function`."""


def _renaming(name: str, library: str, rules: Rules, anchor: str, spec_of: Any) -> Dialect:
    """A port that is told by the kernel of its first block."""
    return Dialect(
        name,
        library,
        lambda source: in_torch(source) and anchor in source.tensors,
        lambda q, spec: Place(rename(q.name, rules), TORCH[q.role], q.module == "head.fc"),
        spec_of,
    )


def _shapes(source: Source) -> dict[str, Shape]:
    return {name: entry.shape for name, entry in source.tensors.entries.items()}


def _wide_spec(source: Source) -> ResNetSpec:
    shapes = _shapes(source)
    stages = numbered_stages(shapes, lambda s, b: f"block{s + 1}.layer.{b}.", "convShortcut.weight")
    stem, head = shapes.get("conv1.weight", ()), shapes.get("fc.weight")
    base = {**_CIFAR, "pre_activation": True}
    return spec_from([stem], stages, head, base, source.path, "WideResNet-pytorch")


def _residual_spec(source: Source) -> ResNetSpec:
    shapes, stages = _shapes(source), []
    for stage in range(2, 10):

        def at(block: int, prefix: str = f"conv{stage}_x.") -> BlockShapes | None:
            convs = [f"{prefix}{block}.residual_function.{n}.weight" for n in (0, 3, 6)]
            return block_shapes(shapes, convs, [f"{prefix}{block}.shortcut.0.weight"])

        stages += [blocks] if (blocks := consecutive_blocks(at)) else []
    stem, head = shapes.get("conv1.0.weight", ()), shapes.get("fc.weight")
    return spec_from([stem], stages, head, _CIFAR, source.path, "pytorch-cifar100")


def _nine_name(q: Parameter, spec: ResNetSpec) -> Place:
    name = re.sub(r"^fc\.", f"classifier.{3 if spec.drop_rate else 2}.", rename(q.name, _NINE))
    return Place(name, TORCH[q.role])


def _nine_spec(source: Source) -> ResNetSpec:
    shapes = _shapes(source)
    convs = [shapes.get(f"conv{n}.0.weight", ()) for n in (1, 2, 3, 4)]
    if any(len(shape) != 4 for shape in convs):
        raise WeightsError(f"{source.path}: its first convolutions are not those of a ResNet-9")
    head = next((n for n in (3, 2) if f"classifier.{n}.weight" in shapes), None)
    fields = {
        **find("resnet9").fields,
        "widths": [shape[0] for shape in convs[1:]],
        "stem_width": convs[0][0],
        "in_channels": convs[0][1],
        "num_classes": 0 if head is None else shapes[f"classifier.{head}.weight"][0],
        "drop_rate": 0.2 if head == 3 else 0.0,
        "conv_bias": "conv1.0.bias" in shapes,
    }
    try:
        return ResNetSpec.parse(fields, str(source.path))
    except ResNetError as error:
        raise WeightsError(f"{error}; so it is no ResNet-9") from None


NINE = Dialect(
    "resnet9",
    "the ResNet-9 of jovian.ai",
    lambda source: in_torch(source) and "res1.0.0.weight" in source.tensors,
    _nine_name,
    _nine_spec,
)
WIDE = _renaming(
    "wide-resnet", "WideResNet-pytorch", _WIDE, "block1.layer.0.conv1.weight", _wide_spec
)
RESIDUAL = _renaming(
    "pytorch-cifar100",
    "pytorch-cifar100",
    _RESIDUAL,
    "conv2_x.0.residual_function.0.weight",
    _residual_spec,
)
PORTS = tuple(
    _dialect(words)
    for words in itertools.product(
        ("layer", "rl"), ("shortcut", "subsample", "downsample"), ("linear", "fc")
    )
    if words != _CANONICAL
)
