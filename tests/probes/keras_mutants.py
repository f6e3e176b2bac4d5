"""Keras models of all kinds, each changed somewhere; every one is drawn from its number alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.applications import resnet as applications

from shared_spec.errors import ResNetError
from tests.probes.keras_models import SIZE, float64, save, with_weights
from tests.probes.keras_sources import from_keras_hub, from_us, hub_classes, made_otherwise

Draw = np.random.Generator


def drawn_model(source: str, draw: Draw) -> keras.Model:
    """A small net of a source, with what users put around it."""
    body = SOURCES[source](draw)
    if isinstance(body.output, list) or draw.random() < 0.3:
        return body
    before = [
        layers.Rescaling(1 / 128, offset=-1),
        layers.RandomFlip("horizontal"),
        layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[9.0, 16.0, 25.0]),
        layers.GaussianNoise(0.1),
    ]
    pools = [
        layers.GlobalAveragePooling2D,
        layers.GlobalMaxPooling2D,
        lambda: layers.GlobalAveragePooling2D(keepdims=True),
    ]
    chosen = [layer for layer in before if draw.random() < 0.25]
    flat = len(body.output.shape) == 2
    after: list[Any] = [] if flat else [pools[draw.integers(3)]()]
    after += [layers.Flatten()] if not flat and draw.random() < 0.3 else []
    after += [layers.Dropout(0.3)] if draw.random() < 0.5 else []
    activations = [None, "softmax", "sigmoid", "relu"]
    after += (
        [layers.Dense(4, activation=activations[draw.integers(4)])] if draw.random() < 0.7 else []
    )
    if draw.random() < 0.5:
        return keras.Sequential([keras.Input((SIZE, SIZE, 3)), *chosen, body, *after])
    x = inputs = keras.Input((SIZE, SIZE, 3))
    for layer in chosen:
        x = layer(x)
    x = body(x, training=False) if draw.random() < 0.5 else body(x)
    for layer in after:
        x = layer(x)
    return keras.Model(inputs, x)


def _keras(draw: Draw) -> keras.Model:
    """As keras.applications or a user builds it."""
    return (_application, _written_by_hand)[draw.integers(2)](draw)


def _application(draw: Draw) -> keras.Model:
    v2 = bool(draw.random() < 0.4)
    stack = applications.stack_residual_blocks_v2 if v2 else applications.stack_residual_blocks_v1
    depth = int(draw.integers(1 + v2, 4))

    def stacks(x: Any) -> Any:
        if v2:
            x = stack(x, 4, depth, name="conv2")
            return stack(x, 8, 2, stride1=1, name="conv3")
        x = stack(x, 4, depth, stride1=1, name="conv2")
        return stack(x, 8, 2, name="conv3")

    top = bool(draw.random() < 0.5)
    return applications.ResNet(
        stacks,
        preact=v2,
        use_bias=bool(draw.random() < 0.8),
        include_top=top,
        weights=None,
        input_shape=(SIZE, SIZE, 3),
        pooling=None if top else [None, "avg", "max"][draw.integers(3)],
        classes=5,
        classifier_activation=["softmax", None][draw.integers(2)],
        name="resnet",
        weights_name="resnet",
    )


def _written_by_hand(draw: Draw) -> keras.Model:
    """A net with a user's own names; with basic blocks or bottlenecks."""
    bottleneck, bias = bool(draw.random() < 0.4), bool(draw.random() < 0.3)
    activation = ["relu", "relu", "elu", "swish"][draw.integers(4)]
    momentum = float([0.99, 0.9][draw.integers(2)])
    explicit = bool(draw.random() < 0.5)

    def conv(x: Any, filters: int, size: int, stride: int = 1) -> Any:
        if explicit and size > 1:
            x = layers.ZeroPadding2D(size // 2)(x)
        padding = "valid" if explicit else "same"
        return layers.Conv2D(filters, size, stride, padding=padding, use_bias=bias)(x)

    def norm(x: Any) -> Any:
        return layers.BatchNormalization(momentum=momentum, epsilon=1e-5)(x)

    def act(x: Any) -> Any:
        return layers.Activation(activation)(x)

    x = inputs = keras.Input((SIZE, SIZE, 3))
    x = act(norm(conv(x, 8, 3)))
    width = 8
    for stage, out in enumerate((8, 16)):
        for block in range(int(draw.integers(1, 3))):
            stride = 2 if stage and not block else 1
            shortcut = x
            if bottleneck:
                y = act(norm(conv(x, out // 4, 1)))
                y = act(norm(conv(y, out // 4, 3, stride)))
                y = norm(conv(y, out, 1))
            else:
                y = act(norm(conv(x, out, 3, stride)))
                y = norm(conv(y, out, 3))
            if stride > 1 or width != out:
                shortcut = norm(conv(x, out, 1, stride))
            x = act(layers.Add()([y, shortcut]))
            width = out
    return keras.Model(inputs, x, name="hand")


SOURCES = {"keras": _keras, "KerasHub": from_keras_hub, "resnet_keras": from_us}
"""Bodies of keras.applications and of users, of KerasHub, and ours."""


def mutated(model: keras.Model, draw: Draw) -> tuple[keras.Model | None, str]:
    """The model with a layer changed, added, left out or put elsewhere, and what was done; None if
    Keras cannot build that.
    """
    config = json.loads(model.to_json())
    holders = [holder for holder in _functional(config) if len(holder["config"]["layers"]) > 3]
    made = made_otherwise(config, draw) if draw.random() < 0.3 else None
    what = made or "nothing"
    if made is not None:
        pass
    elif config["class_name"] == "Sequential" and draw.random() < 0.5:
        what = _in_a_row(config["config"]["layers"], draw)
    elif holders and draw.random() < 0.9:
        holder = holders[draw.integers(len(holders))]
        change = _CHANGES[draw.integers(len(_CHANGES))]
        what = change(holder["config"], draw) or "nothing"
    try:
        return keras.models.model_from_json(json.dumps(config)), what
    except Exception:  # whatever Keras says of shapes that do not fit
        return None, what


def _in_a_row(row: list[dict[str, Any]], draw: Draw) -> str:
    """A layer more, or one less, in a Sequential."""
    at = int(draw.integers(1, len(row)))
    if draw.random() < 0.5:
        return f"no {row.pop(at)['class_name']}"
    row.insert(at, keras.saving.serialize_keras_object(_NEW[draw.integers(len(_NEW))]()))
    return f"another {row[at]['class_name']}"


def _functional(config: Any) -> list[dict[str, Any]]:
    found = [config] if config.get("class_name") == "Functional" else []
    layers = config["config"].get("layers", []) if isinstance(config["config"], dict) else []
    for layer in layers:
        if layer["class_name"] in ("Functional", "Sequential"):
            found += _functional(layer)
    return found


def _any(config: dict[str, Any], draw: Draw, *kinds: str) -> dict[str, Any] | None:
    found = [x for x in config["layers"] if x["class_name"] in kinds]
    return found[draw.integers(len(found))] if found else None


_SETTINGS: list[tuple[tuple[str, ...], str, list[Any]]] = [
    (("BatchNormalization",), "epsilon", [1e-3, 1e-5, 1.001e-5]),
    (("BatchNormalization",), "momentum", [0.5]),
    (("BatchNormalization",), "scale", [False]),
    (("BatchNormalization",), "center", [False]),
    (("Conv2D",), "strides", [[1, 1], [2, 2], [1, 2]]),
    (("Conv2D",), "padding", ["same", "valid"]),
    (("Conv2D",), "dilation_rate", [[2, 2]]),
    (("Conv2D",), "activation", ["relu", "tanh", "gelu"]),
    (("Conv2D",), "use_bias", [True, False]),
    (("Conv2D",), "kernel_size", [[5, 5], [1, 1], [3, 1]]),
    (
        ("Activation", "Dense"),
        "activation",
        ["relu", "relu6", "gelu", "tanh", "leaky_relu", "linear"],
    ),
    (("MaxPooling2D",), "pool_size", [[2, 2], [1, 1]]),
    (("MaxPooling2D",), "padding", ["same"]),
    (("ZeroPadding2D",), "padding", [[[0, 1], [0, 1]], [[2, 2], [2, 2]], [[1, 1], [1, 1]]]),
]


def _another_setting(config: dict[str, Any], draw: Draw) -> str | None:
    kinds, key, values = _SETTINGS[draw.integers(len(_SETTINGS))]
    layer = _any(config, draw, *kinds)
    if layer is None or key not in layer["config"]:
        return None
    layer["config"][key] = values[draw.integers(len(values))]
    return f"{key} of a {layer['class_name']}"


def _another_everywhere(config: dict[str, Any], draw: Draw) -> str | None:
    kinds, key, values = _SETTINGS[draw.integers(len(_SETTINGS))]
    value = values[draw.integers(len(values))]
    for layer in config["layers"]:
        if layer["class_name"] in kinds:
            layer["config"][key] = value
    return f"{key} of every {kinds[0]}"


_NEW: list[Callable[[], Any]] = [
    lambda: layers.UpSampling2D(2, name="new"),
    lambda: layers.MaxPooling2D(2, name="new"),
    lambda: layers.AveragePooling2D(3, 1, "same", name="new"),
    lambda: layers.MaxPooling2D(1, name="new"),
    lambda: layers.Dropout(0.5, name="new"),
    lambda: layers.RandomFlip(name="new"),
    lambda: layers.Rescaling(0.5, 0.25, name="new"),
    lambda: layers.Activation("relu", name="new"),
    lambda: layers.LeakyReLU(name="new"),
    lambda: layers.ReLU(6.0, name="new"),
    lambda: layers.PReLU(shared_axes=[1, 2], name="new"),
    lambda: layers.BatchNormalization(name="new"),
    lambda: layers.LayerNormalization(name="new"),
    lambda: layers.ZeroPadding2D(1, name="new"),
    lambda: layers.Cropping2D(1, name="new"),
    lambda: layers.DepthwiseConv2D(3, padding="same", name="new"),
    lambda: layers.Conv2D(8, 1, name="new"),
    lambda: layers.SpatialDropout2D(0.2, name="new"),
    lambda: layers.Identity(name="new"),
    lambda: layers.UnitNormalization(name="new"),
]


def _added(config: dict[str, Any], draw: Draw) -> str | None:
    """Another layer behind one of them."""
    names = [x["config"]["name"] for x in config["layers"][:-1]]
    after = names[draw.integers(len(names))]
    new = keras.saving.serialize_keras_object(_NEW[draw.integers(len(_NEW))]())
    entering = _tensor(config, after)
    if entering is None:
        return None
    _redirect(config, after, "new")
    new |= {"name": "new", "inbound_nodes": [{"args": [entering], "kwargs": {}}]}
    config["layers"].append(new)
    return f"another {new['class_name']}"


def _left_out(config: dict[str, Any], draw: Draw) -> str | None:
    """A layer of one input less."""
    inside = [x for x in config["layers"] if len(x["inbound_nodes"]) == 1]
    if not inside:
        return None
    layer = inside[draw.integers(len(inside))]
    found = layer["inbound_nodes"][0]["args"][0]
    if not isinstance(found, dict):
        return None
    _redirect(config, layer["config"]["name"], found["config"]["keras_history"][0])
    config["layers"].remove(layer)
    return f"no {layer['class_name']}"


def _swapped(config: dict[str, Any], draw: Draw) -> str | None:
    """Two layers in each other's place."""
    kinds = ("BatchNormalization", "Activation", "Conv2D", "ZeroPadding2D", "MaxPooling2D")
    a, b = _any(config, draw, *kinds), _any(config, draw, *kinds)
    if a is None or b is None or a["class_name"] == b["class_name"]:
        return None
    one, two = copy.deepcopy(a), copy.deepcopy(b)
    for target, source in ((a, two), (b, one)):
        for key in ("class_name", "module", "registered_name", "build_config"):
            if key in source:
                target[key] = source[key]
        target["config"] = source["config"] | {"name": target["config"]["name"]}
    return f"{one['class_name']} and {two['class_name']} swapped"


def _elsewhere(config: dict[str, Any], draw: Draw) -> str | None:
    """A sum takes another tensor of the same model."""
    total = _any(config, draw, "Add")
    if total is None:
        return None
    names = [x["config"]["name"] for x in config["layers"]]
    tensors = total["inbound_nodes"][0]["args"][0]
    tensors[draw.integers(2)]["config"]["keras_history"][0] = names[draw.integers(len(names))]
    return "a sum of other tensors"


_CHANGES = (
    _another_setting,
    _another_setting,
    _another_everywhere,
    _added,
    _left_out,
    _swapped,
    _elsewhere,
)


def _tensor(config: dict[str, Any], name: str) -> dict[str, Any] | None:
    for layer in config["layers"]:
        for call in layer["inbound_nodes"]:
            for item in _leaves(call["args"]):
                if item["config"]["keras_history"][0] == name:
                    return copy.deepcopy(item)
    return None


def _redirect(config: dict[str, Any], old: str, new: str) -> None:
    for layer in config["layers"]:
        for call in layer["inbound_nodes"]:
            for item in _leaves(call["args"]):
                if item["config"]["keras_history"][0] == old:
                    item["config"]["keras_history"][0] = new
    ends = config["output_layers"]
    for end in [ends] if isinstance(ends[0], str) else ends:
        if end[0] == old:
            end[0] = new


def _leaves(args: Any) -> list[dict[str, Any]]:
    if isinstance(args, list):
        return [leaf for item in args for leaf in _leaves(item)]
    kept = isinstance(args, dict) and args.get("class_name") == "__keras_tensor__"
    return [args] if kept else []


def drawn(resnet: Any, source: str, number: int, folder: str) -> dict[str, str] | None:
    """What was changed in the model of a number, the file that Keras saved of it, and that of its
    answers; None if Keras cannot build it.
    """
    draw = np.random.default_rng(number)
    with float64():
        try:
            before = drawn_model(source, draw)
        except (ResNetError, ValueError):  # such arguments exclude one another
            return None
        model, what = mutated(before, draw)
        path = Path(folder) / f"{number}{('.keras', '.h5')[draw.integers(2)]}"
        if model is None:
            return None
        try:
            answers = save(with_weights(model, draw), path, draw, hub_classes())
        except Exception:  # two layers of one name, what Keras cannot load, shapes that do not fit
            path.unlink(missing_ok=True)
            return None
    return {"what": what, "path": str(path), "answers": answers}
