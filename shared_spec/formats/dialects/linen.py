"""Flax's imagenet example (Linen): its variables, or a whole training state, as `.msgpack` or as an
orbax directory. The names are those of https://github.com/google/flax, examples/imagenet.
"""

from __future__ import annotations

import re

from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import SpecError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import Dialect, Extras, Place, Rules, rename
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
from shared_spec.weights.preprocessing import Preprocessing

BLOCKS = {"basic": "ResNetBlock", "bottleneck": "BottleneckResNetBlock"}
"""The example's classes, by ours."""

_OUTSIDE = {"conv1": "conv_init", "bn1": "bn_init", "fc": "Dense_0"}
_INSIDE: Rules = [
    (r"^conv(\d)$", lambda m: f"Conv_{int(m[1]) - 1}"),
    (r"^bn(\d)$", lambda m: f"BatchNorm_{int(m[1]) - 1}"),
    (r"^downsample\.0$", "conv_proj"),
    (r"^downsample\.1$", "norm_proj"),
]
_LAYERS = re.compile(
    r"^(params|batch_stats)/(conv_init|bn_init|"
    r"(Bottleneck)?ResNetBlock_\d+/(Conv_\d|BatchNorm_\d|conv_proj|norm_proj))/"
)
TRAINING_STATE = re.compile(r"^(step|opt_state|dynamic_scale)(/|$)")
"""The rest of a training state, on which no result depends."""


def block_index(module: str, spec: ResNetSpec) -> tuple[int, str] | None:
    """The number of a layer's block through all stages, and its name there; None outside blocks."""
    match = re.fullmatch(r"layer(\d+)\.(\d+)\.(.+)", module)
    if match is None:
        return None
    stage, number = int(match[1]) - 1, int(match[2])
    return sum(spec.depths[:stage]) + number, match[3]


def collection(q: Parameter) -> str:
    """The collection of variables in which Linen keeps a parameter."""
    return "batch_stats" if q.role in ("norm_mean", "norm_var") else "params"


def _foreign_name(q: Parameter, spec: ResNetSpec) -> Place:
    slot = FLAX[q.role]
    inside = block_index(q.module, spec)
    if inside is None:
        module = _OUTSIDE.get(q.module, q.module)
    else:
        module = f"{BLOCKS[spec.blocks[0]]}_{inside[0]}/{rename(inside[1], _INSIDE)}"
    return Place(f"{collection(q)}/{module}/{slot.leaf}", slot)


def _spec_of(source: Source) -> ResNetSpec:
    """Blocks, depths, widths, channels and classes follow from the names and shapes.

    Raises:
        WeightsError: if they are not those of such a net.
    """
    kernels = flax_kernels(source)
    blocks = consecutive_blocks(lambda index: _block(kernels, index))
    stem = kernels.get("conv_init", ())
    stages, head = split_into_stages(blocks), kernels.get("Dense_0")
    base = CATALOGUE["flax_resnet50"].fields
    return spec_from([stem], stages, head, base, source.path, LINEN.library)


def _block(kernels: dict[str, Shape], index: int) -> BlockShapes | None:
    for name in BLOCKS.values():
        at = f"{name}_{index}"
        convs = [f"{at}/Conv_{number}" for number in (0, 1, 2)]
        if (block := block_shapes(kernels, convs, [f"{at}/conv_proj"])) is not None:
            return block
    return None


def _extras(source: Source, spec: ResNetSpec) -> Extras:
    """What the example's input pipeline does to evaluate."""
    if spec.in_channels != 3:
        return None, None
    usual = Preprocessing.default(spec)
    return usual.model_copy(update={"interpolation": "bicubic", "crop": 224 / 256}), None


def _nearest_library_spec(spec: ResNetSpec) -> ResNetSpec:
    """The net that the example builds with these blocks, depths, filters, channels and classes.

    Raises:
        SpecError: if it has no classifier, which the example always has.
    """
    if not spec.num_classes:
        raise SpecError("it always ends in a classifier, and num_classes is 0")
    return CATALOGUE["flax_resnet50"].spec.override(
        block=spec.blocks[0],
        depths=spec.depths,
        widths=[spec.stem_width * 2**i for i in range(len(spec.depths))],
        stem_width=spec.stem_width,
        in_channels=spec.in_channels,
        num_classes=spec.num_classes,
    )


LINEN = Dialect(
    "linen",
    "Flax's imagenet example",
    lambda source: source.kind == "flax" and any(map(_LAYERS.match, source.tensors)),
    _foreign_name,
    _spec_of,
    _extras,
    _nearest_library_spec,
    TRAINING_STATE,
)
