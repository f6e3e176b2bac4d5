"""The first layer in which two engines differ, or an engine and somebody's own model."""

from resnet_parity.trace.compare import trace

__all__ = ["trace"]
