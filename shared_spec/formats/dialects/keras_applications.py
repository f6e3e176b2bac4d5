"""keras.applications' ResNets, V1 and V2: the legacy `.h5` files that are published, and the
`.weights.h5` and `.keras` files of Keras 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import WeightsError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import Dialect, Extras, Place, Rules, rename
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.layouts import KERAS
from shared_spec.weights.lazy_array import LazyArrays
from shared_spec.weights.preprocessing import Preprocessing

HEAD = "predictions"
V1: Rules = [
    (r"^conv1$", "conv1_conv"),
    (r"^bn1$", "conv1_bn"),
    (r"^fc$", HEAD),
    (r"^layer(\d)\.(\d+)\.", lambda m: f"conv{int(m[1]) + 1}_block{int(m[2]) + 1}_"),
    (r"downsample\.0$", "0_conv"),
    (r"downsample\.1$", "0_bn"),
    (r"_(conv|bn)(\d)$", r"_\2_\1"),
]
V2: Rules = [
    (r"^stem\.conv$", "conv1_conv"),
    (r"^norm$", "post_bn"),
    (r"^head\.fc$", HEAD),
    (
        r"^stages\.(\d)\.blocks\.(\d+)\.",
        lambda m: f"conv{int(m[1]) + 2}_block{int(m[2]) + 1}_",
    ),
    (r"downsample\.conv$", "0_conv"),
    (r"_norm1$", "_preact_bn"),
    (r"_norm(\d)$", lambda m: f"_{int(m[1]) - 1}_bn"),
    (r"_conv(\d)$", r"_\1_conv"),
]
"""From a layer's canonical name to Keras's, applied in this order."""
OLD: Rules = [
    (r"^layer(\d)\.(\d+)\.", lambda m: f"{int(m[1]) + 1}.{m[2]}_"),
    (r"^(.+)_conv(\d)$", lambda m: f"res{m[1]}_branch2{'abc'[int(m[2]) - 1]}"),
    (r"^(.+)_bn(\d)$", lambda m: f"bn{m[1]}_branch2{'abc'[int(m[2]) - 1]}"),
    (r"^(.+)_downsample\.0$", r"res\1_branch1"),
    (r"^(.+)_downsample\.1$", r"bn\1_branch1"),
    (r"^bn1$", "bn_conv1"),
]
"""To the names before Keras 2.3, as `with_plain_names` gives them."""


def layer_name(module: str, spec: ResNetSpec) -> str:
    """What keras.applications calls a layer: `conv2_block1_0_conv` for `layer1.0.downsample.0`."""
    return rename(module, V2 if spec.pre_activation else V1)


def keras_place(layer: str, q: Parameter, legacy: bool = False) -> Place:
    """Where Keras keeps a parameter: by name in legacy files, else by number in its layer."""
    # The classifier of a pre-activation net is a 1x1 convolution here and dense there.
    dense = q.module == "head.fc"
    slot = KERAS["dense_kernel" if dense and q.role == "conv_kernel" else q.role]
    return Place(f"{layer}/{slot.leaf if legacy else _NUMBERS.get(q.role, q.role)}", slot, dense)


_NUMBERS = {
    **dict.fromkeys(("conv_kernel", "dense_kernel", "norm_scale"), 0),
    **dict.fromkeys(("bias", "norm_bias"), 1),
    "norm_mean": 2,
    "norm_var": 3,
}


def _spec_of(source: Source) -> ResNetSpec:
    """V1 or V2, depths, channels and classes follow from the names and shapes.

    Raises:
        WeightsError: if they are not those of such a net.
    """
    kernel = "kernel" if source.kind == "keras2" else "0"
    shapes = {name: entry.shape for name, entry in source.tensors.entries.items()}
    v2 = any(name.startswith("post_bn/") for name in shapes)
    blocks = {match[0] for name in shapes if (match := re.match(r"conv\d_block\d+", name))}
    depths = [sum(b.startswith(f"conv{stage}_") for b in blocks) for stage in (2, 3, 4, 5)]
    first, last = shapes.get(f"conv1_conv/{kernel}"), shapes.get(f"{HEAD}/{kernel}")
    if first is None or len(first) != 4 or 0 in depths or (last is not None and len(last) != 2):
        raise WeightsError(
            f"{source.path}: not a ResNet of keras.applications; name the model (`spec`) if it is "
            f"a variant of one"
        )
    return CATALOGUE["keras_resnet50v2" if v2 else "keras_resnet50"].spec.override(
        depths=depths, in_channels=first[2], num_classes=0 if last is None else last[1]
    )


def with_plain_names(source: Source) -> Source:
    """A legacy file whose old names are written in one way, if it has such: a block by its stage
    and number (`res2.0_branch2a` for `res2a_...`, `res4.1_...` for `res4b1_...`), the classifier
    without its number of classes, and arrays without their layer's name, as Keras 1 has them.
    """
    entries = source.tensors.entries
    if source.kind != "keras2" or not any(_OLD_BLOCK.match(name) for name in entries):
        return source
    plain = {}
    for name, array in entries.items():
        layer, _, leaf = name.rpartition("/")
        leaf = re.sub(r"_\d+$", "", leaf.removeprefix(f"{layer}_"))
        if block := _OLD_BLOCK.fullmatch(layer):
            number = int(block[4]) if block[4] else ord(block[3]) - ord("a")
            layer = f"{block[1]}{block[2]}.{number}_branch{block[5]}"
        layer = re.sub(r"^fc\d+$", "fc", layer)
        plain[f"{layer}/{_KERAS1.get(leaf, leaf)}"] = array
    return source if len(plain) < len(entries) else replace(source, tensors=LazyArrays(plain))


_OLD_BLOCK = re.compile(r"(res|bn)([2-5])([a-z])(\d*)_branch(1|2[abc])")
_KERAS1 = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",  # which it is in spite of its name
}


def _old_spec(source: Source) -> ResNetSpec:
    """Depths, widths, channels and classes follow from the names and shapes.

    Raises:
        WeightsError: if they are not those of such a net.
    """
    shapes = {name: entry.shape for name, entry in source.tensors.entries.items()}
    blocks = {match[1] for name in shapes if (match := re.match(r"res(\d\.\d+)_", name))}
    first, last = shapes.get("conv1/kernel"), shapes.get("fc/kernel")
    depths = [sum(b.startswith(f"{stage}.") for b in blocks) for stage in (2, 3, 4, 5)]
    kernels = [first, *(shapes.get(f"res{stage}.0_branch2a/kernel") for stage in (2, 3, 4, 5))]
    widths = [shape[3] for shape in kernels if shape is not None and len(shape) == 4]
    if first is None or len(widths) < 5 or (last is not None and len(last) != 2):
        raise WeightsError(
            f"{source.path}: has some names of keras.applications before Keras 2.3, but not those "
            f"of one of its ResNets; name the model (`spec`) if it is a variant of one"
        )
    return CATALOGUE["keras_resnet50"].spec.override(
        depths=depths,
        widths=widths[1:],
        stem_width=widths[0],
        norm_eps=1e-3,
        in_channels=first[2],
        num_classes=0 if last is None else last[1],
    )


def _extras(source: Source, spec: ResNetSpec) -> Extras:
    """What `preprocess_input` does; size and crop are those of most evaluations."""
    if spec.in_channels != 3:
        return None, None
    size, half = spec.image_size, (0.5, 0.5, 0.5)
    if spec.pre_activation:
        return Preprocessing(image_size=size, mean=half, std=half), None
    mean, std = tuple(x / 255 for x in (103.939, 116.779, 123.68)), (1 / 255,) * 3
    return Preprocessing(image_size=size, mean=mean, std=std, channel_order="bgr"), None


def _nearest_library_spec(spec: ResNetSpec) -> ResNetSpec:
    """The net that keras.applications builds with these depths, channels and classes."""
    return CATALOGUE["keras_resnet50v2" if spec.pre_activation else "keras_resnet50"].spec.override(
        depths=spec.depths, in_channels=spec.in_channels, num_classes=spec.num_classes
    )


_BASIC = ["preact_bn", "1_conv", "1_bn", "0_conv", "2_conv", "0_bn", "2_bn"]
_BOTTLENECK = ["preact_bn", "1_conv", "1_bn", "2_conv", "2_bn", "0_conv", "3_conv", "0_bn", "3_bn"]
"""Keras writes and reads a block's layers in this order, by their depth in its graph."""


def graph_position(bottleneck: bool) -> Callable[[str], tuple[int, int, int]]:
    """Where a layer of keras.applications or KerasHub stands in the order of Keras's graph."""
    order = _BOTTLENECK if bottleneck else _BASIC

    def position(layer: str) -> tuple[int, int, int]:
        block = re.fullmatch(r"(?:conv|stack)(\d+)_block(\d+)_(.+)", layer)
        if block:
            inside = block[3].replace("pre_activation", "preact")
            return int(block[1]), int(block[2]), order.index(inside)
        stem = re.fullmatch(r"conv(\d)_(conv|bn)", layer)
        return (-1, int(stem[1]), int(stem[2] == "bn")) if stem else (99, 0, int(layer == HEAD))

    return position


def _recognises(source: Source) -> bool:
    names = list(source.tensors)
    stem = any(name.startswith("conv1_conv/") for name in names)
    return source.kind == "keras3" and stem and any(re.match(r"conv\d_block", x) for x in names)


APPLICATIONS_H5 = Dialect(
    "keras-applications",
    "keras.applications",
    lambda source: source.kind == "keras2",
    lambda q, spec: keras_place(layer_name(q.module, spec), q, legacy=True),
    _spec_of,
    _extras,
    _nearest_library_spec,
)
APPLICATIONS_OLD = replace(
    APPLICATIONS_H5,
    recognises=lambda source: source.kind == "keras2" and "bn_conv1/gamma" in source.tensors,
    foreign_name=lambda q, spec: keras_place(rename(q.module, OLD), q, legacy=True),
    spec_of=_old_spec,
    assumption="its names are those of keras.applications before Keras 2.3, whose releases differ "
    "in what no array shows: taken are norms with the eps of 1e-3 that is Keras 2's default, and a "
    "first pool that is padded",
)
APPLICATIONS = replace(
    APPLICATIONS_H5,
    recognises=_recognises,
    foreign_name=lambda q, spec: keras_place(layer_name(q.module, spec), q),
)
