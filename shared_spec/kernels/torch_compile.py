"""`torch.compile` for weights that no longer change, for both backends that compute in PyTorch."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable
from typing import Any


def frozen(function: Callable[[Any], Any], dtype: str, **options: Any) -> Callable[[Any], Any]:
    """`function`, compiled without gradients. The parameters in it are taken for constants, which
    the compiler folds and lays out once; but in float64, where PyTorch 2.13 then fails.

    Args:
        function: a Python function, of a tensor.
        dtype: in which it computes.
        **options: of `torch.compile`.
    """
    import torch

    config: Any = importlib.import_module("torch._inductor.config")
    run: Callable[[Any], Any] = torch.compile(_alone(function), **options)

    def forward(x: Any) -> Any:
        # In force while it is compiled, which is in the call: as an option of torch.compile it
        # would come too late for the part that decides what is a constant.
        with torch.no_grad(), config.patch(freezing=dtype != "float64"):
            return run(x)

    return forward


def frozen_graph(module: Any, call: Callable[[Any], Any], dtype: str) -> Callable[[Any], Any]:
    """As `frozen`, for a call whose Python `torch.compile` cannot follow. At Keras's layers it
    breaks off, at each, and after eight it gives up. What is compiled is the graph that
    `torch.export` records, one for each shape.

    Args:
        module: a torch.nn.Module that has the parameters.
        call: what computes with it, of a tensor.
        dtype: in which it computes.
    """
    import torch

    class Called(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Any) -> Any:
            return call(x)

    recorded: dict[Any, Callable[[Any], Any]] = {}

    def forward(x: Any) -> Any:
        kind = x.shape, x.dtype, x.device
        if kind not in recorded:
            with torch.no_grad():
                graph = torch.export.export(Called(), (x,), strict=False).module()
            recorded[kind] = frozen(lambda x: graph(x), dtype, fullgraph=True)
        return recorded[kind](x)

    return forward


def _alone(function: Any) -> Any:
    """With code of its own: by that PyTorch counts how often it compiled, and after eight times it
    refuses, though they were eight models.
    """
    return types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
