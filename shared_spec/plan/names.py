"""What the layers of each family are called: as in the library whose checkpoints have its weights.

Dotted names, in which `{n}` counts from 1, `{i}` from 0. The compiler knows where layers are, and
this module alone what they are called there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from shared_spec.spec.resnet_spec import ResNetSpec

Triple = tuple[str, str, str]
"""A convolution, its norm and its activation."""


@dataclass(frozen=True)
class Names:
    """The names of one family's layers. The defaults are torchvision's, and timm's of layers that
    torchvision lacks or leaves without a name.
    """

    stem: Triple = ("conv1", "bn1", "act1")
    """Of a stem of one convolution."""
    deep_stem: tuple[Triple, ...] = (
        ("conv1.0", "conv1.1", "conv1.2"),
        ("conv1.3", "conv1.4", "conv1.5"),
        ("conv1.6", "bn1", "act1"),
    )
    stem_pool: str = "maxpool"
    padded_stem_pool: tuple[str, str] = ("maxpool.0", "maxpool.1")
    """Of a layer that pads with zeros, and of the stem's pool behind it."""
    stage: str = "layer{n}"
    block: str = "{i}"
    conv: str = "conv{n}"
    """Of a block's branch, as are the next."""
    norm: str = "bn{n}"
    act: str = "act{n}"
    last_act: str = "act{n}"
    """After the sum."""
    attention: str = "se"
    shortcut: str = "downsample"
    """Of a shortcut of one layer."""
    shortcut_pool: str = "downsample.{i}"
    """Of a longer one, by their place in it."""
    shortcut_conv: str = "downsample.{i}"
    shortcut_norm: str = "downsample.{i}"
    final: Triple = ("final_conv.conv", "final_conv.bn", "final_conv.act")
    """Between the last stage and the pool."""
    final_act: str = "final_act"
    """Of an activation that stands there alone."""
    conv_classifier: bool = False
    """Whether the classifier is kept as a 1x1 convolution, before the flattening."""
    head: str = ""
    """Before the names of pool, dropout, classifier and flattening."""
    classifier: str = "fc"
    output_norm: str = "features"
    first_norm: int = 1
    """The number of the norm after a branch's first convolution."""

    def of_stem(self, count: int) -> tuple[Triple, ...]:
        """Those of a stem of so many convolutions."""
        return (self.stem,) if count == 1 else self.deep_stem

    def branch(self, number: int) -> Triple:
        """A branch's convolution of a number, from 1, with the norm and the activation after it."""
        after = number + self.first_norm - 1
        return self.conv.format(n=number), self.norm.format(n=after), self.act.format(n=after)


RESNET = Names()
RESNETV2 = Names(
    stem=("stem.conv", "stem.norm", "stem.act"),
    deep_stem=tuple((f"stem.conv{n}", f"stem.norm{n}", f"stem.act{n}") for n in (1, 2, 3)),
    stem_pool="stem.pool",
    padded_stem_pool=("stem.pad", "stem.pool"),
    stage="stages.{i}.blocks",
    norm="norm{n}",
    shortcut_pool="downsample.pool",
    shortcut_conv="downsample.conv",
    final=("", "norm", "act"),
    final_act="act",
    conv_classifier=True,
    head="head.",
    first_norm=2,
)
SENET = Names(
    stem=("layer0.conv1", "layer0.bn1", "layer0.relu1"),
    deep_stem=tuple((f"layer0.conv{n}", f"layer0.bn{n}", f"layer0.relu{n}") for n in (1, 2, 3)),
    stem_pool="pool0",
    attention="se_module",
    classifier="last_linear",
)
IRESNET = Names(
    stem=("conv1", "bn1", "prelu"),
    act="prelu",
    last_act="prelu",
    final=("", "bn2", ""),
    first_norm=2,
)
SKNET = replace(RESNET, conv="conv{n}.conv", norm="conv{n}.bn", act="conv{n}.act", last_act="act")

REGNET = replace(
    SKNET,
    stem=("stem.conv", "stem.bn", "stem.act"),
    deep_stem=tuple((f"stem.conv{n}", f"stem.bn{n}", f"stem.act{n}") for n in (1, 2, 3)),
    stem_pool="stem.pool",
    padded_stem_pool=("stem.pad", "stem.pool"),
    stage="s{n}",
    block="b{n}",
    last_act="act{n}",
    final_act="final_conv",
    head="head.",
)
REGNET_PRE_ACTIVATION = replace(
    REGNET,
    stem=("stem", "norm", "act"),
    stem_pool="pool",
    padded_stem_pool=("pool.0", "pool.1"),
    conv="conv{n}",
    norm="norm{n}",
    act="act{n}",
    final=("", "final_norm", "final_act"),
    first_norm=2,
)
NFNET = replace(
    RESNETV2,
    stem=("stem.conv", "", "stem.act"),
    deep_stem=(
        ("stem.conv1", "", "stem.act2"),
        ("stem.conv2", "", "stem.act3"),
        ("stem.conv3", "", "stem.act4"),
    ),
    stage="stages.{i}",
    attention="attn_last",
    final_act="final_act",
    conv_classifier=False,
)
NFNET_MIDDLE = replace(NFNET, attention="attn")
"""With attention in the middle of a branch."""


def names_of(spec: ResNetSpec) -> Names:
    """What the layers of a net are called."""
    if spec.names == "regnet":
        return _regnet_names(spec.pre_activation, spec.shortcut_pool == "avg")
    if spec.names is not None:
        return {"senet": SENET, "iresnet": IRESNET}[spec.names]
    if spec.norm == "none":
        return NFNET_MIDDLE if spec.attention_on == "middle" else NFNET
    if spec.pre_activation:
        return RESNETV2
    return SKNET if spec.convolution == "selective" else RESNET


@cache
def _regnet_names(pre_activation: bool, averages: bool) -> Names:
    """timm's, whose projection has another place behind an average."""
    if pre_activation:
        conv = "downsample.1" if averages else "downsample"
        return replace(REGNET_PRE_ACTIVATION, shortcut_conv=conv)
    at = "downsample.1" if averages else "downsample"
    return replace(REGNET, shortcut_conv=f"{at}.conv", shortcut_norm=f"{at}.bn")
