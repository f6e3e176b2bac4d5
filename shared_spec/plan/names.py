"""What the layers of each family are called: as in the library whose checkpoints have its weights.

Dotted names, in which `{n}` counts from 1, `{i}` from 0. The compiler knows where layers are, and
this module alone what they are called there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from shared_spec.plan.layers import Start
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
    deep_stem: Triple = ("conv1.{c}", "conv1.{b}", "conv1.{a}")
    """Of a longer one, by the number of the convolution or by their place among its layers."""
    deep_stem_end: Triple = ("conv1.{c}", "bn1", "act1")
    """Of its last convolution."""
    linear_stem_conv: str = "conv1.{c}"
    """Of one without norm and activation."""
    stem_pool: str = "maxpool"
    padded_stem_pool: tuple[str, str] = ("maxpool.0", "maxpool.1")
    """Of a layer that pads with zeros, and of the stem's pool behind it."""
    stage: str = "layer{n}"
    block: str = "{i}"
    conv: str = "conv{n}"
    """Of a block's branch, as are the next; `{k}` is 1x1 or kxk."""
    norm: str = "bn{n}"
    act: str = "act{n}"
    last_act: str = "act{n}"
    """After the sum."""
    attention: str = "se"
    last_attention: str = "se"
    """At the end of a branch."""
    drop_block: str = "drop_block"
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
    classifier_start: Start = "uniform"
    """What the family's own code draws its kernel from."""
    output_norm: str = "features"
    first_norm: int = 1
    """The number of the norm after a branch's first convolution."""
    averages_apart: bool = False
    """Whether, where a net dilates, a shortcut averages only if the pixels that its block sees are
    apart already."""
    final_feature: bool = False
    """Whether what is between the last stage and the pool belongs to the last feature map."""

    def of_stem(self, index: int, count: int, before: int) -> Triple:
        """A convolution of a stem of `count`, behind so many layers, with what follows it."""
        if count == 1:
            return self.stem
        triple = self.deep_stem_end if index == count - 1 else self.deep_stem
        places = {"n": index + 1, "m": index + 2, "c": before, "b": before + 1, "a": before + 2}
        conv, norm, act = (name.format(**places) for name in triple)
        return conv, norm, act

    def branch(self, number: str, kernel_size: int) -> Triple:
        """A branch's convolution of a number, from 1, with the norm and the activation after it."""
        after = number if self.first_norm == 1 else str(int(number) + self.first_norm - 1)
        k = "1x1" if kernel_size == 1 else "kxk"
        conv, norm, act = self.conv, self.norm, self.act
        return conv.format(n=number, k=k), norm.format(n=after, k=k), act.format(n=after, k=k)


def _numbered_stem(conv: str, norm: str, act: str) -> dict[str, Any]:
    """A deep stem whose last convolution is called as the others are."""
    return {"deep_stem": (conv, norm, act), "deep_stem_end": (conv, norm, act)}


RESNET = Names()
RESNETV2 = Names(
    stem=("stem.conv", "stem.norm", "stem.act"),
    **_numbered_stem("stem.conv{n}", "stem.norm{n}", "stem.act{n}"),
    linear_stem_conv="stem.conv{n}",
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
    **_numbered_stem("layer0.conv{n}", "layer0.bn{n}", "layer0.relu{n}"),
    linear_stem_conv="layer0.conv{n}",
    stem_pool="pool0",
    attention="se_module",
    last_attention="se_module",
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
    **_numbered_stem("stem.conv{n}", "stem.bn{n}", "stem.act{n}"),
    linear_stem_conv="stem.conv{n}",
    stem_pool="stem.pool",
    padded_stem_pool=("stem.pad", "stem.pool"),
    stage="s{n}",
    block="b{n}",
    last_act="act{n}",
    drop_block="conv{n}.drop",
    final_act="final_conv",
    head="head.",
    classifier_start="small",
    averages_apart=True,
)
REGNET_PRE_ACTIVATION = replace(
    REGNET,
    stem=("stem", "norm", "act"),
    stem_pool="pool",
    padded_stem_pool=("pool.0", "pool.1"),
    conv="conv{n}",
    norm="norm{n}",
    act="act{n}",
    drop_block="drop_block",
    final=("", "final_norm", "final_act"),
    first_norm=2,
)
BYOBNET = replace(
    REGNET,
    **_numbered_stem("stem.conv{n}.conv", "stem.conv{n}.bn", "stem.conv{n}.act"),
    stage="stages.{i}",
    block="{i}",
    conv="conv{n}_{k}.conv",
    norm="conv{n}_{k}.bn",
    act="conv{n}_{k}.act",
    last_act="act",
    drop_block="conv{n}_{k}.drop",
    attention="attn",
    last_attention="attn_last",
    shortcut="shortcut",
    shortcut_conv="shortcut.conv",
    shortcut_norm="shortcut.bn",
    final_feature=True,
)
BYOBNET_AVERAGED = replace(
    BYOBNET,
    shortcut_pool="shortcut.pool",
    shortcut_conv="shortcut.conv.conv",
    shortcut_norm="shortcut.conv.bn",
)
NFNET = replace(
    RESNETV2,
    stem=("stem.conv", "", "stem.act"),
    **_numbered_stem("stem.conv{n}", "", "stem.act{m}"),
    stage="stages.{i}",
    attention="attn",
    last_attention="attn_last",
    final_act="final_act",
    conv_classifier=False,
    classifier_start="small",
)


def names_of(spec: ResNetSpec) -> Names:
    """What the layers of a net are called."""
    if spec.names == "regnet":
        return _regnet_names(spec.pre_activation, spec.shortcut_pool == "avg")
    if spec.names == "byobnet":
        return BYOBNET_AVERAGED if spec.shortcut_pool == "avg" else BYOBNET
    if spec.names is not None:
        return {"senet": SENET, "iresnet": IRESNET}[spec.names]
    if spec.norm == "none":
        return NFNET
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
