"""Convolutions over few positions, for both backends that compute in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

POINTWISE_POSITIONS = 1024
"""Outputs of a 1x1 convolution, over images and their pixels, up to which a product is faster."""
POSITIONS, WEIGHTS = 256, 2**20
"""The same of larger kernels, whose patches have to be gathered; and the least size of such a
kernel, below which gathering takes longer than what it saves.
"""


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """`torch.nn.functional.conv2d`, on CPUs as one product of matrices where that is faster.

    For each call forward and for both backward, oneDNN lays the kernel out anew in memory. On a map
    of few pixels that takes longer than the convolution itself; a product reads the kernel as it
    lies. Compilers, tracers and other devices get the convolution.

    Args:
        x: [N, C, H, W], or [C, H, W]; only a batch, channels last in memory, is a product.
        weight: [out, C / groups, rows, columns].
        bias: [out] or None.
        stride: rows and columns, and so the next two.
        padding: zeros on either side.
        dilation: distance of the kernel's cells.
        groups: of channels.

    Returns:
        [N, out, H', W'].
    """
    import torch
    from torch.nn import functional as F

    rows, columns = weight.shape[2:]
    pointwise = rows == columns == 1
    fits = (pointwise or weight.numel() >= WEIGHTS) and groups == 1 and set(dilation) == {1}
    fits = fits and x.is_cpu and x.ndim == 4 and x.layout is torch.strided and not _recorded()
    fits = fits and x.shape[1] == weight.shape[1]  # else PyTorch says what is wrong
    if fits:
        size = (
            (x.shape[2] + 2 * padding[0] - rows) // stride[0] + 1,
            (x.shape[3] + 2 * padding[1] - columns) // stride[1] + 1,
        )
        most = POINTWISE_POSITIONS if pointwise else POSITIONS
        last = x.permute(0, 2, 3, 1)
        sizes = (x.shape[0], *size)
        if min(sizes) > 0 and math.prod(sizes) <= most and last.is_contiguous():
            y = _product(last, weight, bias, stride, padding)
            return y.view(*sizes, weight.shape[0]).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def for_export(read: Callable[[], Tensor]) -> Tensor:
    """What `read` gives, a kernel [rows, columns, in, out] that lies in memory as convolutions read
    it, to `torch.export` as the contiguous constant [out, rows, columns, in] and a permutation.

    LiteRT's converter (litert-torch 0.10) makes contiguous copies of other constants and knows each
    by its address: one that lies where an earlier copy was freed becomes that one, silently.
    """
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():  # so that the constant itself is what is recorded
        constant = read().detach().permute(3, 0, 1, 2)
    return constant.permute(1, 2, 3, 0)


def _recorded() -> bool:
    """Whether what runs is not this call but what is made of it, for other sizes too."""
    import torch
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    tracing = torch._C._get_tracing_state() is not None or get_proxy_mode() is not None
    return tracing or torch.compiler.is_compiling()


def _product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """[N, H, W, C] to [positions, out]."""
    from torch.nn import functional as F

    rows, columns = weight.shape[2:]
    if any(padding):
        x = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    if rows == columns == 1:
        patches = x[:, :: stride[0], :: stride[1]]
    else:
        patches = (
            x.unfold(1, rows, stride[0]).unfold(2, columns, stride[1]).permute(0, 1, 2, 4, 5, 3)
        )
    kernel = weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(patches.reshape(-1, kernel.shape[1]), kernel, bias)
