"""Keras's layers as records of the plan: what each one computes in inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from shared_spec import plan
from shared_spec.formats.containers.source import shown
from shared_spec.formats.graphs.events import EndPad, LowestPad
from shared_spec.formats.graphs.keras_model import Node, is_kerass, told_options
from shared_spec.formats.graphs.walk import ENLARGES, LayerError
from shared_spec.plan.layers import LEAKY_SLOPE, Layer

TRAINING_ONLY = {
    "ActivityRegularization",
    "AlphaDropout",
    "AugMix",
    "CutMix",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "MixUp",
    "RandAugment",
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomElasticTransform",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomInvert",
    "RandomPerspective",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
    "SpatialDropout2D",
}
"""Layers that give in inference what they take. `RandomCrop` resizes then, in some releases."""

_OURS = "resnet_keras>"
_ENLARGING = {"UpSampling2D", "Resizing", f"{_OURS}Enlarge"}
SUMS = {"Add", f"{_OURS}Add"}
"""Layers and operations of two tensors."""


def is_training_only(node: Node) -> bool:
    """Whether a layer gives in inference what it takes.

    Raises:
        LayerError: if it is told to do otherwise. An augmentation is called with
            `training=True` unless its model is called with another, as `predict` does.
    """
    augments = node.kind.startswith("Random") or node.kind in ("AugMix", "CutMix", "MixUp")
    idle = node.kind in TRAINING_ONLY and node.arguments == (None,)
    if node.kind == "Pad":
        return False
    if node.options and not (idle and augments and set(node.options) == {"training"}):
        raise LayerError(f"{node} is called with {told_options(node)}, which no ResNet here is")
    return idle


def records_of(node: Node) -> list[Layer]:
    """What a layer computes, as records whose channels that enter are 0: the configuration does
    not say how many they are.

    Raises:
        LayerError: if the plan has no such layer.
    """
    if node.config.get("data_format", "channels_last") != "channels_last":
        raise LayerError(f"{node} computes on channels before rows")
    check_precision(node)
    if is_training_only(node):
        drops = node.kind == "Dropout"
        return [plan.Dropout(node.path[-1], float(node.config["rate"]))] if drops else []
    if node.kind == "Pad":
        return _pad(node)
    build = _BUILDERS.get(node.kind)
    if node.kind in _ENLARGING:
        raise LayerError(f"{node} {ENLARGES}")
    if build is None:
        raise LayerError(f"{node} is of a class that no ResNet here has")
    if node.arguments.count(None) != 1 or len(node.arguments) != 1:
        raise LayerError(f"{node} takes {len(node.arguments)} arguments, expected one tensor")
    return build(node)


def check_precision(node: Node) -> None:
    """Raise a `LayerError` for a layer that is quantised."""
    if node.config.get("quantization_config") or precision(node) not in _PRECISIONS:
        raise LayerError(f"{node} computes in {shown(precision(node))}, which no ResNet here does")


def precision(node: Node) -> str:
    """The dtype policy of a layer: `float32`, `mixed_float16`."""
    policy = node.config.get("dtype", "float32")
    if isinstance(policy, Mapping):
        plain = policy.get("class_name") in ("DTypePolicy", "Policy")
        inner = policy.get("config")
        policy = inner.get("name") if plain and isinstance(inner, Mapping) else policy["class_name"]
    return str(policy)[:50]


_PRECISIONS = {
    "float64", "float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16", "None",
}  # fmt: skip


def _square(node: Node, key: str, default: int | None = None) -> int:
    value = node.config.get(key, default)
    values = value if isinstance(value, list) else [value, value]
    if len(values) != 2 or values[0] != values[1] or type(values[0]) is not int:
        raise LayerError(
            f"{node} has {key} {shown(str(value))}, expected one number for rows and columns"
        )
    return int(values[0])


def _convolution(node: Node) -> list[Layer]:
    kernel, stride = _square(node, "kernel_size"), _square(node, "strides", 1)
    dilation = _square(node, "dilation_rate", 1)
    conv = plan.Conv(
        node.path[-1],
        0,
        node.config["filters"],
        kernel,
        stride,
        "same" if node.config["padding"] == "same" else 0,
        node.config.get("groups", 1),
        bool(node.config["use_bias"]),
        dilation=dilation,
    )
    if node.config["padding"] not in ("same", "valid"):
        raise LayerError(f"{node} has the padding {shown(str(node.config['padding']))}")
    return [conv, *_function(node)]


def _dense(node: Node) -> list[Layer]:
    dense = plan.Dense(node.path[-1], 0, node.config["units"], bool(node.config["use_bias"]))
    return [dense, *_function(node)]


def _batch_norm(node: Node) -> list[Layer]:
    config = node.config
    axis = config["axis"]
    if axis not in (-1, 3, [-1], [3]) or not (config["center"] and config["scale"]):
        raise LayerError(f"{node} lacks a scale or a bias, or is not over the channels")
    if config.get("renorm"):
        raise LayerError(f"{node} renormalises")
    eps, momentum = float(config["epsilon"]), round(1 - float(config["momentum"]), 12)
    variance: Any = "unbiased" if config.get("unbiased") else "biased"
    return [plan.BatchNorm(node.path[-1], 0, eps, momentum, variance)]


_FUNCTIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "elu": "elu",
    "selu": "selu",
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "gelu": "gelu",
    "hard_silu": "hardswish",
    "hard_swish": "hardswish",
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    **{f"{_OURS}{name}": name for name in ("leaky_relu", "gelu", "gelu_tanh")},
}


def _function(node: Node) -> list[Layer]:
    """The activation that a layer has in its configuration."""
    name = node.config.get("activation")
    if isinstance(name, Mapping):  # a layer, as of `activation=keras.layers.ReLU()`
        kind, config = str(name.get("class_name")), name.get("config")
        if kind in _ACTIVATIONS and is_kerass(name) and isinstance(config, Mapping):
            return _ACTIVATIONS[kind](replace(node, kind=kind, config=config))
        if kind == "function" and str(config).startswith(_OURS):
            name = config
    if name in (None, "linear"):
        return []
    if not isinstance(name, str) or name not in _FUNCTIONS:
        raise LayerError(f"{node} has the activation {shown(str(name))}")
    return [plan.Activation(node.path[-1], _FUNCTIONS[name])]


def _relu(node: Node) -> list[Layer]:
    get = node.config.get
    limit, slope = get("max_value"), get("negative_slope") or 0.0
    if get("threshold"):
        raise LayerError(f"{node} has a threshold")
    if limit is not None and (limit != 6 or slope):
        raise LayerError(f"{node} has max_value {shown(str(limit))}")
    if limit is None and slope not in (0, LEAKY_SLOPE):
        raise LayerError(f"{node} has the slope {shown(str(slope))}, expected {LEAKY_SLOPE}")
    function = "relu6" if limit is not None else "leaky_relu" if slope else "relu"
    return [plan.Activation(node.path[-1], function)]


def _leaky_relu(node: Node) -> list[Layer]:
    slope = node.config.get("negative_slope", node.config.get("alpha"))
    if slope is None or abs(float(slope) - LEAKY_SLOPE) > 1e-9:
        raise LayerError(f"{node} has the slope {shown(str(slope))}, expected {LEAKY_SLOPE}")
    return [plan.Activation(node.path[-1], "leaky_relu")]


def _elu(node: Node) -> list[Layer]:
    if node.config.get("alpha", 1.0) != 1:
        raise LayerError(f"{node} has alpha {shown(str(node.config['alpha']))}, expected 1")
    return [plan.Activation(node.path[-1], "elu")]


def _softmax(node: Node) -> list[Layer]:
    if node.config.get("axis", -1) != -1:
        raise LayerError(f"{node} is not over the last axis")
    return [plan.Activation(node.path[-1], "softmax")]


def _zero_pad(node: Node) -> list[Layer]:
    return [_padding(node, node.config["padding"], lowest=False)]


def _padding(node: Node, padding: Any, *, lowest: bool) -> Layer:
    """Rows and columns around an image, or after it, as Keras and this package have their number:
    one, or one for each side.
    """
    sides = padding if isinstance(padding, list) else [padding]
    rows, *others = [side if isinstance(side, list) else [side, side] for side in sides] or [[]]
    numbers = len(rows) == 2 and all(type(n) is int for n in rows)
    if not numbers or any(other != rows for other in others) or rows[0] not in (0, rows[1]):
        raise LayerError(
            f"{node} pads {shown(str(padding))}, expected one number on all sides, or one after "
            f"the last rows and columns"
        )
    if rows[0] == rows[1]:
        return (LowestPad if lowest else plan.ZeroPad)(node.path[-1], rows[1])
    return EndPad(node.path[-1], rows[1], lowest)


def _lowest_pad(node: Node) -> list[Layer]:
    # One number, or two for all sides alike.
    padding = node.config["padding"]
    return [_padding(node, [padding, padding], lowest=True)]


def _pad(node: Node) -> list[Layer]:
    """Of `keras.ops.pad`, which takes what it pads with when it is called."""
    value = node.options.get("constant_values", 0)
    rows = node.config["pad_width"][1:2]
    around = [[0, 0], *rows, *rows, [0, 0]]
    record = {0: plan.ZeroPad, -math.inf: LowestPad}.get(value)
    plain = node.config["mode"] == "constant" and set(node.options) <= {"constant_values"}
    if not plain or record is None or node.config["pad_width"] != around or len(set(rows[0])) != 1:
        raise LayerError(
            f"{node} pads other things than one number of zeros, or of minus infinity, on all sides"
        )
    return [record(node.path[-1], int(rows[0][0]))]


def _pool(record: Callable[..., Layer]) -> Callable[[Node], list[Layer]]:
    def build(node: Node) -> list[Layer]:
        size = _square(node, "pool_size")
        stride = size if node.config.get("strides") is None else _square(node, "strides")
        padding: Any = "same" if node.config["padding"] == "same" else 0
        return [record(node.path[-1], size, stride, padding)]

    return build


def _global_pool(kind: Any) -> Callable[[Node], list[Layer]]:
    return lambda node: [plan.GlobalPool(node.path[-1], bool(node.config.get("keepdims")), kind)]


def _group_norm(node: Node) -> list[Layer]:
    config = node.config
    if config["axis"] not in (-1, 3) or not (config["center"] and config["scale"]):
        raise LayerError(f"{node} lacks a scale or a bias, or is not over the channels")
    return [plan.GroupNorm(node.path[-1], 0, int(config["groups"]), float(config["epsilon"]))]


_ACTIVATIONS: dict[str, Callable[[Node], list[Layer]]] = {
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
    "Softmax": _softmax,
}
_NATIVE: dict[str, Callable[[Node], list[Layer]]] = {
    "Conv2D": _convolution,
    "Dense": _dense,
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "MaxPooling2D": _pool(plan.MaxPool),
    "GlobalAveragePooling2D": _global_pool("avg"),
}
"""Those of which `resnet_keras` has its own, which compute the same."""
_BUILDERS: dict[str, Callable[[Node], list[Layer]]] = {
    **_ACTIVATIONS,
    **_NATIVE,
    **{f"{_OURS}{kind}": build for kind, build in _NATIVE.items()},
    f"{_OURS}LowestPadding2D": _lowest_pad,
    "Convolution2D": _convolution,
    "BatchNormalizationV1": _batch_norm,
    "Activation": _function,
    "Relu": lambda node: [plan.Activation(node.path[-1], "relu")],
    "ZeroPadding2D": _zero_pad,
    "AveragePooling2D": _pool(plan.AvgPool),
    "GlobalMaxPooling2D": _global_pool("max"),
    "Flatten": lambda node: [plan.Flatten(node.path[-1])],
}
