"""Small nets of KerasHub's and ours, drawn, and other arguments for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import resnet_keras
from shared_spec import ResNetSpec
from shared_spec.formats.dialects.keras_hub import HUB_MODELS
from tests.peers import fetched
from tests.probes.keras_models import float64, save, with_weights

Draw = np.random.Generator
SIZE = 33


def one_of(draw: Draw, *values: Any) -> Any:
    return values[draw.integers(len(values))]


def hub_classes() -> dict[str, Any]:
    """What KerasHub calls its ResNets, as whole `.h5` files do."""
    models = fetched("keras_hub").models
    return {name: getattr(models, name) for name in HUB_MODELS} | {"ResNet": resnet_keras.ResNet}


def from_keras_hub(draw: Draw) -> keras.Model:
    """A backbone or a classifier, or the layers of one."""
    hub = fetched("keras_hub")
    deep = bool(draw.random() < 0.3)
    model = hub.models.ResNetBackbone(
        input_conv_filters=[32, 32, 64] if deep else [64],
        input_conv_kernel_sizes=[3, 3, 3] if deep else [one_of(draw, 7, 3)],
        stackwise_num_filters=[64, one_of(draw, 32, 96)],
        stackwise_num_blocks=[1, int(draw.integers(1, 3))],
        stackwise_num_strides=[1, 2],
        block_type=one_of(
            draw, "basic_block", "bottleneck_block", "basic_block_vd", "bottleneck_block_vd"
        ),
        use_pre_activation=bool(draw.random() < 0.3),
        image_shape=one_of(draw, (SIZE, SIZE, 3), (None, None, 3)),
    )
    if draw.random() < 0.4:
        return hub.models.ResNetImageClassifier(
            model,
            num_classes=5,
            pooling=one_of(draw, "avg", "max"),
            activation=one_of(draw, None, "softmax", "sigmoid", "linear"),
            dropout=one_of(draw, 0.0, 0.2),
        )
    return keras.Model(model.input, model.output) if draw.random() < 0.5 else model


def from_us(draw: Draw) -> keras.Model:
    """A model of `resnet_keras`, or its layers."""
    fields = {
        "depths": [1, int(draw.integers(1, 3))],
        "block": one_of(draw, "basic", "bottleneck"),
        "widths": [8, 16],
        "stem_width": 8,
        "num_classes": one_of(draw, 0, 0, 5),
        "image_size": SIZE,
        **dict(
            one_of(draw, *more.items()) if draw.random() < 0.25 else ("depths", [1, 1])
            for more in _FIELDS
        ),
    }
    spec = ResNetSpec.parse(fields)
    model: keras.Model = resnet_keras.create_model(spec, dtype="float64")
    return keras.Model(model.input, model.output) if draw.random() < 0.5 else model


_FIELDS: list[dict[str, Any]] = [
    {"activation": "gelu", "head_pool": "max"},
    {"head_pool": "avgmax", "stem": "conv3x3"},
    {"pre_activation": True, "attention": "se"},
    {"stem_pool": "none", "shortcut_pool": "avg"},
    {"norm_eps": 1e-3, "activation": "leaky_relu"},
    {"shortcut": "projection_all", "anti_alias": "blur"},
    {"features_only": True, "padding": "same"},
    {"conv_bias": True, "stem": "deep"},
    {"stride_on": "1x1", "layer_scale": 0.5},
]

_ARGUMENTS: dict[str, list[Any]] = {
    "use_pre_activation": [True, False],
    "stackwise_num_strides": [[1, 1], [2, 2]],
    "stackwise_num_blocks": [[2, 1]],
    "block_type": ["basic_block", "bottleneck_block", "basic_block_vd"],
    "image_shape": [[SIZE, SIZE, 1]],
    "pooling": ["avg", "max"],
    "activation": ["tanh", "softmax", "relu"],
    "dropout": [0.5],
    "inference": [True],
}
_SPEC: dict[str, list[Any]] = {
    "activation": ["elu", "gelu_tanh"],
    "norm_eps": [1e-3],
    "head_pool": ["max", "catavgmax"],
    "shortcut": ["projection_stage", "zero_pad"],
    "features_only": [True],
    "in_channels": [1],
    "stem_pool": ["max_zero", "none"],
    "drop_rate": [0.3],
}


def made_otherwise(config: dict[str, Any], draw: Draw) -> str | None:
    """Another argument in the configuration of a model that is saved by what it is made with."""
    holders = [found for found in _mappings(config) if {*found} & {"block_type", "spec", "pooling"}]
    holders = [found for found in holders if "layers" not in found or "spec" in found]
    if not holders:
        return None
    holder = one_of(draw, *holders)
    known = _ARGUMENTS
    if "spec" in holder and draw.random() < 0.9:
        holder, known = holder["spec"], _SPEC
    keys = [key for key in known if key in holder or known is _SPEC]
    if not keys:
        return None
    key = one_of(draw, *keys)
    holder[key] = one_of(draw, *known[key])
    return f"made with another {key}"


def _mappings(data: Any) -> list[dict[str, Any]]:
    if isinstance(data, list):
        return [found for item in data for found in _mappings(item)]
    if not isinstance(data, dict):
        return []
    return [data, *(found for item in data.values() for found in _mappings(item))]


def _backbone(**more: Any) -> keras.Model:
    options = {"use_pre_activation": False, "image_shape": (SIZE, SIZE, 3)} | more
    return fetched("keras_hub").models.ResNetBackbone(
        [64], [7], [64, 32], [1, 1], [1, 2], "bottleneck_block", **options
    )


def _classifier(**more: Any) -> keras.Model:
    hub = fetched("keras_hub")
    converter = hub.layers.ResNetImageConverter(image_size=(SIZE, SIZE), scale=1 / 64)
    prepare = hub.models.ResNetImageClassifierPreprocessor(image_converter=converter)
    options = {"activation": "softmax", "preprocessor": prepare} | more
    return hub.models.ResNetImageClassifier(_backbone(), num_classes=3, **options)


def _ours(include_top: bool = True, classifier: str | None = None, **fields: Any) -> keras.Model:
    given = {
        "depths": [1, 1],
        "block": "basic",
        "widths": [8, 16],
        "stem_width": 8,
        "num_classes": 0,
    }
    spec = ResNetSpec.parse(given | fields)
    model: keras.Model = resnet_keras.create_model(
        spec, dtype="float64", include_top=include_top, classifier_activation=classifier
    )
    return model


def _layers_of(model: keras.Model) -> keras.Model:
    """A model of the same layers, which is none of ours."""
    return keras.Model(model.input, model.output)


def _row(*row: Any) -> keras.Model:
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), *row])


def _last_map(model: keras.Model) -> keras.Model:
    x = keras.Input((SIZE, SIZE, 3))
    maps = model(x, training=False)
    return keras.Model(x, layers.Dense(3)(layers.GlobalMaxPooling2D()(maps[-1])))


def _in_training(model: keras.Model) -> keras.Model:
    x = keras.Input((SIZE, SIZE, 3))
    return keras.Model(x, layers.Dense(3)(model(x, training=True)))


MADE: dict[str, Callable[[], keras.Model]] = {
    "a backbone": _backbone,
    "a backbone with pre-activation": lambda: _backbone(use_pre_activation=True),
    "a classifier": _classifier,
    "a backbone in a row": lambda: _row(
        layers.Rescaling(1 / 64), _backbone(), layers.GlobalMaxPooling2D(), layers.Dense(3)
    ),
    "a classifier in a row": lambda: _row(_classifier()),
    "ours": lambda: _ours(num_classes=3),
    "ours in a row": lambda: _row(
        layers.RandomFlip(), _ours(attention="se", layer_scale=0.5), layers.Dense(3)
    ),
    "ours with softmax, in a row": lambda: _row(_ours(num_classes=3, classifier="softmax")),
    "ours without its top": lambda: _row(
        _ours(include_top=False, pre_activation=True), layers.GlobalAveragePooling2D()
    ),
    "layers of ours": lambda: _layers_of(_ours(num_classes=3, pre_activation=True, conv_bias=True)),
    "the last map of ours": lambda: _last_map(_ours(features_only=True, out_indices=[2])),
    # What no spec says.
    "two classifiers": lambda: _row(_classifier(name="first"), layers.Dense(3)),
    "ours after another": lambda: _row(layers.Conv2D(3, 1, name="first"), _ours()),
    "ours in training": lambda: _in_training(_ours()),
    "several maps": lambda: _last_map(_ours(features_only=True)),
}


def saved(resnet: Any, kind: str, path: str) -> str:
    """Save one of them; where its answers are."""
    with float64():
        model = with_weights(MADE[kind](), np.random.default_rng(1))
        return save(model, Path(path), np.random.default_rng(2), hub_classes())
