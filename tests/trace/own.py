"""Models of somebody's own, in which something may be wrong: what `trace --against` is for."""

from __future__ import annotations

from typing import Any


def torch_model(bug: str = "", names: bool = False) -> Any:
    """The net of `SPECS["basic"]` as a user would write it, with functions for what has no
    weights; with `names` under names of its own.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: int, bug: str) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(o, eps=1e-3 if bug == "eps" else 1e-5)
            self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(o)
            self.relu = nn.ReLU(inplace=True)
            self.bug = bug
            self.downsample = None
            if stride > 1 or i != o:
                self.downsample = nn.Sequential(
                    nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)
                )

        def forward(self, x: Any) -> Any:
            y = self.bn1(self.conv1(x))
            y = F.silu(y) if self.bug == "first activation" else self.relu(y)
            y = self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x))
            return F.silu(y) if self.bug == "last activation" else self.relu(y)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(8)
            self.layer1 = nn.Sequential(Block(8, 8, 1, ""))
            self.layer2 = nn.Sequential(Block(8, 16, 2, bug), Block(16, 16, 1, ""))
            self.fc = nn.Linear(16, 5)

        def forward(self, x: Any) -> Any:
            x = F.relu(self.bn1(self.conv1(x)))
            pooled = F.avg_pool2d if bug == "pool" else F.max_pool2d
            x = self.layer2(self.layer1(pooled(x, 3, 2, 1)))
            x = self.fc(x.mean((2, 3)))
            return x.softmax(-1) if bug == "softmax" else x

    class Renamed(nn.Module):
        def __init__(self, net: Any) -> None:
            super().__init__()
            self.stem = nn.Sequential(net.conv1, net.bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1))
            self.stages = nn.Sequential(net.layer1, net.layer2)
            self.classifier = net.fc

        def forward(self, x: Any) -> Any:
            return self.classifier(self.stages(self.stem(x)).mean((2, 3)))

    torch.manual_seed(0)
    return Renamed(Net()) if names else Net()


def good() -> Any:
    return torch_model()


def renamed() -> Any:
    return torch_model("eps", names=True)


def eps() -> Any:
    return torch_model("eps")


def first_activation() -> Any:
    return torch_model("first activation")


def last_activation() -> Any:
    return torch_model("last activation")


def pool() -> Any:
    return torch_model("pool")


def softmax() -> Any:
    return torch_model("softmax")


def not_a_model() -> Any:
    return 3


def failing() -> Any:
    raise RuntimeError("no\nway")


def other_width() -> Any:
    import torch

    model = torch_model()
    model.fc = torch.nn.Linear(16, 6)
    return model


def more_weights() -> Any:
    import torch

    model = torch_model()
    model.head = torch.nn.Linear(16, 6)
    return model


def keras_model(bug: str = "") -> Any:
    """The net of `SPECS["basic"]` with names as in Keras."""
    import keras

    keras.config.set_dtype_policy("float64")
    layers = keras.layers
    x = inputs = keras.Input((24, 20, 3))

    def conv(x: Any, name: str, width: int, kernel: int, stride: int) -> Any:
        if kernel > 1:
            x = layers.ZeroPadding2D(kernel // 2)(x)
        return layers.Conv2D(width, kernel, stride, use_bias=False, name=name)(x)

    def norm(x: Any, name: str) -> Any:
        wrong = bug == "eps" and name == "layer2_0_bn1"
        return layers.BatchNormalization(epsilon=1e-3 if wrong else 1e-5, name=name)(x)

    def block(x: Any, name: str, width: int, stride: int, projects: bool) -> Any:
        y = layers.ReLU(name=f"{name}_act1")(
            norm(conv(x, f"{name}_conv1", width, 3, stride), f"{name}_bn1")
        )
        y = norm(conv(y, f"{name}_conv2", width, 3, 1), f"{name}_bn2")
        if projects:
            x = norm(conv(x, f"{name}_downsample_0", width, 1, stride), f"{name}_downsample_1")
        return layers.ReLU(name=f"{name}_act2")(layers.Add()([x, y]))

    x = layers.ReLU(name="act1")(norm(conv(x, "conv1", 8, 7, 2), "bn1"))
    x = layers.MaxPooling2D(3, 2, name="maxpool")(layers.ZeroPadding2D(1)(x))
    x = block(x, "layer1_0", 8, 1, False)
    x = block(block(x, "layer2_0", 16, 2, True), "layer2_1", 16, 1, False)
    x = layers.GlobalAveragePooling2D(name="global_pool")(x)
    return keras.Model(inputs, layers.Dense(5, name="fc")(x))


def keras_good() -> Any:
    return keras_model()


def keras_eps() -> Any:
    return keras_model("eps")


def flax_model(bug: str = "") -> Any:
    """The net of `SPECS["basic"]` as an `nnx.Module`."""
    import jax.numpy as jnp
    from flax import nnx

    rngs = nnx.Rngs(0)

    def conv(i: int, o: int, kernel: int, stride: int) -> Any:
        return nnx.Conv(
            i,
            o,
            (kernel, kernel),
            strides=stride,
            padding=kernel // 2,
            use_bias=False,
            param_dtype=jnp.float64,
            rngs=rngs,
        )

    def norm(width: int, eps: float = 1e-5) -> Any:
        return nnx.BatchNorm(width, epsilon=eps, param_dtype=jnp.float64, rngs=rngs)

    class Block(nnx.Module):
        def __init__(self, i: int, o: int, stride: int, eps: float = 1e-5) -> None:
            self.conv1, self.bn1 = conv(i, o, 3, stride), norm(o, eps)
            self.conv2, self.bn2 = conv(o, o, 3, 1), norm(o)
            self.downsample = nnx.List([conv(i, o, 1, stride), norm(o)] if i != o else [])

        def __call__(self, x: Any) -> Any:
            y = self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))
            for layer in self.downsample:
                x = layer(x)
            return nnx.relu(x + y)

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.conv1, self.bn1 = conv(3, 8, 7, 2), norm(8)
            self.layer1 = nnx.List([Block(8, 8, 1)])
            self.layer2 = nnx.List(
                [Block(8, 16, 2, 1e-3 if bug == "eps" else 1e-5), Block(16, 16, 1)]
            )
            self.fc = nnx.Linear(16, 5, param_dtype=jnp.float64, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.relu(self.bn1(self.conv1(x)))
            x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
            for block in [*self.layer1, *self.layer2]:
                x = block(x)
            return self.fc(x.mean((1, 2)))

    return Net()


def flax_good() -> Any:
    return flax_model()


def flax_eps() -> Any:
    return flax_model("eps")
