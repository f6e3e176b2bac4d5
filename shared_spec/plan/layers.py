"""One frozen record a layer, with every number resolved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Padding = int | Literal["same"]
"""Rows and columns of padding on every side, or TensorFlow's input-dependent rule `"same"`:
`max((ceil(n / stride) - 1) * stride + kernel - n, 0)` in all, the larger half at the end."""

LEAKY_SLOPE = 0.01
"""Of leaky_relu where x is negative. Keras's own default is another one."""

Role = Literal[
    "conv_kernel",
    "conv1d_kernel",
    "dense_kernel",
    "bias",
    "norm_scale",
    "norm_bias",
    "norm_mean",
    "norm_var",
    "norm_gate",
    "norm_threshold",
    "positions",
    "branch_scale",
    "conv_gain",
    "skip_gain",
    "prelu_slope",
]


Start = Literal["fan_out", "fan_in", "zeros", "uniform", "lecun", "lecun_uniform", "small"]
"""How a kernel starts: normal with a variance of two over its fan-out or its fan-in, or of one over
its fan-in (lecun), or with a standard deviation of 0.01 (small); uniform within one over the root
of its fan-in, or with a variance of one over it (lecun_uniform); or at zero.
"""


@dataclass(frozen=True, slots=True)
class Layer:
    """What all records have: the layer's dotted path in the model."""

    name: str

    def chains(self) -> tuple[tuple[str, Layers], ...]:
        """The chains inside of a layer that is made of others, each with what is before its layers'
        names, which are those inside of this one.
        """
        return ()

    def mapped(self, change: Callable[[Layers], Layers]) -> Layer:
        """The layer with each of these chains changed."""
        return self


Layers = tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Conv(Layer):
    """2-D convolution (cross-correlation) with a square kernel, its pixels `dilation` apart; zeros
    are padded.

    With `standardize_eps`, each filter w enters as (w - mean) / sqrt(variance + eps), the mean and
    biased variance being over its own weights (Qiao et al. 2019, arXiv:1903.10520). With `scale`,
    it is then multiplied by that and by a learnt gain, which starts at `gain_init` (Brock et al.
    2021, arXiv:2101.08692).
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: Padding = 0
    groups: int = 1
    bias: bool = False
    standardize_eps: float | None = None
    dilation: int = 1
    scale: float | None = None
    gain_init: float = 1.0
    start: Start = "fan_out"

    @property
    def extent(self) -> int:
        """Rows and columns that the dilated kernel spans."""
        return (self.kernel_size - 1) * self.dilation + 1


@dataclass(frozen=True, slots=True)
class BatchNorm(Layer):
    """Batch normalisation over N, H, W (Ioffe and Szegedy 2015, arXiv:1502.03167).

    `momentum` is the share of the new batch in the running statistics (PyTorch's sense; Keras and
    Flax call one minus this number momentum). `variance` says which estimate enters the running
    variance: `"unbiased"` divides by n - 1, `"biased"` by n.
    """

    channels: int
    eps: float
    momentum: float
    variance: Literal["unbiased", "biased"]
    scale_init: float = 1.0
    of_features: bool = False
    """Over N alone: what enters is [N, C]."""
    frozen: bool = False
    """Nothing of it ever moves, in training neither."""


@dataclass(frozen=True, slots=True)
class GroupNorm(Layer):
    """Group normalisation: over H, W and the channels of a group of one image (Wu and He 2018,
    arXiv:1803.08494), then a scale and a bias for each channel.
    """

    channels: int
    groups: int
    eps: float
    scale_init: float = 1.0


@dataclass(frozen=True, slots=True)
class EvoNorm(Layer):
    """x * sigmoid(v * x) / sqrt(group variance + eps) * scale + bias: normalisation and activation
    in one (EvoNorm-S0, Liu et al. 2020, arXiv:2004.02967). Unless it `activates`, there is no
    sigmoid.
    """

    channels: int
    groups: int
    eps: float
    activates: bool = True


@dataclass(frozen=True, slots=True)
class FilterResponseNorm(Layer):
    """max(x / sqrt(mean of x^2 over H, W + eps) * scale + bias, tau): normalisation and activation
    in one (Singh and Krishnan 2019, arXiv:1911.09737).
    """

    channels: int
    eps: float


@dataclass(frozen=True, slots=True)
class ZeroPad(Layer):
    """Rows and columns of zeros on every side."""

    amount: int


@dataclass(frozen=True, slots=True)
class SpaceToDepth(Layer):
    """[N, H, W, C] to [N, H', W', 4 C], each pixel of which has 2 x 2 pixels of the input, by row,
    column, channel; zeros around it as the convolution of stride 2, `kernel_size` and `padding`
    needs that now becomes one of stride 1 (Ridnik et al. 2020, arXiv:2003.13630).
    """

    kernel_size: int
    padding: int

    @property
    def window(self) -> int:
        """Blocks in a row of the window."""
        return -(-self.kernel_size // 2)

    def around(self, n: int) -> tuple[int, int]:
        """Zeros before and after `n` pixels; negative where the window does not reach the last."""
        outputs = (n + 2 * self.padding - self.kernel_size) // 2 + 1
        return self.padding, 2 * (outputs - 1 + self.window) - self.padding - n


@dataclass(frozen=True, slots=True)
class Identity(Layer):
    """Nothing: it keeps a place in a numbered chain, so that checkpoints' indices stay."""


@dataclass(frozen=True, slots=True)
class Activation(Layer):
    """An elementwise function, by name: gelu is x times the normal distribution function, gelu_tanh
    its approximation, leaky_relu has the slope `LEAKY_SLOPE`, hardswish is x relu6(x + 3) / 6.
    """

    function: str


@dataclass(frozen=True, slots=True)
class PReLU(Layer):
    """x where it is positive, else x times a learnt number for each channel (He et al. 2015,
    arXiv:1502.01852).
    """

    channels: int


@dataclass(frozen=True, slots=True)
class MaxPool(Layer):
    """2-D maximum; padded with minus infinity, so padding never wins.

    With `ceil`, the last windows may reach beyond the last row and column (PyTorch's `ceil_mode`).
    """

    kernel_size: int
    stride: int
    padding: Padding = 0
    ceil: bool = False

    def around(self) -> tuple[int, int]:
        """Rows before and after the image that give the same windows, where `padding` is a number:
        of those after it, the last windows reach as many as they need.
        """
        assert self.padding != "same"
        return self.padding, self.padding + (self.stride - 1 if self.ceil else 0)


@dataclass(frozen=True, slots=True)
class AvgPool(Layer):
    """2-D mean over the pixels that there are: padding is counted only with `count_padding`."""

    kernel_size: int
    stride: int
    padding: Padding = 0
    count_padding: bool = False


@dataclass(frozen=True, slots=True)
class BlurPool(Layer):
    """Binomial filter (1 2 1) x (1 2 1) / 16 for each channel, then every `stride`-th pixel; one
    pixel is padded by reflection (Zhang 2019, arXiv:1904.11486). It has no parameters.
    """

    channels: int
    stride: int


@dataclass(frozen=True, slots=True)
class SqueezeExcite(Layer):
    """x * sigmoid(fc2(activation(fc1(mean of x over H, W)))) (Hu et al. 2017, arXiv:1709.01507).
    `fc1` and `fc2` are 1x1 convolutions with biases, to `reduced` channels and back; `activation`
    is by name, as in `Activation`.
    """

    channels: int
    reduced: int
    activation: str = "relu"


@dataclass(frozen=True, slots=True)
class ChannelAttention(Layer):
    """x * sigmoid(convolution along the channels of the mean of x over H, W), zeros padded, no bias
    (ECA, Wang et al. 2019, arXiv:1910.03151).
    """

    channels: int
    kernel_size: int


@dataclass(frozen=True, slots=True)
class GlobalContext(Layer):
    """x + transform(mean of x over H, W, weighted by a softmax over them of what `weigh` gives)
    (Cao et al. 2019, arXiv:1904.11492).

    `weigh` ends in one channel, `transform` in [N, 1, 1, C].
    """

    channels: int
    weigh: Layers
    transform: Layers

    def chains(self) -> tuple[tuple[str, Layers], ...]:
        """As of any layer."""
        return (("", self.weigh), ("mlp_add.", self.transform))

    def mapped(self, change: Callable[[Layers], Layers]) -> Layer:
        """As of any layer."""
        return replace(self, weigh=change(self.weigh), transform=change(self.transform))


@dataclass(frozen=True, slots=True)
class SelectiveKernel(Layer):
    """The sum of what `paths` give, each weighted, for each channel of an image, by a softmax over
    the paths of what `gate` makes of the plain sum (Li et al. 2019, arXiv:1903.06586).

    Each path takes the whole input, or with `split` an equal share of its channels, in their order.
    The gate ends in [N, 1, 1, paths * C], the first C of them for the first path.
    """

    in_channels: int
    paths: tuple[Layers, ...]
    gate: Layers
    split: bool

    def chains(self) -> tuple[tuple[str, Layers], ...]:
        """As of any layer."""
        paths = ((f"paths.{i}.", path) for i, path in enumerate(self.paths))
        return (*paths, ("attn.", self.gate))

    def mapped(self, change: Callable[[Layers], Layers]) -> Layer:
        """As of any layer."""
        return replace(self, paths=tuple(map(change, self.paths)), gate=change(self.gate))


@dataclass(frozen=True, slots=True)
class HierarchicalSplit(Layer):
    """The input's channels in equal parts, each but the last through one of `paths`, and all of
    them side by side again (Res2Net, Gao et al. 2019, arXiv:1904.01169).

    With `cascade`, what a path gives is added to the part that enters the next one. The last part
    goes through `rest`, which may be empty; where there is one path and no part is left, it takes
    the whole input.
    """

    channels: int
    paths: tuple[Layers, ...]
    rest: Layers
    parts: int
    cascade: bool

    def chains(self) -> tuple[tuple[str, Layers], ...]:
        """As of any layer."""
        paths = ((f"paths.{i}.", path) for i, path in enumerate(self.paths))
        return (*paths, ("rest.", self.rest))

    def mapped(self, change: Callable[[Layers], Layers]) -> Layer:
        """As of any layer."""
        return replace(self, paths=tuple(map(change, self.paths)), rest=change(self.rest))


@dataclass(frozen=True, slots=True)
class SplitAttention(Layer):
    """What `branch` gives are `radix` parts of C channels; their sum, weighted for each channel of
    an image by what `gate` makes of their plain sum: a softmax over the parts, or a sigmoid of one
    (ResNeSt, Zhang et al. 2020, arXiv:2004.08955).

    The gate ends in [N, 1, 1, radix * C]: by group of the convolution, then by part, then by
    channel of the group.
    """

    channels: int
    branch: Layers
    gate: Layers
    radix: int
    groups: int

    def chains(self) -> tuple[tuple[str, Layers], ...]:
        """As of any layer."""
        return (("", self.branch), ("", self.gate))

    def mapped(self, change: Callable[[Layers], Layers]) -> Layer:
        """As of any layer."""
        return replace(self, branch=change(self.branch), gate=change(self.gate))


@dataclass(frozen=True, slots=True)
class LayerScale(Layer):
    """A learnt scale for each channel, `init` at first (Touvron et al. 2021, arXiv:2103.17239)."""

    channels: int
    init: float


@dataclass(frozen=True, slots=True)
class Scale(Layer):
    """Everything times one number."""

    value: float


@dataclass(frozen=True, slots=True)
class SkipGain(Layer):
    """Everything times one learnt number, 0 at first (SkipInit, De and Smith 2020,
    arXiv:2002.10444).
    """


@dataclass(frozen=True, slots=True)
class ZeroPadShortcut(Layer):
    """Option A of He et al. 2015 (arXiv:1512.03385): take every `stride`-th row and column, then
    add channels of zeros, `before` in front and `after` behind. It has no parameters.
    """

    stride: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class GlobalPool(Layer):
    """Over H and W: [N, H, W, C] to [N, C], or to [N, 1, 1, C] with `keep_axes`. `kind` is the
    mean (avg), the maximum (max), the mean of both (avgmax), or both, the mean first (catavgmax:
    2 C channels).
    """

    keep_axes: bool = False
    kind: Literal["avg", "max", "avgmax", "catavgmax"] = "avg"


@dataclass(frozen=True, slots=True)
class Tokens(Layer):
    """[N, H, W, C] to [N, 1 + H * W, C]: the mean of the pixels, and they themselves row by row,
    each with its row of a learnt table added. The table is that of a map of `side` x `side` pixels;
    for others it is resampled (`shared_spec.plan.resampling`).
    """

    channels: int
    side: int


@dataclass(frozen=True, slots=True)
class AttentionPool(Layer):
    """[N, H, W, C] to [N, C]: what the first of the `tokens` attends to among all of them, by so
    many heads: softmax(query(first) key(all) / sqrt(C / heads)) value(all) (Vaswani et al. 2017,
    arXiv:1706.03762; as a pool, Radford et al. 2021, arXiv:2103.00020).
    """

    tokens: Tokens
    query: Dense
    key: Dense
    value: Dense
    heads: int

    @property
    def channels(self) -> int:
        """Of what it gives."""
        return self.value.out_features

    def chains(self) -> tuple[tuple[str, Layers], ...]:
        """As of any layer."""
        return tuple(("", (part,)) for part in (self.tokens, self.query, self.key, self.value))

    def mapped(self, change: Callable[[Layers], Layers]) -> Layer:
        """As of any layer: none of the four is one that a change replaces."""
        return self


@dataclass(frozen=True, slots=True)
class Dropout(Layer):
    """In training, each number is 0 with probability `rate`, else divided by 1 - rate (Srivastava
    et al. 2014).
    """

    rate: float


@dataclass(frozen=True, slots=True)
class DropPath(Layer):
    """In training, a whole image is 0 with probability `rate`, else divided by 1 - rate: stochastic
    depth (Huang et al. 2016, arXiv:1603.09382).
    """

    rate: float


@dataclass(frozen=True, slots=True)
class DropBlock(Layer):
    """In training, squares of `block_size` pixels are 0 in all channels of an image, and the rest
    of the batch is scaled by the inverse of the share that is kept (Ghiasi et al. 2018,
    arXiv:1810.12890, as timm does it).

    A square is centred on each pixel with the probability gamma = `gamma_scale` * rate * H * W /
    k^2 / ((H - k + 1) (W - k + 1)), k being `block_size` or the map's side if that is smaller.
    """

    rate: float
    block_size: int
    gamma_scale: float

    def window(self, height: int, width: int) -> tuple[int, int, float]:
        """Height and width of a square on a map of this size, and gamma."""
        kh, kw = min(self.block_size, height), min(self.block_size, width)
        centres = (height - kh + 1) * (width - kw + 1)
        return kh, kw, self.gamma_scale * self.rate * height * width / (kh * kw) / centres


@dataclass(frozen=True, slots=True)
class Flatten(Layer):
    """[N, 1, 1, C] to [N, C]."""


@dataclass(frozen=True, slots=True)
class FlattenMaps(Layer):
    """[N, height, width, C] to [N, C height width]: by channel, then by row, then by column, as
    PyTorch keeps maps. So the kernel of the dense layer behind it is one array in all frameworks.
    """

    height: int
    width: int
    channels: int


@dataclass(frozen=True, slots=True)
class Dense(Layer):
    """Fully connected layer on [N, in_features], or on the last axis of what has more."""

    in_features: int
    out_features: int
    bias: bool = True
    start: Start = "uniform"


@dataclass(frozen=True, slots=True)
class Join(Layer):
    """A layer that takes several maps, and begins a `Junction`."""


@dataclass(frozen=True, slots=True)
class Sum(Join):
    """The sum of two maps of one shape."""


@dataclass(frozen=True, slots=True)
class Enlarge(Join):
    """Of two maps, the first with the height and width of the second: output row i of H is input
    row floor(i * h / H) of h, and so with columns (nearest), or lies between two of them
    (bilinear), with corners as PyTorch has them by default (`align_corners=False`).
    """

    how: Literal["nearest", "bilinear"] = "nearest"


@dataclass(frozen=True, slots=True)
class Concat(Join):
    """The channels of several maps of one size, one after another."""


TRAINING_ONLY = (Dropout, DropPath, DropBlock)
"""Layers that drop at random in training and otherwise do nothing."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One array of the model: `module` is the dotted path of the layer that owns it, `leaf` its
    name there, `shape` PyTorch's (kernels OIHW, dense OI), `role` what it is for.
    """

    module: str
    leaf: str
    role: Role
    shape: tuple[int, ...]
    init: float | None = None
    """A constant initial value that differs from the role's own."""
    start: Start = "fan_out"
    frozen: bool = False

    @property
    def name(self) -> str:
        """The canonical name, as in a PyTorch state dict."""
        return f"{self.module}.{self.leaf}"

    @property
    def trainable(self) -> bool:
        """False for running statistics and for all of a frozen norm, which are state and not
        counted as parameters.
        """
        return self.role not in ("norm_mean", "norm_var") and not self.frozen

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)
