"""Models of somebody's own, as `convert --against` takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from resnet_parity.worker.reference_libraries import torchvision_models

DEPTHS = [1, 2, 1, 1]


def make() -> Any:
    """A net under torchvision's names."""
    models = torchvision_models().resnet
    return models.ResNet(models.BasicBlock, DEPTHS, num_classes=3)


def load(path: str) -> Any:
    net = make()
    net.load_state_dict(torch.load(path, weights_only=False)["object"].net.state_dict())
    return net


def ignores(path: str) -> Any:
    return make()


def optional(path: str = "") -> Any:
    assert not path
    return make()


def eps() -> Any:
    net = make()
    net.layer2[1].bn1.eps = 1e-3
    return net


def later_stride() -> Any:
    """Another function with the same names and shapes."""
    net = make()
    net.layer3[0].conv1.stride, net.layer3[0].conv2.stride = (1, 1), (2, 2)
    return net


def softmax() -> Any:
    net = make()
    net.register_forward_hook(lambda module, images, logits: logits.softmax(-1))
    return net


class Pair(nn.Module):
    """A net that gives more than logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make()

    def forward(self, x: Any) -> Any:
        return self.net(x), x


def pair(path: str) -> Any:
    return Pair()


def maps(path: str) -> Any:
    return nn.Sequential(*list(make().children())[:-2])


def smaller() -> Any:
    models = torchvision_models().resnet
    return models.ResNet(models.BasicBlock, [1, 1, 1, 1], num_classes=3)


def larger() -> Any:
    models = torchvision_models().resnet
    return models.ResNet(models.BasicBlock, [1, 3, 1, 1], num_classes=3)


def classes() -> Any:
    models = torchvision_models().resnet
    return models.ResNet(models.BasicBlock, DEPTHS, num_classes=4)


def number() -> Any:
    return 3


def fails() -> Any:
    raise OSError("no such luck")


class Scrambled(nn.Module):
    """A net whose modules have names that say nothing, in an order of registration."""

    def __init__(self, net: Any, order: Callable[[list[str]], list[str]]) -> None:
        super().__init__()
        self._net = [net]  # in a list, so that its own names are not in the state dict
        leaves = {n: m for n, m in net.named_modules() if any(True for _ in m.parameters(False))}
        for name in order(list(leaves)):
            self.add_module("x" + hashlib.sha256(name.encode()).hexdigest()[:6], leaves[name])

    def forward(self, x: Any) -> Any:
        return self._net[0](x)


def _bottleneck() -> Any:
    models = torchvision_models().resnet
    return models.ResNet(models.Bottleneck, [1, 1, 1, 1], num_classes=3)


def scrambled() -> Any:
    return Scrambled(make(), list)


def scrambled_bottleneck() -> Any:
    return Scrambled(_bottleneck(), list)


def shortcuts_first() -> Any:
    """A shortcut has the shape of its block's last kernel, and comes before it here."""
    return Scrambled(_bottleneck(), lambda names: sorted(names, key=_shortcut_first))


def _shortcut_first(name: str) -> tuple[int, str, bool]:
    stage, _, rest = name.partition(".")
    rank = {"conv1": 0, "bn1": 0, "fc": 9}.get(stage)
    rank = int(stage.removeprefix("layer")) if rank is None else rank
    return rank, rest.partition(".")[0], "downsample" not in name
