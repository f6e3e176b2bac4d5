"""The residual block, the stage and the network as `flax.nnx` modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from resnet_flax.layers import Chain, Named, Options, attach, chain, find, place
from shared_spec import plan
from shared_spec.kernels.xla import recomputed, summed
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.preprocessing import Preprocessing


class ResidualBlock(nnx.Module):
    """`output(branch(pre(x)) + shortcut)`; the plan's chains are attributes, such as `conv1`.

    Attributes:
        remat: whether its activations are computed again in the backward pass, instead of kept;
            `model.set_attributes(remat=True)` and `nnx.view(model, remat=True)` say so for all.
    """

    remat = False

    def __init__(self, block: plan.Block, options: Options) -> None:
        self._shortcut_from = block.shortcut_from
        self._pre = attach(self, block.name, block.pre, options)
        self._branch = attach(self, block.name, block.branch, options)
        self._shortcut = attach(self, block.name, block.shortcut, options)
        adds = block.shortcut_from is not None
        self._output = attach(self, block.name, block.output, options, after_sum=adds)

    def set_view(self, remat: bool | None = None) -> None:
        """What `nnx.view` may set."""
        if remat is not None:
            self.remat = remat

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, H', W', C']."""
        if not self.remat:
            return self._run(x)
        graph, state = nnx.split(self)
        # Arrays: what has been written into variables is not what dropout draws from again.
        leaves, structure = jax.tree.flatten(state)

        def run(x: jax.Array, *leaves: Any) -> tuple[jax.Array, Any]:
            block = nnx.merge(graph, jax.tree.unflatten(structure, leaves))
            return block._run(x), nnx.state(block, nnx.Not(nnx.Param))

        y: jax.Array
        y, after = recomputed(run)(x, *leaves)
        nnx.update(self, after)  # the norms' statistics, and how often dropout has drawn
        return y

    def _run(self, x: jax.Array) -> jax.Array:
        h = chain(self, self._pre, x)
        y = chain(self, self._branch, h)
        if self._shortcut_from is not None:
            y = summed(y, chain(self, self._shortcut, x if self._shortcut_from == "input" else h))
        return chain(self, self._output, y)


class Stage(Chain):
    """Residual blocks one after another."""


class NamedStage(Named):
    """Residual blocks with names, one after another."""


def residual_stage(stage: plan.Stage, options: Options) -> nnx.Module:
    """Residual blocks under their names in the plan, which are numbers or not."""
    names = [block.name.removeprefix(stage.name + ".") for block in stage.blocks]
    made = Stage() if names[0].isdigit() else NamedStage()
    for name, block in zip(names, stage.blocks, strict=True):
        place(made, name, ResidualBlock(block, options))
    return made


class ResNet(nnx.Module):
    """A residual network built from a plan; module paths are the plan's names.

    Takes float images [N, H, W, C] and returns logits [N, num_classes], or, if the spec says
    `features_only`, the list of feature maps.
    """

    def __init__(self, p: Plan, spec: ResNetSpec, options: Options) -> None:
        # What begins so is not printed: each takes thousands of characters.
        self._plan, self._spec = p, spec
        self._labels: tuple[str, ...] | None = None
        self._preprocessing: Preprocessing | None = None
        self.dtype = options.dtype
        self._stem = attach(self, "", p.stem, options)
        places = (place(self, stage.name, residual_stage(stage, options)) for stage in p.stages)
        self._stages = tuple(dict.fromkeys(places))
        self._head = attach(self, "", p.head, options)
        for junction in p.junctions:
            attach(self, "", junction.layers, options)

    @property
    def plan(self) -> Plan:
        """What the network was built from."""
        return self._plan

    @property
    def spec(self) -> ResNetSpec:
        """What the plan was compiled from."""
        return self._spec

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What images need before they enter, if the weights tell."""
        return self._preprocessing

    @preprocessing.setter
    def preprocessing(self, value: Preprocessing | None) -> None:
        self._preprocessing = value

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes, if the weights tell."""
        return self._labels

    @labels.setter
    def labels(self, value: Sequence[str] | None) -> None:
        self._labels = None if value is None else tuple(value)

    def __call__(self, x: jax.Array) -> jax.Array | list[jax.Array]:
        """[N, H, W, C] to [N, num_classes], or to feature maps."""
        if self.plan.outputs:
            return self._features(x)
        x = chain(self, self._stem, x)
        x = chain(self, self._stages, x)
        return chain(self, self._head, x)

    def _features(self, x: jax.Array) -> list[jax.Array]:
        found, taps = {"": x}, self.plan.taps
        for name in self.plan.steps():
            x = find(self, name)(x)
            if name in taps:
                found[name] = x
        for junction in self.plan.junctions:
            entering = [found[name] for name in junction.sources]
            y: Any = entering if len(entering) > 1 else entering[0]
            for layer in junction.layers:
                y = find(self, layer.name)(y)
            found[junction.name] = y
        return [found[name] for name in self.plan.outputs]


def replace(owner: nnx.Module, name: str, child: Any) -> None:
    """Put `child` in place of the child called `name`."""
    if isinstance(owner, Chain):
        owner[int(name)] = child
    else:
        setattr(owner, name, child)


def evaluating(model: ResNet) -> ResNet:
    """The same variables seen in evaluation mode; `model` keeps its own mode."""
    view: ResNet = nnx.view(
        model, raise_if_not_found=False, use_running_average=True, deterministic=True
    )
    return view
