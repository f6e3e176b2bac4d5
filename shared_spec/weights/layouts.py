"""Where each framework keeps each role of a parameter: the leaf's name and the order of axes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class ParameterLayout:
    """Where a framework keeps one canonical role: the leaf's name there, and the order of axes that
    turns a PyTorch array into the native one.
    """

    leaf: str
    axes: tuple[int, ...] | None = None
    inverse: tuple[int, ...] | None = field(init=False)

    def __post_init__(self) -> None:
        inverse = None if self.axes is None else tuple(int(i) for i in np.argsort(self.axes))
        object.__setattr__(self, "inverse", inverse)

    def to_native(self, array: np.ndarray, *, own: bool = False) -> np.ndarray:
        """A PyTorch array in the native layout: a view, or with `own` what a framework may keep.

        On a CPU, JAX and TensorFlow may keep a C-contiguous array instead of copying it, and a
        model must not change with its caller's arrays; other strides they copy in any case.
        """
        view = array if self.axes is None else array.transpose(self.axes)
        return view.copy() if own and view.flags.c_contiguous else view

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """A native array in PyTorch's layout, contiguous."""
        return np.ascontiguousarray(
            array if self.inverse is None else array.transpose(self.inverse)
        )


TORCH: dict[str, ParameterLayout] = {
    "conv_kernel": ParameterLayout("weight"),
    "conv1d_kernel": ParameterLayout("weight"),
    "dense_kernel": ParameterLayout("weight"),
    "bias": ParameterLayout("bias"),
    "norm_scale": ParameterLayout("weight"),
    "norm_bias": ParameterLayout("bias"),
    "norm_mean": ParameterLayout("running_mean"),
    "norm_var": ParameterLayout("running_var"),
    "norm_gate": ParameterLayout("v"),
    "norm_threshold": ParameterLayout("tau"),
    "branch_scale": ParameterLayout("gamma"),
}
KERAS: dict[str, ParameterLayout] = {
    "conv_kernel": ParameterLayout("kernel", (2, 3, 1, 0)),
    "conv1d_kernel": ParameterLayout("kernel", (2, 1, 0)),
    "dense_kernel": ParameterLayout("kernel", (1, 0)),
    "bias": ParameterLayout("bias"),
    "norm_scale": ParameterLayout("gamma"),
    "norm_bias": ParameterLayout("beta"),
    "norm_mean": ParameterLayout("moving_mean"),
    "norm_var": ParameterLayout("moving_variance"),
    "norm_gate": ParameterLayout("v"),
    "norm_threshold": ParameterLayout("tau"),
    "branch_scale": ParameterLayout("gamma"),
}
FLAX: dict[str, ParameterLayout] = {
    "conv_kernel": ParameterLayout("kernel", (2, 3, 1, 0)),
    "conv1d_kernel": ParameterLayout("kernel", (2, 1, 0)),
    "dense_kernel": ParameterLayout("kernel", (1, 0)),
    "bias": ParameterLayout("bias"),
    "norm_scale": ParameterLayout("scale"),
    "norm_bias": ParameterLayout("bias"),
    "norm_mean": ParameterLayout("mean"),
    "norm_var": ParameterLayout("var"),
    "norm_gate": ParameterLayout("v"),
    "norm_threshold": ParameterLayout("tau"),
    "branch_scale": ParameterLayout("gamma"),
}


def keras_layer(module: str) -> str:
    """A dotted path of the plan as a Keras layer name."""
    return module.replace(".", "_")
