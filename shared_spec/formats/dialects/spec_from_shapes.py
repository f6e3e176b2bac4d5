"""A spec from the shapes of a file's kernels, for libraries whose files contain nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared_spec.errors import ResNetError, WeightsError
from shared_spec.formats.containers.source import Source
from shared_spec.spec.resnet_spec import ResNetSpec

Shape = tuple[int, ...]
_BLOCKS = {2: "basic", 3: "bottleneck"}


@dataclass(frozen=True)
class BlockShapes:
    """Kernels of a block in PyTorch's layout: those of its branch, and that of its projection."""

    convs: tuple[Shape, ...]
    projection: Shape | None


Stages = Sequence[Sequence[BlockShapes]]


def spec_from(
    stem: Sequence[Shape],
    stages: Stages,
    head: Shape | None,
    base: Mapping[str, Any],
    where: object,
    library: str,
) -> ResNetSpec:
    """The spec of these kernels in PyTorch's layout, of which the stem may have several; what they
    leave open comes from `base`. It may not account for all of the file's arrays: reading checks
    them against it in any case.

    Raises:
        WeightsError: if no ResNet has such kernels.
    """
    try:
        return ResNetSpec.parse({**base, **_fields(stem, stages, head)}, str(where))
    except ResNetError as error:
        raise WeightsError(f"{error}; so it is no ResNet of {library}") from None
    except ValueError as error:
        raise WeightsError(f"{where}: not a ResNet of {library} ({error})") from None


def _fields(stem: Sequence[Shape], stages: Stages, head: Shape | None) -> dict[str, Any]:
    blocks = [block for stage in stages for block in stage]
    kernels = [kernel for block in blocks for kernel in (*block.convs, block.projection) if kernel]
    if any(len(shape) != 4 or min(shape) < 1 for shape in (*stem, *kernels)):
        raise ValueError("a kernel does not have four axes")
    if not blocks or (head is not None and len(head) != 2):
        raise ValueError("it has no blocks or another head")
    kinds = {_BLOCKS.get(len(block.convs)) for block in blocks}
    kind = kinds.pop()
    if kind is None or kinds:
        raise ValueError("its blocks have neither two nor three convolutions each")
    widths = [stage[0].convs[-1][0] // (4 if kind == "bottleneck" else 1) for stage in stages]
    fields: dict[str, Any] = {
        "block": kind,
        "depths": [len(stage) for stage in stages],
        "widths": widths,
        "stem_width": stem[-1][0],
        "in_channels": stem[0][1],
        "num_classes": 0 if head is None else head[0],
        # A stage after the first begins with a stride.
        "shortcut": shortcut_kind(stem[-1][0], stages, [i > 0 for i in range(len(stages))]),
    }
    if kind == "bottleneck":
        middle = stages[0][0].convs[1]
        groups = max(middle[0] // middle[1], 1)
        fields |= {"groups": groups, "base_width": 64 * middle[0] // (groups * max(widths[0], 1))}
    return fields


def shortcut_kind(width: int, stages: Stages, strided: Sequence[bool]) -> str:
    """Which blocks project: those whose shape differs, a stage's first ones, all, or none.

    Args:
        width: channels after the stem.
        stages: the blocks.
        strided: which stages begin with a stride.

    Raises:
        ValueError: if others do.
    """
    projected, needed, first = [], [], []
    for stage, blocks in enumerate(stages):
        for number, block in enumerate(blocks):
            projected.append(block.projection is not None)
            first.append(number == 0)
            needed.append((number == 0 and strided[stage]) or width != block.convs[-1][0])
            width = block.convs[-1][0]
    known = {
        "projection": needed,
        "projection_stage": first,
        "projection_all": [True] * len(first),
        "zero_pad": [False] * len(first),
    }
    for name, flags in known.items():
        if flags == projected:
            return name
    raise ValueError("no kind of shortcut projects in the blocks in which it does")


def numbered_stages(
    shapes: Mapping[str, Shape], block: Callable[[int, int], str], projection: str
) -> list[list[BlockShapes]]:
    """The kernels of PyTorch modules whose names give stage and block.

    Args:
        shapes: of the file's arrays.
        block: the prefix of a block's names, given its stage and its number there, from 0.
        projection: the rest of the name of its projection's kernel.
    """

    def at(prefix: str) -> BlockShapes | None:
        convs = [f"{prefix}conv{number}.weight" for number in (1, 2, 3)]
        return block_shapes(shapes, convs, [f"{prefix}{projection}"])

    stages: list[list[BlockShapes]] = []
    while blocks := consecutive_blocks(lambda number: at(block(len(stages), number))):
        stages.append(blocks)
    return stages


def block_shapes(
    shapes: Mapping[str, Shape], convs: Sequence[str], projections: Sequence[str]
) -> BlockShapes | None:
    """A block, from names of its convolutions and its projection; None without the first one."""
    if convs[0] not in shapes:
        return None
    projection = next((shapes[name] for name in projections if name in shapes), None)
    return BlockShapes(tuple(shapes[name] for name in convs if name in shapes), projection)


def consecutive_blocks(block: Callable[[int], BlockShapes | None]) -> list[BlockShapes]:
    """Blocks 0, 1, ..., as far as there are any."""
    blocks: list[BlockShapes] = []
    while (shapes := block(len(blocks))) is not None:
        blocks.append(shapes)
    return blocks


def split_into_stages(blocks: Sequence[BlockShapes]) -> list[list[BlockShapes]]:
    """Blocks that are numbered through all stages: each stage after the first begins with a
    projection, and no other block has one.
    """
    stages: list[list[BlockShapes]] = []
    for block in blocks:
        if not stages or block.projection is not None:
            stages.append([])
        stages[-1].append(block)
    return stages


def flax_kernels(source: Source) -> dict[str, Shape]:
    """Shapes of Linen's kernels by module, in PyTorch's layout: HWIO to OIHW, IO to OI."""
    kernels = {}
    for name, array in source.tensors.entries.items():
        if match := re.fullmatch(r"params/(.+)/kernel", name):
            shape = array.shape
            kernels[match[1]] = (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape[::-1]
    return kernels
