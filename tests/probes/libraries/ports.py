"""ResNets as PyTorch ports and detectors build them, written from their published structure: the
modules' names, where strides and pads are, and nothing else. They run in the tests' own process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def randomize(model: nn.Module, seed: int = 3) -> nn.Module:
    """Random float64 weights, norm statistics too, for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dtype.is_floating_point and tensor.ndim > 1:
                scale = (2 / tensor[0].numel()) ** 0.5
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
            elif name.endswith(("running_var", "weight")):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.dtype.is_floating_point:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model.double().eval()


class Quarters(nn.Module):
    """Option A: every second pixel, and a quarter of the new channels in zeros on each side."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4))


def projection(inputs: int, planes: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(inputs, planes, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(planes))


class Port(nn.Module):
    """A block of two or three convolutions, whose shortcut is the attribute `word`."""

    def __init__(
        self, word: str, kind: str, inputs: int, planes: int, stride: int, option: str
    ) -> None:
        super().__init__()
        self.word, self.count = word, 2 if kind == "basic" else 3
        outputs = planes if kind == "basic" else 4 * planes
        if kind == "basic":
            convs = [(inputs, planes, 3, stride), (planes, planes, 3, 1)]
        else:
            convs = [(inputs, planes, 1, 1), (planes, planes, 3, stride), (planes, outputs, 1, 1)]
        for i, (a, b, kernel, step) in enumerate(convs, start=1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        shortcut: nn.Module = nn.Sequential()
        if stride != 1 or inputs != outputs:
            shortcut = Quarters(planes) if option == "A" else projection(inputs, outputs, stride)
        setattr(self, word, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        return F.relu(y + getattr(self, self.word)(x))


class PortNet(nn.Module):
    """A port: what it calls stages, shortcuts and the classifier, its blocks, and whether it is for
    small images.
    """

    def __init__(
        self,
        words: tuple[str, str, str],
        kind: str,
        depths: Sequence[int],
        widths: Sequence[int],
        option: str = "B",
        small: bool = True,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.small, stage, shortcut = small, words[0], words[1]
        self.stages = [f"{stage}{i + 1}" for i in range(len(depths))]
        self.head = words[2]
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(3, widths[0], kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        channels = widths[0]
        for i, (name, depth, planes) in enumerate(zip(self.stages, depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                step = 2 if i > 0 and j == 0 else 1
                blocks.append(Port(shortcut, kind, channels, planes, step, option))
                channels = planes if kind == "basic" else 4 * planes
            setattr(self, name, nn.Sequential(*blocks))
        setattr(self, self.head, nn.Linear(channels, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = x if self.small else F.max_pool2d(x, 3, 2, 1)
        for name in self.stages:
            x = getattr(self, name)(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class PreActivatedBlock(nn.Module):
    """A norm and a ReLU before each convolution; the first of them feeds the projection too."""

    def __init__(self, kind: str, inputs: int, planes: int, stride: int, drop: float) -> None:
        super().__init__()
        outputs = planes if kind == "basic" else 4 * planes
        if kind == "basic":
            convs = [(inputs, planes, 3, stride), (planes, planes, 3, 1)]
        else:
            convs = [(inputs, planes, 1, 1), (planes, planes, 3, stride), (planes, outputs, 1, 1)]
        for i, (a, b, kernel, step) in enumerate(convs, start=1):
            setattr(self, f"bn{i}", nn.BatchNorm2d(a))
            setattr(self, f"conv{i}", nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
        self.count, self.drop = len(convs), drop

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        x = self.shortcut(y) if hasattr(self, "shortcut") else x
        for i in range(1, self.count + 1):
            y = F.relu(getattr(self, f"bn{i}")(y)) if i > 1 else y
            if i == self.count:
                y = F.dropout(y, self.drop, self.training)
            y = getattr(self, f"conv{i}")(y)
        return x + y


class PreActivated(nn.Module):
    """kuangliu's pre-activation net, without a norm before its pool; or, with one and with dropout
    inside of blocks, a wide net of Zagoruyko and Komodakis.
    """

    def __init__(
        self,
        kind: str,
        depths: Sequence[int],
        widths: Sequence[int],
        stem: int,
        drop: float | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        inputs, self.stages = stem, [f"layer{i + 1}" for i in range(len(depths))]
        for i, (name, depth, planes) in enumerate(zip(self.stages, depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(PreActivatedBlock(kind, inputs, planes, stride, drop or 0.0))
                inputs = planes if kind == "basic" else 4 * planes
            setattr(self, name, nn.Sequential(*blocks))
        self.bn = (
            nn.Identity() if drop is None else nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        )
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.linear(self.bn(x).mean((2, 3)))


class Nine(nn.Module):
    """The net of nine layers that is taught at jovian.ai, with or without its dropout."""

    def __init__(self, widths: Sequence[int], drops: bool = True) -> None:
        super().__init__()

        def row(inputs: int, outputs: int, *pool: nn.Module) -> nn.Module:
            conv = nn.Conv2d(inputs, outputs, 3, 1, 1)
            return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(), *pool)

        a, b, c, d = widths
        self.conv1 = row(3, a)
        self.conv2 = row(a, b, nn.MaxPool2d(2))
        self.res1 = nn.Sequential(row(b, b), row(b, b))
        self.conv3 = row(b, c, nn.MaxPool2d(2))
        self.conv4 = row(c, d, nn.MaxPool2d(2))
        self.res2 = nn.Sequential(row(d, d), row(d, d))
        drop = [nn.Dropout(0.2)] if drops else []
        # At 32 pixels, the published pool over 4 is one over all.
        pool = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Sequential(pool, nn.Flatten(), *drop, nn.Linear(d, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x))
        x = self.res1(x) + x
        x = self.conv4(self.conv3(x))
        return self.classifier(self.res2(x) + x)


class FaceBlock(nn.Module):
    """insightface's: a norm, a convolution, norm and PReLU, and a convolution with the stride."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps=1e-5)
        self.conv1 = nn.Conv2d(inputs, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes, eps=1e-5)
        self.prelu = nn.PReLU(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes, eps=1e-5)
        if stride > 1 or inputs != planes:
            self.downsample = projection(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv1(self.bn1(x)))
        y = self.bn3(self.conv2(self.prelu(y)))
        return y + (self.downsample(x) if hasattr(self, "downsample") else x)


class FaceNet(nn.Module):
    """insightface's iresnet, for images whose side is given."""

    def __init__(
        self, depths: Sequence[int], widths: Sequence[int], stem: int, side: int, numbers: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1, self.prelu = nn.BatchNorm2d(stem), nn.PReLU(stem)
        inputs, self.stages = stem, [f"layer{i + 1}" for i in range(len(depths))]
        for name, depth, planes in zip(self.stages, depths, widths, strict=True):
            blocks = []
            for j in range(depth):
                blocks.append(FaceBlock(inputs, planes, 1 if j else 2))
                inputs = planes
            setattr(self, name, nn.Sequential(*blocks))
            side = (side + 1) // 2
        self.bn2 = nn.BatchNorm2d(inputs)
        self.dropout = nn.Dropout(0.0)
        self.fc = nn.Linear(inputs * side * side, numbers)
        self.features = nn.BatchNorm1d(numbers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.features(self.fc(self.dropout(torch.flatten(self.bn2(x), 1))))


class Frozen(nn.Module):
    """detectron2's frozen batch norm: four buffers and an eps of 1e-5."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class Normed(nn.Conv2d):
    """detectron2's convolution, which holds its norm."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class DetectronNet(nn.Module):
    """detectron2's ResNet, its stride where `stride_in_1x1` says."""

    def __init__(
        self,
        kind: str,
        depths: Sequence[int],
        widths: Sequence[int],
        stride_in_1x1: bool = False,
        classes: int | None = None,
        norm: Callable[[int], nn.Module] = Frozen,
    ) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = Normed(3, widths[0], 7, 2, norm)
        self.stages = [f"res{i + 2}" for i in range(len(depths))]
        channels = widths[0]
        for i, (name, depth, planes) in enumerate(zip(self.stages, depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                step = 2 if i > 0 and j == 0 else 1
                block = nn.Module()
                outputs = planes if kind == "basic" else 4 * planes
                if channels != outputs:
                    block.shortcut = Normed(channels, outputs, 1, step, norm)
                if kind == "basic":
                    block.conv1 = Normed(channels, planes, 3, step, norm)
                    block.conv2 = Normed(planes, planes, 3, 1, norm)
                else:
                    first, second = (step, 1) if stride_in_1x1 else (1, step)
                    block.conv1 = Normed(channels, planes, 1, first, norm)
                    block.conv2 = Normed(planes, planes, 3, second, norm)
                    block.conv3 = Normed(planes, outputs, 1, 1, norm)
                blocks.append(block)
                channels = outputs
            setattr(self, name, nn.Sequential(*blocks))
        if classes is not None:
            self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem.conv1(x)), 3, 2, 1)
        for name in self.stages:
            for block in getattr(self, name):
                y = F.relu(block.conv1(x))
                y = block.conv2(y)
                if hasattr(block, "conv3"):
                    y = block.conv3(F.relu(y))
                x = F.relu(y + (block.shortcut(x) if hasattr(block, "shortcut") else x))
        x = x.mean((2, 3))
        return self.linear(x) if hasattr(self, "linear") else x


class WideBlock(nn.Module):
    """WideResNet-pytorch's: where it changes its width, the shortcut takes what is activated."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(planes)
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.convShortcut = None
        if inputs != planes:
            self.convShortcut = nn.Conv2d(inputs, planes, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (x if self.convShortcut is None else self.convShortcut(active))


class WideNet(nn.Module):
    """WideResNet-pytorch's net."""

    def __init__(self, depth: int, widths: Sequence[int], classes: int = 10) -> None:
        super().__init__()
        stem, *planes = widths
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        for i, (a, b) in enumerate(zip(widths, planes, strict=False)):
            block = nn.Module()
            first = WideBlock(a, b, 2 if i else 1)
            block.layer = nn.Sequential(first, *(WideBlock(b, b, 1) for _ in range(depth - 1)))
            setattr(self, f"block{i + 1}", block)
        self.stages = len(planes)
        self.bn1 = nn.BatchNorm2d(planes[-1])
        self.fc = nn.Linear(planes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for i in range(self.stages):
            x = getattr(self, f"block{i + 1}").layer(x)
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class ResidualFunction(nn.Module):
    """pytorch-cifar100's block."""

    def __init__(self, kind: str, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes if kind == "basic" else 4 * planes
        convs = [(inputs, planes, 3, stride), (planes, outputs, 3, 1)]
        if kind != "basic":
            convs = [(inputs, planes, 1, 1), (planes, planes, 3, stride), (planes, outputs, 1, 1)]
        layers: list[nn.Module] = []
        for a, b, kernel, step in convs:
            layers.append(nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
            layers += [nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        self.residual_function = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual_function(x) + self.shortcut(x))


class Cifar100Net(nn.Module):
    """pytorch-cifar100's net."""

    def __init__(
        self, kind: str, depths: Sequence[int], widths: Sequence[int], classes: int = 100
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.stages = len(depths)
        for i, (depth, planes) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                step = 2 if i > 0 and j == 0 else 1
                blocks.append(ResidualFunction(kind, channels, planes, step))
                channels = planes if kind == "basic" else 4 * planes
            setattr(self, f"conv{i + 2}_x", nn.Sequential(*blocks))
        self.avg_pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for i in range(self.stages):
            x = getattr(self, f"conv{i + 2}_x")(x)
        return self.fc(self.avg_pool(x).flatten(1))
