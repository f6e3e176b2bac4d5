"""Where each framework keeps each role of a parameter: the leaf's name and the order of axes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class ParameterLayout:
    """Where a framework keeps one canonical role: the leaf's name there, and the order of axes that
    turns a PyTorch array into the native one.
    """

    leaf: str
    axes: tuple[int, ...] | None = None

    @cached_property
    def inverse(self) -> tuple[int, ...] | None:
        """The order of axes that turns a native array into PyTorch's."""
        return None if self.axes is None else tuple(int(i) for i in np.argsort(self.axes))

    def to_native(self, array: np.ndarray, *, own: bool = False) -> np.ndarray:
        """A PyTorch array in the native layout: a view, or with `own` what a framework may keep.

        On a CPU, JAX and TensorFlow may keep a C-contiguous array instead of copying it, and a
        model must not change with its caller's arrays; other strides they copy in any case.
        """
        view = array if self.axes is None else array.transpose(self.axes)
        return view.copy() if own and view.flags.c_contiguous else view

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """A native array in PyTorch's layout, contiguous."""
        view = array if self.inverse is None else array.transpose(self.inverse)
        return np.ascontiguousarray(view)


_KERNEL_AXES = {"conv_kernel": (2, 3, 1, 0), "conv1d_kernel": (2, 1, 0), "dense_kernel": (1, 0)}
_KERNEL_AXES |= {"conv_gain": (1, 2, 3, 0)}
"""Of kernels in Keras and Flax, in terms of PyTorch's: OIHW becomes HWIO."""

_LEAVES = {
    "conv_kernel": ("weight", "kernel", "kernel"),
    "conv1d_kernel": ("weight", "kernel", "kernel"),
    "dense_kernel": ("weight", "kernel", "kernel"),
    "bias": ("bias", "bias", "bias"),
    "norm_scale": ("weight", "gamma", "scale"),
    "norm_bias": ("bias", "beta", "bias"),
    "norm_mean": ("running_mean", "moving_mean", "mean"),
    "norm_var": ("running_var", "moving_variance", "var"),
    "norm_gate": ("v", "v", "v"),
    "norm_threshold": ("tau", "tau", "tau"),
    "positions": ("pos_embed", "pos_embed", "pos_embed"),
    "branch_scale": ("gamma", "gamma", "gamma"),
    "conv_gain": ("gain", "gain", "gain"),
    "skip_gain": ("gain", "gain", "gain"),
    "prelu_slope": ("weight", "alpha", "negative_slope"),
}
"""Names in PyTorch, Keras and Flax."""

TORCH = {role: ParameterLayout(names[0]) for role, names in _LEAVES.items()}
KERAS, FLAX = (
    {role: ParameterLayout(names[i], _KERNEL_AXES.get(role)) for role, names in _LEAVES.items()}
    for i in (1, 2)
)


def keras_layer(module: str) -> str:
    """A dotted path of the plan as a Keras layer name."""
    return module.replace(".", "_")
