"""torchvision's names of layers that have timm's here, so that code written for its ResNets works.

They are other names of the same modules: what is set under one of them takes effect, and paths and
state dicts have one name for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn

from resnet_torch.layers import GlobalPool
from shared_spec.plan.network import Plan

_NET = {"conv1", "bn1", "relu", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"}
_NET |= {"avgpool", "global_pool", "fc", "stem", "stages", "norm", "head", "drop_rate"}
_BLOCK = {f"{kind}{n}" for kind in ("conv", "bn", "norm", "act") for n in (1, 2, 3)}
_BLOCK |= {"relu", "downsample", "se", "aa", "drop_path", "drop_block"}


class _Named(nn.Module):
    """Refuses a layer under a name that torchvision's or timm's nets call and this one does not:
    nothing would ever run it.
    """

    called: set[str]

    def _places(self, name: str) -> list[tuple[nn.Module, str]]:
        """The parent and the name of each layer that `name` means here.

        Raises:
            AttributeError: if there is none.
        """
        if name in self.called and name not in self._modules:
            raise AttributeError(
                f"{name}: this {type(self).__name__} has no layer of that name, so that nothing "
                f"would call it; it has {', '.join(self._modules)}"
            )
        return [(self, name)]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.called:
            super().__setattr__(name, value)
            return
        for parent, child in self._places(name):
            nn.Module.__setattr__(parent, child, value)

    def __delattr__(self, name: str) -> None:
        for parent, child in self._places(name):
            nn.Module.__delattr__(parent, child)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As setting an attribute."""
        for parent, child in self._places(name):
            nn.Module.add_module(parent, child, module)


class TorchvisionBlock(_Named):
    """`relu` of a block: all of its activations, which torchvision has as one."""

    called = _BLOCK
    _activations: tuple[str, ...]

    @property
    def relu(self) -> Any:
        """The block's activations: the module itself if they are one, else `Together`."""
        layers = list(dict.fromkeys(getattr(self, name) for name in self._activations))
        if not layers:
            raise AttributeError("relu: this block has no activation of its own")
        return layers[0] if len(layers) == 1 else Together(layers)

    def _places(self, name: str) -> list[tuple[nn.Module, str]]:
        if name == "relu" and self._activations:
            return [(self, activation) for activation in self._activations]
        return super()._places(name)


class TorchvisionNet(_Named):
    """`relu` of a net is `act1`; `avgpool` is the pool in `global_pool`, which flattens too.

    Examples:
        >>> model.avgpool = torch.nn.AdaptiveMaxPool2d(1)
    """

    called = _NET
    plan: Plan

    @property
    def relu(self) -> Any:
        """The activation after the stem."""
        return self.act1

    @property
    def avgpool(self) -> nn.Module:
        """The global pool: [N, C, H, W] to [N, C, 1, 1]."""
        return self._pool().pool

    def _places(self, name: str) -> list[tuple[nn.Module, str]]:
        if name == "avgpool":
            return [(self._pool(), "pool")]
        return super()._places("act1" if name == "relu" else name)

    def _pool(self) -> GlobalPool:
        for module in self.modules():
            if isinstance(module, GlobalPool):
                return module
        raise AttributeError("avgpool: this net has no global pool, or another in its place")


class Together:
    """Several layers as the one that they are in torchvision, and an instance of its class: what is
    hooked on it, or set on it, is on each; the rest is the first's, as they compute the same.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        object.__setattr__(self, "_layers", layers)  # as torch.compile understands it

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # torch.compile asks before there are layers.
        layers = vars(self).get("_layers")
        return type(layers[0]) if layers else Together

    def __call__(self, x: Any) -> Any:
        """What the first gives."""
        return self._layers[0](x)

    def __repr__(self) -> str:
        return f"Together({', '.join(map(repr, self._layers))})"

    def __reduce__(self) -> Any:
        return Together, (self._layers,)

    def __getattr__(self, name: str) -> Any:
        if name == "_layers":
            raise AttributeError(name)
        if name.startswith("register_") and name.endswith("_hook"):
            return partial(self._on_each, name)
        return getattr(self._layers[0], name)

    def __setattr__(self, name: str, value: Any) -> None:
        for layer in self._layers:
            setattr(layer, name, value)

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
