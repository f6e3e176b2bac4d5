"""Small ResNets of PyTorch's libraries and ports, and changes to them; each drawn from a number.

A change says what of a file shows it: `arrays` their names and shapes; `types` the classes of a
whole model's modules; `settings` those modules' attributes; `code` nothing that a file holds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from shared_spec import ResNetSpec, resolve
from tests.peers import torchvision_models
from tests.probes.libraries.ports import Cifar100Net, DetectronNet, PortNet, WideNet, randomize

Draw = np.random.Generator
Shown = Literal["arrays", "types", "settings", "code", "nothing"]
"""What shows a change; nothing if there is nothing to show."""
torchvision_models()
from timm.layers import BatchNormAct2d, SEModule, StdConv2d  # noqa: E402 it imports torchvision
from timm.models import resnet as timm_v1  # noqa: E402
from timm.models import resnetv2 as timm_v2  # noqa: E402
from torchvision.ops import FrozenBatchNorm2d  # noqa: E402

CIFAR = {"stem": "conv3x3", "stem_stride": 1, "stem_pool": "none", "image_size": 32}


@dataclass
class Net:
    """A net in evaluation, and what it is."""

    module: nn.Module
    spec: ResNetSpec
    head: str
    """Its classifier's name."""
    source: str

    def copy(self) -> Net:
        """With modules of its own."""
        return Net(copy.deepcopy(self.module), self.spec, self.head, self.source)

    def body(self) -> nn.Module:
        """A copy that gives features."""
        found = copy.deepcopy(self.module)
        set_module(found, self.head, nn.Identity())
        return found

    def features(self, x: Tensor) -> Tensor:
        """In float64."""
        return run(self.body(), x)


def run(module: nn.Module, x: Tensor) -> Tensor:
    """What a module makes of images, in float64."""
    with torch.no_grad():
        return copy.deepcopy(module).double().eval()(x)


def set_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    above, _, last = name.rpartition(".")
    setattr(root.get_submodule(above), last, module)


def drawn_net(draw: Draw) -> Net:
    """A net of any source, with random weights."""
    return randomized(SOURCES[draw.integers(len(SOURCES))](draw), draw)


def randomized(net: Net, draw: Draw) -> Net:
    """With other weights, which float32 has."""
    randomize(net.module, int(draw.integers(1 << 30))).float()
    return net


def _one(draw: Draw, *items: Any) -> Any:
    return items[draw.integers(len(items))]


def _torchvision(draw: Draw) -> Net:
    kind = _one(draw, "basic", "bottleneck")
    known = kind == "basic" and draw.random() < 0.4
    depths = [2, 2, 2, 2] if known else [int(d) for d in draw.integers(1, 3, size=4)]
    models = torchvision_models().resnet
    block = models.BasicBlock if kind == "basic" else models.Bottleneck
    width = 64 if kind == "basic" else 16
    net = models.ResNet(block, depths, num_classes=5, width_per_group=width)
    base = {"basic": "resnet18", "bottleneck": "resnet50"}[kind]
    spec = resolve(base, {"depths": depths, "base_width": width, "num_classes": 5})
    return Net(net, spec, "fc", "torchvision")


def _timm(draw: Draw) -> Net:
    kind = _one(draw, "basic", "bottleneck")
    depths = [int(d) for d in draw.integers(1, 3, size=4)]
    channels, options = (8, 16, 24, 32), {}
    fields: dict[str, Any] = {"depths": depths, "widths": channels, "stem_width": 8}
    if draw.random() < 0.5:
        options |= {"stem_type": "deep", "avg_down": True}
        fields |= {"stem": "deep", "shortcut_pool": "avg"}
        options["stem_width"] = 4
    else:
        options["stem_width"] = 8
    if draw.random() < 0.4:
        options["block_args"] = {"attn_layer": "se"}
        fields["attention"] = "se"
    if draw.random() < 0.3:
        options["act_layer"] = nn.SiLU
        fields["activation"] = "silu"
    block = timm_v1.BasicBlock if kind == "basic" else timm_v1.Bottleneck
    net = timm_v1.ResNet(block, depths, num_classes=5, channels=channels, **options)
    base = {"basic": "resnet18", "bottleneck": "resnet50"}[kind]
    return Net(net, resolve(base, fields | {"num_classes": 5}), "fc", "timm")


def _timm_known(draw: Draw) -> Net:
    models = {"resnet10t": {}, "resnet18d": {}, "seresnet18": {}}
    name = _one(draw, *models)
    net = getattr(timm_v1, name)(num_classes=5)
    return Net(net, resolve(name, {"num_classes": 5}), "fc", "timm of the catalogue")


def _timm_v2(draw: Draw) -> Net:
    depths = [int(d) for d in draw.integers(1, 3, size=3)]
    d = bool(draw.random() < 0.4)
    net = timm_v2.ResNetV2(
        depths,
        channels=(32, 64, 96),
        num_classes=5,
        stem_chs=8,
        norm_layer=BatchNormAct2d,
        conv_layer=nn.Conv2d,
        stem_type="deep" if d else "",
        avg_down=d,
    )
    fields = {"depths": depths, "widths": [8, 16, 24], "stem_width": 8, "num_classes": 5}
    return Net(net, resolve("resnetv2_50d" if d else "resnetv2_50", fields), "head.fc", "timm V2")


def _port(draw: Draw) -> Net:
    words = (_one(draw, "layer", "rl"), _one(draw, "shortcut", "subsample"), "linear")
    kind, option = _one(draw, "basic", "bottleneck"), _one(draw, "A", "B")
    option = "B" if kind == "bottleneck" else option
    depths = [int(d) for d in draw.integers(1, 3, size=3)]
    widths = [8, 16, 32]
    net = PortNet(words, kind, depths, widths, option, classes=5)
    base = {"A": "resnet20", "B": "resnet20_b"}[option]
    fields = {"depths": depths, "widths": widths, "stem_width": 8, "num_classes": 5, "block": kind}
    return Net(net, resolve(base, fields), words[2], "ports")


def _wide(draw: Draw) -> Net:
    depth = int(draw.integers(1, 3))
    net = WideNet(depth, [4, 8, 16, 24], 5)
    fields = {"depths": [depth] * 3, "widths": [8, 16, 24], "stem_width": 4, "num_classes": 5}
    return Net(net, resolve("resnetv2_18", fields | CIFAR), "fc", "WideResNet-pytorch")


def _cifar100(draw: Draw) -> Net:
    kind = _one(draw, "basic", "bottleneck")
    depths = [int(d) for d in draw.integers(1, 3, size=3)]
    net = Cifar100Net(kind, depths, [8, 16, 24], 5)
    base = {"basic": "resnet18", "bottleneck": "resnet50"}[kind]
    fields = {"depths": depths, "widths": [8, 16, 24], "stem_width": 8, "num_classes": 5}
    return Net(net, resolve(base, fields | CIFAR), "fc", "pytorch-cifar100")


def _detectron(draw: Draw) -> Net:
    depths = [int(d) for d in draw.integers(1, 3, size=3)]
    net = DetectronNet("basic", depths, [8, 16, 24], classes=5)
    fields = {"depths": depths, "widths": [8, 16, 24], "stem_width": 8, "num_classes": 5}
    return Net(net, resolve("resnet18", fields), "linear", "detectron2")


SOURCES: tuple[Callable[[Draw], Net], ...] = (
    *(_torchvision, _torchvision, _timm, _timm, _timm_known, _timm_v2, _timm_v2),
    *(_port, _wide, _cifar100, _detectron),
)

# Changes.


def _named(net: nn.Module, *kinds: type) -> list[str]:
    return [name for name, m in net.named_modules() if isinstance(m, kinds)]


def _some(draw: Draw, names: list[str]) -> list[str]:
    """One of them, or all."""
    return [_one(draw, *names)] if draw.random() < 0.5 else names


def _set(net: nn.Module, names: list[str], setting: str, value: Any) -> None:
    for name in names:
        setattr(net.get_submodule(name), setting, value)


def _swap(net: nn.Module, names: list[str], make: Callable[[nn.Module], nn.Module]) -> None:
    for name in names:
        set_module(net, name, make(net.get_submodule(name)))


def _eps(net: nn.Module, draw: Draw) -> Shown:
    _set(net, _some(draw, _named(net, nn.BatchNorm2d)), "eps", _one(draw, 1e-3, 0.1))
    return "settings"


def _momentum(net: nn.Module, draw: Draw) -> Shown:
    _set(net, _named(net, nn.BatchNorm2d), "momentum", 0.03)
    return "nothing"


_FUNCTIONS: list[Callable[[], nn.Module]] = [
    *(nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.ReLU6, nn.Identity, nn.Sequential, nn.Softplus),
    *(nn.LeakyReLU, lambda: nn.LeakyReLU(0.2), lambda: nn.ELU(0.5), lambda: nn.Dropout(0.5)),
    lambda: nn.GELU("tanh"),
]


def _function(net: nn.Module, draw: Draw) -> Shown:
    make = _one(draw, *_FUNCTIONS)
    _swap(net, _some(draw, _named(net, nn.ReLU)), lambda old: make())
    return "types"


def _prelu(net: nn.Module, draw: Draw) -> Shown:
    _swap(net, _some(draw, _named(net, nn.ReLU)), lambda old: nn.PReLU())
    return "arrays"


def _pool(net: nn.Module, draw: Draw) -> Shown:
    pools = [
        nn.MaxPool2d(2, 2),
        nn.AvgPool2d(3, 2, 1),
        nn.Identity(),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d(3, 2),
        nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2)),
        nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 1, 1)),
    ]
    number = draw.integers(len(pools))
    _swap(net, _named(net, nn.MaxPool2d), lambda old: pools[number])
    return "settings" if number in (0, 3, 4) else "types"


def _global_pool(net: nn.Module, draw: Draw) -> Shown:
    for name in _named(net, nn.AdaptiveAvgPool2d):
        set_module(net, name, _one(draw, nn.AdaptiveMaxPool2d(1), nn.AdaptiveAvgPool2d((1, 1))))
    return "types"


def _conv_setting(net: nn.Module, draw: Draw) -> Shown:
    convs = [n for n in _named(net, nn.Conv2d) if net.get_submodule(n).kernel_size == (3, 3)]
    convs = convs or _named(net, nn.Conv2d)[:1]
    conv = net.get_submodule(_one(draw, *convs))
    match draw.integers(4):
        case 0:
            conv.padding_mode = _one(draw, "reflect", "replicate", "circular")
            conv._reversed_padding_repeated_twice = [p for p in conv.padding[::-1] for _ in "ab"]
        case 1:
            conv.dilation, conv.padding = (2, 2), tuple(2 * p for p in conv.padding)
        case 2:
            stem = net.get_submodule(_named(net, nn.Conv2d)[0])
            stem.stride = (1, 1) if stem.stride == (2, 2) else (2, 2)
        case 3:
            stem = net.get_submodule(_named(net, nn.Conv2d)[0])
            stem.padding = tuple(p - 1 for p in stem.padding)
    return "settings"


def _strides(net: nn.Module, draw: Draw) -> Shown:
    """The last stage loses its stride."""
    strided = [n for n in _named(net, nn.Conv2d) if net.get_submodule(n).stride == (2, 2)]
    stages = [n for n in strided if "." in n]
    last = stages[-1].split(".")[0] if stages else ""
    _set(net, [n for n in stages if n.split(".")[0] == last], "stride", (1, 1))
    return "settings"


def _stages(net: nn.Module) -> list[nn.Sequential]:
    return [m for m in net.modules() if isinstance(m, nn.Sequential) and len(m) and _is_stage(m[0])]


def _is_stage(block: nn.Module) -> bool:
    return any(hasattr(block, n) for n in ("conv2", "residual_function"))


def _another(net: nn.Module, draw: Draw) -> Shown:
    """A module more, behind a stage."""
    more = [
        *(
            nn.MaxPool2d(3, 2, 1),
            nn.AvgPool2d(2),
            nn.ReLU(),
            nn.GELU(),
            nn.Upsample(scale_factor=2),
        ),
        *(nn.Softmax(1), nn.InstanceNorm2d(8), nn.LocalResponseNorm(3), nn.AdaptiveAvgPool2d(2)),
        *(nn.Dropout2d(0.3), nn.Hardtanh(), nn.Threshold(0.1, 0)),
    ]
    _one(draw, *_stages(net)).append(_one(draw, *more))
    return "types"


def _another_conv(net: nn.Module, draw: Draw) -> Shown:
    stages = _stages(net)
    width = next(m for m in list(stages[-1].modules())[::-1] if isinstance(m, nn.Conv2d))
    stages[-1].append(nn.Conv2d(width.out_channels, width.out_channels, 1))
    return "arrays"


def _shortcut(net: nn.Module, draw: Draw) -> Shown:
    """An activation at the end of a shortcut."""
    rows = [
        m
        for n, m in net.named_modules()
        if n.endswith(("downsample", "shortcut", "subsample")) and isinstance(m, nn.Sequential)
    ]
    rows = [row for row in rows if len(row)]
    if not rows:
        return "nothing"
    _one(draw, *rows).append(_one(draw, nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1)))
    return "types"


def _attention(net: nn.Module, draw: Draw) -> Shown:
    names = _named(net, nn.BatchNorm2d)
    name = _one(draw, *names)
    width = net.get_submodule(name).num_features
    set_module(net, name, nn.Sequential(net.get_submodule(name), SEModule(width)))
    return "arrays"


def _group_norm(net: nn.Module, draw: Draw) -> Shown:
    def make(old: Any) -> nn.Module:
        new = nn.GroupNorm(4, old.num_features)
        new.load_state_dict({k: getattr(old, k) for k in ("weight", "bias")})
        return new

    _swap(net, [n for n in _named(net, nn.BatchNorm2d) if n], make)
    return "arrays"


def _frozen(net: nn.Module, draw: Draw) -> Shown:
    eps = _one(draw, 1e-5, 1e-3, 0.0)

    def make(old: Any) -> nn.Module:
        new = FrozenBatchNorm2d(old.num_features, eps=eps)
        for k in ("weight", "bias", "running_mean", "running_var"):
            getattr(new, k).copy_(getattr(old, k).detach())
        return new

    plain = _named(net, nn.BatchNorm2d)
    if any(type(net.get_submodule(n)) is not nn.BatchNorm2d for n in plain):
        return "nothing"  # it activates too
    _swap(net, plain, make)
    return "settings"


def _standardised(net: nn.Module, draw: Draw) -> Shown:
    def make(old: Any) -> nn.Module:
        new = StdConv2d(
            old.in_channels,
            old.out_channels,
            old.kernel_size,
            stride=old.stride,
            padding=old.padding,
            dilation=old.dilation,
            groups=old.groups,
            bias=old.bias is not None,
        )
        new.load_state_dict(old.state_dict())
        return new

    names = [n for n in _named(net, nn.Conv2d) if type(net.get_submodule(n)) is nn.Conv2d]
    if not names:
        return "nothing"
    _swap(net, [n for n in _some(draw, names) if n != "head.fc"], make)
    return "types"


def _no_statistics(net: nn.Module, draw: Draw) -> Shown:
    for name in _named(net, nn.BatchNorm2d):
        norm = net.get_submodule(name)
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        norm.track_running_stats = False
    return "arrays" if _named(net, nn.BatchNorm2d) else "nothing"


def _weight_norm(net: nn.Module, draw: Draw) -> Shown:
    parametrizations.weight_norm(net.get_submodule(_one(draw, *_named(net, nn.Conv2d))))
    return "arrays"


def halve(module: nn.Module, given: Any, result: Tensor) -> Tensor:
    """A hook."""
    return result / 2


def _hook(net: nn.Module, draw: Draw) -> Shown:
    net.get_submodule(_one(draw, *_named(net, nn.BatchNorm2d, nn.Conv2d))).register_forward_hook(
        halve
    )
    return "types"


class Turned(nn.ReLU):
    """An activation of one's own."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(-x)


def _own(net: nn.Module, draw: Draw) -> Shown:
    _swap(net, _some(draw, _named(net, nn.ReLU)), lambda old: Turned())
    return "types"


class Doubled(nn.BatchNorm2d):
    """A norm of one's own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def _own_norm(net: nn.Module, draw: Draw) -> Shown:
    names = [n for n in _named(net, nn.BatchNorm2d) if type(net.get_submodule(n)) is nn.BatchNorm2d]
    for name in _some(draw, names) if names else []:
        net.get_submodule(name).__class__ = Doubled
    return "types"


def _stretched(net: nn.Module, draw: Draw) -> Shown:
    """What the class of the whole net does is code."""
    kind = type(net)
    if kind not in STRETCHED:
        return "nothing"
    net.__class__ = STRETCHED[kind]
    return "code"


class _StretchedTorchvision(torchvision_models().resnet.ResNet):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 + 0.25)


class _StretchedTimm(timm_v1.ResNet):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 + 0.25)


STRETCHED: dict[type, type] = {
    torchvision_models().resnet.ResNet: _StretchedTorchvision,
    timm_v1.ResNet: _StretchedTimm,
}

CHANGES: tuple[Callable[[nn.Module, Draw], Shown], ...] = (
    *(_eps, _eps, _momentum, _function, _function, _function, _prelu, _pool, _pool, _global_pool),
    *(_conv_setting, _conv_setting, _strides, _another, _another, _another_conv, _shortcut),
    *(_attention, _group_norm, _frozen, _standardised, _no_statistics, _weight_norm, _hook, _own),
    *(_own_norm, _stretched),
)


def changed(net: Net, draw: Draw) -> tuple[Net, str, Shown]:
    """The net after a change, what was done, and what shows it."""
    new = net.copy()
    change = CHANGES[draw.integers(len(CHANGES))]
    try:
        shown = change(new.module, draw)
    except (AttributeError, ValueError, IndexError, StopIteration):
        return net, "nothing", "nothing"  # the net has no such module
    return new, change.__name__.strip("_"), shown
