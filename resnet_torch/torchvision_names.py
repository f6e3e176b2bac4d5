"""torchvision's names of layers that have timm's here, so that code written for its ResNets works.

They are other names of the same modules: what is set under one of them takes effect, and paths and
state dicts have one name for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from resnet_torch.layers import GlobalPool
from shared_spec.plan.network import Plan

_NET = {"conv1", "bn1", "relu", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"}
_NET |= {"avgpool", "global_pool", "fc", "stem", "stages", "norm", "head"}
_BLOCK = {f"{kind}{n}" for kind in ("conv", "bn", "norm", "act") for n in (1, 2, 3)}
_BLOCK |= {"relu", "downsample", "se", "aa"}


class _Named(nn.Module):
    """Refuses a layer under a name that torchvision's or timm's nets call and this one does not:
    nothing would ever run it.
    """

    called: set[str]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.called and name not in self._modules:
            raise AttributeError(
                f"{name}: this {type(self).__name__} has no layer of that name, so that nothing "
                f"would call it; it has {', '.join(self._modules)}"
            )
        super().__setattr__(name, value)


class TorchvisionBlock(_Named):
    """`relu` of a block: all of its activations, which torchvision has as one."""

    called = _BLOCK
    _activations: tuple[str, ...]

    @property
    def relu(self) -> nn.Module:
        """The block's activations: the module itself if they are one, else `Together`."""
        layers = list(dict.fromkeys(getattr(self, name) for name in self._activations))
        if not layers:
            raise AttributeError("relu: this block has no activation of its own")
        return layers[0] if len(layers) == 1 else Together(layers)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "relu" and vars(self).get("_activations"):
            for activation in self._activations:
                self.add_module(activation, value)
        else:
            super().__setattr__(name, value)


class TorchvisionNet(_Named):
    """`relu` of a net is `act1`; `avgpool` is the pool in `global_pool`, which flattens too.

    Example:
        >>> model.avgpool = torch.nn.AdaptiveMaxPool2d(1)
    """

    called = _NET
    plan: Plan

    @property
    def relu(self) -> nn.Module:
        """The activation after the stem."""
        return self.get_submodule("act1")

    @property
    def avgpool(self) -> nn.Module:
        """The global pool: [N, C, H, W] to [N, C, 1, 1]."""
        return self._pool().pool

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "avgpool" and "_modules" in vars(self):
            self._pool().pool = value
        else:
            super().__setattr__("act1" if name == "relu" else name, value)

    def _pool(self) -> GlobalPool:
        for module in self.modules():
            if isinstance(module, GlobalPool):
                return module
        raise AttributeError("avgpool: this net has no global pool, or another in its place")


class Together(nn.Module):
    """Several layers as the one that they are in torchvision: what is hooked on it, or set on it,
    is on each.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        vars(self)["_layers"] = layers  # they are registered where they are run

    def forward(self, x: Any) -> Any:
        """What the first gives; they compute the same."""
        return self._layers[0](x)

    def extra_repr(self) -> str:
        """The layers."""
        return ", ".join(map(repr, self._layers))

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_layers"][0], name)

    def __setattr__(self, name: str, value: Any) -> None:
        for layer in vars(self).get("_layers", ()):
            setattr(layer, name, value)
        if "_layers" not in vars(self):
            super().__setattr__(name, value)

    def register_forward_hook(self, *args: Any, **options: Any) -> Any:
        """As of `nn.Module`, and so the next three."""
        return self._on_each("register_forward_hook", *args, **options)

    def register_forward_pre_hook(self, *args: Any, **options: Any) -> Any:
        """See `register_forward_hook`."""
        return self._on_each("register_forward_pre_hook", *args, **options)

    def register_full_backward_hook(self, *args: Any, **options: Any) -> Any:
        """See `register_forward_hook`."""
        return self._on_each("register_full_backward_hook", *args, **options)

    def register_full_backward_pre_hook(self, *args: Any, **options: Any) -> Any:
        """See `register_forward_hook`."""
        return self._on_each("register_full_backward_pre_hook", *args, **options)

    def _on_each(self, register: str, *args: Any, **options: Any) -> _Handles:
        handles = _Handles()
        for layer in self._layers:
            handles.enter_context(getattr(layer, register)(*args, **options))
        return handles


class _Handles(ExitStack):
    """Of several hooks, as of one."""

    def remove(self) -> None:
        """Remove them all."""
        self.close()
