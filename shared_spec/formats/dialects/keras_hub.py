"""Presets of KerasHub's `ResNetBackbone` and `ResNetImageClassifier`: a directory with
`config.json`, `model.weights.h5` and, with a classifier, `task.json` and `task.weights.h5`. Read
and written without KerasHub and without a framework.

The rules from configuration to spec are the table of `docs/sources.md`. A net can be written if
reading the configuration gives its plan again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared_spec.errors import SpecError
from shared_spec.formats.containers.hdf5 import KerasLayer, group_names, open_hdf5, save_keras3
from shared_spec.formats.containers.source import (
    Source,
    mapping,
    read_json,
    require_file,
    write_json,
)
from shared_spec.formats.dialects.dialect import Dialect, Rules, rename
from shared_spec.formats.dialects.keras_applications import HEAD, graph_position, keras_place
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.spec.validation import foreign_configuration
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.lazy_array import LazyArrays
from shared_spec.weights.preprocessing import Preprocessing

CONFIG, TASK, METADATA = "config.json", "task.json", "metadata.json"
WEIGHTS, TASK_WEIGHTS = "model.weights.h5", "task.weights.h5"
PREPROCESSOR, CONVERTER = "preprocessor.json", "image_converter.json"
KERAS_HUB_FILES = {CONFIG, TASK, METADATA, WEIGHTS, TASK_WEIGHTS, PREPROCESSOR, CONVERTER}
"""All that a preset holds that was written here."""

_BACKBONE = "ResNetBackbone"
_CLASSIFIERS = ("ResNetImageClassifier", "ImageClassifier")
HUB_MODELS = (_BACKBONE, *_CLASSIFIERS)
HUB_CLASSES = tuple(
    f"{library}>{name}" for library in ("keras_hub", "keras_nlp") for name in HUB_MODELS
)
"""How KerasHub, once called KerasNLP, registers them."""
_MODULES = {
    _BACKBONE: "resnet_backbone",
    _CLASSIFIERS[0]: "resnet_image_classifier",
    "ResNetImageClassifierPreprocessor": "resnet_image_classifier_preprocessor",
    "ResNetImageConverter": "resnet_image_converter",
}
"""Where KerasHub has each class."""

_VERSIONS = {"keras_version": "3.15.1", "keras_hub_version": "0.32.0"}
"""Those whose layout is written here."""

NAMES: Rules = [
    (r"^bn1$", "conv1_bn"),
    (r"^(conv1|stem\.conv)$", "conv1_conv"),
    (r"^norm$", "post_bn"),
    (r"^(head\.)?fc$", HEAD),
    (r"^layer(\d)\.(\d+)\.", lambda m: f"stack{int(m[1]) - 1}_block{m[2]}_"),
    (r"^stages\.(\d)\.blocks\.(\d+)\.", r"stack\1_block\2_"),
    (r"_(conv|bn)(\d)$", r"_\2_\1"),
    (r"_norm1$", "_pre_activation_bn"),
    (r"_norm(\d)$", lambda m: f"_{int(m[1]) - 1}_bn"),
    (r"downsample\.conv$", "0_conv"),
]
"""From a layer's canonical name to KerasHub's, applied in this order; the shortcut of a net without
pre-activation follows.
"""
_DEEP: Rules = [
    (r"^conv1\.(\d)$", lambda m: f"conv{int(m[1]) // 3 + 1}_{'bn' if int(m[1]) % 3 else 'conv'}"),
    (r"^bn1$", "conv3_bn"),
    (r"^stem\.conv(\d)$", r"conv\1_conv"),
    (r"^stem\.norm(\d)$", r"conv\1_bn"),
]
"""A stem of three convolutions."""


def layer_name(module: str, spec: ResNetSpec) -> str:
    """What KerasHub calls a layer: `stack1_block0_0_conv` for `layer2.0.downsample.0`."""
    # A shortcut that averages begins with its pool.
    conv = int(spec.shortcut_pool == "avg")
    shortcut = [(rf"downsample\.{conv}$", "0_conv"), (rf"downsample\.{conv + 1}$", "0_bn")]
    deep = _DEEP if spec.stem.startswith("deep") else []
    return rename(module, [*deep, *NAMES, *shortcut])


def _stems(width: int) -> dict[str, tuple[list[int], list[int]]]:
    """Widths and kernel sizes of the convolutions of each stem."""
    return {
        "conv7x7": ([width], [7]),
        "conv3x3": ([width], [3]),
        "deep": ([width // 2, width // 2, width], [3, 3, 3]),
        "deep_tiered": ([3 * width // 8, width // 2, width], [3, 3, 3]),
    }


class _Backbone(BaseModel):
    """What `ResNetBackbone` is made with."""

    model_config = ConfigDict(extra="forbid")

    input_conv_filters: list[int] = Field(max_length=8)
    input_conv_kernel_sizes: list[int] = Field(max_length=8)
    stackwise_num_filters: list[int] = Field(min_length=1, max_length=8)
    stackwise_num_blocks: list[int] = Field(max_length=8)
    stackwise_num_strides: list[int] = Field(max_length=8)
    block_type: Literal["basic_block", "bottleneck_block", "basic_block_vd", "bottleneck_block_vd"]
    use_pre_activation: bool = False
    image_shape: tuple[int | None, int | None, int | None] = (None, None, 3)
    # What no result depends on.
    name: Any = Field(default=None, exclude=True)
    trainable: Any = Field(default=None, exclude=True)
    dtype: Any = Field(default=None, exclude=True)
    data_format: Any = Field(default=None, exclude=True)

    def fields(self) -> dict[str, Any]:
        """Those of the spec."""
        filters, strides = self.stackwise_num_filters, self.stackwise_num_strides
        if not len(filters) == len(self.stackwise_num_blocks) == len(strides):
            raise SpecError("stackwise_num_filters, _blocks and _strides differ in length")
        if filters[0] != 64:
            raise SpecError(
                f"stackwise_num_filters begins with {filters[0]}, and KerasHub only takes 64"
            )
        vd = self.block_type.endswith("_vd")
        if vd and self.use_pre_activation:
            raise SpecError(f"block_type {self.block_type!r} excludes use_pre_activation")
        out: dict[str, Any] = {
            "block": "bottleneck" if self.block_type.startswith("bottleneck") else "basic",
            "depths": self.stackwise_num_blocks,
            "widths": filters,
            "strides": strides,
            "pre_activation": self.use_pre_activation,
            "norm_variance": "biased",
        }
        out |= self._stem()
        same = self._same_shape()
        if self.block_type == "basic_block":
            self._check_basic(same)
        if vd:
            out["shortcut_pool"] = "avg"
        if vd or (same and self.block_type == "bottleneck_block"):
            out["shortcut"] = "projection_stage"
        height, width, channels = self.image_shape
        if channels is None:  # channels first
            channels, height, width = self.image_shape
        out["in_channels"] = channels
        return out | ({"image_size": height} if height is not None and height == width else {})

    def _same_shape(self) -> list[int]:
        """The stacks that change neither channels nor size."""
        expansion = 4 if self.block_type.startswith("bottleneck") else 1
        after = [n * expansion for n in self.stackwise_num_filters]
        before = [*self.input_conv_filters[-1:], *after]
        given = zip(before, after, self.stackwise_num_strides, strict=False)
        return [i for i, (a, b, stride) in enumerate(given) if a == b and stride == 1]

    def _check_basic(self, same: list[int]) -> None:
        """Its first stack begins with an identity and each other with a projection, always."""
        if same[:1] != [0]:
            raise SpecError(
                "block_type 'basic_block' begins without a projection, for which the stem has to "
                "give 64 channels and the first stack to have a stride of 1"
            )
        if same[1:]:
            raise SpecError(
                f"stack {same[1]} of 'basic_block' changes no shape, and KerasHub projects there, "
                f"which no spec can express"
            )

    def _stem(self) -> dict[str, Any]:
        sizes, filters = self.input_conv_kernel_sizes, self.input_conv_filters
        width = filters[-1] if filters else 0
        for stem, convolutions in _stems(width).items():
            if (filters, sizes) == convolutions:
                return {"stem": stem, "stem_width": width}
        raise SpecError(
            f"input_conv_filters {filters} with input_conv_kernel_sizes {sizes} has no spec; "
            f"expected one convolution of 7 or 3, or three of 3 with widths w/2, w/2, w or 3w/8, "
            f"w/2, w"
        )


class _Task(BaseModel):
    """What `ResNetImageClassifier` adds; its activation comes after our logits."""

    model_config = ConfigDict(extra="forbid")

    num_classes: int = Field(ge=1)
    pooling: Literal["avg", "max"] = "avg"
    activation: Literal["linear", "softmax", "sigmoid"] | None = None
    dropout: float = 0.0
    # What no result depends on, or what is read apart.
    name: Any = Field(default=None, exclude=True)
    trainable: Any = Field(default=None, exclude=True)
    dtype: Any = Field(default=None, exclude=True)
    backbone: Any = Field(default=None, exclude=True)
    preprocessor: Any = Field(default=None, exclude=True)

    def fields(self) -> dict[str, Any]:
        """Those of the spec."""
        return {
            "num_classes": self.num_classes,
            "head_pool": self.pooling,
            "drop_rate": self.dropout,
        }


def is_preset(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is an object of KerasHub, once called KerasNLP."""
    return str(config.get("registered_name")).startswith(("keras_hub>", "keras_nlp>"))


def _parts(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The arguments of the backbone, and of the classifier or None.

    Raises:
        SpecError: if it is another model.
    """
    name, inner = config.get("class_name"), config.get("config")
    task = None
    if name in _CLASSIFIERS and isinstance(inner, dict):
        task, backbone = inner, inner.get("backbone")
        if isinstance(backbone, dict):
            name, inner = backbone.get("class_name"), backbone.get("config")
    if name != _BACKBONE or not isinstance(inner, dict):
        raise SpecError(
            f"KerasHub's {str(name)[:100]!r} is not one of {_BACKBONE}, {', '.join(_CLASSIFIERS)}"
        )
    return inner, task


def spec_of(config: Mapping[str, Any], where: str = CONFIG) -> ResNetSpec:
    """The spec of a serialised `ResNetBackbone` or `ResNetImageClassifier`.

    Raises:
        SpecError: if it is neither, or says something that no spec does.
    """
    with foreign_configuration(where):
        backbone, task = _parts(config)
        fields = _Backbone.model_validate(backbone).fields()
        fields |= {"num_classes": 0} if task is None else _Task.model_validate(task).fields()
        return ResNetSpec.parse(fields, where)


def open_preset(path: Path, config: Mapping[str, Any]) -> Source:
    """A preset's directory, whose `config.json` is `config`.

    Raises:
        ResNetError: if a file is missing or damaged, or the files contradict one another.
    """
    metadata = config
    if (path / TASK).is_file():
        metadata = read_json(path / TASK)
    where = str(path / (CONFIG if metadata is config else TASK))
    spec = spec_of(metadata, where)
    if metadata is not config:
        alone = spec_of(config, str(path / CONFIG))
        same = {k: getattr(spec, k) for k in ("num_classes", "head_pool", "drop_rate")}
        if alone.override(**same) != spec:
            raise SpecError(f"{where}: has another backbone than {CONFIG}")
    # The layers of files before Keras 3.10 have no names, but their numbers.
    layers = {layer_name(q.module, spec) for q in compile_plan(spec).parameters()} - {HEAD}
    names = group_names(
        ("conv2d" if layer.endswith("_conv") else "batch_normalization", layer)
        for layer in sorted(layers, key=graph_position("bottleneck" in spec.blocks))
    )
    require_file(path / WEIGHTS)
    source = open_hdf5(path / WEIGHTS, names)
    entries = source.tensors.entries
    if spec.num_classes:
        require_file(path / TASK_WEIGHTS)
        entries = entries | open_hdf5(path / TASK_WEIGHTS, {"dense": HEAD}).tensors.entries
    return Source(path, source.kind, LazyArrays(entries), metadata)


def _recognises(source: Source) -> bool:
    blocks = (re.match(r"stack\d+_block\d+_", name) for name in source.tensors)
    return source.kind == "keras3" and (is_preset(source.metadata) or any(blocks))


def _source_spec(source: Source) -> ResNetSpec | None:
    """A `.weights.h5` alone does not give its strides."""
    if not source.metadata:
        return None
    where = source.path
    if where.is_dir():
        where = where / (CONFIG if source.metadata.get("class_name") == _BACKBONE else TASK)
    return spec_of(source.metadata, str(where))


def _preprocessing(source: Source, channels: int) -> Preprocessing | None:
    """What an image converter does, as far as ours says the same: its resizing does not smooth
    unless `antialias` is true, and ours always does.
    """
    data = _converter(source)
    size, scale, offset = data.get("image_size"), data.get("scale"), data.get("offset")
    if "height" in data and "width" in data:
        size = [data["height"], data["width"]]
    cropped = data.get("crop_to_aspect_ratio", True) and not data.get("pad_to_aspect_ratio")
    if not isinstance(size, list) or size[1:] != size[:1] or not cropped or channels not in (1, 3):
        return None
    scales = _channels(1.0 if scale is None else scale, channels)
    offsets = _channels(0.0 if offset is None else offset, channels)
    if "mean" in data and "variance" in data:  # its older arguments
        means, variances = (_channels(data[k], channels) for k in ("mean", "variance"))
        if len(means) != channels or len(variances) != channels or min(variances) <= 0:
            return None
        scales = [s / math.sqrt(v) for s, v in zip(scales, variances, strict=False)]
        offsets = [-m / math.sqrt(v) for m, v in zip(means, variances, strict=True)]
    if len(scales) != channels or len(offsets) != channels or min(scales) <= 0:
        return None
    std = [1 / (255 * s) for s in scales]
    fields = {
        "image_size": size[0],
        "crop": 1.0,
        "interpolation": data.get("interpolation", "bilinear"),
        "mean": [-o * s for o, s in zip(offsets, std, strict=True)],
        "std": std,
    }
    if fields["interpolation"] not in ("nearest", "bilinear", "bicubic"):
        return None
    return Preprocessing.parse(fields, str(source.path))


def _converter(source: Source) -> dict[str, Any]:
    """The arguments of the image converter; none if there is none."""
    _, task = _parts(source.metadata) if source.metadata else (None, None)
    found = mapping(mapping(task).get("preprocessor"))
    if not found and (source.path / PREPROCESSOR).is_file():
        found = read_json(source.path / PREPROCESSOR)
    if isinstance(found.get("config"), dict):
        found = mapping(found["config"].get("image_converter"))
    elif (source.path / CONVERTER).is_file():
        found = read_json(source.path / CONVERTER)
    return mapping(found.get("config"))


def _channels(value: Any, channels: int) -> list[float]:
    """One number a channel; empty if `value` is no number nor a list of such."""
    values = value if isinstance(value, list) else [value] * channels
    return [float(x) for x in values] if all(isinstance(x, int | float) for x in values) else []


def _nearest_library_spec(spec: ResNetSpec) -> ResNetSpec:
    """The net that KerasHub builds from the arguments nearest to `spec`."""
    classifies = spec.num_classes > 0
    return spec_of(_task(spec, "float32", None) if classifies else backbone_config(spec, "float32"))


def _object(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """An object as Keras serialises it."""
    return {
        "module": f"keras_hub.src.models.resnet.{_MODULES[name]}",
        "class_name": name,
        "config": config,
        "registered_name": f"keras_hub>{name}",
    }


def _common(name: str, dtype: str) -> dict[str, Any]:
    """What each layer's configuration begins with."""
    policy = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": dtype},
        "registered_name": None,
    }
    return {"name": name, "trainable": True, "dtype": policy}


def backbone_config(spec: ResNetSpec, dtype: str) -> dict[str, Any]:
    """KerasHub's arguments of a backbone of `spec`, as its `config.json` has them."""
    filters, sizes = _stems(spec.stem_width)[spec.stem]
    vd = "_vd" if spec.shortcut_pool == "avg" else ""
    arguments = {
        "input_conv_filters": filters,
        "input_conv_kernel_sizes": sizes,
        "stackwise_num_filters": list(spec.widths),
        "stackwise_num_blocks": list(spec.depths),
        "stackwise_num_strides": list(spec.strides),
        "block_type": f"{spec.blocks[0]}_block{vd}",
        "use_pre_activation": spec.pre_activation,
        "image_shape": [None, None, spec.in_channels],
    }
    return _object(_BACKBONE, _common("res_net_backbone", dtype) | arguments)


def _task(spec: ResNetSpec, dtype: str, preprocessor: Mapping[str, Any] | None) -> dict[str, Any]:
    arguments = {
        "backbone": backbone_config(spec, dtype),
        "preprocessor": preprocessor,
        "name": "res_net_image_classifier",
        "num_classes": spec.num_classes,
        "pooling": spec.head_pool,
        "activation": None,
        "dropout": spec.drop_rate,
    }
    return _object(_CLASSIFIERS[0], arguments)


def _image_converter(prepare: Preprocessing) -> dict[str, Any]:
    """A converter that smooths as ours does. It has no centre crop, so that `crop` is lost."""
    arguments = {
        "image_size": [prepare.image_size] * 2,
        "scale": [1 / (255 * s) for s in prepare.std],
        "offset": [-m / s for m, s in zip(prepare.mean, prepare.std, strict=True)],
        "interpolation": prepare.interpolation,
        "antialias": prepare.interpolation != "nearest",
        "crop_to_aspect_ratio": True,
        "pad_to_aspect_ratio": False,
        "bounding_box_format": "yxyx",
    }
    return _object(
        "ResNetImageConverter", _common("res_net_image_converter", "float32") | arguments
    )


def save_preset(folder: Path, checkpoint: Checkpoint, layers: Sequence[KerasLayer]) -> None:
    """Make `folder`, with what KerasHub's `from_preset` loads strictly.

    Args:
        folder: where.
        checkpoint: weights of a net that KerasHub has.
        layers: the same weights as layers, in the order of Keras's graph.
    """
    spec, prepare = checkpoint.spec, checkpoint.preprocessing
    assert spec is not None
    dtype = next(iter(layers[0].variables.values())).dtype.name
    folder.mkdir()
    write_json(folder / CONFIG, backbone_config(spec, dtype), 4)
    sizes = [q.size for q in compile_plan(spec).parameters() if not q.module.endswith("fc")]
    metadata = _VERSIONS | {"parameter_count": sum(sizes), "tasks": ["ImageClassifier"]}
    write_json(folder / METADATA, metadata, 4)
    save_keras3(folder / WEIGHTS, [x for x in layers if x.name != HEAD])
    preprocessor = None
    if prepare is not None and prepare.channel_order == "rgb":  # theirs has no other order
        converter = _image_converter(prepare)
        name = "res_net_image_classifier_preprocessor"
        inner = _common(name, "float32")
        inner |= {"image_converter": converter, "config_file": PREPROCESSOR}
        preprocessor = _object("ResNetImageClassifierPreprocessor", inner)
        write_json(folder / CONVERTER, converter, 4)
        write_json(folder / PREPROCESSOR, preprocessor, 4)
    if spec.num_classes:
        write_json(folder / TASK, _task(spec, dtype, preprocessor), 4)
        save_keras3(folder / TASK_WEIGHTS, [x for x in layers if x.name == HEAD])


KERAS_HUB = Dialect(
    "keras-hub",
    "KerasHub",
    _recognises,
    lambda q, spec: keras_place(layer_name(q.module, spec), q),
    _source_spec,
    lambda source, spec: (_preprocessing(source, spec.in_channels), None),
    _nearest_library_spec,
    describes=True,
)
