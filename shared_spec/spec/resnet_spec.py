"""The declarative spec: what a ResNet is, in the field's own words, validated and hashable."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shared_spec.errors import SpecError
from shared_spec.spec.validation import Document

# Strict: `true`, `2.0` and `"3"` are not numbers of blocks.
_BLOCKS = 5_000
"""In a net; ResNet-1202 has 600."""
Depth = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Channels = Annotated[int, Field(strict=True, ge=1, le=65_536)]
Stride = Annotated[int, Field(strict=True, ge=1, le=8)]
Level = Annotated[int, Field(strict=True, ge=0, le=8)]
Flag = Annotated[bool, Field(strict=True)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Ratio = Annotated[float, Field(gt=0, le=16)]
BlockName = Literal["basic", "bottleneck", "edge"]

ActivationName = Literal[
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "silu",
    "mish",
    "gelu",
    "gelu_tanh",
    "hardswish",
    "prelu",
]

GAMMAS = {
    "relu": 1.7139588594436646,
    "relu6": 1.7131484746932983,
    "leaky_relu": 1.70590341091156,
    "elu": 1.2716004848480225,
    "selu": 1.0008515119552612,
    "silu": 1.7881293296813965,
    "gelu": 1.7015043497085571,
}
"""What makes the variance of an activation of standard normal numbers one (Brock et al. 2021)."""
_AFTER_FEATURES = ("head_pool", "head_hidden", "drop_rate")
"""Fields of what comes after the last feature map, on which no weights of a net without it depend.
"""


HEAD = 64
"""Channels of each head of an attention pool, as CLIP's have."""


ELSEWHERE = {
    name: f"it is {here!r}"
    for name, here in (
        # timm's
        ("in_chans", "in_channels"),
        ("global_pool", "head_pool"),
        ("layers", "depths"),
        ("cardinality", "groups"),
        ("act_layer", "activation"),
        ("norm_layer", "norm"),
        ("aa_layer", "anti_alias"),
        ("attn_layer", "attention"),
        ("stem_type", "stem"),
        ("stem_chs", "stem_width"),
        ("block_reduce_first", "reduce_first"),
        ("down_kernel_size", "shortcut_kernel"),
        ("img_size", "image_size"),
        ("bn_eps", "norm_eps"),
        ("bn_momentum", "norm_momentum"),
        # torchvision's
        ("width_per_group", "base_width"),
        ("zero_init_residual", "zero_init_last"),
        ("replace_stride_with_dilation", "output_stride"),
        # keras.applications', which resnet_keras takes itself
        ("classes", "num_classes"),
        ("pooling", "head_pool"),
    )
} | {
    "checkpoint_path": "it is `weights`",
    "avg_down": "it is shortcut_pool='avg'",
    "block_args": "attention and se_ratio say what a block has",
    "input_shape": "in_channels are its channels; any height and width are taken",
    "include_top": "num_classes=0 gives pooled features",
    **dict.fromkeys(
        ("scriptable", "exportable", "no_jit"), "leave it out: every model is scripted and exported"
    ),
    **dict.fromkeys(
        ("pretrained_cfg", "pretrained_cfg_overlay"),
        "name the weights by `pretrained` or `weights`, and set model.preprocessing",
    ),
    "cache_dir": "the environment's HF_HOME says where downloads are kept",
    "progress": "leave it out",
}
"""What to say of the fields that other libraries' models have."""


class ResNetSpec(Document):
    """A residual network. The defaults are torchvision's ResNet (stride on the 3×3, "v1.5").

    Sources: He et al. 2015, arXiv:1512.03385 (blocks, shortcuts A, B, C, plain nets); Xie et al.
    2016, arXiv:1611.05431 (`groups`, `base_width`); Zagoruyko and Komodakis 2016, arXiv:1605.07146
    (wide bottlenecks, through `base_width`).
    """

    origin, refusal = "spec", SpecError
    title = ("ResNet spec", "A residual network for resnet-parity")
    elsewhere = ELSEWHERE

    depths: Annotated[tuple[Depth, ...], Field(min_length=1, max_length=8)]
    """Blocks in each stage, for example [3, 4, 6, 3]."""
    block: BlockName | tuple[BlockName, ...]
    """basic: two 3x3 convolutions. bottleneck: 1x1, 3x3, 1x1. edge: 3x3, 1x1. One for all stages,
    or one a stage."""
    widths: Annotated[tuple[Channels, ...], Field(max_length=8)] = Field(
        default=(), validate_default=True
    )
    """Planes of each stage before expansion; left out: 64, doubled every stage."""
    strides: Annotated[tuple[Stride, ...], Field(max_length=8)] = ()
    """Stride of each stage's first block; left out: 1, then 2 for every other."""
    groups: Channels = 1
    """Groups of the bottleneck's 3x3 convolution."""
    base_width: Channels = 64
    """Bottleneck width at 64 planes, for each group: int(planes * base_width / 64) * groups."""
    expansion: Channels = 4
    """Output channels of a bottleneck in units of its planes (1 in RegNet, whose widths are those
    of outputs)."""
    bottleneck_ratio: Ratio | Annotated[tuple[Ratio, ...], Field(max_length=8)] | None = None
    """Channels inside of a bottleneck in units of its output channels, to the nearest integer, one
    for all stages or one a stage; left out: they follow from base_width."""
    bottleneck_of: Literal["output", "input"] = "output"
    """What bottleneck_ratio is a ratio to: the block's output channels, or (input, timm's RegNetZ)
    those that enter it."""
    group_width: Channels | Annotated[tuple[Channels, ...], Field(max_length=8)] | None = None
    """Channels in a group of the bottleneck's 3x3 convolution, or all of them if they are fewer,
    one for all stages or one a stage; stands in the place of groups."""
    extra_conv: Flag = False
    """A second 3x3 convolution with norm and activation in each bottleneck (timm's resnet61q)."""
    pre_activation: Flag = False
    """Norm and activation before each convolution (He et al. 2016); names as in timm's resnetv2."""
    identity_from: Literal["input", "pre"] = "input"
    """What an identity takes in a pre_activation net: the block's input, or what its first norm and
    activation give (pre, RegNet-V)."""
    output_activation: Flag = True
    """Activate after each sum; False (RegNet-Z): once, after the last stage."""
    reduce_first: Channels = 1
    """Divides the width of each block's first convolution (SENet-154)."""
    block_widths: Annotated[
        tuple[Annotated[tuple[Channels, ...], Field(max_length=8)], ...],
        Field(max_length=_BLOCKS),
    ] = ()
    """Output channels of every convolution of every block, block by block, for pruned nets; left
    out: they follow from widths."""
    pre_norm: Flag = False
    """A norm before the first convolution of each branch too (iresnet)."""
    stride_on: Literal["3x3", "1x1", "last"] = "3x3"
    """Which convolution of a block has the stride: the first 3x3 (of a bottleneck, v1.5), the first
    1x1 of a bottleneck (the paper's v1), or the last of a basic block."""
    stride_block: Literal["first", "last"] = "first"
    """Which block of a stage has its stride. last (keras.applications' V2) needs pre_activation;
    the identity beside it takes every stride-th pixel."""
    shortcut: Literal[
        "projection", "projection_stage", "projection_all", "zero_pad", "identity", "none"
    ] = "projection"
    """Where shapes differ, project with a 1x1 convolution (the paper's option B), or subsample and
    pad channels with zeros (zero_pad, A), or have no shortcut (identity, RegNet-Z);
    projection_stage projects in the first block of every stage too, projection_all in every block
    (C); none is the plain net."""
    shortcut_norm: Flag = True
    """Normalise after the projection of a shortcut."""
    shortcut_pool: Literal["none", "avg"] = "none"
    """avg: a shortcut with a stride averages 2x2 pixels before its projection (ResNet-D, He et al.
    2018)."""
    shortcut_kernel: Literal[1, 3] = 1
    """Kernel of a projection that has a stride (3 in SENet-154)."""
    attention: Literal["none", "se", "eca", "gc"] = "none"
    """Squeeze-and-excitation, efficient channel attention, or global context (Cao et al. 2019)."""
    attention_on: Literal["last", "middle"] = "last"
    """Where a branch has it: at the end, or (middle, RegNet) before its last convolution, after
    what belongs to the one before."""
    se_ratio: Annotated[float, Field(gt=0, le=1)] = 1 / 16
    """Share of channels inside squeeze-and-excitation and global context, or inside the attention
    of a selective kernel or of splits."""
    se_divisor: Channels = 8
    """What these channels are rounded to a multiple of."""
    se_of: Literal["own", "input"] = "own"
    """What se_ratio is a share of: the channels that the attention scales, or (input, RegNet) those
    of the block's input, and then rounded to the nearest integer."""
    se_activation: ActivationName = "relu"
    """The nonlinearity inside of squeeze-and-excitation."""
    branch_activation: Flag = False
    """An activation after the last norm of each branch too, before attention and sum."""
    stage_start: Literal["residual", "conv_pool"] = "residual"
    """A stage's first block: as the others, or a 3x3 convolution with norm, activation and a max
    pool of the stage's stride, without a shortcut (conv_pool, ResNet-9)."""
    convolution: Literal["plain", "selective", "hierarchical", "split_attention"] = "plain"
    """What stands for a block's first 3x3 convolution with its norm and activation: two of them, of
    which each channel of each image selects (SKNet, Li et al. 2019); one for each of `scale` parts
    of the channels, each part's result going on into the next (Res2Net, Gao et al. 2019); or
    `radix` of them under a common attention (ResNeSt, Zhang et al. 2020). Activations inside of
    the last, and in a selective kernel's attention, are ReLU, as in timm."""
    split_input: Flag = False
    """A selective kernel's paths take half of the channels each."""
    scale: Annotated[int, Field(strict=True, ge=1, le=64)] = 4
    """Parts of a hierarchical convolution; each has the width that base_width gives."""
    radix: Annotated[int, Field(strict=True, ge=1, le=64)] = 2
    """Parts of a convolution with split attention."""
    stride_pool: Literal["none", "first", "last"] = "none"
    """A 3x3 average takes the stride, before or after the split attention."""
    layer_scale: Annotated[float, Field(gt=0, le=10)] | None = None
    """End each branch in a learnt scale for each channel that starts here, for example 1e-6
    (LayerScale, Touvron et al. 2021)."""
    anti_alias: Literal["none", "blur", "avg"] = "none"
    """A 3x3 convolution with a stride loses it to a blur or an average after its activation; the
    stem's pool too (Zhang 2019)."""
    stem: Literal["conv7x7", "conv3x3", "deep", "deep_tiered"] = "conv7x7"
    """conv7x7 (ImageNet), conv3x3 (CIFAR), or three 3x3 convolutions of widths w/2, w/2, w (deep)
    or 3w/8, w/2, w (deep_tiered), w being stem_width."""
    stem_widths: Annotated[tuple[Channels, ...], Field(max_length=8)] = ()
    """Channels of the convolutions of a deep stem before its last, which may be more or fewer than
    two; left out: as stem says."""
    stem_width: Channels = 64
    """Channels after the stem."""
    stem_stride: Stride = 2
    """Stride of the stem's convolution, or of a deep one's first."""
    stem_last_stride: Stride = 1
    """Stride of a deep stem's last convolution."""
    stem_linear: Annotated[int, Field(strict=True, ge=0, le=8)] = 0
    """So many of a deep stem's convolutions, from the first on, have neither norm nor activation
    (timm's resnet51q)."""
    stem_pool: Literal["max", "max_zero", "max_ceil", "conv", "none"] = "max"
    """After the stem: a 3x3 max pool of stride 2; the same padded with zeros (max_zero, BiT), or
    with nothing but what its last windows need (max_ceil, Caffe's nets); a 3x3 convolution of
    stride 2 with norm and activation (conv, ResNet-RS); or nothing."""
    stem_padding: Literal["symmetric", "same"] | None = None
    """Padding of the stem's convolutions; left out: as padding. (The stem's pool follows
    padding.)"""
    conv_bias: Literal[True, False, "without_norm"] = False
    """Give every convolution a bias, or (without_norm) those alone that no norm follows."""
    padding: Literal["symmetric", "same"] = "symmetric"
    """symmetric: the same number on all sides. same: TensorFlow's rule, which at stride 2 depends
    on the input size."""
    standardize: Annotated[float, Field(gt=0, le=1)] | None = None
    """Standardise each filter of each convolution, with this eps (BiT: 1e-8)."""
    norm: Literal["batch", "frozen_batch", "group", "evonorm_s0", "frn", "none"] = "batch"
    """Batch or group normalisation; frozen_batch is batch normalisation of which nothing ever
    moves or trains, as detectors have it, with the same weights; evonorm_s0 and frn (filter
    response) hold the activation too, and need pre_activation, or evonorm_s0 output_activation
    False: it then ends branches without its activation. none (NF-ResNet, Brock et al. 2021,
    arXiv:2101.08692): standardised filters with a gain each, and blocks whose input is scaled by
    what its variance is expected to be."""
    branch_scale: Annotated[float, Field(gt=0, le=1)] = 0.2
    """What branches are scaled by before the sum of a net without norms (the paper's alpha)."""
    skip_gain: Flag = False
    """Scale each branch of such a net by a learnt number that starts at 0."""
    norm_groups: Channels = 32
    """Groups of group norm and EvoNorm."""
    norm_group_width: Channels | None = None
    """Channels in each of them; stands in the place of norm_groups."""
    norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """Added to the variance."""
    norm_momentum: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the new batch in the running statistics (PyTorch's sense; Keras and Flax call one
    minus this momentum)."""
    norm_variance: Literal["unbiased", "biased"] = "unbiased"
    """Estimate that enters the running variance: unbiased (n - 1, PyTorch's) or biased (n, Keras's
    and Flax's). It holds in every framework."""
    activation: ActivationName = "relu"
    """The nonlinearity. gelu is exact, gelu_tanh its approximation; leaky_relu has the slope 0.01,
    prelu a learnt one for each channel (He et al. 2015, arXiv:1502.01852)."""
    zero_init_last: Flag = False
    """Start the last norm's scale of each branch at 0 (Goyal et al. 2017)."""
    output_stride: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Stride of the last stage's output in pixels of the image: stages beyond it dilate their 3x3
    convolutions in place of a stride (8 or 16 for segmentation)."""
    final_norm: Flag | None = None
    """A norm before the head's pool; left out: in a pre_activation net alone."""
    final_activation: Flag | None = None
    """An activation before the head's pool; left out: behind that norm in a pre_activation net."""
    head_width: Channels | None = None
    """Channels of a 1x1 convolution with norm and activation before the head's pool; left out:
    there is none."""
    head_pool: Literal["avg", "max", "avgmax", "catavgmax", "flatten", "attention"] = "avg"
    """Pool over all pixels: mean, maximum, the mean of both, or both side by side; or every pixel
    beside the others (flatten), which takes images of image_size alone; or attention of their mean
    to all of them (attention; CLIP, Radford et al. 2021), whose table of positions is for images of
    image_size."""
    head_hidden: Channels | None = None
    """Channels of a dense layer with activation before the classifier, after a norm of what is
    pooled (timm's resnet50_mlp); left out: there is none."""
    drop_rate: Rate = 0.0
    """Dropout before the classifier, while training."""
    branch_drop_rate: Rate = 0.0
    """Dropout before the last convolution of each branch, while training (Zagoruyko and Komodakis
    2016)."""
    drop_path_rate: Rate = 0.0
    """Stochastic depth: the last block's branch is dropped for this share of images, earlier ones
    for linearly less, while training (Huang et al. 2016)."""
    drop_block_rate: Rate = 0.0
    """DropBlock after a norm in each block of the last two stages, while training (Ghiasi et al.
    2018)."""
    features_only: Flag = False
    """Give the feature maps before the stem's pool and after each stage, and no logits."""
    out_indices: Annotated[tuple[Level, ...], Field(max_length=9)] = ()
    """Which of the feature maps, 0 being the stem's; left out: all, or for a pyramid those of the
    stages. Needs features_only."""
    pyramid: Channels | None = None
    """Channels of a feature pyramid (FPN, Lin et al. 2016, arXiv:1612.03144): each map, projected,
    plus the enlarged sum above it, through a 3x3 convolution; names as in torchvision. Needs
    features_only."""
    pyramid_norm: Flag = False
    """A norm in the place of a bias after each convolution of the pyramid."""
    pyramid_extra: Literal["none", "pool", "p6p7", "p6p7_of_stage"] = "none"
    """What follows its last map: every second pixel of it (pool, Faster R-CNN), or two maps by 3x3
    convolutions of stride 2, from it (p6p7, RetinaNet) or from the last stage (p6p7_of_stage)."""
    segmentation: Literal["none", "fcn", "deeplab"] = "none"
    """Give a class to each pixel, in the place of the head: by convolutions (fcn, Long et al. 2014,
    arXiv:1411.4038), or by dilated ones beside one another (deeplab, Chen et al. 2017,
    arXiv:1706.05587), enlarged to the image; names as in torchvision."""
    auxiliary: Flag = False
    """A second map of classes, from the last stage but one, for training."""
    names: Literal["regnet", "byobnet", "senet", "iresnet"] | None = None
    """Whose names the layers have, and whose conventions hold of dilation and of features: of
    timm's regnet, byobnet or senet, or of insightface's iresnet; left out: torchvision's and timm's
    ResNets', or with pre_activation those of timm's resnetv2, or without norms of its nfnet."""
    in_channels: Channels = 3
    """Channels of the input image."""
    num_classes: Annotated[int, Field(strict=True, ge=0, le=10_000_000)] = 1000
    """Number of logits; 0 gives the pooled features instead."""
    output_norm: Flag = False
    """A batch norm over what the classifier gives, if there is one (iresnet's embeddings)."""
    image_size: Annotated[int, Field(strict=True, ge=1, le=65_536)] = 224
    """Nominal height and width in pixels; any other size works too, unless head_pool is flatten. Of
    a net with head_pool attention, the table of positions is as large as such an image asks for."""

    @model_validator(mode="before")
    @classmethod
    def _fill_per_stage(cls, data: Any) -> Any:
        """Give `widths` and `strides` one entry a stage where they were left out."""
        if isinstance(data, dict) and isinstance(data.get("depths"), list | tuple):
            count = min(len(data["depths"]), 8)
            data = dict(data)
            if data.get("widths") in (None, ()):
                data["widths"] = tuple(64 * 2**i for i in range(count))
            if data.get("strides") in (None, ()):
                data["strides"] = (1,) + (2,) * (count - 1)
        return data

    @cached_property
    def blocks(self) -> tuple[BlockName, ...]:
        """The kind of block of each stage."""
        return (self.block,) * len(self.depths) if isinstance(self.block, str) else self.block

    @cached_property
    def out_channels(self) -> tuple[int, ...]:
        """Channels after each stage, pruning aside."""
        return tuple(
            planes * (1 if block == "basic" else self.expansion)
            for planes, block in zip(self.widths, self.blocks, strict=True)
        )

    @cached_property
    def inner_widths(self) -> tuple[int, ...]:
        """Channels of the first 3x3 convolutions of each stage, pruning aside: of its blocks but
        the first, should that have others.
        """
        return tuple(itertools.starmap(self.inner_width, enumerate(self.out_channels)))

    def inner_width(self, stage: int, in_channels: int) -> int:
        """Channels of the first 3x3 convolution of a block that so many channels enter, pruning
        aside.
        """
        ratio = self.bottleneck_ratio
        if ratio is None:
            planes = self.widths[stage]
            basic = self.blocks[stage] == "basic"
            return planes if basic else planes * self.base_width // 64 * self.groups
        ratio = ratio[stage] if isinstance(ratio, tuple) else ratio
        of_input = self.bottleneck_of == "input"
        return round(ratio * (in_channels if of_input else self.out_channels[stage]))

    def grouped(self, stage: int, channels: int) -> int:
        """Into how many groups so many channels of a stage's 3x3 convolutions divide."""
        width = self._group_width(stage)
        return self.groups if width is None else channels // max(min(width, channels), 1)

    def _group_width(self, stage: int) -> int | None:
        width = self.group_width
        return width[stage] if isinstance(width, tuple) else width

    @cached_property
    def stem_channels(self) -> tuple[int, ...]:
        """Channels after each of the stem's convolutions."""
        w = self.stem_width
        if not self.stem.startswith("deep"):
            return (w,)
        first = 3 * w // 8 if self.stem == "deep_tiered" else w // 2
        return (*(self.stem_widths or (first, w // 2)), w)

    @property
    def has_final_norm(self) -> bool:
        """Whether a norm stands before the head's pool."""
        return self.pre_activation if self.final_norm is None else self.final_norm

    @property
    def has_final_activation(self) -> bool:
        """Whether an activation stands before the head's pool."""
        if self.final_activation is None:
            return self.pre_activation and self.has_final_norm
        return self.final_activation

    @property
    def gives_maps(self) -> bool:
        """Whether the net gives maps, and no logits of whole images."""
        return self.features_only or self.segmentation != "none"

    @property
    def one_size(self) -> bool:
        """Whether the net takes images of `image_size` alone."""
        return self.head_pool == "flatten" and not self.features_only

    @property
    def small_size(self) -> int:
        """Height and width of images to compare nets on: no more than 64 if it takes such."""
        return self.image_size if self.one_size else min(64, max(self.image_size, 8))

    @cached_property
    def stem_stride_total(self) -> int:
        """Stride of the stem, its pool included."""
        pool = 1 if self.stem_pool == "none" else 2
        return self.stem_stride * self.stem_last_stride * pool

    @model_validator(mode="after")
    def _check_combination(self) -> ResNetSpec:
        if sum(self.depths) > _BLOCKS:
            raise ValueError(
                f"depths: {sum(self.depths):,} blocks are more than the {_BLOCKS:,} that are "
                f"possible"
            )
        for field in ("widths", "strides", "blocks", "bottleneck_ratio", "group_width"):
            value = getattr(self, field)
            given = len(value) if isinstance(value, tuple) else len(self.depths)
            if given != len(self.depths):
                raise ValueError(
                    f"{field.replace('blocks', 'block')}: {given} entries for {len(self.depths)} "
                    f"stages; give one per stage"
                )
        problems = itertools.chain(
            self._block_problems(),
            self._kind_problems(),
            self._stem_problems(),
            self._convolution_problems(),
            self._normless_problems(),
            self._order_problems(),
            self._shortcut_problems(),
            self._width_problems(),
            self._output_problems(),
        )
        if problem := next(problems, None):  # what comes after the first may take it for solved
            raise ValueError(problem)
        return self

    def _changed(self, *fields: str) -> Iterator[tuple[str, Any, Any]]:
        """Which of the fields differ from their defaults, with what was given and the default."""
        for field in fields:
            given, plain = getattr(self, field), type(self).model_fields[field].default
            if given != plain:
                yield field, given, plain

    def _block_problems(self) -> Iterator[str]:
        squeezes = self.attention in ("se", "gc")
        if not squeezes and self.convolution not in ("selective", "split_attention"):
            for field, _, _ in self._changed("se_ratio", "se_divisor"):
                yield f"{field}: needs attention 'se' or 'gc', or a convolution with attention"
        if self.attention != "se":
            for field, _, _ in self._changed("se_of", "se_activation"):
                yield f"{field}: needs attention 'se'"
        if self.attention == "none" and self.attention_on != "last":
            yield "attention_on: needs attention"
        if self.se_of == "input" and any(self._changed("se_divisor")):
            yield "se_divisor: cannot be combined with se_of 'input', which rounds to an integer"
        if self.norm not in ("group", "evonorm_s0"):
            for field, _, _ in self._changed("norm_groups", "norm_group_width"):
                yield f"{field}: the norm {self.norm!r} has no groups"
        for field, stands_for in (
            ("group_width", "groups"),
            ("bottleneck_ratio", "base_width"),
            ("norm_group_width", "norm_groups"),
        ):
            if any(self._changed(field)) and any(self._changed(stands_for)):
                yield f"{field}: stands in the place of {stands_for}; give one of them"
        if self.bottleneck_of == "input" and self.bottleneck_ratio is None:
            yield "bottleneck_of: needs bottleneck_ratio"

    def _kind_problems(self) -> Iterator[str]:
        """Of what a block other than a bottleneck cannot have."""
        if "basic" in self.blocks:
            for field, given, plain in self._changed("groups", "base_width", "stride_on"):
                if given != "last":
                    yield (
                        f"{field}: {given!r} needs block 'bottleneck'; a basic block takes "
                        f"{plain!r} alone"
                    )
            for field, _, _ in self._changed("expansion", "bottleneck_ratio", "group_width"):
                yield f"{field}: needs block 'bottleneck'"
        if self.anti_alias != "none" and self.stride_on != "3x3":
            yield (
                "anti_alias: takes the stride of the first 3x3 convolution, so stride_on has to be "
                "'3x3'"
            )
        yield from self._start_problems()
        yield from self._other_kind_problems()

    def _start_problems(self) -> Iterator[str]:
        if self.stride_on == "last" and "bottleneck" in self.blocks:
            yield "stride_on: 'last' needs block 'basic'"
        if self.stage_start == "conv_pool":
            if "bottleneck" in self.blocks:
                yield "stage_start: 'conv_pool' needs block 'basic'"
            fields = ("shortcut_pool", "shortcut_kernel", "anti_alias", "output_stride")
            more = ("block_widths", "reduce_first", "pre_norm", "stride_on")
            for field, given, _ in self._changed(*fields, *more):
                yield f"{field}: {given!r} cannot be combined with stage_start 'conv_pool'"

    def _other_kind_problems(self) -> Iterator[str]:
        if "edge" in self.blocks:
            fields = ("stride_on", "reduce_first", "pre_activation", "convolution", "block_widths")
            for field, given, _ in self._changed(*fields):
                yield f"{field}: {given!r} cannot be combined with block 'edge'"
        if self.extra_conv:
            if "bottleneck" not in self.blocks:
                yield "extra_conv: needs block 'bottleneck'"
            for field, given, _ in self._changed("pre_activation", "convolution", "block_widths"):
                yield f"{field}: {given!r} cannot be combined with extra_conv"

    def _stem_problems(self) -> Iterator[str]:
        if not self.stem.startswith("deep"):
            for field, _, _ in self._changed("stem_widths", "stem_last_stride", "stem_linear"):
                yield f"{field}: needs a deep stem, and stem is {self.stem!r}"
        elif not self.stem_widths and self.stem_width < 8:
            yield f"stem_width: {self.stem_width} is too narrow for a deep stem; at least 8"
        if self.stem == "deep_tiered" and self.stem_widths:
            yield "stem_widths: 'deep_tiered' has widths of its own; take stem 'deep'"
        if self.stem_linear and self.stem_linear >= len(self.stem_channels):
            yield (
                f"stem_linear: {self.stem_linear} of the stem's {len(self.stem_channels)} "
                f"convolutions; the last has a norm"
            )

    def _convolution_problems(self) -> Iterator[str]:
        kind = self.convolution
        for field, needed in (
            ("split_input", "selective"),
            ("scale", "hierarchical"),
            ("radix", "split_attention"),
            ("stride_pool", "split_attention"),
        ):
            if kind != needed and any(self._changed(field)):
                yield f"{field}: needs convolution {needed!r}"
        if kind == "plain":
            return
        if kind != "selective" and "basic" in self.blocks:
            yield f"convolution: {kind!r} needs block 'bottleneck'"
        plain = ("pre_activation", "norm", "anti_alias", "padding", "stride_on", "block_widths")
        regnet = ("attention_on", "bottleneck_ratio", "group_width")
        for field, given, default in self._changed(*plain, *regnet):
            if given == "frozen_batch":
                continue
            yield (
                f"{field}: {given!r} cannot be combined with convolution {kind!r}, which takes "
                f"{default!r} alone"
            )
        if kind != "selective" and self.reduce_first != 1:
            yield f"reduce_first: cannot be combined with convolution {kind!r}"
        if self.split_input:
            for inner in self.inner_widths:
                width = inner // self.reduce_first
                if "bottleneck" in self.blocks and width % (2 * self.groups):
                    yield f"split_input: {width} channels do not halve into {self.groups} groups"

    def _normless_problems(self) -> Iterator[str]:
        if self.norm != "none":
            for field, _, _ in self._changed("branch_scale", "skip_gain"):
                yield f"{field}: needs norm 'none'"
            return
        if not self.pre_activation:
            yield "norm: 'none' needs pre_activation"
        if self.standardize is None:
            yield "norm: 'none' needs standardised filters; standardize is their eps, such as 1e-6"
        if self.activation not in GAMMAS:
            known = ", ".join(GAMMAS)
            yield f"activation: {self.activation!r} has no known gain; expected one of {known}"
        plain = ("names", "anti_alias", "layer_scale", "identity_from", "shortcut")
        for field, given, _ in self._changed(*plain):
            yield f"{field}: {given!r} cannot be combined with norm 'none'"

    def _order_problems(self) -> Iterator[str]:
        if self.pre_activation:
            if self.stem_pool == "conv":
                yield (
                    "stem_pool: 'conv' ends in an activation, which pre_activation leaves to blocks"
                )
            more = ("stride_on", "shortcut_kernel", "output_activation", "head_width")
            for field, given, _ in self._changed(*more):
                yield f"{field}: {given!r} cannot be combined with pre_activation"
            if self.zero_init_last:
                yield "zero_init_last: a pre_activation branch does not end in a norm"
            if self.activation != "relu" and self.norm in ("evonorm_s0", "frn"):
                yield f"activation: the norm {self.norm!r} holds its own; leave it at 'relu'"
        elif self.norm == "frn" or (self.norm == "evonorm_s0" and self.output_activation):
            other = ", or output_activation False" if self.norm == "evonorm_s0" else ""
            yield (
                f"norm: {self.norm!r} holds the activation, so that no sum can follow it; it needs "
                f"pre_activation{other}"
            )
        else:
            if self.norm == "evonorm_s0" and self.zero_init_last:
                yield "zero_init_last: cannot be combined with norm 'evonorm_s0'"
            for field, given, _ in self._changed("stride_block", "identity_from"):
                yield f"{field}: {given!r} needs pre_activation"
        if self.anti_alias != "none" and self.stem_pool in ("max_zero", "max_ceil"):
            yield f"stem_pool: {self.stem_pool!r} cannot be combined with anti_alias"
        if self.pre_activation:
            for field, given, _ in self._changed("branch_activation", "stage_start", "pre_norm"):
                yield f"{field}: {given!r} cannot be combined with pre_activation"
            if self.names not in (None, "regnet"):
                yield f"names: {self.names!r} cannot be combined with pre_activation"
        many = "bottleneck" in self.blocks or self.branch_activation or self.output_activation
        ends = self.final_activation or self.head_width is not None
        if self.names == "iresnet" and (many or ends):
            yield (
                "names: 'iresnet' has one name for the activation of a block and none at the end, "
                "and needs block 'basic', output_activation False, branch_activation False, and "
                "neither final_activation nor head_width"
            )

    def _shortcut_problems(self) -> Iterator[str]:
        if self.shortcut == "zero_pad":
            if self.block_widths:
                yield "shortcut: 'zero_pad' cannot follow block_widths; use 'projection'"
            channels = (self.stem_width, *self.out_channels)
            for stage, (before, after) in enumerate(itertools.pairwise(channels), start=1):
                if after < before:
                    yield (
                        f"shortcut: 'zero_pad' can only add channels, and stage {stage} goes from "
                        f"{before} to {after}"
                    )
        if self.shortcut == "none":
            if self.zero_init_last:
                yield "zero_init_last: a net without shortcuts would start at zero everywhere"
            if self.drop_path_rate:
                yield "drop_path_rate: a net without shortcuts has no other path"
        if self.shortcut == "identity" and self.zero_init_last:
            yield "zero_init_last: a block without a shortcut would start at zero everywhere"
        projected = self.shortcut not in ("zero_pad", "identity", "none")
        if not self.shortcut_norm and (not projected or self.pre_activation):
            reason = "pre_activation" if projected else f"shortcut {self.shortcut!r}"
            yield f"shortcut_norm: there is none to leave out with {reason}"
        if not projected:
            for field, given, _ in self._changed("shortcut_pool", "shortcut_kernel"):
                yield f"{field}: {given!r} needs a projection, and shortcut is {self.shortcut!r}"
        if self.shortcut_pool == "avg" and self.shortcut_kernel != 1:
            yield "shortcut_kernel: 3 and shortcut_pool 'avg' exclude one another"

    def _output_problems(self) -> Iterator[str]:
        if self.output_stride is not None:
            reached = [*itertools.accumulate((self.stem_stride_total, *self.strides), int.__mul__)]
            if self.output_stride not in reached:
                strides = ", ".join(map(str, dict.fromkeys(reached)))
                yield f"output_stride: {self.output_stride} is not one that the net has: {strides}"
            if self.stride_block == "last":
                yield "output_stride: cannot be combined with stride_block 'last'"
        yield from self._pyramid_problems()
        yield from self._segmentation_problems()
        if self.features_only:
            for field, _, _ in self._changed(*_AFTER_FEATURES):
                yield f"{field}: a features_only net has no head"
        if self.output_norm and (self.pre_activation or "batch" not in self.norm):
            yield "output_norm: needs a batch norm, and cannot be combined with pre_activation"
        if self.head_pool == "flatten":
            odd = [("pre_activation", True), ("anti_alias", "avg"), ("stem_pool", "max_ceil")]
            odd += [("stage_start", "conv_pool")]
            for field, value in odd:
                if getattr(self, field) == value:
                    yield f"head_pool: 'flatten' cannot be combined with {field} {value!r}"
        yield from self._head_problems()
        if self.out_indices:
            if not self.features_only:
                yield "out_indices: needs features_only"
            if list(self.out_indices) != sorted(set(self.out_indices)):
                yield f"out_indices: {list(self.out_indices)} has to ascend"
            if self.out_indices[-1] > len(self.depths):
                yield (
                    f"out_indices: there is no feature map {self.out_indices[-1]}; the last is "
                    f"{len(self.depths)}"
                )

    def _pyramid_problems(self) -> Iterator[str]:
        if self.pyramid is None:
            for field, _, _ in self._changed("pyramid_norm", "pyramid_extra"):
                yield f"{field}: needs pyramid, the number of its channels"
            return
        if not self.features_only:
            yield "pyramid: needs features_only"
        if 0 in self.out_indices:
            yield "out_indices: 0 is the stem's map, and a pyramid is of those of stages, from 1 on"
        if self.pyramid_norm and self.norm in ("evonorm_s0", "frn", "none"):
            yield f"pyramid_norm: cannot be combined with norm {self.norm!r}"

    def _segmentation_problems(self) -> Iterator[str]:
        if self.segmentation == "none":
            if self.auxiliary:
                yield "auxiliary: needs segmentation"
            return
        fields = (*_AFTER_FEATURES, "features_only", "output_norm", "head_width", "pre_activation")
        for field, given, _ in self._changed(*fields):
            yield f"{field}: {given!r} cannot be combined with segmentation"
        if self.norm not in ("batch", "frozen_batch", "group"):
            yield f"norm: {self.norm!r} cannot be combined with segmentation"
        if not self.num_classes:
            yield "num_classes: segmentation needs at least 1"
        if self.auxiliary and len(self.depths) < 2:
            yield "auxiliary: needs two stages"

    def _head_problems(self) -> Iterator[str]:
        if self.head_hidden is not None:
            if self.pre_activation:
                yield "head_hidden: cannot be combined with pre_activation"
            if self.norm in ("evonorm_s0", "frn"):
                yield f"head_hidden: cannot be combined with norm {self.norm!r}"
            if self.head_pool in ("catavgmax", "attention"):
                yield f"head_hidden: cannot be combined with head_pool {self.head_pool!r}"
        if self.head_pool == "attention":
            if self.pre_activation:
                yield "head_pool: 'attention' cannot be combined with pre_activation"
            channels = self.head_width or (self.block_widths or (self.out_channels,))[-1][-1]
            if channels % HEAD:
                yield (
                    f"head_pool: 'attention' has heads of {HEAD} channels, and {channels} are no "
                    f"multiple of it"
                )

    def _width_problems(self) -> Iterator[str]:
        entering = (self.stem_width, *self.out_channels)
        for stage, (before, after) in enumerate(itertools.pairwise(entering)):
            yield from self._inner_problems(stage, before)
            yield from self._inner_problems(stage, after)
        if self.block_widths:
            yield from self._pruned_problems()

    def _inner_problems(self, stage: int, in_channels: int) -> Iterator[str]:
        """Of the convolutions of a block that so many channels enter."""
        planes, inner = self.widths[stage], self.inner_width(stage, in_channels)
        groups, width = self.grouped(stage, inner), inner // self.reduce_first
        in_group = self._group_width(stage)
        if width < 1 and self.bottleneck_ratio is None:
            yield (
                f"base_width: {self.base_width} at {planes} planes leaves a convolution of width "
                f"0; widths * base_width / 64 / reduce_first must be at least 1"
            )
        elif width < 1:
            yield (
                f"bottleneck_ratio: {self.bottleneck_ratio} at {planes} planes leaves a "
                f"convolution of width 0"
            )
        if in_group is not None and inner % min(in_group, inner):
            yield f"group_width: {in_group} does not divide the {inner} channels inside"
        if width % groups:
            yield f"reduce_first: {width} channels do not divide into {groups} groups"

    def _pruned_problems(self) -> Iterator[str]:
        kinds = [b for b, depth in zip(self.blocks, self.depths, strict=True) for _ in range(depth)]
        if len(self.block_widths) != len(kinds):
            yield f"block_widths: {len(self.block_widths)} entries for {len(kinds)} blocks"
        for index, (kind, row) in enumerate(zip(kinds, self.block_widths, strict=True)):
            convs = 3 if kind == "bottleneck" else 2
            if len(row) != convs:
                yield f"block_widths.{index}: {len(row)} entries for {convs} convolutions"
        for field, _, _ in self._changed("groups", "group_width", "bottleneck_of"):
            yield f"block_widths: cannot be combined with {field}"

    def override(self, **fields: Any) -> ResNetSpec:
        """The same spec with `fields` replaced. Widths and strides that merely followed from the
        old `depths` follow from the new ones, and a net that is asked for its features alone loses
        what would come after them.

        Raises:
            SpecError: as `parse`.
        """
        if not fields:
            return self
        data = self.to_dict()
        if fields.get("features_only") is True:
            data = {field: value for field, value in data.items() if field not in _AFTER_FEATURES}
        data |= fields
        return type(self).parse(data, where="spec override")

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from the defaults, as plain JSON data; `parse` takes it back."""
        data = super().to_dict()
        derived = type(self).model_validate({"depths": self.depths, "block": self.block})
        for field in ("widths", "strides"):
            if getattr(self, field) == getattr(derived, field):
                data.pop(field, None)
        return data
