"""Speed, side by side with the libraries that have the net, and only of what is right."""

from resnet_parity.bench.measure import bench

__all__ = ["bench"]
