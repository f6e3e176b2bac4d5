"""The package jax-resnet (Linen), https://github.com/n2cholas/jax-resnet: ResNet, ResNet-D, wide
ResNet and ResNeXt, read from `.msgpack` or an orbax directory.

Since its version 0.0.3 a net is a sequence: `layers_0` is the stem, `layers_1` the pool, then come
the blocks, the mean and the classifier. Before, Linen numbered the modules of each class.

Its nets pad symmetrically, so they are torchvision's and timm's. ResNet-D takes even sizes alone:
the pool of its shortcut drops a last odd row, which the branch keeps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from shared_spec.errors import SpecError, WeightsError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import Dialect, Place, Rules, rename
from shared_spec.formats.dialects.linen import TRAINING_STATE, block_index, collection
from shared_spec.formats.dialects.spec_from_shapes import (
    BlockShapes,
    Shape,
    block_shapes,
    consecutive_blocks,
    flax_kernels,
    spec_from,
    split_into_stages,
)
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.layouts import FLAX

LIBRARY = "jax-resnet"
_STAGES = 4
_STEM = {
    "conv1": "ConvBlock_0/Conv_0",
    "conv1.0": "ConvBlock_0/Conv_0",
    "conv1.1": "ConvBlock_0/BatchNorm_0",
    "conv1.3": "ConvBlock_1/Conv_0",
    "conv1.4": "ConvBlock_1/BatchNorm_0",
    "conv1.6": "ConvBlock_2/Conv_0",
}
_INSIDE: Rules = [
    (r"^conv(\d)$", lambda m: f"ConvBlock_{int(m[1]) - 1}/Conv_0"),
    (r"^bn(\d)$", lambda m: f"ConvBlock_{int(m[1]) - 1}/BatchNorm_0"),
    (r"^downsample\.0$", "ResNetSkipConnection_0/ConvBlock_0/Conv_0"),
    (r"^downsample\.1$", "ResNetSkipConnection_0/ConvBlock_0/BatchNorm_0"),
]
_INSIDE_D: Rules = [
    *_INSIDE[:2],
    (r"^downsample\.1$", "ResNetDSkipConnection_0/ConvBlock_0/Conv_0"),
    (r"^downsample\.2$", "ResNetDSkipConnection_0/ConvBlock_0/BatchNorm_0"),
]
_BY_POSITION: Rules = [
    (r"^(layers_0|ResNetD?Stem_0)\b", "stem"),
    (r"^layers_(\d+)", lambda m: f"block_{int(m[1]) - 2}"),
    (r"^ResNetD?(?:Bottleneck)?Block_(\d+)", r"block_\1"),
    (r"^Dense_0\b", "head"),
]
"""What names of either kind begin with to `stem`, `block_0`, ... and `head`."""
_LAYER = r"^(params|batch_stats)/{}/(\w+_0/)*ConvBlock_\d+/(Conv_0|BatchNorm_0)/"
_SEQUENCE = re.compile(_LAYER.format(r"layers_\d+"))
_CLASSES = re.compile(_LAYER.format(r"ResNe[St]\w*_\d+"))
_BASE: dict[str, Any] = {"norm_variance": "biased", "zero_init_last": True}
_BASE_D = _BASE | {"stem": "deep", "shortcut_pool": "avg"}


def _outer(spec: ResNetSpec, sequence: bool) -> tuple[str, Callable[[int], str], str]:
    """What the stem, each block and the classifier are called."""
    if sequence:
        blocks = sum(spec.depths)
        return "layers_0", lambda i: f"layers_{i + 2}", f"layers_{blocks + 3}"
    d = "D" if spec.shortcut_pool == "avg" else ""
    kind = {"basic": "Block", "bottleneck": "BottleneckBlock"}[spec.blocks[0]]
    return f"ResNet{d}Stem_0", lambda i: f"ResNet{d}{kind}_{i}", "Dense_0"


def _foreign_name(sequence: bool) -> Callable[[Parameter, ResNetSpec], Place]:
    def foreign_name(q: Parameter, spec: ResNetSpec) -> Place:
        slot = FLAX[q.role]
        stem, block, head = _outer(spec, sequence)
        inside = block_index(q.module, spec)
        if inside is not None:
            rules = _INSIDE_D if spec.shortcut_pool == "avg" else _INSIDE
            module = f"{block(inside[0])}/{rename(inside[1], rules)}"
        elif q.module == "fc":
            module = head
        elif q.module == "bn1":
            module = f"{stem}/ConvBlock_{2 if spec.stem == 'deep' else 0}/BatchNorm_0"
        else:
            module = f"{stem}/{_STEM.get(q.module, q.module)}"
        return Place(f"{collection(q)}/{module}/{slot.leaf}", slot)

    return foreign_name


def _spec_of(source: Source) -> ResNetSpec:
    """ResNet or ResNet-D, and its numbers, follow from the names and shapes.

    Raises:
        SpecError: if it is a net of the package that no spec says.
        WeightsError: if it is none of the package, or not one that its arrays identify.
    """
    names = list(source.tensors)
    if any("/SplAtConv2d_0/" in name for name in names):
        raise SpecError(f"{source.path}: a ResNeSt, whose split attention no spec can express")
    if not any("/BatchNorm_0/" in name for name in names):
        raise SpecError(
            f"{source.path}: a net of {LIBRARY} without batch norm, which no spec can express"
        )
    # By position, the names before version 0.0.3 are those since then.
    given = flax_kernels(source).items()
    kernels = {rename(name, _BY_POSITION): shape for name, shape in given}
    blocks = consecutive_blocks(lambda number: _block(kernels, f"block_{number}"))
    stem = [kernels.get("stem/ConvBlock_0/Conv_0", ())]
    if deep := kernels.get("stem/ConvBlock_2/Conv_0"):
        stem.append(deep)
    head = kernels.get(f"block_{len(blocks) + 1}", kernels.get("head"))
    stages = split_into_stages(blocks)
    if len(stages) != _STAGES:
        # Without a projection, it is unknown where a stage begins.
        raise WeightsError(
            f"{source.path}: a net of {LIBRARY} with {len(stages)} projections instead of "
            f"{_STAGES}, so it is unknown where its stages begin; name the model (`spec`)"
        )
    return spec_from(stem, stages, head, _BASE_D if deep else _BASE, source.path, LIBRARY)


def _block(kernels: Mapping[str, Shape], at: str) -> BlockShapes | None:
    convs = [f"{at}/ConvBlock_{number}/Conv_0" for number in (0, 1, 2)]
    skips = [f"{at}/ResNet{d}SkipConnection_0/ConvBlock_0/Conv_0" for d in ("", "D")]
    return block_shapes(kernels, convs, skips)


SEQUENCE = Dialect(
    "jax-resnet",
    LIBRARY,
    lambda source: source.kind == "flax" and any(map(_SEQUENCE.match, source.tensors)),
    _foreign_name(sequence=True),
    _spec_of,
    ignored=TRAINING_STATE,
)
CLASSES = replace(
    SEQUENCE,
    recognises=lambda source: source.kind == "flax" and any(map(_CLASSES.match, source.tensors)),
    foreign_name=_foreign_name(sequence=False),
)
JAX_RESNET = (SEQUENCE, CLASSES)
