"""What frameworks are told of the precision of float32 products."""

from __future__ import annotations

import sys
from typing import Any

from resnet_parity.worker.session import set_precision


def kept(resnet: Any) -> dict[str, str]:
    """The settings in force at each precision, and when it is back."""
    found = {}
    uses = {"torch", "tensorflow", "jax"} & set(sys.modules)
    for name, precision in (("default", "default"), ("highest", "highest"), ("after", "highest")):
        set_precision(uses, precision)
        found[name] = str({framework: _SETTINGS[framework]() for framework in sorted(uses)})
    return found


def _torch() -> str:
    import torch

    return f"{torch.backends.cudnn.allow_tf32} {torch.backends.cuda.matmul.allow_tf32}"


def _tensorflow() -> str:
    import tensorflow as tf

    return str(tf.config.experimental.tensor_float_32_execution_enabled())


def _jax() -> str:
    import jax

    return str(jax.config.jax_default_matmul_precision)


_SETTINGS = {"torch": _torch, "tensorflow": _tensorflow, "jax": _jax}
