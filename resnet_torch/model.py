"""The residual block, the stage and the network as `torch.nn` modules."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from resnet_torch.layers import build, run
from shared_spec import plan
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.preprocessing import Preprocessing


class ResidualBlock(nn.Module):
    """`output(branch(pre(x)) + shortcut)`; the plan's chains are attributes, such as `conv1`."""

    def __init__(self, block: plan.Block) -> None:
        super().__init__()
        self.shortcut_from = block.shortcut_from
        self._pre = attach(self, block.name, block.pre)
        self._branch = attach(self, block.name, block.branch)
        self._shortcut = attach(self, block.name, block.shortcut)
        self._output = attach(self, block.name, block.output)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        h = chain(self, self._pre, x)
        y = chain(self, self._branch, h)
        if self.shortcut_from is not None:
            s = chain(self, self._shortcut, x if self.shortcut_from == "input" else h)
            # What ends a branch (a convolution, a norm, a scale) needs its output for no gradient.
            y = y.add_(s)
        return chain(self, self._output, y)


class Stage(nn.Sequential):
    """Residual blocks one after another."""

    def __init__(self, stage: plan.Stage) -> None:
        super().__init__()
        for block in stage.blocks:
            place(self, block.name.removeprefix(stage.name + "."), ResidualBlock(block))


class ResNet(nn.Module):
    """A residual network built from a plan; module paths are the plan's names.

    Takes float images [N, C, H, W] and returns logits [N, num_classes], or, if the spec says
    `features_only`, the list of feature maps.
    """

    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None

    def __init__(self, p: Plan, spec: ResNetSpec) -> None:
        super().__init__()
        self.plan, self.spec = p, spec
        self._stem = attach(self, "", p.stem)
        places = (place(self, stage.name, Stage(stage)) for stage in p.stages)
        self._stages = tuple(dict.fromkeys(places))
        self._head = attach(self, "", p.head)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """[N, C, H, W] to [N, num_classes], or to feature maps."""
        if self.plan.outputs:
            return self._features(x)
        x = chain(self, self._stem, x)
        x = chain(self, self._stages, x)
        return chain(self, self._head, x)

    def _features(self, x: Tensor) -> list[Tensor]:
        found = []
        for name in self.plan.steps():
            x = self.get_submodule(name)(x)
            if name in self.plan.outputs:
                found.append(x)
        return found


def chain(module: nn.Module, names: Iterable[str], x: Tensor) -> Tensor:
    """Run the children of `module` called `names` one after another.

    They are looked up on every call, so that a replaced child (`model.fc = ...`) takes effect.
    """
    for name in names:
        x = run(getattr(module, name), x)
    return x


def attach(parent: nn.Module, prefix: str, layers: plan.Layers) -> tuple[str, ...]:
    """Build `layers` under `parent`, at their names without `prefix`.

    Returns:
        The children of `parent` to run, in order; a dotted name becomes an `nn.Sequential`.
    """
    names = (place(parent, layer.name.removeprefix(prefix + "."), build(layer)) for layer in layers)
    return tuple(dict.fromkeys(names))


def place(parent: nn.Module, path: str, module: nn.Module) -> str:
    """Put `module` at the dotted `path` below `parent`; return the first name of the path."""
    first, _, rest = path.partition(".")
    if not rest:
        parent.add_module(first, module)
        return first
    if not hasattr(parent, first):
        parent.add_module(first, nn.Sequential())
    place(getattr(parent, first), rest, module)
    return first
