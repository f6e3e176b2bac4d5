"""The plan: a ResNet with every derived number resolved, as plain frozen data.

A residual network is chains of layers plus one addition, so the plan is a small tree and not a
general graph:

    h = pre(x)
    y = output(branch(h) + shortcut(x or h))

where each of `pre`, `branch`, `shortcut` and `output` is a chain (an empty chain is the identity).
What reads the results of several stages (a feature pyramid) is a row of junctions behind that tree,
each a chain that takes what earlier steps give.

A backend reads the plan and builds; it never compares channels and never asks which variant it is.

Every layer has a `name`: its dotted path in the model, which is also the prefix of its canonical
parameter names (torchvision's names, and timm's where timm goes further).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from shared_spec.plan.layers import (
    AttentionPool,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    FlattenMaps,
    GlobalPool,
    Layer,
    Layers,
    Parameter,
)
from shared_spec.plan.parameters import leaves, parameters_of

CHAINS = ("pre", "branch", "shortcut", "output")
"""Of a block, in the order in which PyTorch would register them."""


@dataclass(frozen=True, slots=True)
class Block:
    """`output(branch(pre(x)) + shortcut)`. `shortcut_from` says what enters the shortcut: the
    block's input, the output of `pre`, or nothing at all (`None`: a plain block, no addition).
    """

    name: str
    pre: Layers
    branch: Layers
    shortcut: Layers
    shortcut_from: Literal["input", "pre"] | None
    output: Layers

    def layers(self) -> Iterator[Layer]:
        """All layers, in the order in which PyTorch would register them."""
        for name in CHAINS:
            yield from getattr(self, name)


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks that follow one another at one resolution."""

    name: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Junction:
    """A chain behind the stages. `sources` are the stages, or layers that end the head or an
    earlier junction, or an empty name for the images, whose results enter its first layer:
    several where that is a `Join`.
    """

    sources: tuple[str, ...]
    layers: Layers

    @property
    def name(self) -> str:
        """Of its last layer, by which outputs and other junctions take its result."""
        return self.layers[-1].name


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole network: `head(stages(stem(x)))`, on images of `in_channels` channels, and then the
    `junctions`, one after another.

    With `outputs`, the names of layers and of stages, it gives the list of what those give, and its
    head has no more than what the last of them needs. A plan for inference alone has in `trained`
    the one whose weights it takes, see `shared_spec.plan.folding`.
    """

    in_channels: int
    stem: Layers
    stages: tuple[Stage, ...]
    head: Layers
    outputs: tuple[str, ...] = ()
    trained: Plan | None = None
    junctions: tuple[Junction, ...] = ()

    @property
    def before_pool(self) -> Layers:
        """The layers of the head that work on maps; none if there is no pool."""
        kinds = GlobalPool | AttentionPool | FlattenMaps
        pools = (i for i, layer in enumerate(self.head) if isinstance(layer, kinds))
        return self.head[: next(pools, len(self.head) if self.outputs else 0)]

    @property
    def classifier(self) -> Conv | Dense | None:
        """The layer that gives logits; None of a net that gives features."""
        if not any(isinstance(layer, GlobalPool | AttentionPool) for layer in self.head):
            return None
        behind = self.head[len(self.before_pool) :]
        ends = [layer for layer in behind if not isinstance(layer, Flatten | BatchNorm)]
        return ends[-1] if isinstance(ends[-1], Conv | Dense) else None

    def results(self) -> dict[str, str]:
        """What the model returns, with the layer or block that gives it: `logits`, which may be
        pooled features, or `features0`, `features1`, ...
        """
        if not self.outputs:
            return {"logits": self.head[-1].name}
        if self.outputs[0] == "out":
            return {name: name for name in self.outputs}
        return {f"features{i}": self.end(name) for i, name in enumerate(self.outputs)}

    def end(self, name: str) -> str:
        """The layer or block that gives the result of a layer or stage."""
        return next((s.blocks[-1].name for s in self.stages if s.name == name), name)

    def steps(self) -> tuple[str, ...]:
        """Layers of the stem, stages, and layers of the head, in the order of computation."""
        parts: tuple[Layer | Stage, ...] = (*self.stem, *self.stages, *self.head)
        return tuple(part.name for part in parts)

    @property
    def taps(self) -> tuple[str, ...]:
        """Those of the steps whose results are outputs, or enter junctions."""
        wanted = {*self.outputs, *(name for j in self.junctions for name in j.sources)}
        return tuple(name for name in self.steps() if name in wanted)

    def layers(self) -> Iterator[Layer]:
        """Every layer once, in the order in which PyTorch would register them."""
        yield from self.stem
        for block in self.blocks():
            yield from block.layers()
        yield from self.head
        for junction in self.junctions:
            yield from junction.layers

    def leaves(self) -> Iterator[Layer]:
        """As `layers`, with what is made of other layers as those."""
        for layer in self.layers():
            yield from leaves(layer)

    def blocks(self) -> Iterator[Block]:
        """Every block, first to last."""
        for stage in self.stages:
            yield from stage.blocks

    def parameters(self) -> Iterator[Parameter]:
        """Every array of the model, running statistics included."""
        for layer in self.layers():
            yield from parameters_of(layer)

    def parameter_count(self) -> int:
        """Number of trainable scalars, the figure that papers and libraries publish."""
        return sum(p.size for p in self.parameters() if p.trainable)
