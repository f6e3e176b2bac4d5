"""The residual block, the stage and the network as `torch.nn` modules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnet_torch.layers import attach, build, chain, place, run
from resnet_torch.scripting import Scriptable
from resnet_torch.timm_methods import TimmNet
from resnet_torch.torchvision_names import TorchvisionBlock, TorchvisionNet
from shared_spec import plan
from shared_spec.errors import FrameworkError
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import require_trained
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.preprocessing import Preprocessing


class ResidualBlock(TorchvisionBlock, Scriptable):
    """`output(branch(pre(x)) + shortcut)`; the plan's chains are attributes, such as `conv1`.

    Attributes:
        stride: of the whole block.
        expansion: output channels in units of the stage's planes: 1 or 4 in ResNets.
        downsample: what is on the shortcut, or None (shortcut, in nets of timm's byobnet).
    """

    def __init__(self, block: plan.Block, expansion: int) -> None:
        super().__init__()
        self.expansion = expansion
        self.stride = math.prod(getattr(layer, "stride", 1) for layer in block.branch)
        self._pre = attach(self, block.name, block.pre)
        self._branch = attach(self, block.name, block.branch)
        self._adds = block.shortcut_from is not None
        self._activated = isinstance(block.branch[-1], plan.Activation | plan.PReLU)
        # What a user puts where there is nothing takes, in timm's nets, the output of `pre`.
        self._from_pre = block.shortcut_from == "pre" or bool(block.pre and not block.shortcut)
        self._identity_from_pre = block.shortcut_from == "pre"
        # One name, under which the identity has a place to put something.
        side = attach(self, block.name, block.shortcut) or ("downsample",)
        self._side = side[0]
        if self._adds and not block.shortcut:
            place(self, self._side, None)
        self._output = attach(self, block.name, block.output, after_sum=True)
        names = (x.name for x in block.layers() if isinstance(x, plan.Activation))
        self._activations = tuple(name.removeprefix(block.name + ".") for name in names)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        h = chain(self, self._pre, x)
        y = chain(self, self._branch, h)
        if self._adds:
            side = getattr(self, self._side)
            if side is not None:
                x = run(side, h if self._from_pre else x)
            elif self._identity_from_pre:
                x = h
            # What ends a branch (a convolution, a norm, a scale) needs its output for no gradient,
            # but for an activation. Written so, it is the sum that quantization looks for.
            if self._activated:
                y = y + x
            else:
                y += x
        return chain(self, self._output, y)


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)`, of whose activations none is kept for the backward pass."""

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _keeping_buffers(block)

    # `torch.compile` takes no contexts; what it computes again is what gradients need alone.
    more: dict[str, Any] = {} if torch.compiler.is_compiling() else {"context_fn": contexts}
    return checkpoint(block, x, use_reentrant=False, **more)  # type: ignore[no-any-return]


@contextmanager
def _keeping_buffers(block: nn.Module) -> Iterator[None]:
    """Have a block write its buffers into copies: its norms have seen the batch already."""
    kept = [(module, dict(module._buffers)) for module in block.modules()]
    try:
        for module, buffers in kept:
            module._buffers.update({k: b if b is None else b.clone() for k, b in buffers.items()})
        yield
    finally:
        for module, buffers in kept:
            module._buffers.update(buffers)


class Stage(nn.Sequential, Scriptable):
    """Residual blocks one after another."""

    grad_checkpointing = False

    def __init__(self, stage: plan.Stage, expansion: int) -> None:
        super().__init__()
        for block in stage.blocks:
            name = block.name.removeprefix(stage.name + ".")
            place(self, name, ResidualBlock(block, expansion))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']; with `grad_checkpointing`, blocks are computed again in
        the backward pass.
        """
        again = self.grad_checkpointing and isinstance(x, Tensor) and torch.is_grad_enabled()
        for block in self:
            x = recomputed(block, x) if again else block(x)
        return x


class ResNet(TorchvisionNet, TimmNet, Scriptable):
    """A residual network built from a plan; module paths are the plan's names.

    Takes float images [N, C, H, W] and returns logits [N, num_classes], or, if the spec says
    `features_only`, the list of feature maps.
    """

    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None

    def __init__(self, p: Plan, spec: ResNetSpec) -> None:
        super().__init__()
        self.plan, self.spec = p, spec
        stem = attach(self, "", p.stem)
        stages = (
            place(self, stage.name, Stage(stage, channels // planes))
            for stage, channels, planes in zip(
                p.stages, spec.out_channels, spec.widths, strict=False
            )
        )
        self._body = (*stem, *dict.fromkeys(stages))
        self._norm = attach(self, "", p.before_pool)
        head = p.head[len(p.before_pool) :]
        self._head = attach(self, "", head)
        self._steps = p.steps()[: len(p.steps()) - len(head)]
        for junction in p.junctions:
            attach(self, "", junction.layers)
        self._taps = p.taps or compile_plan(spec.override(features_only=True)).outputs

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """[N, C, H, W] to [N, num_classes], or to feature maps."""
        if self.plan.outputs:
            levels: list[Tensor] = self.forward_intermediates(x, intermediates_only=True)
            return self._joined(x, levels) if self.plan.junctions else levels
        return self.forward_head(self.forward_features(x))

    def _joined(self, images: Tensor, levels: list[Tensor]) -> list[Tensor]:
        """What the junctions make of the body's levels."""
        found = {"": images} | dict(zip(self._taps, levels, strict=True))
        for junction in self.plan.junctions:
            entering = [found[name] for name in junction.sources]
            x: Any = entering if len(entering) > 1 else entering[0]
            for layer in junction.layers:
                x = run(self.get_submodule(layer.name), x)
            found[junction.name] = x
        return [found[name] for name in self.plan.outputs]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier, with PyTorch's own initial values, in the place of the old one, as
        timm does; `plan` and `spec` follow, so that the verbs take the model as it is now.

        Examples:
            >>> model.reset_classifier(10)
            >>> save_weights(model, "ten.safetensors")

        Args:
            num_classes: 0 for pooled features.
            global_pool: as the spec's `head_pool`; None keeps it.

        Raises:
            ResNetError: if the model has no head, or is for inference alone.
        """
        require_trained(self.plan, "to reset")
        if self.plan.outputs:
            raise FrameworkError("reset_classifier: a features-only model has no classifier")
        if global_pool == "":
            raise FrameworkError(
                "reset_classifier: global_pool '' would leave the maps without a pool, which is no "
                "net here; forward_features(images) gives them"
            )
        pool = {} if global_pool is None else {"head_pool": global_pool}
        spec = self.spec.override(num_classes=num_classes, **pool)
        p = compile_plan(spec)
        head = p.head[len(p.before_pool) :]
        like = next(self.parameters())
        kept = {x: self.get_submodule(x.name) for x in self.plan.head if x in head}
        for name in self._head:
            delattr(self, name)
        self.plan, self.spec, self.labels = p, spec, None
        classifier = self.get_classifier(name_only=True)
        with torch.device(like.device):
            self._head = attach(
                self,
                "",
                head,
                lambda x: build(x) if x.name == classifier or x not in kept else kept[x],
            )
        self.get_classifier().to(like.device, like.dtype).train(self.training)
