"""Where the blocks of a net stand, with the channels, strides and dilations that they have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shared_spec.spec.resnet_spec import ResNetSpec


class Site(NamedTuple):
    """Where a block stands, with the numbers that follow from what is before it."""

    stage: int
    number: int
    in_channels: int
    widths: tuple[int, ...]
    """Output channels of the branch's convolutions."""
    nominal_stride: int
    """The block's stride in a net that does not dilate; it decides which block projects, so that
    weights do not depend on `output_stride`."""
    stride: int
    first_dilation: int
    """Dilation of the block's first 3x3 convolution: in the first block that of the stage before,
    as the pixels that it sees lie that far apart."""
    dilation: int
    drop_path: float
    variance: float = 1.0
    """Of the block's input, as it is expected in a net without norms."""

    @property
    def out_channels(self) -> int:
        """Of the block."""
        return self.widths[-1]

    @property
    def same_shape(self) -> bool:
        """Whether an identity could be the shortcut."""
        return self.nominal_stride == 1 and self.in_channels == self.out_channels


def sites_of(spec: ResNetSpec) -> Iterator[Site]:
    """Every block, first to last."""
    reduction, channels = spec.stem_stride_total, spec.stem_width
    dilation = 1
    index, last, variance = 0, max(sum(spec.depths) - 1, 1), 1.0
    for stage, depth in enumerate(spec.depths):
        nominal, before = spec.strides[stage], dilation
        stride = nominal
        if spec.output_stride is not None and reduction >= spec.output_stride:
            dilation, stride = dilation * nominal, 1
        reduction *= stride
        strided = depth - 1 if spec.stride_block == "last" else 0
        for number in range(depth):
            pruned = spec.block_widths[index] if spec.block_widths else ()
            yield Site(
                stage,
                number,
                channels,
                pruned or _widths(spec, stage, channels),
                nominal_stride=nominal if number == strided else 1,
                stride=stride if number == strided else 1,
                first_dilation=before if number == 0 else dilation,
                dilation=dilation,
                drop_path=spec.drop_path_rate * index / last,
                variance=variance,
            )
            # A projection takes the block's scaled input, which sets the variance back to one.
            variance = (variance if number else 1.0) + spec.branch_scale**2
            channels = pruned[-1] if pruned else spec.out_channels[stage]
            index += 1


def _widths(spec: ResNetSpec, stage: int, in_channels: int) -> tuple[int, ...]:
    """Output channels of the convolutions of a block in `stage` that so many channels enter."""
    width, out_channels = spec.inner_width(stage, in_channels), spec.out_channels[stage]
    if spec.blocks[stage] != "bottleneck":
        return width // spec.reduce_first, out_channels
    if spec.convolution == "hierarchical":
        return width * spec.scale, width * spec.scale, out_channels
    extra = (width,) if spec.extra_conv else ()
    return width // spec.reduce_first, width, *extra, out_channels


def kernel_sizes(spec: ResNetSpec, stage: int) -> tuple[int, ...]:
    """Kernel sizes of the convolutions of a stage's branches."""
    if spec.blocks[stage] == "bottleneck":
        return (1, 3, 3, 1) if spec.extra_conv else (1, 3, 1)
    return (3, 3) if spec.blocks[stage] == "basic" else (3, 1)
