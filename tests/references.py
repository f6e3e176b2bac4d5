"""Networks written out by hand from the papers and the book, sharing no code with the packages.

They are plain functions of a canonical state dict on PyTorch tensors [N, C, H, W].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]


def norm(x: Tensor, s: State, name: str, eps: float = 1e-5) -> Tensor:
    return F.batch_norm(
        x,
        s[f"{name}.running_mean"],
        s[f"{name}.running_var"],
        s[f"{name}.weight"],
        s[f"{name}.bias"],
        eps=eps,
    )


def classify(x: Tensor, s: State) -> Tensor:
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), s["fc.weight"], s["fc.bias"])


def cifar(x: Tensor, s: State, depth: int, option: str) -> Tensor:
    """Section 4.2 of He et al. 2015; option A, B, C or plain."""
    x = F.relu(norm(F.conv2d(x, s["conv1.weight"], padding=1), s, "bn1"))
    for stage in (1, 2, 3):
        for i in range((depth - 2) // 6):
            name = f"layer{stage}.{i}"
            first = stage > 1 and i == 0
            stride = 2 if first else 1
            y = F.conv2d(x, s[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.relu(norm(y, s, f"{name}.bn1"))
            y = norm(F.conv2d(y, s[f"{name}.conv2.weight"], padding=1), s, f"{name}.bn2")
            if option == "plain":
                x = F.relu(y)
                continue
            if option == "C" or (option == "B" and first):
                kernel = s[f"{name}.downsample.0.weight"]
                x = norm(F.conv2d(x, kernel, stride=stride), s, f"{name}.downsample.1")
            elif first:
                # A quarter of the new width in zeros on each side.
                quarter = y.shape[1] // 4
                zeros = torch.zeros_like(x[:, :quarter, ::2, ::2])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
            x = F.relu(y + x)
    return classify(x, s)


def same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """TensorFlow's rule, written per axis from its documentation."""

    def amount(n: int) -> tuple[int, int]:
        total = max(kernel - (stride if n % stride == 0 else n % stride), 0)
        return total // 2, total - total // 2

    return F.pad(x, (*amount(x.shape[3]), *amount(x.shape[2])), value=value)


def d2l(x: Tensor, s: State, pad_same: bool, eps: float = 1e-5) -> Tensor:
    """Section 8.6 of Dive into Deep Learning: Residual blocks with biased convolutions."""

    def conv(x: Tensor, name: str, kernel: int, stride: int = 1) -> Tensor:
        weight, bias = s[f"{name}.weight"], s[f"{name}.bias"]
        if pad_same:
            return F.conv2d(same(x, kernel, stride), weight, bias, stride=stride)
        return F.conv2d(x, weight, bias, stride=stride, padding=kernel // 2)

    x = F.relu(norm(conv(x, "conv1", 7, 2), s, "bn1", eps))
    x = F.max_pool2d(same(x, 3, 2, -torch.inf), 3, 2) if pad_same else F.max_pool2d(x, 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for i in (0, 1):
            name = f"layer{stage}.{i}"
            stride = 2 if stage > 1 and i == 0 else 1
            y = F.relu(norm(conv(x, f"{name}.conv1", 3, stride), s, f"{name}.bn1", eps))
            y = norm(conv(y, f"{name}.conv2", 3), s, f"{name}.bn2", eps)
            if stride == 2:
                x = conv(x, f"{name}.downsample.0", 1, stride)
            x = F.relu(y + x)
    return classify(x, s)
