"""Convolutions of few positions in PyTorch."""

from __future__ import annotations

from typing import Any

import pytest


def same(
    resnet: Any, k: int, stride: int, bias: bool, channels: int, batch: int, side: int
) -> dict[str, Any]:
    """Errors of the outputs, of three gradients and of a second derivative against PyTorch's own,
    and how it was computed with channels last in memory, and first.
    """
    import torch
    from torch.nn import functional as F

    from shared_spec.kernels.torch_conv import conv2d

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    generator = torch.Generator().manual_seed(0)
    images = drawn(batch, channels, side, side + 1)
    kernel, offset = drawn(channels + 8, channels, k, k), drawn(channels + 8)
    how = (stride, stride), (k // 2, k // 2), (1, 1), 1

    def results(function: Any, layout: torch.memory_format) -> list[torch.Tensor]:
        x = images.to(memory_format=layout, copy=True).requires_grad_()
        w = kernel.to(memory_format=layout, copy=True).requires_grad_()
        b = offset.clone().requires_grad_() if bias else None
        wanted = [x, w, *([] if b is None else [b])]
        y = function(x, w, b, *how)
        names.append(y.grad_fn.next_functions[0][0].name() + y.grad_fn.name())
        gradients = torch.autograd.grad(y.square().sum(), wanted, create_graph=True)
        (second,) = torch.autograd.grad(gradients[0].square().sum(), w)
        return [y, *gradients, second]

    names: list[str] = []
    right = results(F.conv2d, torch.contiguous_format)
    errors = []
    for layout in (torch.channels_last, torch.contiguous_format):
        for a, b in zip(results(conv2d, layout), right, strict=True):
            assert a.shape == b.shape
            errors.append(float((a - b).abs().max() / b.abs().max()))
    products = ["Convolution" not in name for name in names[1:]]
    return {"error": max(errors), "last": products[0], "first": products[1]}


def tools(resnet: Any) -> None:
    """What PyTorch's tracers, transforms and exporters make of a net with such convolutions."""
    import torch
    from torch import nn

    model = resnet.create_model("resnet50", seed=0, num_classes=4, widths=[8, 16, 16, 256]).eval()
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {type(m) for m in convolutions} == {nn.Conv2d}
    x, y = (torch.randn(n, 3, 64, 64).to(memory_format=torch.channels_last) for n in (2, 9))
    with torch.no_grad():
        wanted = [model(x), model(y)]
        traced = torch.fx.symbolic_trace(model)
        leaves = [m for m in traced.modules() if isinstance(m, nn.Conv2d)]
        assert len(leaves) == len(convolutions) == 53
        assert sum(node.op == "call_function" for node in traced.graph.nodes) < 20
        lowest = torch.fx.experimental.proxy_tensor.make_fx(model)(x)
        batch = {0: torch.export.Dim("batch", min=1, max=64)}
        exported = torch.export.export(model, (x,), dynamic_shapes=(batch,))
        recorded = torch.jit.trace(model, x)
        for made in (traced, exported.module(), recorded, lowest):
            for images, logits in zip((x, y), wanted, strict=True):
                torch.testing.assert_close(made(images), logits, rtol=1e-4, atol=1e-5)
    # What is exported may meet any size: it has convolutions alone.
    found = {str(node.target) for node in exported.graph.nodes}
    assert "aten.conv2d.default" in found
    assert not {name for name in found if "unfold" in name}
    # Each layer is seen at work by whoever wants to.
    seen: list[str] = []
    first = model.layer4[0].downsample[0]
    assert products(model, x) > 20
    for layer, hook in (
        (first, "register_forward_hook"),
        (first, "register_forward_pre_hook"),
        (model.layer4[0].downsample, "register_forward_hook"),
        (model.layer4[0].conv1, "register_full_backward_hook"),
    ):
        handle = getattr(layer, hook)(lambda *_, hook=hook: seen.append(hook))
        model(x).sum().backward()
        handle.remove()
    assert len(seen) == 4
    handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append("each"))
    model(x)
    handle.remove()
    assert len(seen) > 4 + 53
    first.forward = lambda x: nn.Conv2d.forward(first, x) * 0
    assert not torch.equal(model(x), wanted[0])
    del first.forward
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(model, parameters, (image[None],))
        return logits.square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    apart = [torch.func.grad(loss)(parameters, image) for image in x]
    for name in parameters:
        torch.testing.assert_close(
            each[name], torch.stack([one[name] for one in apart]), rtol=1e-3, atol=1e-4
        )


def used(resnet: Any) -> int:
    """Products of matrices in a pass through a ResNet-50 on small images."""
    import torch

    model = resnet.create_model("resnet50", seed=0, num_classes=4, widths=[8, 8, 8, 8])
    x = torch.randn(2, 64, 64, 3)
    if resnet.__name__ == "resnet_torch":
        return products(model.eval(), x.permute(0, 3, 1, 2))
    return products(lambda images: model(images, training=False), x)


def products(model: Any, x: Any) -> int:
    """How many products of matrices a pass makes."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            found.append(str(function))
            return function(*args, **(kwargs or {}))

    with Counting():
        model(x)
    return sum(name in ("aten.mm.default", "aten.addmm.default") for name in found)


def lowered(resnet: Any) -> None:
    """Under autocast, the product is in bfloat16 as the convolution would be."""
    import torch
    from torch.nn import functional as F

    from shared_spec.kernels.torch_conv import conv2d

    x = torch.randn(2, 64, 4, 4).to(memory_format=torch.channels_last)
    w = torch.randn(32, 64, 1, 1)
    how = (1, 1), (0, 0), (1, 1), 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = conv2d(x, w, None, *how), F.conv2d(x, w, None, *how)
    assert ours.dtype is theirs.dtype is torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)


def refused(resnet: Any) -> None:
    """Sizes that PyTorch refuses are refused in its own words."""
    import torch

    from shared_spec.kernels.torch_conv import conv2d

    x = torch.randn(2, 64, 4, 4).to(memory_format=torch.channels_last)
    for c in (16, 32, 63, 128):
        with pytest.raises(RuntimeError, match="channels"):
            conv2d(x, torch.randn(32, c, 1, 1), None, (1, 1), (0, 0), (1, 1), 1)
    for other in (torch.randn(32, 64, 1, 1, dtype=torch.float64),):
        with pytest.raises(RuntimeError):
            conv2d(x, other, None, (1, 1), (0, 0), (1, 1), 1)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        conv2d(x, torch.randn(1024, 64, 5, 5), None, (1, 1), (0, 0), (1, 1), 1)
    one = x[0], torch.randn(32, 64, 1, 1), None, (1, 1), (0, 0), (1, 1), 1
    assert conv2d(*one).shape == (32, 4, 4)
    empty = conv2d(x[:0], torch.randn(32, 64, 1, 1), None, (1, 1), (0, 0), (1, 1), 1)
    assert empty.shape == (0, 32, 4, 4)
