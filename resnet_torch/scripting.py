"""TorchScript of our modules, whose children are looked up by name, which it cannot do."""

from __future__ import annotations

from torch import fx, nn


class Scriptable(nn.Module):
    """A module of which `torch.jit.script` compiles the order in which it runs its layers now, with
    the same layers at the same paths.
    """

    def __prepare_scriptable__(self) -> fx.GraphModule:
        graph = _Layers().trace(self)
        for node in graph.nodes:
            node.type = None  # TorchScript infers it; ours are those of Python
        return fx.GraphModule(self, graph, type(self).__name__)


class _Layers(fx.Tracer):
    """Goes through blocks and stages, and records each call of a layer."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, Scriptable | nn.Sequential)
